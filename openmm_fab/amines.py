"""Nitrogens that invert: pyramids whose two sides are different shapes, and which coordinate takes one to the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .rings import neighbours_of, smallest_ring
from .zmatrix import PLANAR, ZMatrix

NITROGENS = ("sample", "as_given")


def pyramidal_nitrogens(bonds: np.ndarray, elements: Sequence[str], x: np.ndarray) -> list[int]:
    """Nitrogens with three neighbours that are not in one plane, in x (n_atoms, 3), and whose sides differ.

    Where two arms are the same hydrogen, halogen or methyl, as in NH2 and N(CH3)2, the other side is the same shape
    with their labels exchanged. Longer equal arms count as different: what is fixed within them may tell the sides.
    """
    near = neighbours_of(bonds, len(elements))
    found = []
    for i, around in enumerate(near):
        if elements[i] != "N" or len(around) != 3:
            continue
        arms = x[around] - x[i]
        arms /= np.linalg.norm(arms, axis=1)[:, None]
        ends = [end for arm in around if (end := _end(arm, i, near, elements)) is not None]
        flat = np.arccos((arms * np.roll(arms, 1, 0)).sum(1)).sum() > PLANAR
        found += [i] * (not flat and len(set(ends)) == len(ends))
    return found


def inverting_rows(zmatrix: ZMatrix, bonds: np.ndarray, elements: Sequence[str], x: np.ndarray) -> list[int]:
    """Rows of the Z-matrix whose narrow torsion inverts a pyramidal nitrogen: it says how two arms lie to each other,
    seen from the third.

    Not of a nitrogen that has all its arms in rings, which hold it.
    """
    near = neighbours_of(bonds, len(elements))
    free = {
        i for i in pyramidal_nitrogens(bonds, elements, x) if not all(smallest_ring(i, arm, near) for arm in near[i])
    }
    return [
        k
        for k, (_, bond, _, torsion) in enumerate(zmatrix.rows.tolist())
        if k >= 3 and bond in free and (zmatrix.leader[k] >= 0 or torsion in near[bond]) and not zmatrix.closes[k]
    ]


def _end(
    atom: int, centre: int, near: Sequence[Sequence[int]], elements: Sequence[str]
) -> tuple[str, tuple[str, ...]] | None:
    """Elements of an arm that ends with its first atom or with what is bonded to it; None for a longer one."""
    others = [b for b in near[atom] if b != centre]
    if any(len(near[b]) > 1 for b in others):
        return None
    return elements[atom], tuple(sorted(elements[b] for b in others))
