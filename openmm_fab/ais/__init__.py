"""Annealed importance sampling from a flow q towards p^alpha q^(1 - alpha): the path, Markov kernels, the annealing."""

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
