"""Every input that is refused, with what it is told."""

from __future__ import annotations

import dataclasses

import numpy as np
import openmm
import pytest
from openmm import app, unit

from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.molecule.checks import UnsupportedSystemError
from openmm_fab.molecule.graph import bonds_of
from openmm_fab.molecule.system import PAPER_FORCEFIELD, MolecularSystem


@pytest.fixture(scope="module")
def pdb_text(alanine_dipeptide) -> str:
    return (alanine_dipeptide.folder / "input.pdb").read_text()


def _copy(system: openmm.System) -> openmm.System:
    return openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))


def _write(path, text):
    path.write_text(text)
    return path


def _without(pdb_text: str, names: list[str]) -> str:
    """The PDB without these atoms of ALA, and without CONECT (bonds follow from the standard names)."""
    keep = [
        line
        for line in pdb_text.splitlines()
        if not line.startswith("CONECT") and not (line[17:20] == "ALA" and line[12:16].strip() in names)
    ]
    return "\n".join(keep) + "\n"


def _problem(call) -> str:
    with pytest.raises(UnsupportedSystemError) as caught:
        call()
    return str(caught.value)


@pytest.fixture(scope="module")
def solvated(alanine_dipeptide) -> app.Modeller:
    modeller = app.Modeller(alanine_dipeptide.topology, alanine_dipeptide.positions * unit.nanometer)
    ff = app.ForceField("amber96.xml", "tip3p.xml")
    modeller.addSolvent(ff, boxSize=(2, 2, 2) * unit.nanometer, ionicStrength=0.2 * unit.molar)
    return modeller


def test_water_box_in_a_pdb(tmp_path, solvated):
    with open(tmp_path / "box.pdb", "w") as file:
        app.PDBFile.writeFile(solvated.topology, solvated.positions, file)
    text = _problem(lambda: MolecularSystem.from_pdb(tmp_path / "box.pdb", PAPER_FORCEFIELD))
    waters = sum(residue.name == "HOH" for residue in solvated.topology.residues())
    assert waters > 100
    assert "Expected one molecule" in text and f"{waters} x HOH" in text and "1 x ACE-ALA-NME" in text
    assert "1 x NA" in text and "1 x CL" in text
    assert "solute only" in text and "implicit-solvent" in text
    assert "addHydrogens" not in text  # advice that does not help with water


def test_periodic_box_lists_all_problems(solvated):
    ff = app.ForceField("amber96.xml", "tip3p.xml")
    # The box is just too small for the default cutoff.
    system = ff.createSystem(solvated.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.8)
    system.addForce(openmm.MonteCarloBarostat(1.0, 300.0))
    system.addForce(openmm.AndersenThermostat(300.0, 1.0))
    text = _problem(lambda: MolecularSystem.from_openmm(solvated.topology, system, solvated.positions, temperature=300))
    for finding in ("one molecule", "periodic", "MonteCarloBarostat, AndersenThermostat", "constraints"):
        assert finding in text
    assert text.count("\n  - ") == 4


def test_two_molecules(tmp_path, pdb_text):
    atoms = [line for line in pdb_text.splitlines() if line.startswith("ATOM")]
    moved = [f"{line[:21]}B{line[22:30]}{float(line[30:38]) + 20:8.3f}{line[38:]}" for line in atoms]
    path = _write(tmp_path / "two.pdb", "\n".join([*atoms, "TER", *moved, "END\n"]))
    assert "got 2 that no bond connects: 2 x ACE-ALA-NME" in _problem(
        lambda: MolecularSystem.from_pdb(path, PAPER_FORCEFIELD)
    )


def test_single_ion():
    topology, system = app.Topology(), openmm.System()
    topology.addAtom("NA", app.element.sodium, topology.addResidue("NA", topology.addChain()))
    system.addParticle(22.99)
    text = _problem(lambda: MolecularSystem(topology, system, np.zeros((1, 3)), 300))
    assert "got a single atom (NA), which has no shape to sample" in text and "leave ions out" in text


def test_missing_heavy_atom(tmp_path, pdb_text):
    path = _write(tmp_path / "short.pdb", _without(pdb_text, ["O"]))
    with pytest.raises(UnsupportedSystemError) as caught:
        MolecularSystem.from_pdb(path, PAPER_FORCEFIELD)
    text = str(caught.value)
    assert "ALA 2" in text and "missing 1 O atom" in text and "PDBFixer" in text and "amber96.xml" in text
    assert isinstance(caught.value.__cause__, ValueError)


