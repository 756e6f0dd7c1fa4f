"""Rotors: which groups are found, what an exchange does, and that one sector holds all of the partition function."""

from __future__ import annotations

import math
from pathlib import Path

import molecules as m
import numpy as np
import pytest
import torch
from torch import Tensor

from openmm_fab.coordinates.internal import InternalCoordinates
from openmm_fab.coordinates.settings import CoordinateSettings
from openmm_fab.coordinates.symmetry import find_rotors, same_energy
from openmm_fab.coordinates.zmatrix import build_zmatrix
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.tools.circle import wrap


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _rotors(molecule: m.Molecule, symmetry: str = "methyl") -> list:
    z = build_zmatrix(molecule.graph, molecule.masses, molecule.positions)
    return find_rotors(z, molecule.graph, molecule.positions, symmetry)


NEOPENTANE = m.build(
    ("C",),
    ("C", 0, m.CC),
    ("C", 0, 1, m.CC, m.TETRAHEDRAL),
    *(("C", 0, 1, 2, m.CC, m.TETRAHEDRAL, phi) for phi in (120, -120)),
    *m._hydrogens(1, 0, 2, 60, 180, -60),
    *(row for c in (2, 3, 4) for row in m._hydrogens(c, 0, 1, 60, 180, -60)),
)
ACETATE = m.build(
    ("C",),
    ("C", 0, m.CC),
    ("O", 0, 1, 0.125, 118.0),
    ("O", 0, 1, 2, 0.125, 118.0, 180.0),
    *m._hydrogens(1, 0, 2, 90, 210, 330),
)
FLUOROETHANE = m.build(
    ("C",),
    ("C", 0, m.CC),
    ("F", 0, 1, 0.138, 109.5),
    *m._hydrogens(0, 1, 2, 120, -120),
    *m._hydrogens(1, 0, 2, 60, 180, -60),
)


@pytest.mark.parametrize(
    ("molecule", "methyls", "all"),
    [
        (m.WATER, [], []),
        (m.HYDROGEN_PEROXIDE, [], []),
        (m.ETHANE, [3], [3]),
        (m.BUTANE, [3, 3], [3, 3]),
        (m.TOLUENE, [3], [3]),
        (FLUOROETHANE, [3], [3]),
        (m.METHYL_SF5, [3], [3]),
    ],
    ids=["water", "peroxide", "ethane", "butane", "toluene", "fluoroethane", "methyl-SF5"],
)
def test_groups(molecule, methyls, all):
    for symmetry, expected in (("none", []), ("methyl", methyls), ("all", all)):
        assert [rotor.fold for rotor in _rotors(molecule, symmetry)] == expected


@pytest.mark.parametrize("name", ["alanine_dipeptide", "elil"])
def test_groups_of_peptides(name):
    """Methyls and ammonium; the carboxylates besides, where all are asked for."""
    s = MolecularSystem.load(name)
    z = build_zmatrix(s.graph, s.masses, s.positions)
    names = [f"{a.residue.name}{a.residue.id}:{a.name}" for a in s.topology.atoms()]

    def found(symmetry: str) -> dict[str, int]:
        return {names[r.frame[0]]: r.fold for r in find_rotors(z, s.graph, s.positions, symmetry)}

    if name == "alanine_dipeptide":
        assert found("methyl") == found("all") == {"ACE1:CH3": 3, "ALA2:CB": 3, "NME3:C": 3}
        return
    methyls = {"GLU1:N", "LEU2:CD1", "LEU2:CD2", "ILE3:CG2", "ILE3:CD1", "LEU4:CD1", "LEU4:CD2"}
    assert found("methyl") == dict.fromkeys(methyls, 3)
    assert found("all") == dict.fromkeys(methyls, 3) | {"GLU1:CD": 2, "LEU4:C": 2}


def test_rings_and_branched_groups_turn_as_a_whole():
    """Seen from a chain, so that they are leaves of the tree."""
    s = MolecularSystem.from_pdb(Path(__file__).parents[1] / "data" / "peptide_akf.pdb", ["amber14-all.xml"])
    z = build_zmatrix(s.graph, s.masses, s.positions)
    atoms = list(s.topology.atoms())
    rotors = find_rotors(z, s.graph, s.positions, "all")
    (ring,) = (r for r in rotors if atoms[r.frame[0]].name == "CG" and atoms[r.frame[0]].residue.name == "PHE")
    moved = {atoms[i].name: atoms[int(k)].name for i, k in enumerate(ring.exchange) if i != k}
    pairs = [("CD1", "CD2"), ("CE1", "CE2"), ("HD1", "HD2"), ("HE1", "HE2")]
    assert moved == dict(pairs) | {b: a for a, b in pairs}


