"""Internal coordinates of molecules: angles as mdtraj sees them, the measure, scales from the energy, the domain.

Round trips and Jacobians stand in test_bijections.py.
"""

from __future__ import annotations

import math
from pathlib import Path

import mdtraj
import molecules as m
import numpy as np
import openmm
import pytest
import torch
from torch import Tensor

from openmm_fab.coordinates.internal import InternalCoordinates
from openmm_fab.coordinates.scales import UNRELATED
from openmm_fab.coordinates.settings import CoordinateSettings
from openmm_fab.coordinates.zmatrix import build_zmatrix
from openmm_fab.molecule.graph import BondGraph
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.tools.circle import wrap


@pytest.fixture(scope="module")
def coordinates(alanine_dipeptide: MolecularSystem) -> InternalCoordinates:
    return InternalCoordinates.from_system(alanine_dipeptide)


def _plain(molecule: m.Molecule) -> InternalCoordinates:
    """Without centre and scale: z = (ln r, theta, torsions)."""
    return InternalCoordinates(build_zmatrix(molecule.graph, molecule.masses, molecule.positions))


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _z(c: InternalCoordinates, n: int, seed: int = 0, width: float = 1.0) -> Tensor:
    stiff = width * torch.randn(n, c.n_stiff, generator=_random(seed), dtype=torch.float64)
    angles = (2 * torch.rand(n, c.n_periodic, generator=_random(seed + 1), dtype=torch.float64) - 1) * math.pi
    return torch.cat([stiff, angles], dim=1)


def _row(c: InternalCoordinates, z: Tensor, rows: np.ndarray) -> Tensor:
    """Torsion variables of Z-matrix rows, unscaled, from z."""
    q = c.mean + z[:, : c.n_stiff] @ c.mixing.T
    torsions = torch.cat([q[:, c.layout.n_bonds + c.layout.n_angles :], z[:, c.n_stiff :]], dim=1)
    kinds = np.concatenate([np.flatnonzero(~c.zmatrix.periodic[3:]), np.flatnonzero(c.zmatrix.periodic[3:])]) + 3
    return torsions[:, [int(np.flatnonzero(kinds == row)[0]) for row in rows]]


def test_completion_offers_what_is_of_coordinates(coordinates):
    offered = {name for name in dir(coordinates) if not name.startswith("_")}
    assert {"dim", "to_cartesian", "to_internal", "summary", "view", "zmatrix", "to"} < offered
    assert not {"train", "zero_grad", "register_forward_hook", "half", "requires_grad_"} & offered
    assert all(hasattr(coordinates, name) for name in offered)


def test_lengths_angles_and_torsions_are_mdtrajs(alanine_dipeptide):
    c = InternalCoordinates.from_system(alanine_dipeptide, CoordinateSettings(symmetry="none"))
    rows = c.zmatrix.rows
    z = _z(c, 20)
    x, _ = c.to_cartesian(z)
    trajectory = mdtraj.Trajectory(x.numpy(), alanine_dipeptide.md_topology)
    q = (c.mean + z[:, : c.n_stiff] @ c.mixing.T).numpy()
    lengths = mdtraj.compute_distances(trajectory, rows[1:, :2], periodic=False)
    np.testing.assert_allclose(np.exp(q[:, : c.layout.n_bonds]), lengths, atol=1e-6)
    angles = mdtraj.compute_angles(trajectory, rows[2:, :3], periodic=False)
    np.testing.assert_allclose(q[:, c.layout.n_bonds : c.layout.n_bonds + c.layout.n_angles], angles, atol=1e-3)

    torsions = mdtraj.compute_dihedrals(trajectory, rows[3:], periodic=False)
    leader = c.zmatrix.leader[3:]
    expected = torsions - np.where(leader >= 0, torsions[:, np.maximum(leader - 3, 0)], 0.0)
    ours = _row(c, z, np.arange(3, c.n_atoms)).numpy()
    np.testing.assert_allclose(np.exp(1j * ours), np.exp(1j * expected), atol=1e-3)


