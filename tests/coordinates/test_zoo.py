"""The internal coordinates of every molecule in the zoo: round trip, volume, handedness, what turns, no straight angle.

Each molecule's stiff coordinates are thrown about its own geometry with thermal widths, its rotatable bonds anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import molecules as m
import numpy as np
import pytest
import torch
from torch import Tensor
from zoo import AMINO_ACIDS, PEPTIDES, SMILES, ZOO, load, rdkit_molecule

from openmm_fab.coordinates.internal import InternalCoordinates
from openmm_fab.coordinates.zmatrix import build_zmatrix
from openmm_fab.molecule.distances import ONE_ATOM, distance_bonds, near_pairs

LENGTH, ANGLE, TORSION = 0.02, 0.05, 0.08  # widths of ln r, and of angles and narrow torsions in rad


@pytest.fixture(params=ZOO)
def name(request) -> str:
    if request.param in SMILES:
        pytest.importorskip("rdkit")
    return request.param


@cache
def _coordinates(name: str) -> InternalCoordinates:
    """Centred on the molecule; widths are thermal, directions mixed by a full random matrix."""
    molecule = load(name)
    zmatrix = build_zmatrix(molecule.graph, molecule.masses, molecule.positions)
    plain = InternalCoordinates(zmatrix)
    n, n_stiff = len(molecule.elements), plain.n_stiff
    mean = plain.to_internal(torch.tensor(molecule.positions)[None])[0][0, :n_stiff]
    width = torch.full((n_stiff,), TORSION, dtype=torch.float64)
    width[: 2 * n - 3] = ANGLE
    width[: n - 1] = LENGTH
    noise = torch.randn(n_stiff, n_stiff, generator=_random(0), dtype=torch.float64) / math.sqrt(n_stiff)
    return InternalCoordinates(
        zmatrix, mean, mixing=width[:, None] * (torch.eye(n_stiff, dtype=torch.float64) + 0.3 * noise)
    )


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _z(c: InternalCoordinates, n: int, seed: int) -> Tensor:
    stiff = torch.randn(n, c.n_stiff, generator=_random(seed), dtype=torch.float64)
    turns = torch.rand(n, c.n_periodic, generator=_random(seed + 1), dtype=torch.float64)
    return torch.cat([stiff, (2 * turns - 1) * math.pi], dim=1)


def _closed(c: InternalCoordinates, z: Tensor) -> Tensor:
    """Those z (batch, dim) whose rings can be closed: most, or in cages those of a smaller width."""
    for width in (1.0, 0.5, 0.25, 0.1):
        narrower = torch.where(c.periodic, z, width * z)
        closed = torch.isfinite(c.to_cartesian(narrower)[1])
        if closed.double().mean() > 0.8:
            return narrower[closed]
    raise AssertionError(f"rings are closed in {int(closed.sum())} of {len(z)} structures only")


def _turned(x: Tensor, seed: int) -> Tensor:
    """Each structure somewhere else, facing another way."""
    n = len(x)
    turn = torch.linalg.qr(torch.randn(n, 3, 3, generator=_random(seed), dtype=torch.float64)).Q
    turn = turn * torch.linalg.det(turn)[:, None, None]
    return x @ turn + torch.randn(n, 1, 3, generator=_random(seed + 1), dtype=torch.float64)


def _superposed(x: Tensor, onto: Tensor) -> Tensor:
    """x (batch, n, 3) as near to the other as it can be moved without a reflection (Kabsch)."""
    middle = onto.mean(1, keepdim=True)
    centred = x - x.mean(1, keepdim=True)
    u, _, vh = torch.linalg.svd(centred.mT @ (onto - middle))
    u = torch.cat([u[..., :2], u[..., 2:] * torch.linalg.det(u @ vh)[:, None, None]], dim=2)
    return centred @ (u @ vh) + middle


def _circular_error(c: InternalCoordinates, a: Tensor, b: Tensor) -> Tensor:
    error = a - b
    turns = torch.remainder(error + math.pi, 2 * math.pi) - math.pi
    return torch.where(c.periodic, turns, error)


def test_geometries_are_sensible(name):
    """Bonds have the length of bonds, and nothing else is as near."""
    molecule = load(name)
    assert np.isfinite(molecule.positions).all()
    distance = np.linalg.norm(molecule.positions[:, None] - molecule.positions, axis=2)
    bonded = np.zeros(distance.shape, dtype=bool)
    bonded[tuple(molecule.bonds.T)] = bonded[tuple(molecule.bonds.T[::-1])] = True
    assert len(molecule.bonds) == bonded.sum() / 2
    assert 0.09 < distance[bonded].min() and distance[bonded].max() < 0.21
    apart = distance[~bonded & ~np.eye(len(bonded), dtype=bool)]
    assert apart.min() > 0.15


def test_bonds_by_distance_are_those_it_was_built_with(name):
    """Peptides, sugars, drugs, cages, rings of three, sulfur, phosphorus, halogens: exactly their own bonds."""
    molecule = load(name)
    found = distance_bonds(molecule.elements, molecule.positions)
    assert found == sorted(tuple(sorted(pair)) for pair in molecule.bonds.tolist())
    assert near_pairs(molecule.elements, molecule.positions, ONE_ATOM) == []


def test_round_trip_of_the_molecule(name):
    c, x = _coordinates(name), torch.tensor(load(name).positions)[None]
    z, _ = c.to_internal(x)
    assert z[0, : c.n_stiff].abs().max() < 1e-9
    again, _ = c.to_cartesian(z)
    torch.testing.assert_close(_superposed(again, x), x, atol=1e-9, rtol=0)


def test_round_trip_and_log_det_of_random_structures(name):
    c = _coordinates(name)
    z = _closed(c, _z(c, 40, seed=1))[:20]
    x, log_det = c.to_cartesian(z)
    moved = _turned(x, seed=3)
    again, log_det_back = c.to_internal(moved)
    assert torch.isfinite(log_det).all()
    torch.testing.assert_close(_circular_error(c, again, z), torch.zeros_like(z), atol=1e-9, rtol=0)
    torch.testing.assert_close(log_det_back, -log_det, atol=1e-8, rtol=0)
    returned, _ = c.to_cartesian(again)
    torch.testing.assert_close(_superposed(returned, moved), moved, atol=1e-9, rtol=0)
    mirrored = _superposed(-returned, moved)
    assert (mirrored - moved).norm(dim=2).amax(1).min() > 0.01  # a reflection would have been seen


# --- the volume, by autodiff ---


def _differentiate(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Jacobian (n_out, n_in) at one point: a batch of copies, each of which is asked for one output."""
    n_out = f(x[None]).numel()
    copies = x.expand(n_out, *x.shape).clone().requires_grad_()
    (slope,) = torch.autograd.grad(f(copies).reshape(n_out, n_out).diagonal().sum(), copies)
    return slope.flatten(1)


