"""The molecule against OpenMM and openmmtools."""

from __future__ import annotations

import dataclasses

import mdtraj
import numpy as np
import openmm
import pytest
from openmm import app, unit

from openmm_fab import BoltzmannGenerator, load_reference, run_reference
from openmm_fab.molecule.checks import UnsupportedSystemError
from openmm_fab.molecule.folders import available_systems
from openmm_fab.molecule.system import PAPER_FORCEFIELD, MolecularSystem
from openmm_fab.preparation.findings import find_problems

pytestmark = pytest.mark.base

NAME = "alanine_dipeptide"


@pytest.fixture(scope="module")
def alanine() -> MolecularSystem:
    return MolecularSystem.load(NAME)


@pytest.fixture(scope="module")
def pdb_text(alanine) -> str:
    return (alanine.folder / "input.pdb").read_text()


def _energies(system: openmm.System, structures) -> np.ndarray:
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    energies = []
    for x in structures:
        context.setPositions(x)
        energies.append(context.getState(energy=True).getPotentialEnergy()._value)
    return np.array(energies)


def _copy(system: openmm.System) -> openmm.System:
    return openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))


def _write(path, text):
    path.write_text(text)
    return path


# --- the shipped molecule ---


def test_energy_is_that_of_openmmtools(alanine):
    testsystems = pytest.importorskip("openmmtools.testsystems")
    other = testsystems.AlanineDipeptideImplicit(constraints=None)
    assert [a.element for a in alanine.topology.atoms()] == [a.element for a in other.topology.atoms()]

    integrator = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 5 / unit.picosecond, 0.001)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(other.system, integrator, openmm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
    context.setPositions(alanine.positions)
    context.setVelocitiesToTemperature(300, 1)
    integrator.step(500)
    structures = []
    for _ in range(100):
        integrator.step(10)
        structures.append(context.getState(positions=True).getPositions(asNumpy=True)._value)

    ours, theirs = _energies(alanine.system, structures), _energies(other.system, structures)
    assert theirs.std() > 5.0  # thermal, not one structure 100 times
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-3)


def test_alanine_is_left_handed(alanine):
    """L: seen from HA, the way CO -> CB -> N turns clockwise (the CORN rule)."""
    index = {(a.residue.name, a.name): a.index for a in alanine.topology.atoms()}
    n, ca, c, cb, ha = (alanine.positions[index["ALA", name]] for name in ("N", "CA", "C", "CB", "HA"))
    assert np.dot(np.cross(n - ca, c - ca), cb - ca) > 1e-3  # nm^3; the mirror image has the opposite sign
    # The rule itself: looking down from HA, a clockwise turn is a negative rotation about the viewing axis.
    assert np.dot(np.cross(cb - c, n - c), ha - ca) < 0


