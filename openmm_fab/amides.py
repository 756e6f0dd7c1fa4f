"""Peptide bonds: which they are, whether they are cis or trans, and how to turn one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .rings import neighbours_of

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
