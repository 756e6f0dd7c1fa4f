"""Evaluated points, the annealed path from a flow q to p^alpha q^(1 - alpha), and the densities along it.

Every density on the path is a linear combination of log q and log p (FAB paper, section 3): ``log f = (1 - lam) log q +
lam (alpha log p + (1 - alpha) log q)``. Points store log q, log p and their gradients, so that another lam costs no
evaluation.  The flow's gradient, the most expensive of the four, is computed only where q has a nonzero exponent: for
alpha = 2 the middle of the path is p itself.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..flow.base import Flow
from ..target import Target
from ..tools.circle import wrap_periodic


@dataclass(frozen=True)
class Points:
    """A batch of points with log densities and gradients of flow and target.

    Attributes
    ----------
    z : Tensor, shape (batch, dim)
    log_q, log_p : Tensor, shape (batch,)
    grad_log_p : Tensor, shape (batch, dim)
    grad_log_q : Tensor, shape (batch, dim), or None
        None until somebody needs it.
    """

    z: Tensor
    log_q: Tensor
    log_p: Tensor
    grad_log_p: Tensor
    grad_log_q: Tensor | None = None

    @classmethod
    def at(cls, z: Tensor, flow: Flow, target: Target, flow_gradient: bool = False) -> Points:
        """Evaluate flow and target at z."""
        log_p, grad_log_p = target.log_prob_and_gradient(z)
        if flow_gradient:
            log_q, grad_log_q = flow.log_prob_and_gradient(z)
            return cls(z, log_q, log_p, grad_log_p, grad_log_q)
        with torch.no_grad():
            return cls(z, flow.log_prob(z), log_p, grad_log_p)

    def with_flow_gradient(self, flow: Flow) -> Points:
        """These points with log q and its gradient."""
        if self.grad_log_q is not None:
            return self
        log_q, grad_log_q = flow.log_prob_and_gradient(self.z)
        return replace(self, log_q=log_q, grad_log_q=grad_log_q)

    def where(self, mask: Tensor, other: Points) -> Points:
        """Points of this batch where mask (batch,) is true, of the other batch elsewhere."""

        def chosen(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(mask[:, None] if a.ndim == 2 else mask, a, b)

        known = self.grad_log_q is not None and other.grad_log_q is not None
        names = [f.name for f in fields(self) if known or f.name != "grad_log_q"]
        return Points(**{name: chosen(getattr(self, name), getattr(other, name)) for name in names})

    def take(self, index: Tensor) -> Points:
        """Points with these indices."""
        grad_log_q = None if self.grad_log_q is None else self.grad_log_q[index]
        return Points(self.z[index], self.log_q[index], self.log_p[index], self.grad_log_p[index], grad_log_q)


@dataclass(frozen=True)
class Path:
    """Geometric path of densities from q (lam = 0) to p^alpha q^(1 - alpha) (lam = 1).

    alpha = 2 is FAB's goal p^2 / q, the proposal of least variance for its loss; alpha = 1 ends at p, to evaluate.
    """

    alpha: float = 2.0

    def exponents(self, lam: float) -> tuple[float, float]:
        """Exponents of q and of p at lam."""
        return 1.0 - self.alpha * lam, self.alpha * lam

    def log_prob(self, points: Points, lam: float) -> Tensor:
        a, b = self.exponents(lam)
        return (a * points.log_q if a else 0.0) + (b * points.log_p if b else torch.zeros_like(points.log_p))

    def gradient(self, points: Points, lam: float, flow_times: int = 1) -> Tensor:
        """Gradient (batch, dim) of the path's log density at `points`.

        If q has an exponent at `lam`, the points must have the flow's gradient, see `Points.with_flow_gradient`; its
        part of the sum is multiplied by `flow_times`, which is for steps of several lengths.
        """
        a, b = self.exponents(lam)
        if not a:
            return b * points.grad_log_p
        assert points.grad_log_q is not None
        return flow_times * a * points.grad_log_q + b * points.grad_log_p


@dataclass(frozen=True)
class AnnealedDensity:
    """One density of the path between a flow and a target, which a Markov kernel leaves invariant.

    Attributes
    ----------
    path : Path
    lam : float
    flow : Flow
        q.
    target : Target
        p.
    """

    path: Path
    lam: float
    flow: Flow
    target: Target

    @property
    def exponents(self) -> tuple[float, float]:
        """Exponents of q and of p."""
        return self.path.exponents(self.lam)

    def points(self, z: Tensor) -> Points:
        """Evaluate everything at z (batch, dim); the flow's gradient only where q has an exponent."""
        return Points.at(z, self.flow, self.target, flow_gradient=self.exponents[0] != 0)

    def log_prob(self, points: Points) -> Tensor:
        """Log density (batch,), unnormalised."""
        return self.path.log_prob(points, self.lam)

    def gradient(self, points: Points, flow_times: int = 1) -> Tensor:
        """Gradient (batch, dim) of the log density; see `Path.gradient`."""
        return self.path.gradient(points, self.lam, flow_times)

    def gradient_at(self, z: Tensor, flow_times: int = 1) -> Tensor:
        """Gradient (batch, dim) at z, evaluated anew; without the flow's part if `flow_times` is 0."""
        a, b = self.exponents
        gradient = b * self.target.log_prob_and_gradient(z)[1]
        return gradient + flow_times * a * self.flow.log_prob_and_gradient(z)[1] if a and flow_times else gradient

    def wrapped(self, z: Tensor) -> Tensor:
        """z (batch, dim) with angles wrapped into [-pi, pi)."""
        return wrap_periodic(z, self.target.periodic.to(z.device))