def test_shipped_pdb_is_a_minimum(alanine):
    assert np.abs(alanine.minimum - alanine.positions).max() < 1e-3  # the PDB's rounding and a little slack
    context = openmm.Context(
        alanine.system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(alanine.minimum)
    forces = context.getState(forces=True).getForces(asNumpy=True)._value
    assert np.abs(forces).max() < 1.0  # kJ/mol/nm; thermal forces are about 1000


def test_minimum_repeats():
    first, second = MolecularSystem.load(NAME), MolecularSystem.load(NAME)
    np.testing.assert_array_equal(first.minimum, second.minimum)
    assert first.minimum is first.minimum  # computed once


def test_properties(alanine):
    assert alanine.n_atoms == 22
    assert "".join(alanine.elements) == "HCHHCONHCHCHHHCONHCHHH"
    assert alanine.bonds.shape == (21, 2) and (alanine.bonds[:, 0] < alanine.bonds[:, 1]).all()
    assert alanine.masses.sum() == pytest.approx(144.174, abs=0.01)  # C6 H12 N2 O2
    assert isinstance(alanine.md_topology, mdtraj.Topology)
    assert alanine.md_topology.n_bonds == 21 and alanine.md_topology.n_atoms == 22
    assert not any(isinstance(force, openmm.CMMotionRemover) for force in alanine.system.getForces())
    physics = "amber96.xml, implicit/obc1.xml; OBC1"
    assert repr(alanine) == f"MolecularSystem('alanine_dipeptide', 22 atoms, 300 K; {physics})"


def test_gas_constant_is_openmms(alanine):
    assert alanine.kT == (unit.MOLAR_GAS_CONSTANT_R * 300 * unit.kelvin).value_in_unit(unit.kilojoule_per_mole)
    assert alanine.kT == pytest.approx(1.380649e-23 * 6.02214076e23 * 300 / 1000, rel=1e-6)  # the 2019 SI's k_B N_A


# --- ways in ---


def test_load_by_name_and_folder(alanine, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    by_name, by_folder = MolecularSystem.load(NAME), MolecularSystem.load(alanine.folder)
    assert by_name.fingerprint == by_folder.fingerprint == alanine.fingerprint
    assert by_folder.folder == alanine.folder and by_folder.settings["pdb"] == "input.pdb"
    assert NAME in available_systems()
    with pytest.raises(FileNotFoundError, match=NAME):
        MolecularSystem.load("no_such_molecule")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('pdb = "input.pdb"\ntemprature = 310.0', r"unknown temprature; .*name, pdb, .*temperature"),
        ('pdb = "input.pdb"\n[reference]\nweigths = "w.npy"', r"unknown weigths in \[reference\].*weights"),
        ('name = "x"', "expected the key pdb"),
        ('pdb = "input.pdb"', "expected the key forcefield"),
        ('pdb = "input.pdb"\nconstraints = "hbonds"', "expected constraints to be one of .*HBonds"),
    ],
)
def test_system_toml_is_checked(tmp_path, pdb_text, text, message):
    _write(tmp_path / "input.pdb", pdb_text)
    _write(tmp_path / "system.toml", text)
    with pytest.raises(ValueError, match=message):
        MolecularSystem.load(tmp_path)


def test_a_system_toml_is_its_folder(tmp_path, pdb_text):
    _write(tmp_path / "x.pdb", pdb_text)
    _write(tmp_path / "system.toml", 'pdb = "x.pdb"\nforcefield = ["amber96.xml"]\ntemperature = 310\n')
    for given in (tmp_path, tmp_path / "system.toml"):
        found = MolecularSystem.load(given)
        assert (found.folder, found.temperature) == (tmp_path, 310.0)


def test_system_toml_is_obeyed(tmp_path, pdb_text):
    _write(tmp_path / "a.pdb", pdb_text)
    reference = '[reference]\ntrajectory = "reference/md.dcd"\nweights = "reference/w.npy"\n'
    main = 'pdb = "a.pdb"\nforcefield = ["amber99sb.xml"]\ntemperature = 350\nconstraints = "HBonds"\n'
    _write(tmp_path / "system.toml", main + reference)
    system = MolecularSystem.load(tmp_path)
    assert len(system.constraints[0]) == 12
    assert system.name == tmp_path.name and system.temperature == 350.0
    assert system.settings["reference"] == {"trajectory": "reference/md.dcd", "weights": "reference/w.npy"}
    assert not any(isinstance(force, openmm.CustomGBForce) for force in system.system.getForces())


def test_from_pdb_takes_units_and_options(alanine):
    path = alanine.folder / "input.pdb"
    system = MolecularSystem.from_pdb(path, "amber96.xml", temperature=310 * unit.kelvin, hydrogenMass=2.0, name="x")
    assert system.temperature == 310.0 and system.name == "x" and system.folder is None
    assert system.masses[0] == 2.0
    assert MolecularSystem.from_pdb(path, PAPER_FORCEFIELD, constraints=None).fingerprint == alanine.fingerprint
    for wrong in (0, -300, np.nan, np.inf):
        with pytest.raises(ValueError, match="temperature"):
            MolecularSystem.from_pdb(path, PAPER_FORCEFIELD, temperature=wrong)


def test_there_is_no_force_field_by_default(alanine):
    path = alanine.folder / "input.pdb"
    for read in (MolecularSystem.from_pdb, find_problems):
        for forcefield in (None, [], ""):
            with pytest.raises(
                ValueError, match=r"no default.*amber14-all\.xml.*gbn2.*PAPER_FORCEFIELD.*app\.ForceField"
            ):
                read(path, forcefield)


