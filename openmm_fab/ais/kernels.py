"""Hamiltonian Monte Carlo on one density of the path (Neal 2011, arXiv 1206.1901)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from ..flow.base import Flow, Invertible
from ..target import Target
from ..tools.circle import wrap_periodic
from .path import Path, Points


def hmc(
    points: Points,
    path: Path,
    lam: float,
    flow: Flow,
    target: Target,
    step_size: float | Tensor,
    leapfrogs: int,
    generator: torch.Generator | None = None,
    flow_every: int = 1,
) -> tuple[Points, Tensor]:
    """One trajectory; leaves the path's density at `lam` invariant.

    Costs `leapfrogs` evaluations of the target a point, and leapfrogs / flow_every of the flow's gradient if q has an
    exponent.

    Parameters
    ----------
    step_size : float or Tensor, shape (dim,)
        A step for each coordinate is the same as a mass for each, 1 / step_size^2.
    flow_every : int
        A divisor of `leapfrogs`: the flow pulls at every so many-th leapfrog only, so many times as hard. It is smooth
        and dear where the energy is stiff and cheap (reversible multiple time steps; Tuckerman, Berne, Martyna 1992).

    Returns
    -------
    points : Points
    acceptance : Tensor, shape (batch,)
        Metropolis acceptance probabilities.  A point of zero density accepts whatever has some; a proposal whose
        energy is not finite is refused.
    """
    moved_by_flow = path.exponents(lam)[0] != 0
    if moved_by_flow:
        points = points.with_flow_gradient(flow)
    z = points.z
    start = torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
    momentum = start + 0.5 * step_size * path.gradient(points, lam, flow_every)
    for k in range(leapfrogs):
        z = wrap_periodic(z + step_size * momentum, target.periodic.to(z.device))
        if k < leapfrogs - 1:
            flow_times = 0 if (k + 1) % flow_every else flow_every
            momentum = momentum + step_size * path.gradient_at(z, lam, flow, target, flow_times)
    here = Points.at(z, flow, target, flow_gradient=moved_by_flow)
    momentum = momentum + 0.5 * step_size * path.gradient(here, lam, flow_every)
    log_ratio = path.log_prob(here, lam) - path.log_prob(points, lam)
    log_ratio = log_ratio - 0.5 * (momentum.square() - start.square()).sum(1)
    return accept(points, here, log_ratio, generator)


def accept(points: Points, here: Points, log_ratio: Tensor, generator: torch.Generator | None) -> tuple[Points, Tensor]:
    """Metropolis' choice between points and proposals `here`, and the acceptance probabilities (batch,)."""
    log_ratio = torch.where(torch.isfinite(here.log_p) & torch.isfinite(here.log_q), log_ratio, -torch.inf)
    acceptance = torch.where(log_ratio.isnan(), 0.0, log_ratio.clamp(max=0.0).exp())
    uniform = torch.rand(len(log_ratio), generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
    return here.where(uniform < acceptance, points), acceptance


def adapt(step_size: float, acceptance: float, goal: float, factor: float = 1.05) -> float:
    """A longer step after too much acceptance, a shorter one after too little."""
    return step_size * factor if acceptance > goal else step_size / factor


def widths(z: Tensor, log_w: Tensor, periodic: Tensor) -> Tensor:
    """Standard deviations (dim,) of weighted z (n, dim), over their geometric mean; circular ones of angles.

    A circular one is sqrt(-2 ln R) of the mean resultant length R, at most pi / sqrt(3), that of the whole circle.
    """
    w = log_w.softmax(0)[:, None]
    z = z.double()
    straight = (w * (z - (w * z).sum(0)).square()).sum(0).sqrt()
    resultant = ((w * z.cos()).sum(0).square() + (w * z.sin()).sum(0).square()).sqrt()
    circular = (-2 * resultant.clamp(1e-12, 1.0).log()).sqrt().clamp(max=math.pi / math.sqrt(3))
    found = torch.where(periodic.to(z.device), circular, straight).clamp(min=1e-3)
    return found / found.log().mean().exp()


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
    """One trajectory in the flow's base; leaves the path's density of z at `lam` invariant. See `hmc`.

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
    old = _pulled(wrap_periodic(x, periodic), path, lam, shown, target)
    start = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    new, momentum = old, start + 0.5 * step_size * old.force
    for k in range(leapfrogs):
        new = _pulled(wrap_periodic(new.x + step_size * momentum, periodic), path, lam, shown, target)
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


class Kernel(Protocol):
    """`steps` moves of length `step_size`; returns points and their mean acceptance (batch,)."""

    def __call__(
        self,
        points: Points,
        path: Path,
        lam: float,
        flow: Flow,
        target: Target,
        step_size: float | Tensor,
        steps: int,
        generator: torch.Generator | None = None,
        /,
    ) -> tuple[Points, Tensor]: ...


def mala(
    points: Points,
    path: Path,
    lam: float,
    flow: Flow,
    target: Target,
    step_size: float | Tensor,
    steps: int,
    generator: torch.Generator | None = None,
) -> tuple[Points, Tensor]:
    """Metropolis-adjusted Langevin moves (Roberts and Tweedie 1996), which are HMC of one leapfrog step each."""
    total = torch.zeros_like(points.log_p)
    for _ in range(steps):
        points, acceptance = hmc(points, path, lam, flow, target, step_size, 1, generator)
        total = total + acceptance
    return points, total / steps


def metropolis(
    points: Points,
    path: Path,
    lam: float,
    flow: Flow,
    target: Target,
    step_size: float | Tensor,
    steps: int,
    generator: torch.Generator | None = None,
) -> tuple[Points, Tensor]:
    """A random walk of normal steps (Metropolis et al. 1953): it crosses gaps that gradients do not see across."""
    total = torch.zeros_like(points.log_p)
    for _ in range(steps):
        z = points.z
        noise = torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
        here = Points.at(wrap_periodic(z + step_size * noise, target.periodic.to(z.device)), flow, target)
        log_ratio = path.log_prob(here, lam) - path.log_prob(points, lam)
        points, acceptance = accept(points, here, log_ratio, generator)
        total = total + acceptance
    return points, total / steps


KERNELS: dict[str, Kernel] = {"hmc": hmc, "mala": mala, "metropolis": metropolis, "latent": latent_hmc}
