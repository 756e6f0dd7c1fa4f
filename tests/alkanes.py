"""Alkanes with a force field of their own, for tests: OPLS-AA's bonds, angles and torsions, its atoms' charges and
sizes; arithmetic means of sizes, which OPLS-AA does not take."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import openmm
from molecules import CYCLOHEXANE, Molecule
from openmm import app, unit

from openmm_fab.molecule.system import MolecularSystem

KCAL = 4.184
BONDS = {"CC": (0.1529, 200.0 * 268 * KCAL), "CH": (0.1090, 200.0 * 340 * KCAL)}
ANGLES = {"CCC": (112.7, 2 * 58.35 * KCAL), "CCH": (110.7, 2 * 37.5 * KCAL), "HCH": (107.8, 2 * 33.0 * KCAL)}
TORSIONS = {"CCCC": (1.740, -0.157, 0.279), "CCCH": (0, 0, 0.366), "HCCH": (0, 0, 0.318)}
ATOMS = {"C": (0.350, 0.066 * KCAL), "H": (0.250, 0.030 * KCAL)}


def alkane(molecule: Molecule, name: str, temperature: float = 300.0) -> MolecularSystem:
    """A molecule of carbon and hydrogen with single bonds."""
    graph, system, topology = molecule.graph, openmm.System(), app.Topology()
    residue = topology.addResidue(name[:3].upper(), topology.addChain())
    atoms = []
    for i, element in enumerate(molecule.elements):
        system.addParticle(molecule.masses[i])
        atoms.append(topology.addAtom(f"{element}{i + 1}", app.element.get_by_symbol(element), residue))
    bonds, angles, torsions = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce(), openmm.PeriodicTorsionForce()
    nonbonded = openmm.NonbondedForce()
    nonbonded.setNonbondedMethod(openmm.NonbondedForce.NoCutoff)
    for i, element in enumerate(molecule.elements):
        hydrogens = sum(molecule.elements[j] == "H" for j in graph.neighbours[i])
        nonbonded.addParticle(0.06 if element == "H" else -0.06 * hydrogens, *ATOMS[element])

    def kind(*members: int) -> str:
        return min("".join(molecule.elements[i] for i in way) for way in (members, members[::-1]))

    for i, j in molecule.bonds.tolist():
        topology.addBond(atoms[i], atoms[j])
        length, k = BONDS[kind(i, j)]
        bonds.addBond(i, j, length, k)
        for a, d in itertools.product(graph.neighbours[i], graph.neighbours[j]):
            if a != j and d != i and a != d:
                for n, v in enumerate(TORSIONS[kind(a, i, j, d)], 1):
                    torsions.addTorsion(a, i, j, d, n, np.pi * (n == 2), 0.5 * v * KCAL)
    for j, near in enumerate(graph.neighbours):
        for i, k in itertools.combinations(near, 2):
            theta, stiff = ANGLES[kind(i, j, k)]
            angles.addAngle(i, j, k, np.deg2rad(theta), stiff)
    nonbonded.createExceptionsFromBonds(molecule.bonds.tolist(), 0.5, 0.5)
    for force in (bonds, angles, torsions, nonbonded):
        system.addForce(force)
    return MolecularSystem(topology, system, molecule.positions * unit.nanometer, temperature, name=name)


@cache
def methylcyclohexane(other: bool = False) -> MolecularSystem:
    """Its chair with the methyl on one side, or on the other; the ring's carbons are atoms 0 to 5, the methyl's 6."""
    x, graph = CYCLOHEXANE.positions, CYCLOHEXANE.graph
    hydrogen = [i for i in graph.neighbours[0] if CYCLOHEXANE.elements[i] == "H"][other]
    arm = (x[hydrogen] - x[0]) / np.linalg.norm(x[hydrogen] - x[0])
    methyl = x[0] + 0.153 * arm
    away = x[1] - x[0]
    away -= (away @ arm) * arm
    away /= np.linalg.norm(away)
    sides = [-away, *(0.5 * away + s * np.sqrt(0.75) * np.cross(arm, away) for s in (1, -1))]
    hydrogens = [methyl + 0.109 * (np.cos(np.deg2rad(70.5)) * arm + np.sin(np.deg2rad(70.5)) * s) for s in sides]
    kept = [i for i in range(len(x)) if i != hydrogen]
    new = {i: k if i < 6 else k + 1 for k, i in enumerate(kept)}
    n = len(kept) + 1
    elements = [*(CYCLOHEXANE.elements[i] for i in kept[:6]), "C", *(CYCLOHEXANE.elements[i] for i in kept[6:]), *"HHH"]
    positions = np.array([*x[kept[:6]], methyl, *x[kept[6:]], *hydrogens])
    bonds = [(new[i], new[j]) for i, j in CYCLOHEXANE.bonds.tolist() if hydrogen not in (i, j)]
    bonds += [(0, 6), *((6, k) for k in range(n, n + 3))]
    return alkane(Molecule(elements, np.array(bonds), positions), "methylcyclohexane")
