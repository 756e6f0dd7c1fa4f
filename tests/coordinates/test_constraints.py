"""Fixed lengths, and the measure of rigid dynamics: closed forms, autodiff, and constrained MD."""

from __future__ import annotations

import math

import molecules as m
import numpy as np
import openmm
import pytest
import torch
from openmm import app
from torch import Tensor

from openmm_fab.coordinates.constraints import MassMetric, fixed_lengths
from openmm_fab.coordinates.internal import InternalCoordinates
from openmm_fab.coordinates.settings import CoordinateSettings
from openmm_fab.coordinates.zmatrix import build_zmatrix
from openmm_fab.molecule.system import PAPER_FORCEFIELD, MolecularSystem
from openmm_fab.tools.circle import wrap

MASSES = np.array([40.0, 3.0, 3.0, 40.0])  # of a chain of four beads; light ones feel the measure most
LENGTHS = np.array([0.15, 0.14, 0.16])
BONDS = np.array([[0, 1], [1, 2], [2, 3]])


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _matrix(x: Tensor, pairs: np.ndarray, masses: np.ndarray) -> Tensor:
    """Z_ab = sum_i grad_i r_a . grad_i r_b / m_i of one structure, by autodiff."""

    def lengths(x: Tensor) -> Tensor:
        return (x[pairs[:, 0]] - x[pairs[:, 1]]).norm(dim=1)

    jacobian = torch.autograd.functional.jacobian(lengths, x)
    return torch.einsum("aic,bic,i->ab", jacobian, jacobian, 1 / torch.as_tensor(masses))


@pytest.mark.parametrize("which", ["hydrogens", "all", "one"])
def test_the_metric_is_autodiffs(alanine_dipeptide, which):
    s = alanine_dipeptide
    hydrogen = np.array([e == "H" for e in s.elements])
    pairs = {"hydrogens": s.bonds[hydrogen[s.bonds].any(1)], "all": s.bonds, "one": s.bonds[:1]}[which]
    x = torch.tensor(s.positions) + 0.01 * torch.randn(3, s.n_atoms, 3, generator=_random(0), dtype=torch.float64)
    found = MassMetric(pairs, s.masses)(x)
    expected = torch.stack([0.5 * torch.linalg.slogdet(_matrix(y, pairs, s.masses)).logabsdet for y in x])
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_the_metric_of_a_bent_triatomic():
    """det Z = (1/m0 + 1/m1)(1/m1 + 1/m2) - (cos theta / m1)^2."""
    theta = torch.linspace(0.3, 3.0, 7, dtype=torch.float64)
    zero = torch.zeros_like(theta)
    ends = torch.stack([0.14 * theta.cos(), 0.14 * theta.sin(), zero], 1)
    x = torch.stack([torch.stack([zero + 0.15, zero, zero], 1), torch.stack([zero] * 3, 1), ends], 1)
    m0, m1, m2 = MASSES[:3]
    expected = 0.5 * ((1 / m0 + 1 / m1) * (1 / m1 + 1 / m2) - (theta.cos() / m1) ** 2).log()
    torch.testing.assert_close(MassMetric(BONDS[:2], MASSES[:3])(x), expected)


@pytest.fixture(scope="module", params=[app.HBonds, app.AllBonds], ids=["HBonds", "AllBonds"])
def rigid(request, alanine_dipeptide) -> MolecularSystem:
    return MolecularSystem.from_pdb(alanine_dipeptide.folder / "input.pdb", PAPER_FORCEFIELD, constraints=request.param)


