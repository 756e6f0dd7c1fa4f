"""Alkanes of united atoms, few enough coordinates for quadrature: molecules whose populations are known exactly.

TraPPE-UA (Martin and Siepmann, J. Phys. Chem. B 102, 2569 (1998)), with harmonic bonds in place of its rigid ones.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import mdtraj
import numpy as np
import openmm
from openmm import app

from openmm_fab.molecule.system import MolecularSystem

KELVIN = 0.00831446261815324  # kJ/mol
TEMPERATURE = 300.0
BOND, STIFF = 0.154, 200_000.0  # nm, kJ/mol/nm^2
ANGLE, BENT = math.radians(114.0), 62_500.0 * KELVIN  # rad, kJ/mol/rad^2
TORSION = (355.03, -68.19, 791.32)  # K: c1 (1 + cos phi) + c2 (1 - cos 2 phi) + c3 (1 + cos 3 phi)
END = (0.375, 98.0)  # nm, K: sigma and epsilon of CH3, between atoms four bonds apart
GAUCHE = 2.0 * math.pi / 3.0


def chain(n: int) -> MolecularSystem:
    """A molecule of n = 4 or 5 united atoms, C in the topology, at 300 K."""
    topology, system = app.Topology(), openmm.System()
    residue = topology.addResidue("ALK", topology.addChain())
    atoms = [topology.addAtom(f"C{k + 1}", app.Element.getBySymbol("C"), residue) for k in range(n)]
    bonds, angles, torsions = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce(), openmm.PeriodicTorsionForce()
    for k in range(n):
        system.addParticle(15.035 if k in (0, n - 1) else 14.027)
    for k in range(n - 1):
        topology.addBond(atoms[k], atoms[k + 1])
        bonds.addBond(k, k + 1, BOND, STIFF)
    for k in range(n - 2):
        angles.addAngle(k, k + 1, k + 2, ANGLE, BENT)
    for k in range(n - 3):
        for order, (height, phase) in enumerate(zip(TORSION, (0.0, math.pi, 0.0), strict=True), start=1):
            torsions.addTorsion(k, k + 1, k + 2, k + 3, order, phase, height * KELVIN)
    pairs = openmm.NonbondedForce()
    for _ in range(n):
        pairs.addParticle(0.0, END[0], END[1] * KELVIN)
    for i, j in itertools.combinations(range(n), 2):
        if j - i < 4:
            pairs.addException(i, j, 0.0, 1.0, 0.0)
    for force in (bonds, angles, torsions, pairs):
        system.addForce(force)
    positions = placed(*(np.full((1, n - 1 - k), at) for k, at in enumerate((BOND, ANGLE, math.pi))))[0]
    return MolecularSystem.from_openmm(topology, system, positions, temperature=TEMPERATURE, name=f"{n} united atoms")


def inside(trajectory: mdtraj.Trajectory) -> np.ndarray:
    """Frames in the basin: gauche of four atoms; of five, g+g- and g-g+."""
    n = trajectory.n_atoms
    quartets = [[k, k + 1, k + 2, k + 3] for k in range(n - 3)]
    return _inside(mdtraj.compute_dihedrals(trajectory, quartets, periodic=False))


def _inside(phi: np.ndarray) -> np.ndarray:
    gauche = (np.abs(phi) < GAUCHE).all(axis=-1)
    return gauche if phi.shape[-1] == 1 else gauche & (phi[..., 0] * phi[..., 1] < 0.0)


@lru_cache
def truth(n: int, grid: int = 60, bends: int = 4, stretches: int = 2) -> float:
    """F(basin) - F(rest), kT, to 0.001: quadrature (Gauss-Hermite) over bonds and angles, a grid of torsions."""
    kT = KELVIN * TEMPERATURE
    # The basin's edges, 0 and +-120 degrees, lie in the middle between points.
    phi = (np.arange(grid) + 0.5) * 2.0 * math.pi / grid - math.pi
    angles = [phi] * (n - 3)
    at = np.stack(np.meshgrid(*angles, indexing="ij"), axis=-1).reshape(-1, n - 3)
    c1, c2, c3 = (c * KELVIN / kT for c in TORSION)
    u = (c1 * (1 + np.cos(at)) + c2 * (1 - np.cos(2 * at)) + c3 * (1 + np.cos(3 * at))).sum(axis=1)
    weight = np.exp(-u)
    if n == 5:  # the pair of ends depends on everything
        weight = weight * _pairs(at, bends, stretches, kT)
    share = float(weight[_inside(at)].sum() / weight.sum())
    return math.log((1.0 - share) / share)


def _pairs(at: np.ndarray, bends: int, stretches: int, kT: float) -> np.ndarray:
    """exp(-u of the pair of ends), averaged over bonds and angles at each pair of torsions."""
    r, wr = _nodes(stretches, BOND, math.sqrt(kT / STIFF))
    a, wa = _nodes(bends, ANGLE, math.sqrt(kT / BENT))
    total, norm = np.zeros(len(at)), 0.0
    for index in itertools.product(range(len(r)), repeat=4):
        for turn in itertools.product(range(len(a)), repeat=3):
            bond, angle = r[list(index)], a[list(turn)]
            w = float(np.prod(wr[list(index)] * bond**2) * np.prod(wa[list(turn)] * np.sin(angle)))
            x = placed(np.tile(bond, (len(at), 1)), np.tile(angle, (len(at), 1)), at)
            s6 = (END[0] / np.linalg.norm(x[:, 4] - x[:, 0], axis=1)) ** 6
            total += w * np.exp(-4.0 * END[1] * KELVIN / kT * (s6**2 - s6))
            norm += w
    return total / norm


def _nodes(count: int, mean: float, deviation: float) -> tuple[np.ndarray, np.ndarray]:
    x, w = np.polynomial.hermite_e.hermegauss(count)
    return mean + deviation * x, w


def placed(bonds: np.ndarray, angles: np.ndarray, torsions: np.ndarray) -> np.ndarray:
    """Positions (structures, atoms, 3) of chains, nm, from bonds, angles and torsions (structures, ...)."""
    n = bonds.shape[1] + 1
    x = np.zeros((len(bonds), n, 3))
    x[:, 1, 0] = bonds[:, 0]
    x[:, 2, 0] = bonds[:, 0] - bonds[:, 1] * np.cos(angles[:, 0])
    x[:, 2, 1] = bonds[:, 1] * np.sin(angles[:, 0])
    for k in range(3, n):
        b, a, phi = (v[:, None] for v in (bonds[:, k - 1], angles[:, k - 2], torsions[:, k - 3]))
        along = x[:, k - 1] - x[:, k - 2]
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        normal = np.cross(x[:, k - 2] - x[:, k - 3], along)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        across = np.cross(normal, along)
        x[:, k] = x[:, k - 1] + b * (-np.cos(a) * along + np.sin(a) * (np.cos(phi) * across + np.sin(phi) * normal))
    return x
