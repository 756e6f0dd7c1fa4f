"""Ensembles of structures with energies u and log weights, from a flow or from MD, in memory and in files."""

from __future__ import annotations

from .ensemble import Ensemble
from .shipped import load_reference
from .stream import StreamedEnsemble

__all__ = [
    "Ensemble",
    "StreamedEnsemble",
    "load_reference",
]