def test_constrained_bonds_are_no_coordinates(rigid):
    c = InternalCoordinates.from_system(rigid)
    pairs, lengths = rigid.constraints
    assert c.dim == 60 - len(pairs) and len(pairs) in (12, 21)
    z = torch.randn(20, c.dim, generator=_random(0), dtype=torch.float64)
    x, log_det = c.to_cartesian(z)
    found = (x[:, pairs[:, 0]] - x[:, pairs[:, 1]]).norm(dim=-1)
    torch.testing.assert_close(found, torch.tensor(lengths).expand_as(found), atol=1e-12, rtol=0)
    again, back = c.to_internal(x)
    torch.testing.assert_close(
        wrap(again - z)[:, c.n_stiff :].abs().max(), torch.tensor(0.0).double(), atol=1e-9, rtol=0
    )
    torch.testing.assert_close(again[:, : c.n_stiff], z[:, : c.n_stiff], atol=1e-9, rtol=0)
    torch.testing.assert_close(back, -log_det, atol=1e-9, rtol=0)
    minimum, _ = c.to_internal(torch.tensor(rigid.minimum)[None])
    assert minimum[0, : c.n_stiff].abs().max() < 1e-8


def test_log_det_against_autodiff(rigid):
    """Flexible measure: the volume of the surface that lengths leave, in coordinates of each atom's own sphere.

    d(x) = prod r^2 sin(theta) over dr dtheta dphi; without dr what is left is d(x) / d(r) at fixed others, and r
    stands in the Z-matrix by itself: compare with the unconstrained log_det, less 3 ln r + its scale for each bond.
    """
    settings = CoordinateSettings(measure="flexible", symmetry="none")
    c = InternalCoordinates.from_system(rigid, settings)
    free = InternalCoordinates(c.zmatrix)
    z = torch.randn(5, c.dim, generator=_random(1), dtype=torch.float64)
    x, log_det = c.to_cartesian(z)
    _, plain = free.to_internal(x)
    fixed = torch.as_tensor(c.lengths[~np.isnan(c.lengths)])
    expected = -plain - fixed.log().sum() + torch.linalg.slogdet(c.mixing).logabsdet
    torch.testing.assert_close(log_det, expected, atol=1e-9, rtol=0)
    metric = InternalCoordinates.from_system(rigid, CoordinateSettings(symmetry="none")).metric
    x_rigid, rigid_log_det = InternalCoordinates(
        c.zmatrix, c.mean, mixing=c.mixing, lengths=c.lengths, metric=metric
    ).to_cartesian(z)
    torch.testing.assert_close(x_rigid, x)
    torch.testing.assert_close(rigid_log_det - log_det, metric(x), atol=1e-9, rtol=0)


def _chain() -> tuple[openmm.System, app.Topology, np.ndarray]:
    """Four beads on rigid bonds, with springs of angles and nothing else."""
    system, topology = openmm.System(), app.Topology()
    residue = topology.addResidue("CHN", topology.addChain())
    elements = [app.element.carbon, app.element.oxygen, app.element.nitrogen, app.element.calcium]
    atoms = [topology.addAtom(e.symbol, e, residue) for e in elements]
    for mass in MASSES:
        system.addParticle(mass)
    angles = openmm.HarmonicAngleForce()
    for (i, j), length in zip(BONDS, LENGTHS, strict=True):
        system.addConstraint(int(i), int(j), float(length))
        topology.addBond(atoms[i], atoms[j])
    angles.addAngle(0, 1, 2, 1.6, 30.0)
    angles.addAngle(1, 2, 3, 1.8, 30.0)
    system.addForce(angles)
    x = np.array([[0, 0, 0], [0.15, 0, 0], [0.15, 0.14, 0], [0.30, 0.15, 0.03]])
    return system, topology, x


def _by_quadrature(molecule: MolecularSystem, measure: str) -> tuple[float, float]:
    """Means of cos^2(theta_1) + cos^2(theta_2) and of cos(phi), over a grid of the three coordinates."""
    c = InternalCoordinates.from_system(molecule, CoordinateSettings(measure=measure, whiten=False))
    assert c.dim == 3 and c.n_periodic == 1
    grid = torch.linspace(0.02, math.pi - 0.02, 150, dtype=torch.float64)
    turns = torch.arange(48) * (2 * math.pi / 48) - math.pi
    theta = torch.cartesian_prod(grid, grid, turns.double())
    z = torch.cat([(theta[:, :2] - c.mean) @ c.unmixing.T, theta[:, 2:]], dim=1)
    x, log_det = c.to_cartesian(z)
    kT = molecule.kT
    cosines, phi = _observables(x)
    angles = cosines.acos()
    u = (0.5 * 30.0 * ((angles - torch.tensor([1.6, 1.8])) ** 2).sum(1)) / kT
    w = (log_det - u).softmax(0)
    return float((w * cosines.square().sum(1)).sum()), float((w * phi).sum())