def _rigid_motions(x: Tensor) -> Tensor:
    """Velocities (3 n_atoms, 6) of x (n_atoms, 3) under unit translations and rotations."""
    eye = torch.eye(3, dtype=x.dtype)
    turns = [torch.linalg.cross(axis.expand_as(x), x).flatten() for axis in eye]
    return torch.cat([eye.repeat(len(x), 1), torch.stack(turns, dim=1)], dim=1)


def test_log_det_is_that_of_autodiff(name):
    """|d(x) / d(z, translation, rotation)|: all 3n dimensions, so that no measure is put in by hand."""
    c = _coordinates(name)
    z = _closed(c, _z(c, 20, seed=5))[:1]
    x, log_det = c.to_cartesian(z)
    forward = torch.cat([_differentiate(lambda z: c.to_cartesian(z)[0], z[0]), _rigid_motions(x[0])], dim=1)
    assert abs(float(torch.linalg.slogdet(forward).logabsdet - log_det[0])) < 1e-8

    _, log_det_back = c.to_internal(x)
    moves = torch.linalg.pinv(_differentiate(lambda x: c.to_internal(x)[0], x[0]))  # each changes one z alone
    back = torch.cat([moves, _rigid_motions(x[0])], dim=1)
    assert abs(float(-torch.linalg.slogdet(back).logabsdet - log_det_back[0])) < 1e-8