def test_a_tert_butyl_exchange_is_a_turn():
    """Its methyls' hydrogens come along in their order: narrow torsions stay."""
    rows = [("O",), ("C", 0, 0.143), ("C", 1, 0, m.CC, m.TETRAHEDRAL)]
    rows += [("C", 1, 0, 2, m.CC, m.TETRAHEDRAL, phi) for phi in (120, -120)]
    rows += [row for c in (2, 3, 4) for row in m._hydrogens(c, 1, 0, 60, 180, -60)]
    rows += [
        ("C", 0, 1, 2, 0.143, 112.0, 180.0),
        ("O", 14, 0, 1, 0.143, 110.0, 180.0),
        ("H", 15, 14, 0, 0.096, 105, 70),
    ]
    rows += m._hydrogens(14, 0, 1, 60, -60)
    molecule = m.build(*rows)
    rotors = [r for r in _rotors(molecule, "all") if r.frame[0] == 1]
    assert [r.fold for r in rotors] == [3]
    moved = rotors[0].turned(torch.tensor(molecule.positions)[None], torch.ones(1, dtype=torch.long))[0].numpy()
    # A turn by 120 degrees about O-C: superposes on the original as it stands, up to the methyls' own turns.
    heavy = [i for i, e in enumerate(molecule.elements) if e != "H"]
    x, y = molecule.positions[heavy[:5]], moved[heavy[:5]]
    np.testing.assert_allclose(
        np.linalg.norm(x[:, None] - x, axis=-1), np.linalg.norm(y[:, None] - y, axis=-1), atol=1e-6
    )
    assert np.abs(x - y).max() > 0.1
    signs = [np.sign(np.linalg.det(p[[5, 6, 7]] - p[2])) for p in (molecule.positions, moved)]
    assert signs[0] == signs[1]


def test_one_turn_more_is_an_exchange():
    """However distorted the methyl is: psi grows by exactly a third of a turn, and three make nothing."""
    (rotor,) = _rotors(m.ETHANE)
    x = torch.tensor(m.ETHANE.positions) + 0.01 * torch.randn(20, 8, 3, generator=_random(0), dtype=torch.float64)
    for steps in (1, 2, 3):
        turned = rotor.turned(x, torch.full((20,), steps))
        gain = wrap(rotor.phase(turned) - rotor.phase(x) - steps * 2 * math.pi / 3)
        assert gain.abs().max() < 1e-10
        assert torch.equal(turned, x) == (steps == 3)
    back = rotor.turned(rotor.turned(x, torch.full((20,), 2)), torch.full((20,), -2))
    assert torch.equal(back, x)


@pytest.fixture(scope="module")
def coordinates(alanine_dipeptide: MolecularSystem) -> InternalCoordinates:
    return InternalCoordinates.from_system(alanine_dipeptide)


def _z(c: InternalCoordinates, n: int, seed: int = 0) -> Tensor:
    z = torch.randn(n, c.dim, generator=_random(seed), dtype=torch.float64)
    angles = (2 * torch.rand(n, c.dim, generator=_random(seed + 1), dtype=torch.float64) - 1) * math.pi
    return torch.where(c.periodic, angles, z)


def test_labels_do_not_matter_to_z(coordinates):
    c = coordinates
    assert len(c.rotors) == 3
    z = _z(c, 50)
    x, log_det = c.to_cartesian(z)
    assert torch.equal(c.sector(x), x)
    other = c.relabelled(x, _random(3))
    assert (other != x).any((1, 2)).double().mean() > 0.8
    assert torch.equal(c.sector(other), x)
    again, back = c.to_internal(other)
    torch.testing.assert_close(wrap(again - z), torch.zeros_like(z), atol=1e-9, rtol=0)
    torch.testing.assert_close(back, -log_det, atol=1e-9, rtol=0)


def test_relabelling_is_uniform(coordinates):
    c = coordinates
    x, _ = c.to_cartesian(_z(c, 1).expand(3000, -1))
    x = c.relabelled(x, _random(0))
    kinds = torch.unique(x.flatten(1), dim=0, return_counts=True)[1]
    assert len(kinds) == 27
    assert ((kinds - 3000 / 27).abs() < 5 * math.sqrt(3000 / 27)).all()


def test_a_sector_holds_all_of_log_z():
    """The same integral of exp(-u) over a methyl's turn with and without the restriction, by quadrature."""
    zmatrix = build_zmatrix(m.ETHANE.graph, m.ETHANE.masses, m.ETHANE.positions)
    (rotor,) = find_rotors(zmatrix, m.ETHANE.graph, m.ETHANE.positions, "methyl")

    def u(x: Tensor) -> Tensor:
        return 2.0 * (3 * rotor.phase(x)).cos()

    q, _ = InternalCoordinates(zmatrix).to_internal(torch.tensor(m.ETHANE.positions)[None])
    n, integrals = 720, []
    for rotors, phases in (([], []), ([rotor], [0.4])):
        c = InternalCoordinates(zmatrix, q[0, :-1], rotors=rotors, phases=phases)
        z = torch.zeros(n, c.dim, dtype=torch.float64)
        z[:, 2] = 0.03  # a little distorted
        z[:, -1] = torch.arange(n) * (2 * math.pi / n) - math.pi
        x, log_det = c.to_cartesian(z)
        integrals.append(float((log_det - u(x)).exp().sum() * 2 * math.pi / n))
    assert integrals[1] == pytest.approx(integrals[0], rel=1e-9)


def test_an_exchange_that_costs_energy_is_dropped():
    (rotor,) = _rotors(m.ETHANE)

    def labelled(x: Tensor) -> Tensor:
        return x[:, rotor.atoms[0]].norm(dim=1)

    assert not same_energy(rotor, m.ETHANE.positions, labelled)
    assert same_energy(rotor, m.ETHANE.positions, lambda x: x[:, list(rotor.atoms)].norm(dim=2).sum(1))


def test_settings_are_checked():
    with pytest.raises(ValueError, match="Expected symmetry to be one of"):
        CoordinateSettings(symmetry="some")