def _observables(x: Tensor) -> tuple[Tensor, Tensor]:
    bonds = x[:, 1:] - x[:, :-1]
    bonds = bonds / bonds.norm(dim=-1, keepdim=True)
    cosines = -(bonds[:, 1:] * bonds[:, :-1]).sum(-1)
    n1, n2 = torch.linalg.cross(bonds[:, 0], bonds[:, 1]), torch.linalg.cross(bonds[:, 1], bonds[:, 2])
    return cosines, (n1 * n2).sum(-1) / n1.norm(dim=-1) / n2.norm(dim=-1)


def test_against_constrained_dynamics():
    """OpenMM's Langevin dynamics with constraints samples the rigid measure, and not the flexible one."""
    system, topology, x = _chain()
    molecule = MolecularSystem(topology, system, x, 300)
    integrator = openmm.LangevinMiddleIntegrator(300, 4, 0.002)
    integrator.setRandomNumberSeed(2)
    integrator.setConstraintTolerance(1e-8)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    context.applyConstraints(1e-8)
    frames = []
    for _ in range(60_000):
        integrator.step(40)
        frames.append(context.getState(positions=True).getPositions(asNumpy=True)._value)
    cosines, phi = _observables(torch.tensor(np.array(frames)))
    observed = torch.stack([cosines.square().sum(1), phi], 1).reshape(40, -1, 2).mean(1)
    mean, error = observed.mean(0), observed.std(0) / math.sqrt(40)
    rigid, flexible = (torch.tensor(_by_quadrature(molecule, name)) for name in ("rigid", "flexible"))
    assert ((mean - rigid).abs() < 4 * error).all(), (mean, error, rigid, flexible)
    assert ((mean - flexible).abs() > 6 * error).any(), (mean, error, rigid, flexible)  # the test can tell


def test_a_ring_of_rigid_bonds():
    """The bond that closes it is fixed like the others, whatever the pucker."""
    z = build_zmatrix(m.CYCLOHEXANE.graph, m.CYCLOHEXANE.masses, m.CYCLOHEXANE.positions)
    names = [f"{e}{k}" for k, e in enumerate(m.CYCLOHEXANE.elements)]
    wanted = np.where(m.CYCLOHEXANE.bonds.max(1) > 5, 0.109, 0.153)
    fixed = fixed_lengths(z, m.CYCLOHEXANE.bonds, wanted, names)
    assert np.isfinite(fixed).sum() == 18
    plain = InternalCoordinates(z, lengths=fixed)
    mean = plain.to_internal(torch.tensor(m.CYCLOHEXANE.positions)[None])[0][0, : plain.n_stiff].clone()
    c = InternalCoordinates(z, mean, mixing=0.05 * torch.eye(len(mean), dtype=torch.float64), lengths=fixed)
    noise = torch.randn(50, c.dim, generator=_random(0), dtype=torch.float64)
    x, log_det = c.to_cartesian(noise)
    assert c.dim == 48 - 18 and torch.isfinite(log_det).all()
    found = (x[:, m.CYCLOHEXANE.bonds[:, 0]] - x[:, m.CYCLOHEXANE.bonds[:, 1]]).norm(dim=-1)
    torch.testing.assert_close(found, torch.tensor(wanted).expand_as(found), atol=1e-12, rtol=0)
    torch.testing.assert_close(c.to_internal(x)[0], noise, atol=1e-8, rtol=0)


def test_a_bond_beyond_a_linear_centre_is_refused():
    z = build_zmatrix(m.PROPYNE.graph, m.PROPYNE.masses, m.PROPYNE.positions)
    names = [f"{e}{k}" for k, e in enumerate(m.PROPYNE.elements)]
    with pytest.raises(ValueError, match="got H6 - C5, which lie beyond a linear centre"):
        fixed_lengths(z, np.array([[6, 5]]), np.array([0.106]), names)
