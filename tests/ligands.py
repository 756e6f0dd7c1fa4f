"""Small molecules for tests, with a force field made by hand that needs no package but RDKit."""

from __future__ import annotations

from typing import Any

import mdtraj
import numpy as np
import pytest

from openmm_fab.molecule.chemistry import positions_of, topology_of
from openmm_fab.molecule.ligand import read_smiles
from openmm_fab.molecule.parameters import charges_of

LENNARD_JONES = {"H": (0.22, 0.06), "C": (0.34, 0.4), "N": (0.32, 0.7), "O": (0.3, 0.8)}  # nm, kJ/mol
OTHER = (0.36, 1.0)


def standin_xml(molecule: Any, forcefield: str = "openff-2.2.1", charges: Any = "gasteiger") -> str:
    """An OpenMM force-field file of a molecule: springs at the lengths and angles that it has, Gasteiger charges."""
    q = charges_of(molecule, "gasteiger" if isinstance(charges, str) else charges)
    x, atoms = positions_of(molecule), list(molecule.GetAtoms())
    kinds = [f"t{atom.GetIdx()}" for atom in atoms]

    def part(tag: str, **about: object) -> str:
        return f"<{tag} {' '.join(f'{key}={str(value)!r}' for key, value in about.items())}/>"

    names = [f"{atom.GetSymbol()}{atom.GetIdx() + 1}" for atom in atoms]
    types = [
        part("Type", **{"name": kind, "class": kind, "element": atom.GetSymbol(), "mass": atom.GetMass()})
        for kind, atom in zip(kinds, atoms, strict=True)
    ]
    residue = [
        part("Atom", name=name, type=kind, charge=f"{c:.10f}") for name, kind, c in zip(names, kinds, q, strict=True)
    ]
    pairs = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]
    residue += [part("Bond", atomName1=names[i], atomName2=names[j]) for i, j in pairs]
    bonds = [
        part("Bond", class1=kinds[i], class2=kinds[j], length=np.linalg.norm(x[i] - x[j]), k=250_000.0)
        for i, j in pairs
    ]
    angles = []
    for atom in atoms:
        near = sorted(other.GetIdx() for other in atom.GetNeighbors())
        for n, i in enumerate(near):
            for j in near[n + 1 :]:
                a, b = x[i] - x[atom.GetIdx()], x[j] - x[atom.GetIdx()]
                angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
                about = {
                    "class1": kinds[i],
                    "class2": kinds[atom.GetIdx()],
                    "class3": kinds[j],
                    "angle": angle,
                    "k": 500.0,
                }
                angles.append(part("Angle", **about))
    sizes = [LENNARD_JONES.get(atom.GetSymbol(), OTHER) for atom in atoms]
    nonbonded = [part("Atom", type=kind, sigma=s, epsilon=e) for kind, (s, e) in zip(kinds, sizes, strict=True)]
    return "\n".join(
        [
            *("<ForceField><AtomTypes>", *types, "</AtomTypes><Residues><Residue name='LIG'>", *residue),
            *("</Residue></Residues><HarmonicBondForce>", *bonds, "</HarmonicBondForce><HarmonicAngleForce>", *angles),
            "</HarmonicAngleForce><NonbondedForce coulomb14scale='0.8333333333' lj14scale='0.5'>",
            *("<UseAttributeFromResidue name='charge'/>", *nonbonded, "</NonbondedForce></ForceField>"),
        ]
    )


@pytest.fixture
def without_openff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Force fields by name are `standin_xml`."""
    monkeypatch.setattr(
        "openmm_fab.molecule.ligand_folder.forcefield_files", lambda *about: {"ligand.xml": standin_xml(*about)}
    )


def drawn(smiles: str) -> tuple[mdtraj.Topology, np.ndarray]:
    """Topology and a structure (atoms, 3), nm, of a SMILES string."""
    molecule = read_smiles(smiles)
    return mdtraj.Topology.from_openmm(topology_of(molecule)), positions_of(molecule)


def turned(x: np.ndarray, bond: tuple[int, int], moved: list[int], angle: float) -> np.ndarray:
    """A structure (atoms, 3) with some atoms turned about a bond by an angle, rad, which grows with their torsion."""
    origin, axis = x[bond[0]], x[bond[1]] - x[bond[0]]
    axis = axis / np.linalg.norm(axis)
    arm = x[moved] - origin
    along = (arm @ axis)[:, None] * axis
    found = x.copy()
    found[moved] = origin + along + np.cos(angle) * (arm - along) + np.sin(angle) * np.cross(axis, arm - along)
    return found
