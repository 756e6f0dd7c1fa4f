"""Atoms placed in C against PyTorch, values and derivatives, for every molecule of the zoo."""

from __future__ import annotations

import math

import pytest
import torch
from zoo import PEPTIDES, SMILES, ZOO, load

from openmm_fab.coordinates.internal import InternalCoordinates
from openmm_fab.coordinates.native import NativePlacement
from openmm_fab.coordinates.placement import Placement
from openmm_fab.coordinates.zmatrix import build_zmatrix
from openmm_fab.molecule.graph import BondGraph
from openmm_fab.tools import native

WITH_RING = next(name for name in PEPTIDES if "PRO" in name)

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="needs a C compiler")


@pytest.mark.parametrize("name", ZOO)
def test_agrees_with_pytorch(name) -> None:
    if name in SMILES:
        pytest.importorskip("rdkit")
    molecule = load(name)
    zmatrix = build_zmatrix(BondGraph(molecule.elements, molecule.bonds), molecule.masses, molecule.positions)
    placement, place = Placement(zmatrix), NativePlacement(zmatrix)
    q = torch.cat(placement.measure(torch.tensor(molecule.positions).T[:, :, None])[:3])
    sizes = [zmatrix.n_atoms - 1, zmatrix.n_atoms - 2, zmatrix.n_atoms - 3]
    q = q + 0.02 * torch.randn(len(q), 37, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    above = torch.randn(37, zmatrix.n_atoms, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = []
    for by_torch in (True, False):
        own = q.clone().requires_grad_()
        x, volume = placement.place(*own.split(sizes)) if by_torch else place(own)
        x = x.permute(2, 1, 0) if by_torch else x
        good = torch.isfinite(volume)
        ((x * above)[good].sum() + 0.7 * volume[good].sum()).backward()
        found.append((good, x.detach()[good], volume.detach()[good], own.grad[:, good]))
    (good, *expected), (good_in_c, *in_c) = found
    assert torch.equal(good, good_in_c) and good.any()
    for a, b in zip(in_c, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11 * float(1 + b.abs().max()))


def test_derivatives_against_differences() -> None:
    molecule = load(WITH_RING)
    zmatrix = build_zmatrix(BondGraph(molecule.elements, molecule.bonds), molecule.masses, molecule.positions)
    q = torch.cat(Placement(zmatrix).measure(torch.tensor(molecule.positions).T[:, :, None])[:3])
    assert torch.autograd.gradcheck(NativePlacement(zmatrix), (q.repeat(1, 2).requires_grad_(),), atol=1e-6)


def test_coordinates_use_it_when_told_to(alanine_dipeptide) -> None:
    c = InternalCoordinates.from_system(alanine_dipeptide)
    z = torch.randn(50, c.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = c.to_cartesian(z)
    c.use_c()
    assert c._native is not None
    for a, b in zip(c.to_cartesian(z), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)
    assert c.to_cartesian(z.float())[0].dtype == torch.float32


def test_angles_and_rings_that_do_not_exist_have_no_volume() -> None:
    molecule = load(WITH_RING)
    zmatrix = build_zmatrix(BondGraph(molecule.elements, molecule.bonds), molecule.masses, molecule.positions)
    n, place = zmatrix.n_atoms, NativePlacement(zmatrix)
    q = torch.cat([torch.full((n - 1,), math.log(0.15)), torch.full((n - 2,), 1.9), torch.zeros(n - 3)]).double()
    q = q[:, None].repeat(1, 3)
    closing = [k - 2 for k, row in enumerate(place._closes.tolist()) if row]
    for row in closing:
        q[n - 1 + row] = math.log(0.15)
    q[n - 1, 1] = -0.1  # an angle below zero
    q[n - 1 + closing[0], 2] = math.log(50.0)  # a length that does not reach
    _, volume = place(q)
    assert torch.isinf(volume[1:]).all() and (volume[1:] < 0).all()