# --- handedness ---


def _neighbours(molecule: m.Molecule) -> list[list[int]]:
    near: list[list[int]] = [[] for _ in molecule.elements]
    for i, j in molecule.bonds.tolist():
        near[i].append(j)
        near[j].append(i)
    return near


def _kinds(molecule: m.Molecule) -> list[int]:
    """Atoms of one kind look alike from wherever they are seen: elements, refined by the neighbours' until it ends."""
    near = _neighbours(molecule)
    kinds = [sorted(set(molecule.elements)).index(e) for e in molecule.elements]
    while True:
        seen = [(kinds[i], tuple(sorted(kinds[j] for j in near[i]))) for i in range(len(near))]
        refined = [sorted(set(seen)).index(s) for s in seen]
        if len(set(refined)) == len(set(kinds)):
            return kinds
        kinds = refined


def _stereocentres(molecule: m.Molecule) -> list[tuple[int, ...]]:
    """Centre and its neighbours, all different: four, or three and a lone pair on a sulfur."""
    near, kinds = _neighbours(molecule), _kinds(molecule)
    return [
        (atom, *others)
        for atom, others in enumerate(near)
        if len({kinds[k] for k in others}) == len(others)
        and len(others) == {"C": 4, "N": 4, "P": 4, "S": 3}.get(molecule.elements[atom])
    ]


def _handedness(x: Tensor, centre: tuple[int, ...]) -> Tensor:
    """Signed volume of unit vectors from the fourth neighbour, or the centre if there is none, to the first three."""
    _, *arms = centre
    arms, eye = arms[:3], arms[3] if len(arms) == 4 else centre[0]
    ways = x[:, arms] - x[:, None, eye]
    return torch.linalg.det(ways / ways.norm(dim=2, keepdim=True))


def test_stereocentres_keep_their_hand(name):
    """Where a ring is cut, no coordinate but the energy holds the far neighbour: there, at half the width."""
    molecule, c = load(name), _coordinates(name)
    natural = torch.tensor(molecule.positions)[None]
    z = _closed(c, _z(c, 200, seed=7))
    x, _ = c.to_cartesian(z)
    nearer, _ = c.to_cartesian(torch.where(c.periodic, z, 0.5 * z))
    placed = {frozenset(row[:2].tolist()) for row in c.zmatrix.rows}
    placed |= {frozenset(row[[0, 2]].tolist()) for row in c.zmatrix.rows[c.zmatrix.closes]}
    for centre in _stereocentres(molecule):
        cut = any(frozenset((centre[0], arm)) not in placed for arm in centre[1:])
        hand = _handedness(natural, centre)
        assert abs(float(hand)) > 0.1
        flipped = (_handedness(nearer if cut else x, centre).sign() != hand.sign()).sum()
        assert flipped == 0, f"centre {centre} is inverted in {flipped} of {len(x)} structures"


@pytest.mark.parametrize(
    ("name", "n"),
    {
        "ACE-ALA-NME": 1,
        "ACE-ILE-NME": 2,
        "ACE-THR-NME": 2,
        "ACE-GLY-NME": 0,
        "beta-glucose": 5,
        "sucrose": 9,
        "adenosine": 4,
        "penicillin G": 3,
        "testosterone": 6,
        "morphine": 5,
        "cocaine": 4,
        "erythromycin": 18,
        "omeprazole": 1,
        "aspirin": 0,
        "adamantane": 0,
    }.items(),
)
def test_stereocentres_are_found(name, n):
    if name in SMILES:
        pytest.importorskip("rdkit")
    assert len(_stereocentres(load(name))) == n


