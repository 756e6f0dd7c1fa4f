"""Bond graphs: neighbours, distances, rings, and which atoms look alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import openmm
from openmm import app, unit

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


LONGEST_BOND = 0.3  # nm
ACROSS = 1.2  # a spring across an angle is at least so much longer than both sides; no bond is, also in rings of three

# --- the bond graph ---


def topology_bonds(topology: app.Topology) -> np.ndarray:
    """(n_bonds, 2) int, i < j, sorted."""
    return _pairs((a.index, b.index) for a, b in topology.bonds())


def bonds_of(topology: app.Topology, system: openmm.System) -> np.ndarray:
    """The topology's bonds, or where it lists none, the System's springs and constraints.

    Springs across an angle (Urey-Bradley terms) and restraints of distances are none: they are longer than any bond, or
    than both springs of the angle.
    """
    if topology.getNumBonds() > 0:
        return topology_bonds(topology)
    lengths: dict[tuple[int, int], float] = {}
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            for i, j, length, _ in map(force.getBondParameters, range(force.getNumBonds())):
                lengths[min(i, j), max(i, j)] = length.value_in_unit(unit.nanometer)
    constrained = _constrained_bonds(topology, system)
    fixed = {(i, j): length for i, j, length in constraints_of(system)}
    known = lengths | {pair: fixed[pair] for pair in _as_pairs(constrained)}
    near: dict[int, dict[int, float]] = {}
    for (i, j), length in known.items():
        near.setdefault(i, {})[j] = near.setdefault(j, {})[i] = length

    def joins(i: int, j: int, length: float) -> bool:
        between = near[i].keys() & near[j].keys()
        return length < LONGEST_BOND and all(length < ACROSS * max(near[i][k], near[j][k]) for k in between)

    return _pairs([*constrained, *(pair for pair, length in lengths.items() if joins(*pair, length))])


def constraints_of(system: openmm.System) -> list[tuple[int, int, float]]:
    """(i, j, length in nm) with i < j, sorted."""
    found = [system.getConstraintParameters(k) for k in range(system.getNumConstraints())]
    return sorted((min(i, j), max(i, j), r.value_in_unit(unit.nanometer)) for i, j, r in found)


def _constrained_bonds(topology: app.Topology, system: openmm.System) -> list[tuple[int, int]]:
    """Of the constraints on a hydrogen the shortest is its bond; the others fix angles."""
    hydrogen = {atom.index for atom in topology.atoms() if atom.element == app.element.hydrogen}
    bonds: list[tuple[int, int]] = []
    bonded: set[int] = set()
    for i, j, _ in sorted(constraints_of(system), key=lambda constraint: constraint[2]):
        if not {i, j} & hydrogen & bonded:
            bonds.append((i, j))
            bonded |= {i, j}
    return bonds


def _as_pairs(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    return sorted({(min(i, j), max(i, j)) for i, j in pairs})


def _pairs(pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    return np.array(_as_pairs(pairs), dtype=np.int64).reshape(-1, 2)


def molecules_of(n_atoms: int, bonds: np.ndarray) -> list[list[int]]:
    """Connected components of the bond graph, each a sorted list of atoms."""
    neighbours: list[list[int]] = [[] for _ in range(n_atoms)]
    for i, j in bonds.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    seen: set[int] = set()
    molecules = []
    for start in range(n_atoms):
        if start in seen:
            continue
        seen.add(start)
        molecule = [start]
        for atom in molecule:  # grows while it is walked
            new = [other for other in neighbours[atom] if other not in seen]
            seen.update(new)
            molecule += new
        molecules.append(sorted(molecule))
    return molecules
