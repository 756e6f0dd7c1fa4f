"""Verdicts on whether two numbers agree within errors: thresholds of z-scores and k-hat, and their words."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri, stdtr

from .. import weights as _weights

AGREE, EDGE, DISAGREE = "agree within errors", "differ, at the edge of the errors", "disagree"
NO_ERROR = "no error bar, no verdict"
TOO_FEW = "too few samples, no verdict"
DISTRUST = "the weights are not to be trusted (k-hat)"


def verdict(z: float, khat: float, freedom: float = math.inf) -> str:
    """Verdict in words on |z| below 2, below 3 or above, with a reservation where k-hat is too large.

    Parameters
    ----------
    freedom : float
        Degrees of freedom of the standard error in z: of few blocks it is itself uncertain, and z is as unlikely as the
        normal deviate with Student's t tail probability.
    """
    if math.isnan(z):
        return qualified(NO_ERROR, khat)
    if math.isfinite(freedom) and math.isfinite(z):
        z = -float(ndtri(stdtr(max(freedom, 1.0), -abs(z))))
    return qualified(DISAGREE if abs(z) >= 3 else AGREE if abs(z) < 2 else EDGE, khat)


def worst_khat(*khats: float) -> float:
    """Largest of several k-hats; nan, which is no better than large, if one is nan."""
    return float(np.max(khats))


def qualified(words: str, khat: float) -> str:
    """Append to a verdict a reservation where k-hat is too large, or nan, for the weights to be used."""
    # Written so that a nan k-hat is as bad as a large one.
    return words if khat <= _weights.KHAT_LIMIT else f"{words}; {DISTRUST}"
