"""Normalizing flows: what a flow offers, coupling layers of splines, a base distribution that learns what to keep."""

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
