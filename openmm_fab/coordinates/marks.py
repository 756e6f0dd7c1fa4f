"""Parts of the coordinates to highlight in a picture: bonds that turn, are fixed or close rings, and stereocentres."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ..drawing.view import Colour, Mark
from .zmatrix import ZMatrix

TURNS: Colour = [0.15, 0.65, 0.25]  # rotatable bonds
SECTOR: Colour = [0.95, 0.6, 0.1]  # rotors restricted to a sector
CLOSES: Colour = [0.55, 0.25, 0.75]  # bonds that close rings
FIXED: Colour = [0.5, 0.5, 0.5]  # constrained bonds
HAND: Colour = [0.85, 0.15, 0.2]  # stereocentres


def marked_bonds(zmatrix: ZMatrix, rotors: Collection[int], lengths: np.ndarray, names: Sequence[str]) -> list[Mark]:
    """Bonds to highlight, each with a colour and a description.

    Parameters
    ----------
    zmatrix : ZMatrix
    rotors : row numbers
        Rows whose torsion is kept in one of several equal sectors.
    lengths : (n_atoms - 1,), nm
        Fixed lengths by row from the second on; nan where the length is free.
    names : str
        Of the atoms.
    """
    found: list[Mark] = []
    for k, (atom, bond, angle, _) in enumerate(zmatrix.rows.tolist()):
        if zmatrix.periodic[k]:
            kind = "one sector of " if k in rotors else ""
            colour = SECTOR if k in rotors else TURNS
            found.append(((bond, angle), colour, f"turns: {kind}{names[bond]}-{names[angle]}"))
        if zmatrix.closes[k]:
            found.append(((atom, angle), CLOSES, f"closes a ring: {names[atom]}-{names[angle]}"))
        if k >= 1 and not np.isnan(lengths[k - 1]):
            found.append(((atom, bond), FIXED, f"fixed: {names[atom]}-{names[bond]}"))
    return found


def marked_centres(centres: Sequence[int], names: Sequence[str]) -> list[Mark]:
    """Stereocentres to highlight, each with a colour and a name."""
    return [((i,), HAND, f"keeps its chirality: {names[i]}") for i in centres]
