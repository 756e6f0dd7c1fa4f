"""Names of atoms and residues in words."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from openmm_fab import MolecularSystem
from openmm_fab.molecule.names import atom_names, residue_run


def test_atom_names_say_residue_number_and_atom():
    system = MolecularSystem.load("alanine_dipeptide")
    names = atom_names(system.topology)
    assert len(names) == system.n_atoms
    assert "ALA2:CA" in names


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