def test_missing_hydrogens(tmp_path, pdb_text):
    text = _without(pdb_text, ["H", "HA", "HB1", "HB2", "HB3"])
    text = _problem(lambda: MolecularSystem.from_pdb(_write(tmp_path / "bare.pdb", text), PAPER_FORCEFIELD))
    assert "ALA 2" in text and "missing 5 H atoms" in text and "addHydrogens" in text


def test_ligand_without_conect_records(tmp_path):
    lines = [f"HETATM{i:5d}  C{i}  LIG A   1    {1.5 * i:8.3f}{0:8.3f}{0:8.3f}  1.00  0.00           C" for i in (1, 2)]
    path = _write(tmp_path / "ligand.pdb", "\n".join([*lines, "END\n"]))
    text = _problem(lambda: MolecularSystem.from_pdb(path, PAPER_FORCEFIELD))
    assert "LIG 1" in text and "CONECT" in text


def test_virtual_site():
    topology = app.Topology()
    water = topology.addResidue("HOH", topology.addChain())
    o, h1, h2 = (topology.addAtom(n, app.Element.getBySymbol(n[0]), water) for n in ("O", "H1", "H2"))
    topology.addBond(o, h1)
    topology.addBond(o, h2)
    ff = app.ForceField("tip4pew.xml")
    corners = [openmm.Vec3(0, 0, 0), openmm.Vec3(0.09572, 0, 0), openmm.Vec3(-0.024, 0.0927, 0)]
    modeller = app.Modeller(topology, corners * unit.nanometer)
    modeller.addExtraParticles(ff)
    system = ff.createSystem(modeller.topology, rigidWater=False)
    text = _problem(lambda: MolecularSystem.from_openmm(modeller.topology, system, modeller.positions, temperature=300))
    assert "1 particles are virtual sites (3, from 0)" in text and "TIP4P" in text


def _drude(system):
    system.addForce(openmm.DrudeForce())


def _external(system):
    system.addForce(openmm.CustomExternalForce("x^2"))


def _massless(system):
    system.setParticleMass(5, 0.0)


def _constraint(system):
    system.addConstraint(0, 2, 0.178)  # two hydrogens of ACE
    system.addConstraint(0, 1, 0.109)  # a bond


def _atom(system):
    system.addParticle(1.0)


@pytest.mark.parametrize(
    ("change", "finding", "advice"),
    [
        (_drude, "DrudeForce", "fixed-charge"),
        (_external, "CustomExternalForce", "restrain distances"),
        (_massless, "particles 5 (from 0) are massless", "mass back"),
        (
            _constraint,
            "1 constraints are between atoms that no bond joins, so they fix an angle: ACE 1 H1-H2",
            "HAngles",
        ),
        (_atom, "22 in the topology and 23 in the System", "Build the System from this topology"),
    ],
)
def test_unsupported_system(alanine_dipeptide, change, finding, advice):
    system = _copy(alanine_dipeptide.system)
    change(system)
    text = _problem(lambda: MolecularSystem(alanine_dipeptide.topology, system, alanine_dipeptide.positions, 300))
    assert finding in text and advice in text and text.count("\n  - ") == 1


def test_atoms_in_another_order_than_the_systems(alanine_dipeptide):
    """Elements and masses tell; also where hydrogens have got mass of their neighbours, which is no mistake."""
    system = _copy(alanine_dipeptide.system)
    hydrogen, carbon = system.getParticleMass(0), system.getParticleMass(1)
    system.setParticleMass(0, carbon)
    system.setParticleMass(1, hydrogen)
    text = _problem(lambda: MolecularSystem(alanine_dipeptide.topology, system, alanine_dipeptide.positions, 300))
    assert "in the same order; the masses of H1 (atom 0, 12.01 Da), CH3 (atom 1, 1.008 Da)" in text
    heavy = app.ForceField("amber96.xml", "implicit/obc1.xml").createSystem(alanine_dipeptide.topology, hydrogenMass=4)
    MolecularSystem(alanine_dipeptide.topology, heavy, alanine_dipeptide.positions, 300)


