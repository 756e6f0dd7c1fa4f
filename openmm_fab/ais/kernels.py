"""Markov kernels that leave a density of the annealed path invariant, and the lengths of their steps.

A kernel makes `steps` moves from each of a batch of points, and returns where they ended and their mean Metropolis
acceptance.  It knows its density only as an `AnnealedDensity`.  In order: Metropolis' choice, Hamiltonian Monte Carlo
in z (Neal 2011, arXiv 1206.1901), Langevin moves and a random walk, HMC in the base of the flow, adaptation of steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from ..flow.base import Invertible
from .path import AnnealedDensity, Points


class Kernel(Protocol):
    """Interface of a Markov kernel: `steps` moves of length `step_size`; returns points and mean acceptance
    (batch,)."""

    def __call__(
        self,
        points: Points,
        density: AnnealedDensity,
        step_size: float | Tensor,
        steps: int,
        rng: torch.Generator | None = None,
        /,
    ) -> tuple[Points, Tensor]: ...


def accept(points: Points, here: Points, log_ratio: Tensor, rng: torch.Generator | None) -> tuple[Points, Tensor]:
    """Metropolis choice between points and proposals `here`, with the acceptance probabilities (batch,).

    A point of zero density accepts whatever has some; a proposal whose energy is not finite is refused.
    """
    log_ratio = torch.where(torch.isfinite(here.log_p) & torch.isfinite(here.log_q), log_ratio, -torch.inf)
    acceptance = torch.where(log_ratio.isnan(), 0.0, log_ratio.clamp(max=0.0).exp())
    uniform = torch.rand(len(log_ratio), generator=rng, dtype=log_ratio.dtype, device=log_ratio.device)
    return here.where(uniform < acceptance, points), acceptance


def hmc(
    points: Points,
    density: AnnealedDensity,
    step_size: float | Tensor,
    leapfrogs: int,
    rng: torch.Generator | None = None,
    flow_every: int = 1,
) -> tuple[Points, Tensor]:
    """One trajectory of Hamiltonian Monte Carlo.

    Costs `leapfrogs` evaluations of the target a point, and leapfrogs / flow_every of the flow's gradient if q has an
    exponent.

    Parameters
    ----------
    points : Points
    density : AnnealedDensity
    step_size : float or Tensor, shape (dim,)
        A step for each coordinate is the same as a mass for each, 1 / step_size^2.
    leapfrogs : int
    rng : torch.Generator, optional
    flow_every : int
        A divisor of `leapfrogs`: the flow's force acts at every so many-th leapfrog only, multiplied by as much. It is
        smooth and expensive where the energy is stiff and cheap (reversible multiple time steps; Tuckerman, Berne,
        Martyna 1992).

    Returns
    -------
    points : Points
    acceptance : Tensor, shape (batch,)
        Metropolis acceptance probabilities.
    """
    if density.exponents[0] != 0:
        points = points.with_flow_gradient(density.flow)
    z = points.z
    start = torch.randn(z.shape, generator=rng, dtype=z.dtype, device=z.device)
    momentum = start + 0.5 * step_size * density.gradient(points, flow_every)
    for k in range(1, leapfrogs):
        z = density.wrapped(z + step_size * momentum)
        flow_times = 0 if k % flow_every else flow_every
        momentum = momentum + step_size * density.gradient_at(z, flow_times)  # half a step twice, of k and of k + 1
    here = density.points(density.wrapped(z + step_size * momentum))
    momentum = momentum + 0.5 * step_size * density.gradient(here, flow_every)
    log_ratio = density.log_prob(here) - density.log_prob(points)
    log_ratio = log_ratio - 0.5 * (momentum.square() - start.square()).sum(1)
    return accept(points, here, log_ratio, rng)


def mala(
    points: Points,
    density: AnnealedDensity,
    step_size: float | Tensor,
    steps: int,
    rng: torch.Generator | None = None,
) -> tuple[Points, Tensor]:
    """Metropolis-adjusted Langevin moves (Roberts and Tweedie 1996), which are HMC of one leapfrog step each."""
    total = torch.zeros_like(points.log_p)
    for _ in range(steps):
        points, acceptance = hmc(points, density, step_size, 1, rng)
        total = total + acceptance
    return points, total / steps


def metropolis(
    points: Points,
    density: AnnealedDensity,
    step_size: float | Tensor,
    steps: int,
    rng: torch.Generator | None = None,
) -> tuple[Points, Tensor]:
    """Random walk of normal steps (Metropolis et al. 1953), which needs no gradients."""
    total = torch.zeros_like(points.log_p)
    for _ in range(steps):
        z = points.z
        noise = torch.randn(z.shape, generator=rng, dtype=z.dtype, device=z.device)
        here = Points.at(density.wrapped(z + step_size * noise), density.flow, density.target)
        points, acceptance = accept(points, here, density.log_prob(here) - density.log_prob(points), rng)
        total = total + acceptance
    return points, total / steps


def latent_hmc(
    points: Points,
    density: AnnealedDensity,
    step_size: float | Tensor,
    leapfrogs: int,
    rng: torch.Generator | None = None,
) -> tuple[Points, Tensor]:
    """One trajectory of HMC in the flow's base, which leaves the density of z invariant; see `hmc`.

    Raises
    ------
    ValueError
        If the flow has no base to show.
    """
    try:
        with torch.no_grad():
            x = cast(Invertible, density.flow).to_base(points.z)[0]
    except AttributeError as error:
        raise ValueError(
            f"Expected a flow with to_base, from_base and base_log_prob for the latent kernel; got one without "
            f"({error}). Use the kernel hmc."
        ) from error
    old = _in_base(density.wrapped(x), density)
    start = torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)
    new, momentum = old, start + 0.5 * step_size * old.force
    for k in range(1, leapfrogs + 1):
        new = _in_base(density.wrapped(new.x + step_size * momentum), density)
        momentum = momentum + (0.5 if k == leapfrogs else 1.0) * step_size * new.force
    log_ratio = new.log_density - old.log_density - 0.5 * (momentum.square() - start.square()).sum(1)
    return accept(points, new.points, log_ratio, rng)


@dataclass(frozen=True)
class _InBase:
    """Points, their places x (batch, dim) in the base, and log density (batch,) and force (batch, dim) there."""

    points: Points
    x: Tensor
    log_density: Tensor
    force: Tensor


@torch.enable_grad()
def _in_base(x: Tensor, density: AnnealedDensity) -> _InBase:
    """Everything that `latent_hmc` needs to know at places x (batch, dim) of the base."""
    flow, (a, b) = cast(Invertible, density.flow), density.exponents
    x = x.detach().requires_grad_()
    z, log_det = flow.from_base(x, frozen=True)
    base = flow.base_log_prob(x)
    log_p, grad_log_p = density.target.log_prob_and_gradient(z.detach())
    volume = a * base + (1.0 - a) * log_det
    # Where p is zero nothing pulls: there its gradient means nothing.
    pull = torch.where(torch.isfinite(log_p)[:, None], b * grad_log_p, 0.0)
    (force,) = torch.autograd.grad(volume.sum() + (z * pull).sum(), x)
    here = Points(z.detach(), (base - log_det).detach(), log_p, grad_log_p)
    return _InBase(here, x.detach(), volume.detach() + b * log_p, force)


KERNELS: dict[str, Kernel] = {"hmc": hmc, "mala": mala, "metropolis": metropolis, "latent": latent_hmc}


def named(kernel: str | Kernel) -> str:
    """Name under which `KERNELS` has a kernel; a function of one's own is added under its `__name__`, by which
    settings in files call it, too.

    Raises
    ------
    ValueError
        A name that another kernel has.
    """
    if isinstance(kernel, str):
        return kernel
    name = getattr(kernel, "__name__", type(kernel).__name__)
    if KERNELS.setdefault(name, kernel) is not kernel:
        raise ValueError(f"Expected a kernel with a name of its own; another one is called {name!r}. Rename it.")
    return name


def adapt(step_size: float, acceptance: float, goal: float, factor: float = 1.05) -> float:
    """Lengthen a step size after too much acceptance, shorten it after too little."""
    return step_size * factor if acceptance > goal else step_size / factor


def adapted(step_sizes: Sequence[float], acceptance: Sequence[float], goal: float, factor: float = 1.05) -> list[float]:
    """Adapt the step size of each density to its mean acceptance in a pass; densities that were not reached keep
    theirs."""
    used = [adapt(e, a, goal, factor) for e, a in zip(step_sizes, acceptance, strict=False)]
    return used + list(step_sizes[len(used) :])


def widths(z: Tensor, log_w: Tensor, periodic: Tensor) -> Tensor:
    """Standard deviations (dim,) of weighted z (n, dim), divided by their geometric mean.

    A circular one is sqrt(-2 ln R) of the mean resultant length R, at most pi / sqrt(3), that of the whole circle.
    """
    w = log_w.softmax(0)[:, None]
    z = z.double()
    straight = (w * (z - (w * z).sum(0)).square()).sum(0).sqrt()
    resultant = ((w * z.cos()).sum(0).square() + (w * z.sin()).sum(0).square()).sqrt()
    circular = (-2 * resultant.clamp(1e-12, 1.0).log()).sqrt().clamp(max=math.pi / math.sqrt(3))
    found = torch.where(periodic.to(z.device), circular, straight).clamp(min=1e-3)
    return found / found.log().mean().exp()
