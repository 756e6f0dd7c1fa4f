"""Points, and the annealed path between a flow q and FAB's goal p^alpha q^(1 - alpha).

Every density on the path is a linear combination of log q and log p (FAB paper, section 3):
``log f = (1 - lam) log q + lam (alpha log p + (1 - alpha) log q)``.
Points keep log q, log p and both gradients, so another lam costs no evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .target import Target


class Flow(Protocol):
    """What annealed importance sampling asks of a flow."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]: ...

    def log_prob(self, z: Tensor) -> Tensor: ...

    def log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]: ...


class TrainableFlow(Flow, Protocol):
    """What the trainer asks beyond that; any `torch.nn.Module` has it."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Points:
    """A batch of positions with everything known there.

    Attributes
    ----------
    z : Tensor, shape (batch, dim)
    log_q, log_p : Tensor, shape (batch,)
    grad_log_q, grad_log_p : Tensor, shape (batch, dim)
    """

    z: Tensor
    log_q: Tensor
    log_p: Tensor
    grad_log_q: Tensor
    grad_log_p: Tensor

    @classmethod
    def at(cls, z: Tensor, flow: Flow, target: Target) -> Points:
        """Evaluate flow and target at z."""
        log_q, grad_log_q = flow.log_prob_and_gradient(z)
        log_p, grad_log_p = target.log_prob_and_gradient(z)
        return cls(z, log_q, log_p, grad_log_q, grad_log_p)

    def where(self, mask: Tensor, other: Points) -> Points:
        """These points where mask (batch,) is true, the other ones elsewhere."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Points(*(torch.where(mask[:, None] if a.ndim == 2 else mask, a, b) for a, b in pairs))


@dataclass(frozen=True)
class Path:
    """Geometric path from q (lam = 0) to p^alpha q^(1 - alpha) (lam = 1).

    alpha = 2 is FAB's goal p^2 / q, the proposal of least variance for its loss; alpha = 1 ends at p, to evaluate.
    """

    alpha: float = 2.0

    def exponents(self, lam: float) -> tuple[float, float]:
        """Exponents of q and of p at lam."""
        return 1.0 - self.alpha * lam, self.alpha * lam

    def log_prob(self, points: Points, lam: float) -> Tensor:
        a, b = self.exponents(lam)
        return a * points.log_q + (b * points.log_p if b else 0.0)

    def gradient(self, points: Points, lam: float) -> Tensor:
        a, b = self.exponents(lam)
        return a * points.grad_log_q + b * points.grad_log_p
