"""Bonds by distance, at the edges; whole molecules are in tests/coordinates/test_zoo.py, where they are built."""

from __future__ import annotations

import numpy as np

from openmm_fab.molecule.distances import ONE_ATOM, distance_bonds, is_apart, near_pairs


def test_a_hydrogen_has_one_bond():
    """To the nearer of two carbons, both within reach."""
    x = np.array([[0.0, 0, 0], [0.109, 0, 0], [0.235, 0, 0]])
    assert distance_bonds(["C", "H", "C"], x) == [(0, 1)]
    assert distance_bonds(["C", "D", "C"], x[::-1]) == [(1, 2)]


def test_metals_and_what_is_not_finite_have_no_bonds():
    x = np.array([[0.0, 0, 0], [0.19, 0, 0], [np.nan, 0, 0]])
    assert distance_bonds(["Zn", "O", "C"], x) == [] and near_pairs(["", "", ""], x, 1.0) == []


def test_one_atom_twice_and_atoms_apart():
    """Carbons: 0.1 nm is no bond's length, 0.12 nm a triple bond's, 0.23 nm beyond all."""
    for gap, one, apart in ((0.1, True, False), (0.12, False, False), (0.23, False, True)):
        x = np.array([[0.0, 0, 0], [gap, 0, 0]])
        assert bool(near_pairs(["C", "C"], x, ONE_ATOM)) is one
        assert is_apart(["C", "C"], x, 0, 1) is apart
