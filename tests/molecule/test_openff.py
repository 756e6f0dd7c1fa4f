"""Parameters by OpenFF and GAFF, against OpenFF's own way into OpenMM. Needs openmm_fab[ligand]."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app

from openmm_fab import MolecularSystem
from openmm_fab.molecule.chemistry import topology_of
from openmm_fab.molecule.ligand import read_smiles
from openmm_fab.molecule.parameters import charges_of, forcefield_files
from openmm_fab.tools.install import install

pytest.importorskip("rdkit")
toolkit = pytest.importorskip("openff.toolkit")
generators = pytest.importorskip("openmmforcefields.generators")

# A sulfonamide, an amide with its improper torsions, a zwitterion, a phosphate, a nitrile beside a halogen.
MOLECULES = ["CS(=O)(=O)NC", "CC(=O)Nc1ccccc1", "C[C@H]([NH3+])C(=O)[O-]", "COP(=O)([O-])OCC", "N#Cc1ccccc1Cl"]


def energy(system: openmm.System, x: np.ndarray) -> float:
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    return context.getState(energy=True).getPotentialEnergy()._value


@pytest.mark.parametrize("smiles", MOLECULES)
def test_energies_are_openffs(smiles: str) -> None:
    system = MolecularSystem.from_smiles(smiles, solvent="none")
    molecule = toolkit.Molecule.from_rdkit(read_smiles(smiles), allow_undefined_stereo=True)
    molecule.assign_partial_charges("openff-gnn-am1bcc-1.0.0.pt")
    field = toolkit.ForceField("openff_unconstrained-2.2.1.offxml")
    expected = field.create_openmm_system(molecule.to_topology(), charge_from_molecules=[molecule])
    rng = np.random.default_rng(0)
    for _ in range(3):
        x = system.positions + rng.normal(0.0, 0.005, system.positions.shape)
        assert energy(system.system, x) == pytest.approx(energy(expected, x), abs=2e-3)
    charges = charges_of(read_smiles(smiles), "nagl", molecule)
    assert np.allclose(charges, molecule.partial_charges.m, atol=1e-6)


def test_an_openff_molecule_with_charges_and_a_conformer() -> None:
    molecule = toolkit.Molecule.from_smiles("CCO")
    molecule.generate_conformers(n_conformers=1)
    molecule.partial_charges = toolkit.unit.Quantity(charges_of(molecule.to_rdkit(), "gasteiger"), "elementary_charge")
    system = MolecularSystem.from_openff(molecule, name="ethanol", solvent="none")
    (nonbonded,) = [force for force in system.system.getForces() if isinstance(force, openmm.NonbondedForce)]
    charges = [nonbonded.getParticleParameters(i)[0]._value for i in range(9)]
    assert np.allclose(charges, molecule.partial_charges.m, atol=1e-6)
    assert np.allclose(system.positions, 0.1 * molecule.conformers[0].m_as("angstrom"), atol=1e-5)


def test_a_folder_has_what_is_needed(tmp_path: Path) -> None:
    system = MolecularSystem.from_smiles(MOLECULES[0], "one", folder=tmp_path / "one")
    assert MolecularSystem.load(tmp_path / "one").fingerprint == system.fingerprint
    again = MolecularSystem.from_smiles(MOLECULES[0], "one", solvent="gbn2")
    assert again.fingerprint == system.fingerprint


def test_what_openff_cannot_describe_is_told() -> None:
    with pytest.raises(ValueError, match=r"that is installed, .*openff-2\.2\.1"):
        MolecularSystem.from_smiles("CO", forcefield="openff-99.0.0")
    with pytest.raises(ValueError, match=r"openff-2\.2\.1 has parameters for; it says"):
        MolecularSystem.from_smiles("C[Si](C)(C)C", charges="gasteiger")


@pytest.mark.skipif(shutil.which("sqm") is None, reason="AmberTools is not on the PATH")
def test_gaff_and_sqm() -> None:
    drawn = read_smiles("CS(=O)(=O)NC")
    molecule = toolkit.Molecule.from_rdkit(drawn)
    charges = charges_of(drawn, "am1bcc", molecule)
    assert abs(charges.sum()) < 1e-9 and charges[1] > 0.8 and charges[2] < -0.4  # S, O
    molecule.partial_charges = toolkit.unit.Quantity(charges, "elementary_charge")
    assert list(forcefield_files(drawn, "gaff-2.2.20", charges)) == ["gaff-2.2.20.xml", "ligand.xml"]
    system = MolecularSystem.from_rdkit(drawn, forcefield="gaff-2.2.20", charges=charges, solvent="none")
    generator = generators.GAFFTemplateGenerator(molecules=[molecule], forcefield="gaff-2.2.20")
    # Else lengths are those of parmchk2's output, which has three digits.
    field = app.ForceField(generator.gaff_xml_filename)
    field.registerTemplateGenerator(generator.generator)
    expected = field.createSystem(topology_of(drawn), nonbondedMethod=app.NoCutoff)
    rng = np.random.default_rng(0)
    for _ in range(3):
        x = system.positions + rng.normal(0.0, 0.005, system.positions.shape)
        assert energy(system.system, x) == pytest.approx(energy(expected, x), abs=1e-6)


def test_a_missing_program_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for options in ({"forcefield": "gaff-2.2.20", "charges": "gasteiger"}, {"charges": "am1bcc"}):
        with pytest.raises(ImportError, match=rf"AmberTools on the PATH: {re.escape(install('ligand-ambertools'))}"):
            MolecularSystem.from_smiles("CO", **options)
