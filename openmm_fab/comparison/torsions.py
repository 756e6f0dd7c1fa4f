"""All torsions of a molecule that turn, pucker a ring or invert a nitrogen, by name, with their values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import mdtraj
import numpy as np

from ..ensemble.states import nitrogen_sides, pucker_torsions
from ..molecule.graph import graph_of
from ..molecule.torsions import named_torsions, peptide_torsions, rotatable_bonds
from ..tools.vectors import bond_angle

if TYPE_CHECKING:
    from ..ensemble.ensemble import Ensemble


Four = tuple[int, int, int, int]
STRAIGHT = math.radians(170.0)
SPREAD = 0.3  # mean of unit phases: CH3 and planar NH2 are near 0, a pyramidal NH2 and isopropyl near 0.5
LOOKED_AT = 200  # frames
SMALL_RING = 6  # atoms


@dataclass(frozen=True)
class Torsion:
    """Torsion of one rotatable bond, ring bond or inverting nitrogen.

    Parameters
    ----------
    name : str
    atoms : tuple of quadruples
        One, or one for every equal atom at the end of the bond.
    fold : int
        1: the torsion itself, or the mean direction of equal atoms. Larger: turning by 2 pi / fold only exchanges equal
        atoms, and the value is fold times the torsion, arg sum_k exp(i fold phi_k), which does not see such exchanges.
    """

    name: str
    atoms: tuple[Four, ...]
    fold: int = 1


def rotatable_torsions(reference: Ensemble) -> list[Torsion]:
    """Torsions of all bonds that turn: first those of `named_torsions`, then the others.

    A bond turns when it is one of `rotatable_bonds` and its neighbours are not in line with it. Methyls and other ends
    that look alike after a part of a turn (CF3, COO, phenyl, tert-butyl) are folded.

    Parameters
    ----------
    reference : Ensemble
        Its first frames tell straight bonds (nitriles) and flat ends (amides) from others.
    """
    topology = reference.topology
    few = reference[:: max(1, reference.n // LOOKED_AT)]
    named = [Torsion(name, (atoms,)) for name, atoms in named_torsions(topology).items()]
    found = [torsion for torsion in named if not _straight(few, torsion)]
    taken = {frozenset(t.atoms[0][1:3]) for t in found}
    peptide = {frozenset(atoms[1:3]): (name, (atoms,)) for name, atoms in peptide_torsions(topology).items()}
    for torsion in _turning(topology):
        j, k = torsion.atoms[0][1:3]
        if frozenset((j, k)) in taken or _straight(few, torsion):
            continue
        count = len({atoms[0] for atoms in torsion.atoms}), len({atoms[3] for atoms in torsion.atoms})
        fold = math.lcm(*count)
        if fold > 1 and np.abs(np.exp(1j * few.torsions(torsion.atoms)).mean(1)).mean() > SPREAD:
            fold = 1
        if fold > 1:
            torsion = replace(torsion, name=f"{torsion.name}, {fold}-fold", fold=fold)
        elif frozenset((j, k)) in peptide:
            torsion = Torsion(*peptide[frozenset((j, k))])
        # Residues of two chains may share name and number.
        if any(torsion.name == other.name for other in found):
            torsion = replace(torsion, name=f"{torsion.name} ({j},{k})")
        found.append(torsion)
    return found


def ring_torsions(reference: Ensemble) -> list[list[Torsion]]:
    """Torsions of every ring that puckers: see `ensemble.states.pucker_torsions`."""
    rings = pucker_torsions(reference.topology, reference.x)
    return [[Torsion(name, (atoms,)) for name, atoms in ring.items()] for ring in rings]


def side_torsions(reference: Ensemble) -> list[Torsion]:
    """Improper torsion of every nitrogen with two sides: see `ensemble.states.nitrogen_sides`."""
    sides = nitrogen_sides(reference.topology, reference.x)
    return [Torsion(name, (atoms,)) for name, atoms in sides.items()]


def telling(ring: Sequence[Torsion], values: Sequence[Mapping[str, np.ndarray]]) -> list[str]:
    """Names of the torsions of a ring that tell its puckers apart best: those that are furthest from 0 and 180
    degrees on average.

    One of a ring of up to 6 atoms, whose sign says which of two chairs, half chairs or envelopes it is, and one more
    for every further atom.

    Parameters
    ----------
    values : sequence of dict of name to (n,), rad
        Of each ensemble; all count the same.
    """
    size = {t.name: float(np.mean([np.abs(np.sin(one[t.name])).mean() for one in values])) for t in ring}
    return sorted(size, key=lambda name: -size[name])[: max(1, len(ring) - SMALL_RING + 1)]


def torsion_values(ensemble: Ensemble, torsions: Sequence[Torsion]) -> dict[str, np.ndarray]:
    """Values (n,) of torsions by name, rad in [-pi, pi]; see `Torsion`."""
    rows = [atoms for torsion in torsions for atoms in torsion.atoms]
    if not rows:
        return {}
    angles = np.split(ensemble.torsions(rows), np.cumsum([len(t.atoms) for t in torsions])[:-1], axis=1)
    return {
        t.name: a[:, 0] if len(t.atoms) == 1 else np.angle(np.exp(1j * t.fold * a).sum(1))
        for t, a in zip(torsions, angles, strict=True)
    }


def end_to_end(topology: mdtraj.Topology) -> tuple[int, int] | None:
    """The two heavy atoms with the most bonds between them; None if there are fewer than three bonds."""
    graph = graph_of(topology)
    heavy = [a.index for a in topology.atoms if a.element.symbol not in ("H", "VS")]
    pairs = [(-far, i, j) for i in heavy for j, far in graph.distances(i).items() if i < j and j in set(heavy)]
    far, i, j = min(pairs, default=(0, 0, 0))
    return (i, j) if far <= -3 else None


def _turning(topology: mdtraj.Topology) -> Iterator[Torsion]:
    atoms, graph = list(topology.atoms), graph_of(topology)
    kinds = graph.kinds

    def end(of: int, other: int) -> list[int]:
        rest = sorted(set(graph.neighbours[of]) - {other})
        if len({kinds[i] for i in rest}) == 1:
            return rest
        return [min(rest, key=lambda i: (graph.elements[i] == "H", i))]

    for j, k in sorted(rotatable_bonds(graph)):
        quadruples = tuple((a, j, k, b) for a, b in product(end(j, k), end(k, j)))
        yield Torsion("-".join(atoms[i].name for i in quadruples[0]) + f" ({j},{k})", quadruples)


def _straight(few: Ensemble, torsion: Torsion) -> bool:
    """Is one of the two angles so near 180 degrees that the torsion means nothing?"""
    i, j, k, m = torsion.atoms[0]
    x = few.x
    return any(np.median(bond_angle(x[:, a], x[:, b], x[:, c])) > STRAIGHT for a, b, c in ((i, j, k), (j, k, m)))
