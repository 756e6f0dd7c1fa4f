"""Comparison of two ensembles: divergences, free-energy profiles, basin differences, and verdicts on agreement.

`torsions`, `regions`, `projections`: what is compared. `divergences`, `sides`: histograms with their noise. `comparing`
makes a `Comparison` of it, whose words come from `verdicts` and whose figures from `figure`.
"""

from __future__ import annotations

from .comparing import compare
from .comparison import Comparison
from .divergences import Divergence, divergence
from .projections import Projection
from .results import BasinComparison, CoordinateComparison, PairComparison, ProfileComparison, WeightHistogram

__all__ = [
    "BasinComparison",
    "Comparison",
    "CoordinateComparison",
    "Divergence",
    "PairComparison",
    "ProfileComparison",
    "Projection",
    "WeightHistogram",
    "compare",
    "divergence",
]
