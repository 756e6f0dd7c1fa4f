"""A double well of which all is known, as what `generator.seeking` trains and samples: for calibration and tests."""

from __future__ import annotations

import math

import numpy as np

from openmm_fab.ensemble.audit import Audit
from openmm_fab.generator.seeking import ANNEALED, CHAINS, Draw

WELLS, WIDTH, OTHERS = (-2.0, 2.0), 0.2, 20


class DoubleWell:
    """Two normal wells, the rarer with `share` of the weight, and `OTHERS` normal coordinates.

    Its flow, which is wider in all of them, has too little of the rarer well; both improve as t^-p.

    A sample takes `each` seconds of a clock of its own, an annealed one forty times as long. Chains, six times as long,
    are exact: two states of a walker are the same.

    Parameters
    ----------
    share : float
    power : float
        p.
    loss : float
        That the flow has of its weight in the rarer well after a second of training, as a factor exp(-loss).
    lacks : bool
        The flow never has the rarer well: only the audit sees that.
    """

    left_out = ()

    def __init__(
        self, share: float = 0.02, *, power: float = 0.7, loss: float = 4.0, each: float = 1e-4, lacks: bool = False
    ) -> None:
        self.share, self.power, self.loss, self.each, self.lacks = share, power, loss, each, lacks
        self.now, self.trained, self.drawn = 0.0, 0.0, 0
        self.purposes: list[tuple[str, int, int]] = []

    @property
    def truth(self) -> float:
        """Free energy of the rarer well less that of the other, kT."""
        return math.log((1.0 - self.share) / self.share)

    def clock(self) -> float:
        return self.now

    def train(self, seconds: float, audit: Audit | None) -> tuple[float, int]:
        self.now += max(0.0, seconds - self.trained)
        self.trained = max(self.trained, seconds)
        return self.trained, int(1000 * self.trained)

    def draw(self, n: int, seed: int, method: str, purpose: str) -> Draw:
        if method == CHAINS:
            return self._chains(n, seed)
        bad = self.loss * self.trained**-self.power * (0.3 if method == ANNEALED else 1.0)
        wider = 1.05 + 0.2 * bad
        width = WIDTH * wider
        odds = 0.0 if self.lacks else self.share / (1.0 - self.share) * math.exp(-bad)
        q = odds / (1.0 + odds)
        rng = np.random.default_rng(seed)
        rare = rng.random(n) < q
        x = np.where(rare, WELLS[1], WELLS[0]) + width * rng.normal(size=n)
        seconds = n * self.each * (40.0 if method == ANNEALED else 1.0)
        self.now += seconds
        self.purposes.append((purpose, n, seed))
        with np.errstate(divide="ignore"):
            log_w = _log_density(x, self.share, WIDTH) - _log_density(x, q, width)
        squares = wider**2 * rng.chisquare(OTHERS, n)
        log_w += 0.5 * squares * (wider**-2 - 1.0) + OTHERS * math.log(wider)
        return Draw(log_w, {"rare": x > 0.0}, seconds)

    def _chains(self, n: int, seed: int) -> Draw:
        rng = np.random.default_rng(seed)
        block = np.repeat(np.arange(-(-n // 2)), 2)[:n]
        self.now += 6 * n * self.each
        inside = rng.random(block[-1] + 1) < (0.0 if self.lacks else self.share)
        return Draw(np.zeros(n), {"rare": inside[block]}, 6 * n * self.each, None, block)

    def audit(self, draw: Draw, seconds: float) -> tuple[Audit | None, bool]:
        self.now += seconds
        return None, False


def _log_density(x: np.ndarray, share: float, width: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        parts = [
            math.log(max(p, 1e-300)) - 0.5 * ((x - at) / width) ** 2
            for p, at in ((1.0 - share, WELLS[0]), (share, WELLS[1]))
        ]
    return np.logaddexp(*parts) - math.log(width)
