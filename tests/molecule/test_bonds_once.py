"""A bond counts once, however often a file names it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

from openmm_fab.energy.backends import reduced_energy
from openmm_fab.molecule.checks import UnsupportedSystemError
from openmm_fab.molecule.openmm_private import drop_repeated_bonds
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.preparation.findings import find_problems

FIELD = ["amber14-all.xml"]
TABLE = "#\nloop_\n_chem_comp_bond.comp_id\n_chem_comp_bond.atom_id_1\n_chem_comp_bond.atom_id_2\n"

pytestmark = pytest.mark.usefixtures("force_fields_are_read_once")


@pytest.fixture(scope="module")
def files(alanine_dipeptide, tmp_path_factory) -> dict[str, Path]:
    """The same molecule, its bonds in struct_conn, and in chem_comp_bond, too."""
    folder = tmp_path_factory.mktemp("files")
    text = io.StringIO()
    topology, x = alanine_dipeptide.topology, alanine_dipeptide.positions
    app.PDBxFile.writeFile(topology, x * unit.nanometer, text, keepIds=True)
    inside = {
        (a.residue.name, *sorted((a.name, b.name)), "doub" if {a.name, b.name} == {"C", "O"} else "sing")
        for a, b in topology.bonds()
        if a.residue is b.residue
    }
    rows = "".join(" ".join(row) + "\n" for row in sorted(inside))
    (folder / "one.cif").write_text(text.getvalue())
    (folder / "both.cif").write_text(f"{text.getvalue()}{TABLE}_chem_comp_bond.value_order\n{rows}")
    return {name: folder / f"{name}.cif" for name in ("one", "both")}


def _u(system: MolecularSystem) -> float:
    return reduced_energy(system)(torch.from_numpy(system.positions)[None]).item()


def _springs(system: openmm.System) -> int:
    return next(f.getNumBonds() for f in system.getForces() if isinstance(f, openmm.HarmonicBondForce))


def test_bonds_in_two_tables_of_a_file_count_once(alanine_dipeptide, files) -> None:
    twice = app.PDBxFile(str(files["both"]))
    assert twice.topology.getNumBonds() == 31  # OpenMM's reader; else this shows nothing
    found = {name: MolecularSystem.from_pdb(file, FIELD) for name, file in files.items()}
    expected = app.ForceField(*FIELD).createSystem(alanine_dipeptide.topology)
    for system in found.values():
        assert system.topology.getNumBonds() == system.md_topology.n_bonds == len(system.bonds) == 21
        assert _springs(system.system) == _springs(expected) == 21
    assert _u(found["both"]) == pytest.approx(_u(found["one"]), abs=1e-9)
    assert _u(found["both"]) == pytest.approx(-34.1226, abs=2e-4)  # OpenMM, from the PDB file
    wrong = app.ForceField(*FIELD).createSystem(twice.topology)
    context = openmm.Context(wrong, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(twice.positions)
    u = context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) / found["one"].kT
    assert u > -34.0  # what it was


def test_a_file_with_two_tables_is_prepared_with_each_bond_once(files, tmp_path) -> None:
    findings = find_problems(files["both"], FIELD)
    assert not findings.problems
    prepared = findings.fix("safe")
    assert prepared.topology.getNumBonds() == 21
    for name in ("out.cif", "out.pdb"):
        system = MolecularSystem.from_pdb(prepared.write(tmp_path / name), FIELD)
        assert _springs(system.system) == 21 and _u(system) == pytest.approx(-34.1226, abs=2e-3)  # a file's digits


def test_of_repeats_the_one_that_knows_more_stays(files) -> None:
    topology = app.PDBxFile(str(files["both"])).topology
    drop_repeated_bonds(topology)
    orders = {(bond[0].index, bond[1].index): bond.order for bond in topology.bonds()}
    assert len(orders) == 21
    # All of the 19 in the table have one; the two between residues have none.
    assert sum(order is not None for order in orders.values()) == 19
    names = {atom.index: atom.name for atom in topology.atoms()}
    assert {frozenset((names[i], names[j])) for (i, j), order in orders.items() if order == 2} == {frozenset("CO")}


def test_a_topology_with_repeats_and_a_system_without(files) -> None:
    twice, once = app.PDBxFile(str(files["both"])), app.PDBxFile(str(files["one"]))
    system = app.ForceField(*FIELD).createSystem(once.topology)
    made = MolecularSystem.from_openmm(twice.topology, system, twice.positions)
    assert made.topology.getNumBonds() == 21 and _u(made) == pytest.approx(-34.1226, abs=2e-4)
    assert [a.name for a in made.topology.atoms()] == [a.name for a in once.topology.atoms()]
    assert twice.topology.getNumBonds() == 31  # the user's own stays as it was


def test_a_system_whose_springs_count_twice(files, tmp_path) -> None:
    twice = app.PDBxFile(str(files["both"]))
    system = app.ForceField(*FIELD).createSystem(twice.topology)
    with pytest.raises(UnsupportedSystemError, match=r"10 stand twice in the topology and .* counts twice: ACE 1 "):
        MolecularSystem.from_openmm(twice.topology, system, twice.positions)
    # The file alone does not show that it was a mistake.
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    with pytest.warns(UserWarning, match="10 springs stand more than once .* ACE 1 ") as caught:
        MolecularSystem.from_xml(tmp_path / "system.xml", files["both"])
    assert caught[0].filename == __file__


def test_springs_across_angles_are_no_repeats(alanine_dipeptide, recwarn) -> None:
    system = openmm.XmlSerializer.clone(alanine_dipeptide.system)
    springs = next(f for f in system.getForces() if isinstance(f, openmm.HarmonicBondForce))
    i, j, length, k = springs.getBondParameters(0)
    springs.addBond(j, i, length * 1.1, k)
    MolecularSystem.from_openmm(alanine_dipeptide.topology, system, alanine_dipeptide.positions)
    assert not len(recwarn)
    springs.addBond(j, i, length, k)
    with pytest.warns(UserWarning, match="1 springs stand more than once"):
        MolecularSystem.from_openmm(alanine_dipeptide.topology, system, np.array(alanine_dipeptide.positions))
