"""Names of atoms and residues in words."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from openmm_fab import MolecularSystem
from openmm_fab.molecule.names import atom_names, formula, residue_run
from openmm_fab.molecule.torsions import peptide_torsions


def test_atom_names_say_residue_number_and_atom():
    system = MolecularSystem.load("alanine_dipeptide")
    names = atom_names(system.topology)
    assert len(names) == system.n_atoms
    assert "ALA2:CA" in names


def test_atoms_of_two_chains_are_told_apart_as_their_torsions_are():
    system = MolecularSystem.load("cystine")
    names = atom_names(system.topology)
    assert len(set(names)) == system.n_atoms and {"A:CYS2:SG", "B:CYS2:SG"} <= set(names)
    assert {"phi A:CYS2", "chi1 B:CYS2"} <= set(peptide_torsions(system.md_topology))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("ACE", "ACE"),
        ("ACE ALA GLY SER NME", "ACE-ALA-GLY-SER-NME"),
        ("ACE ALA GLY SER VAL NME", "ACE-...-NME (6 residues)"),
    ],
)
def test_a_long_run_of_residues_is_named_by_its_ends(names, expected):
    assert residue_run([SimpleNamespace(name=name) for name in names.split()]) == expected


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"H": 2, "O": 1}, "H2O"),
        ({"O": 2, "N": 1, "H": 7, "C": 3}, "C3H7NO2"),
        ({"C": 1, "D": 1, "H": 3, "Cl": 1}, "CH3DCl"),
        ({"C": 0, "H": 1, "Cl": 1}, "ClH"),
    ],
)
def test_formulas_are_hills(elements, expected):
    assert formula(elements) == expected
