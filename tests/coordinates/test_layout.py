"""Which entry of z is which length, angle or torsion."""

from __future__ import annotations

import molecules as m
import numpy as np
import pytest
import torch

from openmm_fab.coordinates.internal import InternalCoordinates
from openmm_fab.coordinates.layout import Layout
from openmm_fab.coordinates.zmatrix import ZMatrix, build_zmatrix


def _zmatrix(molecule: m.Molecule) -> ZMatrix:
    return build_zmatrix(molecule.graph, molecule.masses, molecule.positions)


@pytest.mark.parametrize("molecule", [m.WATER, m.ETHANE, m.CYCLOHEXANE, m.TOLUENE])
def test_sizes(molecule):
    z = _zmatrix(molecule)
    layout, n = Layout(z), z.n_atoms
    assert (layout.n_bonds, layout.n_angles, layout.n_torsions) == (n - 1, n - 2, n - 3)
    assert layout.dim == 3 * n - 6 and layout.n_periodic == z.periodic.sum()


@pytest.mark.parametrize("molecule", [m.ETHANE, m.CYCLOHEXANE])
def test_each_entry_moves_its_own_length_angle_or_torsion(molecule):
    z = _zmatrix(molecule)
    lengths = np.full(2 * z.n_atoms - 3, np.nan)
    lengths[1] = 0.11
    layout, c = Layout(z, lengths), InternalCoordinates(z, lengths=lengths)
    assert layout.fixed.tolist() == [1] and layout.n_stiff == Layout(z).n_stiff - 1
    x = torch.as_tensor(molecule.positions)[None]
    start = c.to_internal(x)[0]
    pairs = {place: sorted(pair) for pair, place in layout.distances().items()}
    for entry, place in enumerate(layout.free.tolist()):
        if place in pairs:
            (i, j), moved = pairs[place], start.clone()
            moved[0, entry] += 0.1  # ln of a length
            before, after = ((y[0, i] - y[0, j]).norm() for y in (c.to_cartesian(start)[0], c.to_cartesian(moved)[0]))
            assert float(after / before) == pytest.approx(np.exp(0.1))
    assert len(pairs) == z.n_atoms - 1 + z.closes.sum()
    assert layout.length(1) == 0 and layout.bend(2) == z.n_atoms - 1


def test_torsions():
    layout = Layout(z := _zmatrix(m.ETHANE))
    narrow = np.flatnonzero(~z.periodic)[3:]
    assert layout.stiff_torsions(range(z.n_atoms)) == list(range(len(layout.free), layout.n_stiff))
    assert layout.stiff_torsions(narrow[1:2]) == [len(layout.free) + 1]
    (turning,) = np.flatnonzero(z.periodic)
    assert layout.stiff_torsions([turning]) == [] and layout.row_of(layout.n_stiff) == turning
    assert {k + 3 for k in np.flatnonzero(layout.follows)} == set(np.flatnonzero(z.leader >= 0))


def test_a_single_atom_has_no_layout():
    one = ZMatrix.from_rows(np.array([[0, -1, -1, -1]]), np.array([-1]), np.array([False]), np.array([False]))
    with pytest.raises(ValueError, match="single atom"):
        Layout(one)
