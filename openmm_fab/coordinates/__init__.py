"""Internal coordinates: a bijection between positions x (batch, atoms, 3), nm, and scaled z (batch, dim)."""

from __future__ import annotations

from .internal import CoordinateSettings, InternalCoordinates
from .zmatrix import ZMatrix, build_zmatrix

__all__ = [
    "CoordinateSettings",
    "InternalCoordinates",
    "ZMatrix",
    "build_zmatrix",
]
