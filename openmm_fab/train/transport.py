"""Constrained mass transport: towards the target in stages that samples can reach, with energies alone.

After von Klitzing et al. (ICLR 2026, arXiv 2510.18460).  A stage draws samples of the flow q, with energies and no
gradients, and chooses the density g that is nearest to p, by KL(g | p), among those with KL(g | q) <= `divergence`
whose entropy is at most `entropy` below that of q.  It is

    g = (p q^lam)^(1 / (1 + lam + eta)) / Z,

with multipliers lam, eta >= 0 at the maximum of the concave dual

    -(1 + lam + eta) log Z - lam * divergence + eta * (H(q) - entropy),   Z = E_q[g / q] of the unnormalised g.

The flow is then fitted to g by maximum likelihood on the weighted samples, with no further energies.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .experience import Experience
from .learner import Learner
from .settings import TrainSettings

LARGEST = 1e6  # multipliers are sought up to here


class ConstrainedMassTransport:
    """An objective: each iteration makes `TrainSettings.updates` gradient steps; a stage is as many as `steps`.

    Parameters
    ----------
    samples : int
        Of a stage, over all ranks, each with one energy.
    steps : int
        Gradient steps of a stage.
    divergence : float
        KL(g | q) of a stage is at most this.
    entropy : float
        Entropy falls by at most this in a stage.

    Attributes
    ----------
    multipliers : (float, float)
        lam and eta of the current stage; both are 0 once p itself is within reach. nan before the first.
    """

    def __init__(
        self, samples: int = 20_000, *, steps: int = 200, divergence: float = 0.3, entropy: float = 0.5
    ) -> None:
        if min(samples, steps) < 1 or min(divergence, entropy) <= 0:
            raise ValueError(
                f"Expected samples and steps >= 1, divergence and entropy > 0; got {samples}, {steps}, {divergence} "
                f"and {entropy}."
            )
        self.samples, self.steps, self.divergence, self.entropy = samples, steps, divergence, entropy
        self.multipliers = (math.nan, math.nan)
        self._left = 0
        self._z, self._log_w = torch.zeros(0, 0), torch.zeros(0)

    def __repr__(self) -> str:
        stage = f"{self.samples} samples and {self.steps} steps a stage"
        return f"ConstrainedMassTransport({stage}, divergence {self.divergence:g}, entropy {self.entropy:g})"

    @property
    def lam(self) -> float:
        """Power of p in the density of the current stage, 1 in the end."""
        return 1 / (1 + sum(self.multipliers))

    def __call__(self, learner: Learner, experience: Experience, settings: TrainSettings) -> None:
        """Make the gradient steps of one iteration; where a stage has ended, draw samples for the next one before."""
        for _ in range(settings.updates):
            if self._left == 0:
                self._begin_stage(learner, experience, settings.batch)
            drawn = torch.multinomial(
                self._log_w.softmax(0), settings.batch, replacement=True, generator=experience.rng
            )
            learner.learn(-learner.log_prob(self._z[drawn]).mean())
            self._left -= 1

    @torch.no_grad()
    def _begin_stage(self, learner: Learner, experience: Experience, batch: int) -> None:
        """Draw samples, and weight them towards g."""
        parts = []
        for _ in range(-(-self.samples // (batch * experience.ranks.size))):
            z, log_q = learner.counted.sample(batch, experience.rng)
            log_p = experience.target.log_prob(z).double()
            log_q = log_q.double()
            experience.record_log_w(log_p - log_q, z)
            parts.append((z, log_p, log_q))
        (self._z, log_p, log_q), _ = experience.ranks.gather_rows(*map(torch.cat, zip(*parts, strict=True)))
        self.multipliers = multipliers(log_p, log_q, self.divergence, self.entropy)
        self._log_w = log_weights(log_p, log_q, *self.multipliers)
        self._left = self.steps

    def state_dict(self) -> dict[str, Any]:
        """State that the next iteration depends on."""
        return {"stage": [self._left, *self.multipliers], "z": self._z, "log_w": self._log_w}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`."""
        self._left, *(lam, eta) = state["stage"]
        self.multipliers = (lam, eta)
        self._z, self._log_w = state["z"], state["log_w"]


def log_weights(log_p: Tensor, log_q: Tensor, lam: float, eta: float) -> Tensor:
    """Log weights (n,) of samples of q towards g with these multipliers, unnormalised."""
    log_w = (log_p + lam * log_q) / (1 + lam + eta) - log_q
    return torch.where(torch.isfinite(log_p), log_w, -torch.inf)


def multipliers(log_p: Tensor, log_q: Tensor, divergence: float, entropy: float) -> tuple[float, float]:
    """lam and eta of the next density, from log p and log q (n,) float64 of samples of q; p need not be normalised.

    Raises
    ------
    ValueError
        No sample has a finite log p.
    """
    from scipy.optimize import minimize  # takes a while to load

    inside = torch.isfinite(log_p)
    if not inside.any():
        raise ValueError("Expected samples of finite energy; none of the flow's has one. Check the system.")
    p, q = log_p[inside], log_q[inside]
    p = p - (p - q).max()  # Z of order 1
    h = -float(log_q.mean())
    missing = math.log(len(log_p))

    def negative_dual(x: np.ndarray) -> tuple[float, np.ndarray]:
        """At x = (log(1 + lam), log(1 + eta)), with its derivatives."""
        lam, eta = np.expm1(x)
        s = 1 + lam + eta
        log_w = (p + lam * q) / s - q
        total = torch.logsumexp(log_w, 0)
        w = (log_w - total).exp()
        log_g = (p + lam * q) / s - (total - missing)
        log_z = float(total) - missing
        kl, fall = float(w @ (log_g - q)), h + float(w @ log_g)
        value = -s * log_z - lam * divergence + eta * (h - entropy)
        # The derivatives are the constraints: KL(g | q) - divergence, and H(q) - entropy - H(g).
        return -value, -np.array([kl - divergence, fall - entropy]) * np.exp(x)

    top = math.log1p(LARGEST)
    found = minimize(negative_dual, np.array([1.0, 1.0]), jac=True, method="L-BFGS-B", bounds=[(0.0, top)] * 2)
    lam, eta = np.expm1(found.x).tolist()
    return lam, eta
