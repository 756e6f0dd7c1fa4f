"""Torsions that distinguish slowly interconverting states: of rotatable bonds, puckering rings and inverting
nitrogens."""

from __future__ import annotations

import mdtraj
import numpy as np

from ..coordinates.isomers import pyramidal_nitrogens
from ..free_energy.frames import Frames
from ..molecule.graph import graph_of, is_planar
from ..molecule.torsions import slow_torsions

LOOKED_AT = 20  # frames; most of them say whether a ring is planar, and a nitrogen flat

Four = tuple[int, int, int, int]


def pucker_torsions(topology: mdtraj.Topology, x: np.ndarray) -> list[dict[str, Four]]:
    """Torsions by name of every ring that is not planar in most frames, those of larger rings last.

    Parameters
    ----------
    topology : mdtraj.Topology
    x : (n, atoms, 3), nm
        Frames; a few of them are looked at.
    """
    graph, few = graph_of(topology), _few(x)
    rings = {frozenset(ring): ring for i, j in graph.bonds.tolist() if (ring := graph.ring(i, j))}
    found = []
    for ring in sorted(rings.values(), key=lambda ring: (len(ring), ring)):
        if len(ring) > 3 and sum(is_planar(ring, one) for one in few) < len(few) / 2:
            fours = [_four([ring[(k + m) % len(ring)] for m in range(4)]) for k in range(len(ring))]
            found.append({_name(topology, four): four for four in fours})
    return found


def nitrogen_sides(topology: mdtraj.Topology, x: np.ndarray) -> dict[str, Four]:
    """By name, the improper torsion of every nitrogen that is pyramidal in most frames and whose sides differ.

    Atoms are its three neighbours, then itself: the angle, about 35 degrees where it is tetrahedral and 0 where it is
    flat, has one sign on either side.
    """
    graph, few = graph_of(topology), _few(x)
    counts = np.zeros(graph.n_atoms)
    for one in few:
        counts[pyramidal_nitrogens(graph, one)] += 1.0 / len(few)
    sided = np.flatnonzero(counts > 0.5).tolist()
    return {f"side of {topology.atom(i).name} ({i})": _four([*graph.neighbours[i], i]) for i in sided}


def slow_states(topology: mdtraj.Topology, x: np.ndarray) -> dict[str, Four]:
    """Torsions of rotatable bonds (`molecule.torsions.slow_torsions`), of rings that pucker and of nitrogens that
    invert in the frames x (n, atoms, 3), nm."""
    rings = {name: four for ring in pucker_torsions(topology, x) for name, four in ring.items()}
    return slow_torsions(topology) | rings | nitrogen_sides(topology, x)


def slow_angles(frames: Frames) -> np.ndarray:
    """Angles (n, torsions), rad, of the `slow_states` of frames."""
    quadruples = list(slow_states(frames.topology, frames.x).values())
    return frames.torsions(quadruples) if quadruples else np.zeros((frames.n, 0))


def _few(x: np.ndarray) -> np.ndarray:
    few = x[:: max(1, len(x) // LOOKED_AT)]
    return few[np.isfinite(few).all((1, 2))]


def _name(topology: mdtraj.Topology, four: Four) -> str:
    return f"ring {'-'.join(topology.atom(i).name for i in four)} ({four[1]},{four[2]})"


def _four(atoms: list[int]) -> Four:
    i, j, k, m = atoms
    return i, j, k, m
