"""Z-matrices of molecules whose rotatable bonds are known."""

from __future__ import annotations

import molecules as m
import numpy as np
import pytest

from openmm_fab.coordinates.zmatrix import ZMatrix, build_zmatrix
from openmm_fab.molecule.graph import BondGraph
from openmm_fab.molecule.system import MolecularSystem

# Molecule and its rotatable bonds.
KNOWN = {
    "carbon monoxide": (m.CARBON_MONOXIDE, []),
    "water": (m.WATER, []),
    "methane": (m.METHANE, []),
    "hydrogen peroxide": (m.HYDROGEN_PEROXIDE, [(0, 1)]),
    "ethane": (m.ETHANE, [(0, 1)]),
    "ethylene": (m.ETHYLENE, []),
    "butane": (m.BUTANE, [(0, 1), (1, 2), (2, 3)]),
    "toluene": (m.TOLUENE, [(0, 6)]),
    "cyclohexane": (m.CYCLOHEXANE, []),
}


def _built(molecule: m.Molecule) -> ZMatrix:
    return build_zmatrix(molecule.graph, molecule.masses, molecule.positions)


def _turning_bonds(z: ZMatrix) -> list[tuple[int, ...]]:
    return sorted(tuple(sorted(map(int, row[1:3]))) for row in z.rows[z.periodic])


def _assert_valid(z: ZMatrix, bonds: np.ndarray) -> None:
    n = z.n_atoms
    bonded = {frozenset(map(int, b)) for b in bonds}
    assert sorted(z.rows[:, 0]) == list(range(n))
    for k, (row, leader) in enumerate(zip(z.rows, z.leader, strict=True)):
        partners = row[row >= 0]
        assert len(set(map(int, partners))) == len(partners) == min(k, 3) + 1
        assert set(map(int, partners[1:])) <= set(map(int, z.rows[:k, 0]))  # placed before
        atom, bond, angle, torsion = map(int, row)
        closes = bool(z.closes[k])
        if k >= 1:
            assert {atom, bond} in bonded
        if k >= 2:
            assert {atom if closes else bond, angle} in bonded
        if k >= 3:
            assert {angle, torsion} in bonded or {bond, torsion} in bonded
        if leader >= 0:
            assert 3 <= leader < k and z.leader[leader] == -1
            assert (z.rows[leader, 1:] == row[1:]).all()
    assert not z.closes[:3].any() and not (z.closes & (z.leader >= 0)).any() and not (z.closes & z.periodic).any()
    in_ring = len(bonded) - n + 1
    assert z.closes.sum() <= in_ring
    for k, row in enumerate(z.rows[3:], start=3):  # proper torsions about one axis: the first leads the others
        proper = frozenset(map(int, row[2:])) in bonded and not z.closes[k]
        first = int(np.flatnonzero((z.rows[:, 1:] == row[1:]).all(1))[0])
        assert z.leader[k] == (-1 if first == k or not proper else first)
    assert not z.periodic[:3].any()
    assert not z.periodic[z.leader >= 0].any()  # a follower is narrow

    assert sorted(np.concatenate(z.blocks)) == list(range(n))
    assert list(z.blocks[0]) == list(range(min(n, 3)))
    placed = set(map(int, z.rows[:3, 0]))
    for block in z.blocks[1:]:
        assert {int(a) for a in z.rows[block, 1:].ravel()} <= placed
        placed |= {int(a) for a in z.rows[block, 0]}


@pytest.mark.parametrize("name", KNOWN)
def test_small_molecules(name):
    molecule, rotatable = KNOWN[name]
    z = _built(molecule)
    _assert_valid(z, molecule.bonds)
    assert _turning_bonds(z) == rotatable


@pytest.mark.parametrize("name", KNOWN)
def test_the_order_of_the_atoms_does_not_matter(name):
    molecule, rotatable = KNOWN[name]
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(len(molecule.elements))
        permuted = molecule.permuted(order)
        z = _built(permuted)
        _assert_valid(z, permuted.bonds)
        assert sorted(tuple(sorted(int(order[a]) for a in bond)) for bond in _turning_bonds(z)) == rotatable


def test_alanine_dipeptide_turns_about_phi_psi_and_three_methyls(alanine_dipeptide: MolecularSystem):
    s = alanine_dipeptide
    z = build_zmatrix(s.graph, s.masses, s.positions)
    _assert_valid(z, s.bonds)
    names = [f"{a.residue.name}:{a.name}" for a in s.topology.atoms()]
    assert {frozenset(names[a] for a in bond) for bond in _turning_bonds(z)} == {
        frozenset(bond)
        for bond in (
            ("ALA:N", "ALA:CA"),
            ("ALA:CA", "ALA:C"),
            ("ACE:CH3", "ACE:C"),
            ("ALA:CA", "ALA:CB"),
            ("NME:N", "NME:C"),
        )
    }
    assert z.periodic.sum() == 5
    lead = {names[row[0]]: (row, periodic) for row, periodic in zip(z.rows, z.periodic, strict=True)}
    phi, psi = (names.index(a) for a in ("ACE:C", "NME:N"))
    quartets = {tuple(map(int, row)) for row in z.rows[z.periodic]}
    quartets |= {quartet[::-1] for quartet in quartets}
    backbone = [names.index(f"ALA:{a}") for a in ("N", "CA", "C")]
    assert (phi, *backbone) in quartets and (*backbone, psi) in quartets
    for amide in (("ACE:CH3", "ACE:C", "ALA:N", "ALA:CA"), ("NME:C", "NME:N", "ALA:C", "ALA:CA")):  # omegas
        row, periodic = lead[amide[0]]
        assert tuple(names[a] for a in row) == amide and not periodic


