"""Torsional basins of a molecule: the wells of each torsion that turns, puckers a ring or inverts a nitrogen, combined.

A conformer is such a combination. Turns that only exchange equal atoms (phenyl, carboxylate, tert-butyl) are none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import mdtraj
import numpy as np

from ..molecule.graph import BondGraph, graph_of
from ..tools.circle import circular_bins, circular_density, label_basins
from ..tools.vectors import bond_angle
from .states import slow_states

STRAIGHT = math.radians(170.0)
ALIKE = 0.3  # mean of unit phases of equal atoms at one end: near 0 in phenyl and CF3, near 0.5 in isopropyl
FEW = 200  # frames that angles are looked at in

Four = tuple[int, int, int, int]


@dataclass(frozen=True)
class Angle:
    """One torsion, or fold times the mean of all between equal atoms, which an exchange of those does not change.

    Parameters
    ----------
    name : str
    atoms : tuple of quadruples
    fold : int
    """

    name: str
    atoms: tuple[Four, ...]
    fold: int = 1

    def values(self, x: np.ndarray) -> np.ndarray:
        """Angles (n,), rad in (-pi, pi], of structures x (n, atoms, 3), nm; see the class for those that are folded."""
        phases = [np.exp(1j * self.fold * torsions(x, four)) for four in self.atoms]
        return np.angle(np.sum(phases, axis=0))


@dataclass(frozen=True)
class TorsionWells:
    """Wells of each of several angles, and which combination of them a structure lies in.

    Parameters
    ----------
    angles : tuple of Angle
    wells : tuple of (bins,) int
        For each angle the well of every bin of `tools.circle`; -1 further than 40 degrees from any structure.
    """

    angles: tuple[Angle, ...]
    wells: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, topology: mdtraj.Topology, x: np.ndarray, weights: np.ndarray, heavy: bool = False) -> TorsionWells:
        """Find the basins that structures x (n, atoms, 3), nm, with weights (n,) show in the wells of their torsions.

        Parameters
        ----------
        heavy : bool
            Only torsions of heavy atoms.
        """
        kept = weights > 0.0
        x, weights = x[kept], weights[kept]
        found, wells = [], []
        for angle in slow_angles(topology, x):
            if heavy and any(topology.atom(i).element.symbol == "H" for four in angle.atoms for i in four):
                continue
            density = circular_density(angle.values(x), weights)
            found.append(angle)
            wells.append(np.where(density > 0.0, label_basins(density), -1))
        return cls(tuple(found), tuple(wells))

    @property
    def telling(self) -> list[Angle]:
        """Angles with more than one well, which distinguish basins."""
        return [angle for angle, well in zip(self.angles, self.wells, strict=True) if len(set(well) - {-1}) > 1]

    def states(self, x: np.ndarray) -> np.ndarray:
        """Well (n, angles) int of each angle in structures x (n, atoms, 3); -1 for none, and where the angle is nan."""
        found = np.full((len(x), len(self.angles)), -1)
        for k, (angle, well) in enumerate(zip(self.angles, self.wells, strict=True)):
            values = angle.values(x)
            finite = np.isfinite(values)
            found[finite, k] = well[circular_bins(values[finite])]
        return found


def slow_angles(topology: mdtraj.Topology, x: np.ndarray) -> list[Angle]:
    """Torsions of `slow_states`, without bonds that are in line with their neighbours (nitriles, alkynes).

    Parameters
    ----------
    x : (n, atoms, 3), nm
    """
    graph = graph_of(topology)
    few = x[:: max(1, len(x) // FEW)]
    few = few[np.isfinite(few).all((1, 2))]
    return [
        Angle(name, *_folded(graph, few, four))
        for name, four in slow_states(topology, x).items()
        if not _straight(few, four)
    ]


def _folded(graph: BondGraph, few: np.ndarray, four: Four) -> tuple[tuple[Four, ...], int]:
    i, j, k, m = four
    if k not in graph.neighbours[j] or graph.ring(j, k):  # an improper torsion; a ring
        return (four,), 1
    ends = [_equal(graph, few, at, other, own) for at, other, own in ((j, k, i), (k, j, m))]
    rows = tuple((a, j, k, b) for a, b in product(*ends))
    return rows, math.lcm(*map(len, ends))


def _equal(graph: BondGraph, few: np.ndarray, at: int, other: int, own: int) -> list[int]:
    """The neighbours of one end of a bond if they are equal and evenly spread about it; else the one that is named."""
    rest = sorted(set(graph.neighbours[at]) - {other})
    if len(rest) < 2 or len({graph.kinds[a] for a in rest}) > 1 or not len(few):
        return [own]
    beyond = next(a for a in graph.neighbours[other] if a != at)
    phases = [np.exp(1j * torsions(few, (a, at, other, beyond))) for a in rest]
    return rest if np.abs(np.mean(phases, axis=0)).mean() < ALIKE else [own]


def _straight(few: np.ndarray, four: Four) -> bool:
    i, j, k, m = four
    corners = [bond_angle(few[:, a], few[:, b], few[:, c]) for a, b, c in ((i, j, k), (j, k, m))]
    return any(len(corner) and np.median(corner) > STRAIGHT for corner in corners)


def torsions(x: np.ndarray, four: Sequence[int]) -> np.ndarray:
    """Torsions (n,), rad in (-pi, pi], with the sign of IUPAC, of structures x (n, atoms, 3)."""
    a, b, c, d = (x[:, i].astype(np.float64) for i in four)
    u, v, w = b - a, c - b, d - c
    p, q = np.cross(u, v), np.cross(v, w)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.arctan2((np.cross(p, q) * v).sum(-1) / np.linalg.norm(v, axis=-1), (p * q).sum(-1))
