"""Corrections and checks where OpenMM reads GROMACS topologies otherwise than GROMACS does."""

from __future__ import annotations

from collections.abc import Sequence
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
    """Refuse a topology with energy terms that OpenMM's reader ignores without a word.

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
    """Remove from a System the interactions of atoms three bonds apart that the topology does not list as pairs.

    GROMACS leaves out all up to nrexcl bonds and adds what [ pairs ] lists; OpenMM takes pairs from the bonds, too.

    Raises
    ------
    UnsupportedSystemError
        Atoms that OpenMM's way of reading leaves another interaction: nrexcl is not 3, or a pair is further apart.
    """
    listed: set[tuple[int, int]] = set()
    first = 0
    for kind, count in top.molecules:
        pairs = {_numbers(fields) for fields in kind.pairs}
        if count and (problem := _other_interactions(kind, pairs)):
            raise UnsupportedSystemError([problem], path)
        for _ in range(count):
            listed |= {(first + i, first + j) for i, j in pairs}
            first += len(kind.atoms)
    for force in system.getForces():
        if not isinstance(force, openmm.NonbondedForce):
            continue
        for k in range(force.getNumExceptions()):
            i, j, charge, _, epsilon = force.getExceptionParameters(k)
            if (min(i, j), max(i, j)) not in listed and (magnitude(charge) or magnitude(epsilon)):
                force.setExceptionParameters(k, i, j, 0.0, 1.0, 0.0)


def _other_interactions(kind: Any, pairs: set[tuple[int, int]]) -> str:
    """What OpenMM reads otherwise than GROMACS in a type of molecule, in words; empty for nothing."""
    bonds = [_numbers(fields) for fields in kind.bonds]
    bonds += [_numbers(fields) for fields in kind.constraints if fields[2] == "1"]
    graph = BondGraph([""] * len(kind.atoms), np.array(bonds, dtype=int).reshape(-1, 2))
    near = [[{i} for i in range(len(kind.atoms))]]  # atoms within so many bonds of each
    for _ in range(max(kind.nrexcl, 3)):
        near.append([atoms.union(*(graph.neighbours[a] for a in atoms)) for atoms in near[-1]])
    fewest, most = near[min(kind.nrexcl, 3)], near[max(kind.nrexcl, 3)]
    for i, j in combinations(range(len(kind.atoms)), 2):
        if j in most[i] - fewest[i]:
            return (
                f"Expected 3 for nrexcl in [ moleculetype ]; got {kind.nrexcl} for {kind.atoms[0][3]}. OpenMM reads it "
                f"as 3: the interaction of {_name(kind, i)} and {_name(kind, j)} would be another. Write nrexcl 3 with "
                "the pairs or exclusions that make up for it."
            )
    excluded = {_numbers([fields[0], other]) for fields in kind.exclusions for other in fields[1:]}
    for i, j in sorted(pairs - excluded):
        if j not in near[3][i]:
            return (
                f"Expected [ pairs ] of atoms three bonds apart or less; got {_name(kind, i)} and {_name(kind, j)}. "
                "GROMACS adds this to their interaction, OpenMM would replace it. Leave the pair out, or list it in "
                "[ exclusions ], too."
            )
    return ""


def _name(kind: Any, i: int) -> str:
    return f"{kind.atoms[i][4]} ({i + 1})"


def _numbers(fields: Sequence[str]) -> tuple[int, int]:
    i, j = int(fields[0]) - 1, int(fields[1]) - 1
    return min(i, j), max(i, j)
