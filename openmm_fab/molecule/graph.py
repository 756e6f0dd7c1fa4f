"""The bond graph of a molecule, from its topology or from the springs and constraints of its System."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

import mdtraj
import numpy as np
import openmm
from openmm import app, unit

from .openmm_private import magnitude

FLAT = 0.005  # nm; a ring whose atoms lie no further from their plane (root mean square) is planar
LONGEST_BOND = 0.3  # nm
ACROSS = 1.2  # a spring across an angle is at least so much longer than both sides; no bond is, also in rings of three


class BondGraph:
    """Graph of atoms and bonds, with neighbours, rings, branches, distances and connected parts.

    Parameters
    ----------
    elements : sequence of str
        Chemical element of each atom; any labels where only the bonds are asked for.
    bonds : ndarray of int, shape (n_bonds, 2)

    Attributes
    ----------
    neighbours : list of list of int
        Atoms bonded to each atom, in the order of `bonds`.
    """

    def __init__(self, elements: Sequence[str], bonds: np.ndarray) -> None:
        self.elements = list(elements)
        self.bonds = np.asarray(bonds, dtype=int).reshape(-1, 2)
        self.neighbours: list[list[int]] = [[] for _ in self.elements]
        for i, j in self.bonds.tolist():
            self.neighbours[i].append(j)
            self.neighbours[j].append(i)

    def __repr__(self) -> str:
        return f"BondGraph({self.n_atoms} atoms, {len(self.bonds)} bonds)"

    @property
    def n_atoms(self) -> int:
        return len(self.elements)

    @cached_property
    def kinds(self) -> list[int]:
        """Class number of each atom: atoms that the bond graph does not distinguish share a number.

        Elements, refined by the neighbours' numbers until nothing new is told apart.
        """
        names = sorted(set(self.elements))
        kinds = [names.index(element) for element in self.elements]
        while True:
            seen = [(kinds[i], tuple(sorted(kinds[j] for j in near))) for i, near in enumerate(self.neighbours)]
            known = {kind: k for k, kind in enumerate(sorted(set(seen)))}
            refined = [known[kind] for kind in seen]
            if len(known) == len(set(kinds)):
                return kinds
            kinds = refined

    def tree(self, start: int, without: int = -1) -> dict[int, int]:
        """Atoms reached from `start`, nearest first, each with the atom before it on a shortest way (-1 for `start`).

        The bond start-without is not crossed; `without` is reached where a ring leads back to it.
        """
        before = {start: -1}
        queue = [start]
        for atom in queue:  # grows while it is walked
            for other in self.neighbours[atom]:
                if other not in before and {atom, other} != {start, without}:
                    before[other] = atom
                    queue.append(other)
        return before

    def branch(self, start: int, without: int) -> list[int]:
        """Atoms reached from `start`, itself first, without crossing the bond start-without.

        Includes `without` if a ring leads back to it.
        """
        return list(self.tree(start, without))

    def ring(self, a: int, b: int) -> list[int]:
        """Atoms of a smallest ring through the bond of a and b, from a to b; empty if there is none."""
        before = self.tree(a, b)
        if b not in before:
            return []
        ring = [b]
        while ring[-1] != a:
            ring.append(before[ring[-1]])
        return ring[::-1]

    def distances(self, start: int) -> dict[int, int]:
        """Number of bonds from `start` to every atom that it is connected to, nearest first."""
        distance = {-1: -1}
        for atom, before in self.tree(start).items():
            distance[atom] = distance[before] + 1
        del distance[-1]
        return distance

    def components(self) -> list[list[int]]:
        """Connected parts, each a sorted list of atoms, by their first atoms."""
        seen: set[int] = set()
        parts = []
        for atom in range(self.n_atoms):
            if atom not in seen:
                parts.append(sorted(self.tree(atom)))
                seen.update(parts[-1])
        return parts


def is_planar(ring: Sequence[int], positions: np.ndarray) -> bool:
    """Whether the ring's atoms lie within FLAT nm (root mean square) of one plane in positions (n_atoms, 3), nm."""
    x = positions[list(ring)]
    return bool(np.linalg.svd(x - x.mean(0), compute_uv=False)[-1] / np.sqrt(len(ring)) < FLAT)


# --- where bonds come from ---


def topology_bonds(topology: app.Topology) -> np.ndarray:
    """Bonds of a topology, (n_bonds, 2) int, i < j, sorted."""
    return _pairs((a.index, b.index) for a, b in topology.bonds())


def repeated_bonds(topology: app.Topology) -> np.ndarray:
    """Pairs of atoms (n, 2) int, i < j, sorted, that the topology joins by more than one bond."""
    counts = Counter((min(a.index, b.index), max(a.index, b.index)) for a, b in topology.bonds())
    return _pairs(pair for pair, count in counts.items() if count > 1)


def repeated_springs(system: openmm.System) -> np.ndarray:
    """Pairs of atoms (n, 2) int, i < j, sorted, that have the same harmonic spring (length and constant) more than
    once."""
    counts: Counter[tuple[int, int, float, float]] = Counter()
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            for i, j, length, k in map(force.getBondParameters, range(force.getNumBonds())):
                counts[min(i, j), max(i, j), magnitude(length), magnitude(k)] += 1
    return _pairs(spring[:2] for spring, count in counts.items() if count > 1)


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


def tells_bonds(system: openmm.System) -> bool:
    """Whether a System has springs or constraints, by which its bonds are known."""
    springs = any(isinstance(f, openmm.HarmonicBondForce) and f.getNumBonds() for f in system.getForces())
    return springs or system.getNumConstraints() > 0


def constraints_of(system: openmm.System) -> list[tuple[int, int, float]]:
    """Constraints of a System: (i, j, length in nm) with i < j, sorted."""
    found = [system.getConstraintParameters(k) for k in range(system.getNumConstraints())]
    return sorted((min(i, j), max(i, j), r.value_in_unit(unit.nanometer)) for i, j, r in found)


def _constrained_bonds(topology: app.Topology, system: openmm.System) -> list[tuple[int, int]]:
    """Constraints that are bonds: for a hydrogen the shortest; its others fix angles."""
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
    """Atoms of each molecule, sorted: the connected parts of bonds (n_bonds, 2)."""
    return BondGraph([""] * n_atoms, bonds).components()


def graph_of(topology: mdtraj.Topology) -> BondGraph:
    """The bond graph of an mdtraj topology; its elements are symbols, "VS" for virtual sites."""
    bonds = np.array([(a.index, b.index) for a, b in topology.bonds], dtype=int)
    return BondGraph([atom.element.symbol for atom in topology.atoms], bonds)
