"""Verdicts on whether two numbers agree within errors, and on whether the weights that made them can be used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scipy.special import ndtri, stdtr

from .. import weights as _weights

if TYPE_CHECKING:
    from ..ensemble.ensemble import Ensemble

AGREE, EDGE, DISAGREE = "agree within errors", "differ, at the edge of the errors", "disagree"
NO_ERROR = "no error bar, no verdict"
TOO_FEW = "too few samples, no verdict"
NO_WEIGHTS = "the weights cannot be used, no verdict"
NO_VERDICTS = (NO_ERROR, TOO_FEW, NO_WEIGHTS)


@dataclass(frozen=True)
class Reliability:
    """Whether averages with an ensemble's weights, and their error bars, can be used.

    Parameters
    ----------
    name : str
        Of the ensemble.
    n : int
        Its frames.
    ess, khat : float
    """

    name: str
    n: int
    ess: float
    khat: float

    @classmethod
    def of(cls, ensemble: Ensemble) -> Reliability:
        return cls(ensemble.name, ensemble.n, ensemble.ess, ensemble.khat)

    @property
    def usable(self) -> bool:
        """k-hat is at most `weights.KHAT_LIMIT`, and the effective sample size at least `weights.FEW`."""
        return not self.objection

    @property
    def objection(self) -> str:
        """The verdict that stands in for every other one; empty where the weights can be used."""
        # Written so that a nan k-hat is as bad as a large one.
        if not self.khat <= _weights.KHAT_LIMIT:
            return NO_WEIGHTS
        if self.ess >= _weights.FEW:
            return ""
        return TOO_FEW if self.khat == -math.inf else NO_WEIGHTS

    def __str__(self) -> str:
        equal = self.khat == -math.inf
        size = f"{self.n:,} frames of equal weight" if equal and self.ess > self.n - 0.5 else ""
        number = f"{self.ess:,.0f}"
        size = size or f"{number} effective sample{'' if number == '1' else 's'} of {self.n:,}"
        tail = "" if equal else "k-hat cannot be estimated, " if math.isnan(self.khat) else f"k-hat {self.khat:.2f}, "
        if self.usable:
            return f"{self.name}: the weights can be used ({tail}{size})."
        return (
            f"{self.name}: the weights cannot be used, and nothing below is a verdict ({tail}{size}; needed: k-hat "
            f"{_weights.KHAT_LIMIT:g} at most, {_weights.FEW:g} effective samples at least)."
        )


def objection(*sides: Reliability) -> str:
    """The first objection that one of the sides has; empty where there is none."""
    return next((side.objection for side in sides if side.objection), "")


def verdict(z: float, freedom: float = math.inf) -> str:
    """Verdict in words on |z| below 2, below 3 or above, of two numbers whose weights can be used.

    Parameters
    ----------
    freedom : float
        Degrees of freedom of the standard error in z: of few blocks it is itself uncertain, and z is as unlikely as the
        normal deviate with Student's t tail probability.
    """
    if math.isnan(z):
        return NO_ERROR
    if math.isfinite(freedom) and math.isfinite(z):
        z = -float(ndtri(stdtr(max(freedom, 1.0), -abs(z))))
    return DISAGREE if abs(z) >= 3 else AGREE if abs(z) < 2 else EDGE
