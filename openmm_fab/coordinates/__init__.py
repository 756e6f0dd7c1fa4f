"""Internal coordinates: a bijection between positions x (batch, atoms, 3), nm, and scaled z (batch, dim).

`zmatrix` decides which atom is placed from which, `placement` computes positions, `scales` the widths that z is
measured in, `internal` joins them: `InternalCoordinates`. `symmetry`, `isomers`, `constraints`: what is sampled once,
kept, or fixed.
"""

from __future__ import annotations

from .internal import CoordinateSettings, InternalCoordinates
from .zmatrix import ZMatrix, build_zmatrix

__all__ = [
    "CoordinateSettings",
    "InternalCoordinates",
    "ZMatrix",
    "build_zmatrix",
]
