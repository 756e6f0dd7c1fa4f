"""Bonds and duplicated atoms from elements and distances alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

# Covalent radii in nm of non-metals (Cordero et al. 2008). A metal's coordination is no bond here.
RADII = {
    **{"H": 0.031, "D": 0.031, "B": 0.084, "C": 0.076, "N": 0.071, "O": 0.066, "F": 0.057, "Si": 0.111, "P": 0.107},
    **{"S": 0.105, "Cl": 0.102, "Ge": 0.120, "As": 0.119, "Se": 0.120, "Br": 0.120, "Te": 0.138, "I": 0.139},
}
HYDROGENS = ("H", "D")
# Of the sum of both radii: bonded atoms are nearer than the first; no two atoms are nearer than the second, the
# shortest bonds (C-O in carbon monoxide) being 0.79; atoms beyond the third are not bonded, whatever their names say.
BONDED, ONE_ATOM, APART = 1.2, 0.7, 1.5
TORN = 0.25  # nm; a bond between residues of a chain is never so long


def near_pairs(symbols: Sequence[str], x: np.ndarray, factor: float) -> list[tuple[int, int]]:
    """Pairs of non-metals, i < j, nearer than `factor` times the sum of their radii.

    Parameters
    ----------
    symbols : elements; any other text for an atom without one
    x : (n_atoms, 3) array, nm
        Atoms that are not finite are near to none.
    """
    radii = np.array([RADII.get(symbol, 0.0) for symbol in symbols])
    usable = np.flatnonzero((radii > 0) & np.isfinite(x).all(axis=1))
    if not len(usable):
        return []
    pairs = usable[cKDTree(x[usable]).query_pairs(factor * 2 * radii.max(), output_type="ndarray")]
    i, j = pairs.T
    near = np.linalg.norm(x[i] - x[j], axis=1) < factor * (radii[i] + radii[j])
    return sorted((min(a, b), max(a, b)) for a, b in pairs[near].tolist())


def distance_bonds(symbols: Sequence[str], x: np.ndarray) -> list[tuple[int, int]]:
    """Bonds of non-metals, i < j, from distances as `near_pairs` judges them; a hydrogen is bonded to its nearest heavy
    atom only."""
    bonds: list[tuple[int, int]] = []
    nearest: dict[int, tuple[float, tuple[int, int]]] = {}
    for i, j in near_pairs(symbols, x, BONDED):
        hydrogens = [k for k in (i, j) if symbols[k] in HYDROGENS]
        if not hydrogens:
            bonds.append((i, j))
        elif len(hydrogens) == 1:
            option = (float(np.linalg.norm(x[i] - x[j])), (i, j))
            nearest[hydrogens[0]] = min(option, nearest.get(hydrogens[0], option))
    return sorted([*bonds, *(pair for _, pair in nearest.values())])


def is_apart(symbols: Sequence[str], x: np.ndarray, i: int, j: int) -> bool:
    """Whether two atoms are too far apart to be bonded."""
    reach = sum(RADII.get(symbols[k], np.inf) for k in (i, j))
    return bool(np.linalg.norm(x[i] - x[j]) > APART * reach)