@pytest.mark.parametrize("residue", [r for r in AMINO_ACIDS if r != "GLY"])
def test_amino_acids_are_natural(residue):
    """L by the CORN rule; isoleucine is 3S and threonine 3R."""
    molecule = load(f"ACE-{residue}-NME")

    def hand(*atoms: str) -> float:
        centre = tuple(molecule.names.index(f"{residue}:{a}") for a in atoms)
        return float(_handedness(torch.tensor(molecule.positions)[None], centre))

    assert hand("CA", "N", "C", "CB") > 0.5
    if residue == "ILE":  # S, as alanine is: neighbours by priority
        assert hand("CB", "CA", "CG1", "CG2") > 0.5
    if residue == "THR":
        assert hand("CB", "OG1", "CA", "CG2") < -0.5


# --- what turns ---

# Rotatable bonds of a side chain, with methyl, OH, SH and NH3+ rotors, without what is in rings or planar.
SIDE_CHAIN = {"GLY": 0, "ALA": 1, "VAL": 3, "LEU": 4, "ILE": 4, "SER": 2, "THR": 3, "CYS": 2, "MET": 4, "PRO": 0}
SIDE_CHAIN |= {"PHE": 2, "TYR": 3, "TRP": 2, "HIS": 2, "ASP": 2, "ASN": 2, "GLU": 3, "GLN": 3, "LYS": 5, "ARG": 4}


def _peptide_turns(residues: tuple[str, ...]) -> int:
    """phi, psi and side chain; in proline phi is in the ring. A cap has a methyl, an end -NH3+ or -COO-."""
    return sum(1 if r in ("ACE", "NME") else 1 + (r != "PRO") + SIDE_CHAIN[r] for r in residues)


# Single bonds that conjugation holds, as chemists know them; no geometry is asked.
STIFF = (
    "[NX3;+0]-[#6X3]=[O,S,N]",  # amides, ureas, amidines
    "[NX3;+0;!$(N-C=O)]-c",  # aromatic amines; but an anilide's ring turns
)


def _turning_bonds(name: str) -> set[frozenset[int]]:
    """Single bonds outside rings, neither of whose ends is the last atom; a row of linear atoms counts as one bond."""
    from rdkit import Chem

    graph = rdkit_molecule(name)
    stiff = {frozenset(match[:2]) for s in STIFF for match in graph.GetSubstructMatches(Chem.MolFromSmarts(s))}
    linear = {
        a.GetIdx() for a in graph.GetAtoms() if a.GetDegree() == 2 and a.GetHybridization() == Chem.HybridizationType.SP
    }

    def end(atom: int, before: int) -> int:
        while atom in linear:
            (after,) = (b.GetIdx() for b in graph.GetAtomWithIdx(atom).GetNeighbors() if b.GetIdx() != before)
            atom, before = after, atom
        return atom

    found = set()
    for bond in graph.GetBonds():
        a, b = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if bond.GetBondType() != Chem.BondType.SINGLE or bond.IsInRing() or frozenset((a, b)) in stiff:
            continue
        ends = frozenset((end(a, b), end(b, a)))
        if all(graph.GetAtomWithIdx(k).GetDegree() > 1 for k in ends):
            found.add(ends)
    return found


def test_what_turns(name):
    zmatrix = _coordinates(name).zmatrix
    if name in PEPTIDES:
        assert zmatrix.periodic.sum() == _peptide_turns(PEPTIDES[name])
        return
    assert {frozenset(row[1:3].tolist()) for row in zmatrix.rows[zmatrix.periodic]} == _turning_bonds(name)


def test_no_angle_is_straight(name):
    """Those that place an atom, and those that its torsion is counted about: 15 degrees off 0 and 180 at least."""
    x = load(name).positions
    for row in _coordinates(name).zmatrix.rows:
        for a, b, c in (row[:3], row[1:]):
            if c >= 0:
                u, v = x[a] - x[b], x[c] - x[b]
                angle = np.degrees(np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)))
                assert 15 < angle < 165, f"{angle:.1f} degrees at {a}-{b}-{c} in row {row}"
