"""Stochastic normalizing flows (Wu, Köhler, Noé 2020, arXiv 2002.06707): Markov kernels between a flow's layers.

After every few layers a kernel moves the samples towards base^(1 - lam) p^lam, where lam is the share of layers passed.
Such a flow has no density in closed form; a sample's weight is that of its whole path, and `sample_path` gives that as
log q: log p - log q is a proper log weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ais.kernels import KERNELS
from ..ais.path import AnnealedDensity, Path, Points
from ..flow.coupling import CouplingFlow
from ..target import Target
from ..tools.gradients import with_gradient_of
from .experience import Experience
from .learner import Learner
from .objectives import reverse_loss
from .settings import TrainSettings

PATH = Path(alpha=1.0)
SNF_KERNELS = ("hmc", "mala", "metropolis")  # between layers there is no base


@dataclass(frozen=True)
class StochasticFlow:
    """Kernels of a stochastic flow; calling it is its objective, reverse KL of the paths (SNF paper, eq. 12).

    Attributes
    ----------
    every : int
        Layers of the flow before each kernel.
    kernel, steps, step_size
        See `ais.kernels`.
    """

    every: int = 2
    kernel: str = "hmc"
    steps: int = 3
    step_size: float = 0.1

    def __post_init__(self) -> None:
        if self.every < 1 or self.kernel not in SNF_KERNELS or self.steps < 1 or self.step_size <= 0:
            raise ValueError(
                f"Expected every >= 1, a kernel of {SNF_KERNELS}, steps >= 1 and step_size > 0; got {self}."
            )

    def __call__(self, learner: Learner, experience: Experience, settings: TrainSettings) -> None:
        flow, n = learner.flow, settings.batch
        if not isinstance(flow, CouplingFlow) or flow.resampling is not None:
            raise ValueError(f"Expected a CouplingFlow of plain base, whose layers are known; got {flow}.")
        for _ in range(settings.updates):
            z, log_q = self.sample_path(flow, experience.target, n, experience.rng)
            learner.counted.evaluations += n
            learner.learn(reverse_loss(experience, z, log_q)[0])

    def sample_path(
        self, flow: CouplingFlow, target: Target, n: int, rng: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """n samples z (n, dim), and log q (n,) of their paths, both with a graph of the flow's parameters.

        Moves count as constants in the graph: accepted or not, and the force inside a leapfrog step.
        """
        z = flow.sample_base(n, rng)
        log_q = _Base(flow).log_prob(flow.scaled(z))
        for k, layer in enumerate(flow.layers, 1):
            z, log_det = flow.couple(z, layer, inverse=True)
            log_q = log_q - log_det
            if k % self.every == 0:
                z, gain = self._move(flow, target, z, k, rng)
                log_q = log_q + gain
        return flow.scaled(z), log_q

    def log_prob_path(
        self, flow: CouplingFlow, target: Target, z: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        """log q (n,) of one random path backwards from each z (n, dim): exp of it is right, its mean is a lower bound.

        Kernels are reversible: the way back is the same move, and the ratio of its two directions that of f.
        """
        z, log_q = flow.unscaled(z), torch.zeros_like(z[:, 0])
        for k in range(len(flow.layers), 0, -1):
            if k % self.every == 0:
                z, gain = self._move(flow, target, z, k, rng)
                log_q = log_q - gain
            z, log_det = flow.couple(z, flow.layers[k - 1])
            log_q = log_q + log_det
        return log_q + _Base(flow).log_prob(flow.scaled(z))

    def _move(
        self, flow: CouplingFlow, target: Target, z: Tensor, k: int, rng: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """z after the kernel behind layer k, and log f(after) - log f(before)."""
        lam, base = k / len(flow.layers), _Base(flow)
        z = flow.scaled(z)
        before = Points.at(z.detach(), base, target, flow_gradient=True)
        density = AnnealedDensity(PATH, lam, base, target)
        after, _ = KERNELS[self.kernel](before, density, self.step_size, self.steps, rng)
        after = after.with_flow_gradient(base)
        moved = z + (after.z - before.z)
        gain = _with_graph(density, after, moved) - _with_graph(density, before, z)
        # Where f is zero the kernel stays, which is as likely both ways; a later layer may lead out.
        held = torch.isneginf(density.log_prob(before))
        return flow.unscaled(torch.where(held[:, None], z, moved)), torch.where(held, 0.0, gain)


@dataclass(frozen=True)
class PathSampler:
    """Sampler of a stochastic flow and its target; log q is that of paths, and for given z the bound of
    `StochasticFlow.log_prob_path`.

    Attributes
    ----------
    layers : StochasticFlow
    flow : CouplingFlow
    target : Target
    rng : torch.Generator
        Of the paths backwards.
    """

    layers: StochasticFlow
    flow: CouplingFlow
    target: Target
    rng: torch.Generator

    def sample(self, n: int, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return self.layers.sample_path(self.flow, self.target, n, rng)

    def log_prob(self, z: Tensor) -> Tensor:
        with torch.no_grad():
            return self.layers.log_prob_path(self.flow, self.target, z, self.rng)


class _Base:
    """The flow's base as a density of scaled z."""

    def __init__(self, flow: CouplingFlow) -> None:
        self.flow = flow

    def sample(self, n: int, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        z = self.flow.scaled(self.flow.sample_base(n, rng))
        return z, self.log_prob(z)

    def log_prob(self, z: Tensor) -> Tensor:
        lines = int((~self.flow.periodic).sum())
        return self.flow.base_log_prob(self.flow.unscaled(z)) - lines * math.log(self.flow.settings.scale)

    @torch.enable_grad()
    def log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        z = z.detach().requires_grad_()
        log_q = self.log_prob(z)
        (gradient,) = torch.autograd.grad(log_q.sum(), z)
        return log_q.detach(), gradient


def _with_graph(density: AnnealedDensity, points: Points, z: Tensor) -> Tensor:
    """Log density (n,) at points, whose gradient in their z (n, dim) is that of the density."""
    slope = density.gradient(points)
    slope = torch.where(torch.isfinite(slope), slope, 0.0)
    return with_gradient_of(density.log_prob(points), (z * slope).sum(1))
