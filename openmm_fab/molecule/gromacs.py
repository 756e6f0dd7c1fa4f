"""GROMACS topologies where OpenMM's reader is not GROMACS: sections that it passes over, pairs three bonds apart."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import openmm

from .checks import UnsupportedSystemError
from .graph import BondGraph
from .openmm_private import GromacsTopology, magnitude

# Sections that make no energy, or whose particles are refused elsewhere.
HARMLESS = (
    "system",
    "constrainttypes",
    "implicit_genborn_params",
    "virtual_sites1",
    "virtual_sites4",
    "virtual_sitesn",
)
READ = {
    *("defaults", "moleculetype", "molecules", "atoms", "bonds", "angles", "dihedrals", "exclusions", "pairs"),
    *("constraints", "settles", "cmap", "atomtypes", "bondtypes", "angletypes", "dihedraltypes", "pairtypes"),
    *("cmaptypes", "nonbond_params", "virtual_sites2", "virtual_sites3", "dummies2", "dummies3", *HARMLESS),
}
MARK = "intermolecular_interactions"  # a section without lines; the numbers in those behind it mean other atoms


def check_sections(top: GromacsTopology, path: str) -> None:
    """Refuse a topology with terms of energy that OpenMM's reader passes over in silence.

    Raises
    ------
    UnsupportedSystemError
    """
    unread = [name for name, lines in top.sections.items() if name not in READ and (lines or name == MARK)]
    if unread:
        raise UnsupportedSystemError(
            [
                f"Expected sections that OpenMM reads; got {', '.join(f'[ {name} ]' for name in unread)}: without "
                "them the energy would be another. Take them out to sample without them, or leave out the defines that "
                "they stand under."
            ],
            path,
        )


def exclude_as_gromacs(top: GromacsTopology, system: openmm.System, path: str) -> None:
    """Take out of a System the interactions of atoms three bonds apart that are not listed as pairs.

    GROMACS leaves out all up to nrexcl bonds and adds what [ pairs ] lists; OpenMM takes pairs from the bonds, too.

    Raises
    ------
    UnsupportedSystemError
        nrexcl is not 3 in a molecule where that matters: OpenMM reads any as 3.
    """
    listed: set[tuple[int, int]] = set()
    first = 0
    for kind, count in top.molecules:
        n = len(kind.atoms)
        pairs = [_numbers(fields) for fields in kind.pairs]
        if count and (far := _between(kind, *sorted((kind.nrexcl, 3)))):
            i, j = (kind.atoms[k][4] for k in min(far))
            raise UnsupportedSystemError(
                [
                    f"Expected 3 for nrexcl in [ moleculetype ]; got {kind.nrexcl} for {kind.atoms[0][3]}. OpenMM "
                    f"reads it as 3: the interaction of {i} and {j} would be another. Write nrexcl 3 with the pairs or "
                    "exclusions that make up for it."
                ],
                path,
            )
        for copy in range(count):
            listed |= {(first + copy * n + i, first + copy * n + j) for i, j in pairs}
        first += count * n
    for force in system.getForces():
        if not isinstance(force, openmm.NonbondedForce):
            continue
        for k in range(force.getNumExceptions()):
            i, j, charge, _, epsilon = force.getExceptionParameters(k)
            if (min(i, j), max(i, j)) not in listed and (magnitude(charge) or magnitude(epsilon)):
                force.setExceptionParameters(k, i, j, 0.0, 1.0, 0.0)


def _between(kind: Any, fewest: int, most: int) -> set[tuple[int, int]]:
    """Pairs of atoms of a type of molecule that are more than `fewest` and at most `most` bonds apart."""
    if fewest == most:
        return set()
    bonds = [_numbers(fields) for fields in kind.bonds]
    bonds += [_numbers(fields) for fields in kind.constraints if fields[2] == "1"]
    graph = BondGraph([""] * len(kind.atoms), np.array(bonds, dtype=int).reshape(-1, 2))
    near: list[set[int]] = [{i} for i in range(len(kind.atoms))]
    reached = [near]
    for _ in range(most):
        near = [atoms.union(*(graph.neighbours[a] for a in atoms)) for atoms in near]
        reached.append(near)
    return {(i, j) for i, j in combinations(range(len(kind.atoms)), 2) if j in reached[most][i] - reached[fewest][i]}


def _numbers(fields: list[str]) -> tuple[int, int]:
    i, j = int(fields[0]) - 1, int(fields[1]) - 1
    return min(i, j), max(i, j)