def test_springs_that_are_no_bonds(alanine_dipeptide):
    """Without bonds in the topology: Urey-Bradley terms across all angles, and a restraint of the ends."""
    plain, x = alanine_dipeptide.topology, alanine_dipeptide.positions
    bare = app.Topology()
    residue = bare.addResidue("LIG", bare.addChain())
    for atom in plain.atoms():
        bare.addAtom(atom.name, atom.element, residue)
    system = _copy(alanine_dipeptide.system)
    force = openmm.HarmonicBondForce()
    bonds = {tuple(sorted((a.index, b.index))) for a, b in plain.bonds()}
    near = {i: [j for bond in bonds for j in bond if i in bond and j != i] for i in range(22)}
    across = {(i, j) for k in near for i in near[k] for j in near[k] if i < j}
    assert len(across) == 36
    for i, j in [*across, (0, 21)]:
        force.addBond(i, j, float(np.linalg.norm(x[i] - x[j])), 1000.0)
    system.addForce(force)
    assert set(map(tuple, bonds_of(bare, system).tolist())) == bonds


def test_rings_of_three_are_bonded_by_their_springs():
    topology, system = app.Topology(), openmm.System()
    residue = topology.addResidue("THI", topology.addChain())
    force = openmm.HarmonicBondForce()
    for name in ("S1", "C2", "C3"):  # thiirane, its hydrogens left out
        topology.addAtom(name, app.Element.getBySymbol(name[0]), residue)
        system.addParticle(12.0)
    for i, j, length in ((0, 1, 0.182), (0, 2, 0.182), (1, 2, 0.148)):
        force.addBond(i, j, length, 1000.0)
    system.addForce(force)
    assert bonds_of(topology, system).tolist() == [[0, 1], [0, 2], [1, 2]]


@pytest.mark.parametrize("form", ["compound", "collective"])
def test_energies_that_are_fixed_in_space(alanine_dipeptide, form):
    system = _copy(alanine_dipeptide.system)
    if form == "compound":
        force = openmm.CustomCompoundBondForce(1, "5 * (x1 - 1)^2")
        force.addBond([4])
    else:
        inner = openmm.CustomExternalForce("x^2 + y")
        for i in range(22):
            inner.addParticle(i)
        force = openmm.CustomCVForce("3 * away")
        force.addCollectiveVariable("away", inner)
    system.addForce(force)
    tied = MolecularSystem(alanine_dipeptide.topology, system, alanine_dipeptide.positions, 300)
    with pytest.raises(ValueError, match="does not change when the molecule is moved or turned"):
        BoltzmannGenerator(tied)


def test_wrong_positions(alanine_dipeptide):
    def problem(positions):
        return _problem(lambda: dataclasses.replace(alanine_dipeptide, positions=positions))

    assert "shape (22, 3) in nm; got (21, 3)" in problem(alanine_dipeptide.positions[:-1])
    broken = alanine_dipeptide.positions.copy()
    broken[7, 1] = np.nan
    assert "atoms 7 (from 0)" in problem(broken)


def _bare(topology: app.Topology) -> app.Topology:
    """The atoms without their bonds."""
    bare = app.Topology()
    residue = bare.addResidue("ALL", bare.addChain())
    for atom in topology.atoms():
        bare.addAtom(atom.name, atom.element, residue)
    return bare


@pytest.mark.parametrize("bonds", ["in the topology", "in the System only"])
def test_constraints_of_angles(alanine_dipeptide, bonds):
    """HAngles fixes the H-C-H angles of three methyls and CB (3 each) and no other here."""
    whole = alanine_dipeptide.topology
    system = app.ForceField("amber96.xml").createSystem(whole, constraints=app.HAngles)
    topology = whole if bonds == "in the topology" else _bare(whole)
    text = _problem(lambda: MolecularSystem(topology, system, alanine_dipeptide.positions, 300))
    assert "9 constraints" in text and "H1-H2" in text and text.count("\n  - ") == 1


def test_rigid_water():
    topology = app.Topology()
    water = topology.addResidue("HOH", topology.addChain())
    o, h1, h2 = (topology.addAtom(n, app.Element.getBySymbol(n[0]), water) for n in ("O", "H1", "H2"))
    topology.addBond(o, h1)
    topology.addBond(o, h2)
    x = np.array([[0, 0, 0], [0.09572, 0, 0], [-0.024, 0.0927, 0]])
    ff = app.ForceField("tip3p.xml")
    text = _problem(lambda: MolecularSystem(topology, ff.createSystem(topology), x, 300))
    assert "HOH 1 H1-H2" in text and "rigidWater=False" in text
    assert MolecularSystem(topology, ff.createSystem(topology, rigidWater=False), x, 300).n_atoms == 3
