"""Markov kernels to choose from: each leaves a density of the path invariant, and returns points and acceptance."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .hmc import accept, hmc, wrapped
from .latent import latent_hmc
from .path import Flow, Path, Points
from .target import Target


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
        here = Points.at(wrapped(z + step_size * noise, target.periodic.to(z.device)), flow, target)
        log_ratio = path.log_prob(here, lam) - path.log_prob(points, lam)
        points, acceptance = accept(points, here, log_ratio, generator)
        total = total + acceptance
    return points, total / steps


KERNELS: dict[str, Kernel] = {"hmc": hmc, "mala": mala, "metropolis": metropolis, "latent": latent_hmc}
