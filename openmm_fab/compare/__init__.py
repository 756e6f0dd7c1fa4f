"""Ensemble against ensemble: divergences, free-energy profiles, basin differences, and who agrees within errors.

`torsions`, `regions`, `projections`: what is compared. `divergences`, `sides`: histograms with their noise. `comparing`
puts all of it into a `Comparison`, whose words come from `verdicts` and whose pages from `figure`.
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
