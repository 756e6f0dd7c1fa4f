"""Annealed importance sampling (Neal 2001) from a flow along a path of densities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .hmc import hmc
from .path import Flow, Path, Points
from .target import Target


@dataclass(frozen=True)
class AISSettings:
    """How FAB anneals.

    Attributes
    ----------
    alpha : float
        The path ends at p^alpha q^(1 - alpha).
    intermediate : int
        Densities between the two ends, each with one HMC trajectory; lam evenly spaced.
    leapfrogs : int
        Steps in a trajectory.
    step_size, acceptance : float
        First step, in units of z, and the acceptance it is adapted to, for each density on its own.
    """

    alpha: float = 2.0
    intermediate: int = 1
    leapfrogs: int = 3
    step_size: float = 0.1
    acceptance: float = 0.65

    def __post_init__(self) -> None:
        if self.intermediate < 0 or self.leapfrogs < 1 or self.step_size <= 0 or not 0 < self.acceptance < 1:
            raise ValueError(
                f"Expected intermediate >= 0, leapfrogs >= 1, step_size > 0 and 0 < acceptance < 1; got {self}."
            )

    @property
    def ladder(self) -> list[float]:
        """lam from 0 to 1, both included."""
        return [k / (self.intermediate + 1) for k in range(self.intermediate + 2)]


@dataclass(frozen=True)
class AISResult:
    """What one pass leaves.

    Attributes
    ----------
    points : Points
        Ends of the chains.
    log_w : Tensor, shape (batch,)
        Log weights of the ends towards p^alpha q^(1 - alpha); -inf for invalid points, which stay in the count.
    start : Points
        Where the flow put them, for the flow's own weights log_p - log_q.
    acceptance : list of float
        Mean HMC acceptance at each intermediate density.
    """

    points: Points
    log_w: Tensor
    start: Points
    acceptance: list[float]


def run_ais(
    flow: Flow,
    target: Target,
    n: int,
    settings: AISSettings,
    step_sizes: Sequence[float],
    generator: torch.Generator | None = None,
) -> AISResult:
    """Move n flow samples along the path.

    log w = sum_k log f_k(z_(k-1)) - log f_(k-1)(z_(k-1)), each term where the k-th transition starts (Neal 2001).
    """
    path = Path(settings.alpha)
    z, log_q = flow.sample(n, generator)
    points = start = Points(z, log_q, *target.log_prob_and_gradient(z))
    log_w = torch.zeros(n, dtype=torch.float64, device=z.device)
    acceptance = []
    for k, (before, lam) in enumerate(zip(settings.ladder, settings.ladder[1:], strict=False)):
        log_w = log_w + _increment(path, points, before, lam)
        if lam < 1:
            points, accept = hmc(points, path, lam, flow, target, step_sizes[k], settings.leapfrogs, generator)
            acceptance.append(float(accept.mean()))
    return AISResult(points, log_w, start, acceptance)


def _increment(path: Path, points: Points, before: float, lam: float) -> Tensor:
    """log f_lam - log f_before; -inf where p is zero, wherever the path stands, so that weight is lost for good."""
    (a0, b0), (a1, b1) = path.exponents(before), path.exponents(lam)
    change = (a1 - a0) * points.log_q.double() + (b1 - b0) * points.log_p.double()
    return torch.where(torch.isfinite(change), change, -torch.inf)
