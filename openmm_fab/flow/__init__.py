"""Normalizing flows: densities q(z) on lines and circles that can be sampled, evaluated and trained.

`base` defines the interface that annealing and training need; `coupling` is this package's flow, built of `splines`;
`resampled` is a base distribution with learned acceptance.
"""

from __future__ import annotations

from .base import Flow, Invertible, TrainableFlow
from .coupling import CouplingFlow
from .settings import FlowSettings

__all__ = [
    "CouplingFlow",
    "Flow",
    "FlowSettings",
    "Invertible",
    "TrainableFlow",
]
