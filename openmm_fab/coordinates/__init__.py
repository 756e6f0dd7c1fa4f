"""Internal coordinates: a bijection between positions x (batch, atoms, 3), nm, and scaled z (batch, dim).

`zmatrix` decides which atom is placed from which, `placement` computes positions, `scales` the widths that z is
measured in, `bijection` joins them, and `internal` makes it of a molecule: `InternalCoordinates`. `symmetry`,
`isomers`, `constraints`: what is sampled once, kept, or fixed.
"""

from __future__ import annotations

from .internal import InternalCoordinates
from .settings import CoordinateSettings
from .zmatrix import ZMatrix, build_zmatrix

__all__ = [
    "CoordinateSettings",
    "InternalCoordinates",
    "ZMatrix",
    "build_zmatrix",
]
