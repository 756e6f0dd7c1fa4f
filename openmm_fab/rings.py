"""Bond graphs: neighbours, distances, rings, and which atoms look alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FLAT = 0.005  # nm; a ring whose atoms lie no further from their plane (root mean square) is planar


def neighbours_of(bonds: np.ndarray, n_atoms: int) -> list[list[int]]:
    """Atoms bonded to each atom."""
    near: list[list[int]] = [[] for _ in range(n_atoms)]
    for i, j in np.asarray(bonds, dtype=int).reshape(-1, 2).tolist():
        near[i].append(j)
        near[j].append(i)
    return near


def kinds_of(near: Sequence[Sequence[int]], elements: Sequence[str]) -> list[int]:
    """A number for each atom, equal for those that no walk along the bond graph takes for different ones: elements,
    refined by the neighbours' numbers until nothing new is told apart."""
    kinds = [sorted(set(elements)).index(e) for e in elements]
    while True:
        seen = [(kinds[i], tuple(sorted(kinds[j] for j in near[i]))) for i in range(len(near))]
        known = {kind: k for k, kind in enumerate(sorted(set(seen)))}
        refined = [known[kind] for kind in seen]
        if len(known) == len(set(kinds)):
            return kinds
        kinds = refined


def distances(start: int, near: Sequence[Sequence[int]]) -> dict[int, int]:
    """Bonds from one atom to every other that can be reached."""
    distance = {start: 0}
    queue = [start]
    for atom in queue:
        for other in near[atom]:
            if other not in distance:
                distance[other] = distance[atom] + 1
                queue.append(other)
    return distance


def smallest_ring(a: int, b: int, near: Sequence[Sequence[int]]) -> list[int]:
    """Atoms of a smallest ring through the bond of a and b, from a to b; empty if there is none."""
    before = {a: -1}
    queue = [a]
    for atom in queue:
        for other in near[atom]:
            if other not in before and {atom, other} != {a, b}:
                before[other] = atom
                queue.append(other)
    if b not in before:
        return []
    ring = [b]
    while ring[-1] != a:
        ring.append(before[ring[-1]])
    return ring[::-1]


def is_planar(ring: Sequence[int], positions: np.ndarray) -> bool:
    """Of positions (n_atoms, 3), nm."""
    x = positions[list(ring)]
    return bool(np.linalg.svd(x - x.mean(0), compute_uv=False)[-1] / np.sqrt(len(ring)) < FLAT)