def test_depth_stays_small(alanine_dipeptide: MolecularSystem):
    """From the middle outwards; few blocks are what makes placement fast and exact."""
    s = alanine_dipeptide
    assert len(build_zmatrix(s.graph, s.masses, s.positions).blocks) <= 5


def test_root_is_a_heavy_atom():
    z = _built(m.WATER)
    assert z.rows.tolist() == [[0, -1, -1, -1], [1, 0, -1, -1], [2, 0, 1, -1]]


def _lines(z: ZMatrix, positions: np.ndarray) -> list[float]:
    """How far, in degrees, every angle of the Z-matrix that must not be 0 or 180 is from that."""
    found = []
    for row in z.rows:
        for a, b, c in (row[:3], row[1:]):
            if c >= 0:
                u, v = positions[a] - positions[b], positions[c] - positions[b]
                angle = np.degrees(np.arccos(np.clip(u @ v / np.linalg.norm(u) / np.linalg.norm(v), -1, 1)))
                found.append(min(angle, 180 - angle))
    return found


LINEAR = {
    "nitrile": (m.ACETONITRILE, 0),
    "alkyne": (m.PROPYNE, 0),
    "dimethyl-diacetylene": (m.HEXADIYNE, 1),
    "allene": (m.ALLENE, 0),
    "sulfur hexafluoride": (m.SULFUR_HEXAFLUORIDE, 0),
    "methyl-SF5": (m.METHYL_SF5, 1),
}


@pytest.mark.parametrize("name", LINEAR)
def test_no_angle_is_straight(name):
    molecule, n_periodic = LINEAR[name]
    for seed in range(6):
        order = (
            np.random.default_rng(seed).permutation(len(molecule.elements))
            if seed
            else np.arange(len(molecule.elements))
        )
        permuted = molecule.permuted(order)
        z = _built(permuted)
        assert sorted(z.rows[:, 0]) == list(range(z.n_atoms))
        for k, row in enumerate(z.rows):
            assert (row[1:] >= 0).sum() == min(k, 3) and set(row[row >= 0]) <= set(z.rows[: k + 1, 0])
        assert min(_lines(z, permuted.positions)) > 15
        assert z.periodic.sum() == n_periodic
        assert (z.leader[z.leader >= 0] < np.flatnonzero(z.leader >= 0)).all()


@pytest.mark.parametrize("molecule", [m.CARBON_DIOXIDE, m.ACETYLENE], ids=["CO2", "acetylene"])
def test_molecules_on_a_line_are_refused(molecule):
    with pytest.raises(ValueError, match="not all on one line"):
        _built(molecule)


def test_turning_bonds_may_be_named():
    z = build_zmatrix(m.ETHYLENE.graph, m.ETHYLENE.masses, m.ETHYLENE.positions, turning=[(1, 0)])
    assert _turning_bonds(z) == [(0, 1)]


def test_two_molecules_are_refused():
    bonds = np.concatenate([m.WATER.bonds, m.WATER.bonds + 3])
    positions = np.concatenate([m.WATER.positions, m.WATER.positions + 0.3])
    with pytest.raises(ValueError, match="one connected molecule of 6 atoms; bonds reach only 3"):
        build_zmatrix(BondGraph(m.WATER.elements * 2, bonds), np.tile(m.WATER.masses, 2), positions)


@pytest.mark.parametrize("seed", range(5))
def test_what_hangs_beside_an_atom_that_closes_a_ring_is_placed_from_it(seed):
    """Its torsion is then counted from the ring, and stays narrow whatever the pucker."""
    molecule = m.CYCLOHEXANE.permuted(np.random.default_rng(seed).permutation(len(m.CYCLOHEXANE.elements)))
    z = _built(molecule)
    beside = 0
    for k in np.flatnonzero(z.closes):
        atom, bond = z.rows[k, :2]
        for row in z.rows[k + 1 :][z.rows[k + 1 :, 1] == bond]:
            assert row[3] == atom
            beside += 1
    assert z.closes.sum() == 1 and beside == 2


def test_an_acid_turns_about_its_short_single_bond():
    """0.134 nm between carbon and oxygen: a partial double bond only if both were planar centres of three bonds."""
    formic_acid = m.build(
        ("C",), ("O", 0, 0.120), ("O", 0, 1, 0.134, 125.0), ("H", 0, 1, 2, 0.110, 124.0, 180.0),
        ("H", 2, 0, 1, 0.097, 107.0, 0.0),
    )  # fmt: skip
    assert _turning_bonds(_built(formic_acid)) == [(0, 2)]
