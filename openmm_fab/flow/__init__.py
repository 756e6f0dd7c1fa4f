"""Normalizing flows: densities q(z) on lines and circles that are sampled, evaluated and trained.

`base` says what annealing and training ask of a flow; `coupling` is our own, made of `splines`; `resampled` is a base
distribution that learns which of its samples to keep.
"""

from __future__ import annotations

from .base import Flow, Invertible, TrainableFlow
from .coupling import CouplingFlow, FlowSettings

__all__ = [
    "CouplingFlow",
    "Flow",
    "FlowSettings",
    "Invertible",
    "TrainableFlow",
]