def test_phi_and_psi_are_entries_of_z(alanine_dipeptide, coordinates):
    """Named by their atoms, with mdtraj's own compute_phi and compute_psi."""
    c = coordinates
    z = _z(c, 20)
    trajectory = mdtraj.Trajectory(c.to_cartesian(z)[0].numpy(), alanine_dipeptide.md_topology)
    for compute in (mdtraj.compute_phi, mdtraj.compute_psi):
        atoms, values = compute(trajectory, periodic=False)
        (row,) = (k for k, r in enumerate(c.zmatrix.rows) if tuple(r) in (tuple(atoms[0]), tuple(atoms[0][::-1])))
        column = c.n_stiff + int(c.zmatrix.periodic[:row].sum())
        np.testing.assert_allclose(np.exp(1j * z[:, column].numpy()), np.exp(1j * values[:, 0]), atol=1e-3)


@pytest.mark.parametrize("molecule", [m.WATER, m.METHANE, m.BUTANE], ids=["water", "methane", "butane"])
def test_measure_in_closed_form(molecule):
    """2 ln b1 + 2 ln b2 + ln sin(theta) for the first three atoms, 2 ln r + ln sin(theta) for others; z has ln r."""
    c = _plain(molecule)
    noise = 0.01 * torch.randn(5, c.n_atoms, 3, generator=_random(0), dtype=torch.float64)
    x = torch.tensor(molecule.positions) + noise
    z, log_det = c.to_internal(x)
    expected = torch.zeros(5, dtype=torch.float64)
    for k, (atom, bond, angle, _) in enumerate(c.zmatrix.rows):
        if k >= 1:
            r = (x[:, atom] - x[:, bond]).norm(dim=1)
            expected += 2 * r.log() + r.log()  # dx = r^2 dr, dr = r d(ln r)
        if k >= 2:
            u, v = x[:, atom] - x[:, bond], x[:, angle] - x[:, bond]
            cosine = (u * v).sum(1) / u.norm(dim=1) / v.norm(dim=1)
            expected += 0.5 * (1 - cosine**2).log()
    torch.testing.assert_close(c.to_cartesian(z)[1], expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(log_det, -expected, atol=1e-10, rtol=0)


def test_volume_of_a_triatomic():
    """z's measure times 8 pi^2 is the volume of space: pairs of points within R of the centre fill (4 pi R^3 / 3)^2."""
    c, radius = _plain(m.WATER), 0.2
    z = torch.rand(200_000, 3, generator=_random(0), dtype=torch.float64)
    r = radius * z[:, :2]
    theta = math.pi * z[:, 2:]
    _, log_det = c.to_cartesian(torch.cat([r.log(), theta], dim=1))
    values = log_det.exp() / r.prod(1)  # from d(ln r) to dr
    volume = 8 * math.pi**2 * radius**2 * math.pi * values
    error = float(volume.std()) / math.sqrt(len(z))
    exact = (4 * math.pi * radius**3 / 3) ** 2
    assert error < 0.01 * exact
    assert abs(float(volume.mean()) - exact) < 4 * error


def test_minimum_is_the_origin(alanine_dipeptide, coordinates):
    z, _ = coordinates.to_internal(torch.tensor(alanine_dipeptide.minimum)[None])
    assert z[0, : coordinates.n_stiff].abs().max() < 1e-10
    assert (coordinates.dim, coordinates.n_stiff, coordinates.n_periodic) == (60, 55, 5)
    assert coordinates.periodic.tolist() == [False] * 55 + [True] * 5


def test_translation_and_rotation_do_not_matter(coordinates):
    z = _z(coordinates, 10)
    x, _ = coordinates.to_cartesian(z)
    turn = torch.linalg.qr(torch.randn(10, 3, 3, generator=_random(5), dtype=torch.float64)).Q
    turn = turn * torch.linalg.det(turn)[:, None, None]
    moved = x @ turn + torch.randn(10, 1, 3, generator=_random(6), dtype=torch.float64)
    again, log_det = coordinates.to_internal(moved)
    torch.testing.assert_close(wrap(again - z), torch.zeros_like(z), atol=1e-9, rtol=0)
    torch.testing.assert_close(log_det, coordinates.to_internal(x)[1], atol=1e-9, rtol=0)


def test_a_mirror_image_is_another_point():
    c = _plain(m.HYDROGEN_PEROXIDE)
    x = torch.tensor(m.HYDROGEN_PEROXIDE.positions)[None]
    z, mirrored = c.to_internal(x)[0], c.to_internal(-x)[0]
    assert abs(float(z[0, -1]) - np.deg2rad(112.0)) < 1e-6
    torch.testing.assert_close(mirrored[0, -1], -z[0, -1])
    torch.testing.assert_close(mirrored[0, :-1], z[0, :-1])


def test_chirality_is_held(alanine_dipeptide, coordinates):
    """L at CA for any torsions, and for stiff coordinates wider than they ever get."""
    index = {f"{a.residue.name}:{a.name}": a.index for a in alanine_dipeptide.topology.atoms()}
    centre, *arms = (index[f"ALA:{name}"] for name in ("CA", "N", "C", "CB"))

    def handedness(x: Tensor) -> Tensor:
        return torch.linalg.det(x[:, arms] - x[:, None, centre])

    natural = handedness(torch.tensor(alanine_dipeptide.positions)[None])
    x, _ = coordinates.to_cartesian(_z(coordinates, 2000, width=1.5))
    assert natural > 0  # N, C, CB: CORN rule
    assert (handedness(x) > 0).all()


def test_outside_the_domain_the_density_is_zero(coordinates):
    """An angle beyond pi or below 0, a narrow torsion beyond half a turn: -inf there, and nothing else is touched."""
    c = coordinates
    bad = torch.zeros(4, c.n_stiff, dtype=torch.float64)
    bad[0, c.layout.n_bonds + 3] = 3.0
    bad[1, c.layout.n_bonds + 3] = -3.0
    bad[2, c.layout.n_bonds + c.layout.n_angles + 2] = math.pi + 0.01
    bad[3, c.layout.n_bonds + c.layout.n_angles + 2] = -math.pi - 0.01
    bad = torch.cat([bad @ c.unmixing.T, torch.zeros(4, c.n_periodic, dtype=torch.float64)], dim=1)
    good = _z(c, 3)
    z = torch.cat([good, bad]).requires_grad_()
    x, log_det = c.to_cartesian(z)
    assert torch.isfinite(log_det[:3]).all() and (log_det[3:] == -torch.inf).all()
    assert torch.isfinite(x).all()
    (gradient,) = torch.autograd.grad(log_det.sum() + x.square().sum(), z)
    assert torch.isfinite(gradient[:3]).all()

    alone = good.clone().requires_grad_()
    x, log_det = c.to_cartesian(alone)
    (expected,) = torch.autograd.grad(log_det.sum() + x.square().sum(), alone)
    torch.testing.assert_close(gradient[:3], expected)


def test_just_inside_the_domain(coordinates):
    c = coordinates
    edge = torch.zeros(2, c.n_stiff, dtype=torch.float64)
    edge[0, c.layout.n_bonds + 3] = math.pi - 0.01 - c.mean[c.layout.n_bonds + 3]
    edge[1, c.layout.n_bonds + c.layout.n_angles + 2] = math.pi - 0.01
    z = torch.cat([edge @ c.unmixing.T, torch.zeros(2, c.n_periodic, dtype=torch.float64)], dim=1)
    x, log_det = c.to_cartesian(z)
    assert torch.isfinite(log_det).all()
    torch.testing.assert_close(c.to_internal(x)[0], z, atol=1e-7, rtol=0)


def test_float32_round_trip(coordinates):
    """1e-6 of a standard deviation is lost, 2e-5 at worst."""
    z = _z(coordinates, 200)
    x, log_det = coordinates.to_cartesian(z)
    x32, log_det32 = coordinates.to_cartesian(z.float())
    assert x32.dtype == log_det32.dtype == torch.float32
    assert (x32 - x).abs().max() < 1e-6  # nm
    assert (log_det32 - log_det).abs().max() < 1e-3
    z32, _ = coordinates.to_internal(x32)
    error = wrap(z32.double() - z).abs()
    assert error.median() < 1e-5 and error.max() < 2e-4
    double = wrap(coordinates.to_internal(x)[0] - z).abs()
    assert double.max() < 1e-12


@pytest.fixture(scope="module")
def fused(alanine_dipeptide) -> InternalCoordinates:
    coordinates = InternalCoordinates.from_system(alanine_dipeptide)
    coordinates.compile()
    return coordinates


@pytest.mark.parametrize("n", [0, 1, 300])
def test_fused_is_the_same(coordinates, fused, n):
    """Values and derivative, for batches that fill no chunk and more than one."""
    results = []
    for c in (coordinates, fused):
        z = _z(c, max(n, 1))[:n].requires_grad_()
        x, log_det = c.to_cartesian(z)
        (gradient,) = torch.autograd.grad(x.square().sum() + (log_det * log_det.detach()).sum(), z)
        results.append((x, log_det, gradient))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)
    assert fused.to_cartesian(_z(fused, 2).float())[0].dtype == torch.float32
    z = _z(fused, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(fused.to_cartesian(z)[0].sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        torch.autograd.grad(gradient.sum(), z)


def test_large_molecules_mix_sparsely():
    """The same numbers as a dense product, and the way back is its inverse."""
    from openmm_fab.coordinates.scales import mixing_of

    system = MolecularSystem.from_pdb(Path(__file__).parents[1] / "data" / "peptide_ala9.pdb", ["amber14-all.xml"])
    plain = InternalCoordinates(build_zmatrix(system.graph, system.masses, system.positions))
    n = plain.n_stiff
    mean = plain.to_internal(torch.tensor(system.positions)[None])[0][0, :n].clone()
    near = torch.exp(-(torch.arange(n)[:, None] - torch.arange(n)).abs().double() / 0.5)
    width = torch.where(torch.arange(n) < plain.layout.n_bonds, 0.02, 0.05).double()
    mixing = mixing_of(near * width[:, None] * width, whiten=True)
    assert (mixing == 0).double().mean() > 0.9
    torch.testing.assert_close(mixing @ mixing.T / width[:, None] / width, near, atol=5e-3, rtol=0)
    c = InternalCoordinates(plain.zmatrix, mean, mixing=mixing)
    assert c._sparse is not None
    results = []
    for _ in range(2):
        z = _z(c, 7).requires_grad_()
        x, log_det = c.to_cartesian(z)
        (gradient,) = torch.autograd.grad(x.square().sum() + log_det.sum(), z)
        results.append((x, log_det, gradient))
        c._sparse = None
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)
    again, back = c.to_internal(results[0][0])
    torch.testing.assert_close(wrap(again - _z(c, 7)), torch.zeros(7, c.dim).double(), atol=1e-8, rtol=0)
    torch.testing.assert_close(back, -results[0][1], atol=1e-9, rtol=0)


def test_without_a_compiler_it_is_eager(alanine_dipeptide, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", broken)
    c = InternalCoordinates.from_system(alanine_dipeptide)
    z = _z(c, 5)
    expected, _ = c.to_cartesian(z)
    with pytest.warns(UserWarning, match="The placement of atoms is not fused, and slower: RuntimeError: no"):
        x, _ = c.compile().to_cartesian(z)
    torch.testing.assert_close(x, expected)


def test_covariance_of_a_known_energy():
    """Harmonic in water's lengths and angle, with a coupling: the covariance is known."""
    k_length, k_angle, minimum = 4e4, 300.0, m.WATER.positions

    def value_and_gradient(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            u, v = x[:, 1] - x[:, 0], x[:, 2] - x[:, 0]
            a, b = u.norm(dim=1), v.norm(dim=1)
            theta = ((u * v).sum(1) / a / b).acos()
            da, db, dtheta = a - 0.096, b - 0.096, theta - np.deg2rad(104.5)
            energy = 0.5 * k_length * (da**2 + db**2) + 0.5 * k_angle * dtheta**2 + 900.0 * da * dtheta
            return energy.detach(), torch.autograd.grad(energy.sum(), x)[0]

    zmatrix = build_zmatrix(m.WATER.graph, m.WATER.masses, minimum)
    settings = CoordinateSettings(inflate=1.5, softest=0.3)
    b, theta = 0.096, np.deg2rad(104.5)
    hessian = np.diag([k_length * b**2, k_length * b**2, k_angle])
    hessian[0, 2] = hessian[2, 0] = 900.0 * b
    # -log |dx/dz| adds to the energy: -3 ln r is straight in ln r, and -ln sin(theta) bends by 1 / sin^2.
    hessian[2, 2] += 1 / np.sin(theta) ** 2
    covariance = 1.5**2 * np.linalg.inv(hessian + np.eye(3) / 0.3**2)
    covariance *= np.where(np.eye(3), 1.0, 1 - UNRELATED)

    c = InternalCoordinates.fit(zmatrix, minimum, value_and_gradient, settings=settings)
    np.testing.assert_allclose((c.mixing @ c.mixing.T).numpy(), covariance, rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(c.mean.numpy(), [np.log(b), np.log(b), theta], atol=1e-9)
    assert abs(covariance[0, 2]) > 0.1 * np.sqrt(covariance[0, 0] * covariance[2, 2])

    c = InternalCoordinates.fit(
        zmatrix, minimum, value_and_gradient, settings=CoordinateSettings(inflate=1.5, softest=0.3, whiten=False)
    )
    np.testing.assert_allclose(c.mixing.numpy(), np.diag(np.sqrt(np.diag(covariance))), rtol=1e-4, atol=1e-12)


def test_no_direction_is_wider_than_the_softest():
    """Without any energy, or with an unstable one, the width is `softest`."""
    zmatrix = build_zmatrix(m.ETHANE.graph, m.ETHANE.masses, m.ETHANE.positions)
    for curvature in (0.0, -50.0):
        c = InternalCoordinates.fit(
            zmatrix,
            m.ETHANE.positions,
            lambda x, k=curvature: (0.5 * k * x.square().sum((1, 2)), k * x),
            settings=CoordinateSettings(inflate=1.0, softest=0.2),
        )
        width = torch.linalg.eigvalsh(c.mixing @ c.mixing.T).sqrt()
        assert width.max() < 0.2 + 1e-6
        assert width.max() > 0.19


def test_stiff_coordinates_have_unit_width_in_md(alanine_dipeptide, coordinates):
    """4 ps of Langevin dynamics at 300 K: each z, and each combination of them, within a factor of two."""
    integrator = openmm.LangevinMiddleIntegrator(300, 5, 0.002)
    integrator.setRandomNumberSeed(1)
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(alanine_dipeptide.system, integrator, platform, {"Threads": "1"})
    context.setPositions(alanine_dipeptide.minimum)
    integrator.step(100)
    frames = []
    for _ in range(190):
        integrator.step(10)
        frames.append(context.getState(getPositions=True).getPositions(asNumpy=True)._value)
    z, _ = coordinates.to_internal(torch.tensor(np.array(frames)))
    z = z[:, : coordinates.n_stiff] * CoordinateSettings().inflate
    second_moment = z.square().mean(0).sqrt()
    assert second_moment.min() > 0.5 and second_moment.max() < 2.0
    assert 0.8 < second_moment.mean() < 1.25
    correlation = torch.corrcoef(z.T).fill_diagonal_(0)
    assert correlation.square().mean().sqrt() < 0.2  # whitened; 190 correlated frames leave about 0.1


def test_wrong_input():
    c = _plain(m.WATER)
    with pytest.raises(ValueError, match=r"Expected z with shape \(batch, 3\); got \(2, 4\)"):
        c.to_cartesian(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"Expected x with shape \(batch, 3, 3\); got \(3, 3\)"):
        c.to_internal(torch.zeros(3, 3))
    with pytest.raises(ValueError, match="single atom"):
        InternalCoordinates(build_zmatrix(BondGraph("H", np.zeros((0, 2))), np.array([1.0]), np.zeros((1, 3))))
    for wrong in ({"inflate": 0.0}, {"softest": -1.0}):
        with pytest.raises(ValueError, match=f"Expected {next(iter(wrong))} > 0"):
            CoordinateSettings(**wrong)
