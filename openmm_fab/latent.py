"""Hamiltonian Monte Carlo where the flow comes from: in its base, where a density that the flow knows is round.

A point z = T(x) of the flow T has, by the change of variables, the density f(T(x)) |dT/dx| in x.  Of f = q^a p^b that
is base(x)^a |dT/dx|^(1 - a) p(T(x))^b: near the base itself wherever q is near p, however stiff and bent z is.  Each
step costs the flow there and back, and one evaluation of the target (Hoffman et al. 2019, arXiv 1903.03704).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from .hmc import accept, wrapped
from .path import Flow, Path, Points
from .target import Target


class Invertible(Protocol):
    """A flow that shows its base, whose coordinates are circles and lines as those of z are."""

    def to_base(self, z: Tensor) -> tuple[Tensor, Tensor]: ...

    def from_base(self, base: Tensor, frozen: bool = False) -> tuple[Tensor, Tensor]: ...

    def base_log_prob(self, base: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class _Pulled:
    """Points, their places in the base, and log density and force (batch, dim) there."""

    points: Points
    x: Tensor
    log_density: Tensor
    force: Tensor


def latent_hmc(
    points: Points,
    path: Path,
    lam: float,
    flow: Flow,
    target: Target,
    step_size: float | Tensor,
    leapfrogs: int,
    generator: torch.Generator | None = None,
) -> tuple[Points, Tensor]:
    """One trajectory in the flow's base; leaves the path's density of z at `lam` invariant. See `hmc.hmc`.

    Raises
    ------
    ValueError
        If the flow has no base to show.
    """
    shown, periodic = cast(Invertible, flow), target.periodic.to(points.z.device)
    try:
        with torch.no_grad():
            x = shown.to_base(points.z)[0]
    except AttributeError as error:
        raise ValueError(
            f"Expected a flow with to_base, from_base and base_log_prob for the latent kernel; got one without "
            f"({error}). Use the kernel hmc."
        ) from error
    old = _pulled(wrapped(x, periodic), path, lam, shown, target)
    start = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    new, momentum = old, start + 0.5 * step_size * old.force
    for k in range(leapfrogs):
        new = _pulled(wrapped(new.x + step_size * momentum, periodic), path, lam, shown, target)
        momentum = momentum + (0.5 if k == leapfrogs - 1 else 1.0) * step_size * new.force
    log_ratio = new.log_density - old.log_density - 0.5 * (momentum.square() - start.square()).sum(1)
    return accept(points, new.points, log_ratio, generator)


@torch.enable_grad()
def _pulled(x: Tensor, path: Path, lam: float, flow: Invertible, target: Target) -> _Pulled:
    a, b = path.exponents(lam)
    x = x.detach().requires_grad_()
    z, log_det = flow.from_base(x, frozen=True)
    base = flow.base_log_prob(x)
    log_p, grad_log_p = target.log_prob_and_gradient(z.detach())
    volume = a * base + (1.0 - a) * log_det
    # Where p is zero nothing pulls: there its gradient means nothing.
    pull = torch.where(torch.isfinite(log_p)[:, None], b * grad_log_p, 0.0)
    (force,) = torch.autograd.grad(volume.sum() + (z * pull).sum(), x)
    here = Points(z.detach(), (base - log_det).detach(), log_p, grad_log_p)
    return _Pulled(here, x.detach(), volume.detach() + b * log_p, force)
