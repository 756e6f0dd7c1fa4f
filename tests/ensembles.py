"""Ensembles of backbones and butanes whose answers are known, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import mdtraj
import numpy as np

from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.molecule.system import MolecularSystem


def backbone_topology(alanine: Sequence[str] = ("N", "CA", "C")) -> mdtraj.Topology:
    """The five backbone atoms of ACE-ALA-NME that carry phi and psi."""
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for number, (residue, names) in enumerate([("ACE", ["C"]), ("ALA", alanine), ("NME", ["N"])], start=1):
        added = topology.add_residue(residue, chain, resSeq=number)
        for name in names:
            topology.add_atom(name, mdtraj.element.get_by_symbol(name[0]), added)
    atoms = list(topology.atoms)
    for a, b in pairwise(atoms):
        topology.add_bond(a, b)
    return topology


def place(a: np.ndarray, b: np.ndarray, c: np.ndarray, torsion: np.ndarray) -> np.ndarray:
    """Fourth atom, 0.15 nm from c, bond angle 110 degrees, IUPAC torsion; (n, 3)."""
    u = (c - b) / np.linalg.norm(c - b, axis=-1, keepdims=True)
    normal = np.cross(b - a, u)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    angle, t = np.deg2rad(110.0), torsion[:, None]
    side = np.cross(normal, u)
    return c + 0.15 * (-np.cos(angle) * u + np.sin(angle) * (np.cos(t) * side + np.sin(t) * normal))


def backbone(phi: np.ndarray, psi: np.ndarray, **fields) -> Ensemble:
    """Ensemble of five-atom backbones with the given torsions."""
    n = len(phi)
    first = [np.tile(p, (n, 1)) for p in ([0.0, 0.14, 0.0], [0.0, 0.0, 0.0], [0.15, 0.0, 0.0])]
    first.append(place(*first, phi))
    first.append(place(*first[1:], psi))
    x = np.stack(first, axis=1)
    defaults = dict(u=np.full(n, np.nan), log_w=np.zeros(n), topology=backbone_topology(), temperature=300.0)
    return Ensemble(x, **(defaults | fields))


def flat(n: int, **fields) -> Ensemble:
    """Ensemble whose structures do not matter."""
    return backbone(np.zeros(n), np.zeros(n), **fields)


def two_basins(n: int, p: float, seed: int, shift: float = 0.0, **fields) -> Ensemble:
    """phi: share p around +1, the rest around -1.5; psi: around 1 + shift."""
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < p
    phi = np.where(positive, 1.0, -1.5) + 0.3 * rng.normal(size=n)
    return backbone(phi, 1.0 + shift + 0.5 * rng.normal(size=n), **fields)


def flow(n: int, seed: int, p_flow: float = 0.4, p: float = 0.1) -> Ensemble:
    """Draws the basins with share p_flow and carries the weights that turn it into p."""
    ensemble = two_basins(n, p_flow, seed, name="flow")
    # The Gaussians hardly overlap at phi = -0.25: below it the weight is that of the negative basin.
    inside = ensemble.phi()[:, 0] > -0.25
    noise = 0.3 * np.random.default_rng(seed + 1000).normal(size=n)
    log_w = np.where(inside, np.log(p / p_flow), np.log((1 - p) / (1 - p_flow))) + noise
    return Ensemble(ensemble.x, ensemble.u, log_w, ensemble.topology, 300.0, name="flow")


def one(name: str) -> Ensemble:
    system = MolecularSystem.load(name)
    return Ensemble(system.positions[None], np.zeros(1), np.zeros(1), system.md_topology, 300.0)


BUTANE = one("butane")


def turned(x: np.ndarray, j: int, k: int, atoms: list[int], angle: np.ndarray) -> np.ndarray:
    """Atoms turned about the bond from j to k, by Rodrigues' formula; angle (n,)."""
    axis = x[:, k] - x[:, j]
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    v = x[:, atoms] - x[:, [k]]
    c, s = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    along = (v * axis[:, None]).sum(2, keepdims=True) * axis[:, None]
    x = x.copy()
    x[:, atoms] = x[:, [k]] + c * (v - along) + along + s * np.cross(axis[:, None], v)
    return x


def butane(n: int, gauche: float, seed: int, **fields) -> Ensemble:
    """Trans with probability 1 - 2 gauche, each gauche with `gauche`; methyls in wells of three, at random."""
    rng = np.random.default_rng(seed)
    x = np.repeat(BUTANE.x, n, axis=0)
    start = float(BUTANE.torsions((0, 1, 2, 3))[0, 0])
    target = rng.choice([np.pi, 1.15, -1.15], p=[1 - 2 * gauche, gauche, gauche], size=n) + 0.15 * rng.normal(size=n)
    x = turned(x, 1, 2, [3, 9, 10, 11, 12, 13], target - start)
    x = turned(x, 2, 3, [11, 12, 13], 2 * np.pi / 3 * rng.integers(3, size=n) + 0.2 * rng.normal(size=n))
    fields = dict(u=np.full(n, np.nan), log_w=np.zeros(n), topology=BUTANE.topology, temperature=300.0) | fields
    return Ensemble(x, **fields)