def test_a_force_field_may_be_an_object(alanine):
    path, field = alanine.folder / "input.pdb", app.ForceField(*PAPER_FORCEFIELD)
    system = MolecularSystem.from_pdb(path, field)
    assert system.fingerprint == alanine.fingerprint and "an app.ForceField; OBC1" in repr(system)
    assert find_problems(path, field).problems == ()


@pytest.mark.parametrize(
    ("files", "solvent"),
    [
        (["amber96.xml"], "no solvent"),
        (["amber96.xml", "amber96_obc.xml"], "OBC2"),
        (["amber96.xml", "implicit/gbn2.xml"], "GBn2"),
    ],
)
def test_physics_in_words(alanine, files, solvent):
    rigid = MolecularSystem.from_pdb(alanine.folder / "input.pdb", files, constraints=app.HBonds)
    assert rigid.physics == f"{', '.join(files)}; {solvent}; 12 bonds constrained"


def test_temperatures_as_text(alanine):
    def at(temperature):
        return MolecularSystem.from_openmm(
            alanine.topology, alanine.system, alanine.positions, temperature=temperature
        ).temperature

    assert at("310 K") == at("310") == at(" 310.0K ") == at("310 kelvin") == 310.0
    with pytest.raises(ValueError, match="such as 300 or \"300 K\"; got '37 °C'"):
        at("37 °C")


@pytest.mark.parametrize(("factor", "advice"), [(10.0, "divide by 10, if they are in Å"), (0.1, "multiply by 10")])
def test_positions_in_another_unit_are_noticed(alanine, factor, advice):
    with pytest.raises(UnsupportedSystemError, match=f"Expected positions in nm.*{advice}"):
        MolecularSystem.from_openmm(alanine.topology, alanine.system, factor * alanine.positions)


def test_from_pdb_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pdb"):
        MolecularSystem.from_pdb(tmp_path / "nowhere.pdb", PAPER_FORCEFIELD)


def test_from_openmm_is_the_same_molecule(alanine):
    angstrom = unit.Quantity(10 * alanine.positions, unit.angstrom)
    other = MolecularSystem.from_openmm(
        alanine.topology, alanine.system, angstrom, temperature=300 * unit.kelvin, name=NAME
    )
    np.testing.assert_allclose(other.positions, alanine.positions, atol=1e-12)
    assert other.fingerprint == alanine.fingerprint
    vectors = [openmm.Vec3(*x) for x in alanine.positions] * unit.nanometer
    other = MolecularSystem.from_openmm(alanine.topology, alanine.system, vectors, temperature=300)
    np.testing.assert_array_equal(other.positions, alanine.positions)


def test_fingerprint_sees_changes(alanine):
    def fingerprint(system, temperature):
        return MolecularSystem(alanine.topology, system, alanine.positions, temperature).fingerprint

    system = _copy(alanine.system)
    assert fingerprint(system, 300) == alanine.fingerprint
    moving = openmm.XmlSerializer.clone(alanine.system)
    moving.addForce(openmm.CMMotionRemover())  # as createSystem makes it; it has no energy
    assert fingerprint(moving, 300) == alanine.fingerprint and moving.getNumForces() == system.getNumForces() + 1
    assert fingerprint(system, 301) != alanine.fingerprint
    nonbonded = next(force for force in system.getForces() if isinstance(force, openmm.NonbondedForce))
    charge, sigma, epsilon = nonbonded.getParticleParameters(0)
    nonbonded.setParticleParameters(0, charge * 1.0001, sigma, epsilon)
    assert fingerprint(system, 300) != alanine.fingerprint


