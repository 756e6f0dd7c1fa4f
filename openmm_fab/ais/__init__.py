"""Annealed importance sampling from a flow q, along a path of densities, to weighted samples of p^alpha q^(1 - alpha).

`path` defines the densities, `kernels` the Markov kernels that leave one of them invariant, `annealing` the algorithm.
"""

from __future__ import annotations

from .annealing import AISResult, AISSettings, anneal_to_target, run_ais
from .path import Path, Points

__all__ = [
    "AISResult",
    "AISSettings",
    "Path",
    "Points",
    "anneal_to_target",
    "run_ais",
]
