"""Peptide bonds: which they are, whether they are cis or trans, and how to turn one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..molecule.graph import neighbours_of, smallest_ring
from .zmatrix import PLANAR, ZMatrix

OMEGAS = ("as_given", "trans", "sample")

Amide = tuple[int, int, int, int]  # atoms of omega: carbon, carbonyl carbon, nitrogen, carbon


def amide_bonds(bonds: np.ndarray, elements: Sequence[str]) -> list[Amide]:
    """Amides with a carbon on both sides, in no ring, by the atoms of their omega torsion.

    Of two carbons on the nitrogen (proline) the one with a carbonyl beside it counts, else the larger branch.
    """
    near = neighbours_of(bonds, len(elements))

    def carbonyl(atom: int) -> bool:
        return elements[atom] == "C" and any(elements[o] == "O" and len(near[o]) == 1 for o in near[atom])

    found: list[Amide] = []
    for carbon in range(len(elements)):
        if not carbonyl(carbon) or len(near[carbon]) != 3:
            continue
        for nitrogen in near[carbon]:
            before = [a for a in near[carbon] if elements[a] == "C"]
            after = [a for a in near[nitrogen] if elements[a] == "C" and a != carbon]
            if elements[nitrogen] != "N" or len(near[nitrogen]) != 3 or not before or not after:
                continue
            if carbon in branch(near, nitrogen, carbon):
                continue  # a lactam
            last = max(after, key=lambda a: (any(map(carbonyl, near[a])), len(branch(near, a, nitrogen)), -a))
            found.append((before[0], carbon, nitrogen, last))
    return found


def branch(near: Sequence[Sequence[int]], start: int, without: int) -> set[int]:
    """Atoms that are reached from `start` otherwise than by its bond with `without`; that one too, by a ring."""
    seen, queue = {start}, [start]
    for atom in queue:
        new = [b for b in near[atom] if b not in seen and {atom, b} != {start, without}]
        seen.update(new)
        queue += new
    return seen


def is_trans(x: np.ndarray, amide: Amide) -> bool:
    """Of positions (n_atoms, 3): omega beyond 90 degrees."""
    a, b, c, d = x[list(amide)]
    n1, n2 = np.cross(b - a, c - b), np.cross(c - b, d - c)
    return bool(n1 @ n2 < 0)


def with_trans_amides(x: np.ndarray, bonds: np.ndarray, amides: Sequence[Amide]) -> np.ndarray:
    """Positions (n_atoms, 3) with every cis amide turned by half a turn; the shorter side moves."""
    x = np.array(x, dtype=np.float64)
    near = neighbours_of(bonds, len(x))
    for amide in amides:
        if is_trans(x, amide):
            continue
        sides: list[set[int]] = [branch(near, start, without) for start, without in (amide[1:3], amide[2:0:-1])]
        moved = sorted(sides[0] if len(sides[0]) <= len(sides[1]) else sides[1])
        axis = x[amide[2]] - x[amide[1]]
        axis /= np.linalg.norm(axis)
        arm = x[moved] - x[amide[1]]
        x[moved] = x[amide[1]] + 2 * (arm @ axis)[:, None] * axis - arm
    return x


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