@pytest.mark.parametrize(("kind", "count"), [(None, 0), (app.HBonds, 12), (app.AllBonds, 21)])
def test_constraints(alanine, kind, count):
    system = MolecularSystem.from_pdb(alanine.folder / "input.pdb", PAPER_FORCEFIELD, constraints=kind)
    pairs, lengths = system.constraints
    assert pairs.shape == (count, 2) and lengths.shape == (count,) and lengths.dtype == np.float64
    if kind is None:
        assert np.issubdtype(pairs.dtype, np.integer)
        return
    hydrogen = np.array([symbol == "H" for symbol in system.elements])
    bonds = system.bonds[hydrogen[system.bonds].any(axis=1)] if kind is app.HBonds else system.bonds
    np.testing.assert_array_equal(pairs, bonds)
    ff = _bond_lengths(alanine)
    np.testing.assert_allclose(lengths, [ff[tuple(pair)] for pair in pairs.tolist()], rtol=0, atol=1e-12)


def _bond_lengths(system: MolecularSystem) -> dict[tuple[int, int], float]:
    springs = next(force for force in system.system.getForces() if isinstance(force, openmm.HarmonicBondForce))
    found = (springs.getBondParameters(k) for k in range(springs.getNumBonds()))
    return {(min(i, j), max(i, j)): r._value for i, j, r, _ in found}


def test_minimum_with_constraints(alanine):
    # From a start whose bonds are all too long.
    system = MolecularSystem.from_pdb(alanine.folder / "input.pdb", PAPER_FORCEFIELD, constraints=app.HBonds)
    system = dataclasses.replace(system, positions=1.02 * alanine.positions)
    x, (pairs, lengths) = system.minimum, system.constraints
    found = np.linalg.norm(x[pairs[:, 0]] - x[pairs[:, 1]], axis=1)
    np.testing.assert_allclose(found, lengths, rtol=0, atol=1e-9)
    # A minimum: what is left of the forces is along the constrained bonds.
    context = openmm.Context(
        system.system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(x)
    forces = context.getState(forces=True).getForces(asNumpy=True)._value
    along = np.zeros((len(pairs), *x.shape))
    for row, (i, j) in zip(along, pairs, strict=True):
        row[i], row[j] = x[i] - x[j], x[j] - x[i]
    along = along.reshape(len(pairs), -1).T
    kept, *_ = np.linalg.lstsq(along, forces.ravel(), rcond=None)
    assert np.abs(forces).max() > 10.0
    assert np.abs(forces.ravel() - along @ kept).max() < 2.0  # kJ/mol/nm; thermal forces are about 1000


def test_bonds_from_the_forces_where_the_topology_has_none(alanine):
    bare = app.Topology()
    residue = bare.addResidue("ALL", bare.addChain())
    for atom in alanine.topology.atoms():
        bare.addAtom(atom.name, atom.element, residue)
    system = MolecularSystem.from_openmm(bare, alanine.system, alanine.positions, temperature=300)
    np.testing.assert_array_equal(system.bonds, alanine.bonds)
    assert system.md_topology.n_bonds == 21


def test_models_and_alternate_locations_are_mentioned(tmp_path, alanine, pdb_text):
    atoms = [line for line in pdb_text.splitlines() if line.startswith("ATOM")]
    models = "".join(f"MODEL {i:8d}\n" + "\n".join(atoms) + "\nENDMDL\n" for i in (1, 2)) + "END\n"
    with pytest.warns(UserWarning, match="2 models; the first"):
        MolecularSystem.from_pdb(_write(tmp_path / "models.pdb", models), PAPER_FORCEFIELD)

    hb3 = next(i for i, line in enumerate(atoms) if line[12:16] == " HB3")
    other = atoms[hb3][:16] + "B" + atoms[hb3][17:30] + f"{9.0:8.3f}" + atoms[hb3][38:]
    atoms[hb3 : hb3 + 1] = [atoms[hb3][:16] + "A" + atoms[hb3][17:], other]
    with pytest.warns(UserWarning, match="alternate locations"):
        system = MolecularSystem.from_pdb(
            _write(tmp_path / "places.pdb", "\n".join([*atoms, "END\n"])), PAPER_FORCEFIELD
        )
    np.testing.assert_allclose(system.positions, alanine.positions, atol=1e-9)


@pytest.mark.parametrize("function", [load_reference, BoltzmannGenerator, run_reference])
def test_a_name_is_no_molecule(function):
    with pytest.raises(ValueError, match=r"Expected a MolecularSystem; got 'butane'.*MolecularSystem\.load"):
        function("butane")
