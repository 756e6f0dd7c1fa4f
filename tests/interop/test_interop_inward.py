"""bgflow's objects as ours: the same numbers, and trained by FAB."""

from __future__ import annotations

import math

import numpy as np
import openmm
import pytest
import torch
from generators import QUIET, SMALL

from openmm_fab.energy.bridge import OpenMMEnergy
from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.interop.bgflow.chart import Range
from openmm_fab.interop.bgflow.inward import (
    EnergyTarget,
    from_coordinates,
    from_energy,
    from_flow,
    from_generator,
    log_density,
)
from openmm_fab.interop.bgflow.outward import z_matrix
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.train.trainer import Trainer
from openmm_fab.weights import effective_sample_size


def _random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- coordinates ---


def test_bonds_angles_torsions_are_ours(bg, alanine_dipeptide):
    """The same Z-matrix and structures, to 1e-6 (nm, rad)."""
    generator = BoltzmannGenerator(alanine_dipeptide, SMALL)
    ours = generator.coordinates
    x = torch.as_tensor(generator.sample(100).x)
    transform = bg.GlobalInternalCoordinateTransformation(z_matrix(ours), raise_warnings=False)
    bonds, angles, torsions, *_ = transform.forward(x.reshape(100, -1))
    log_r, bend, phi, _ = ours.placement.measure(x.permute(2, 1, 0))
    rank = torch.as_tensor(np.argsort(ours.placement.order))  # of rows, among the atoms in placement's order
    phi = phi[rank[3:] - 3]
    leader = torch.as_tensor(ours.zmatrix.leader[3:])
    phi = phi - torch.where(leader[:, None] >= 0, phi[leader.clamp(min=3) - 3], 0.0)
    torch.testing.assert_close(bonds, log_r[rank[1:] - 1].exp().T, rtol=0, atol=1e-6)
    torch.testing.assert_close(angles * math.pi, bend[rank[2:] - 2].T, rtol=0, atol=1e-6)
    difference = torsions * 2 * math.pi - math.pi - phi.T
    assert torch.remainder(difference + 1, 2 * math.pi).sub(1).abs().max() < 1e-6
    assert torsions.std(0).max() > 0.2  # not a constant


def test_the_measure_is_ours(bg, own):
    """log |dz/dx| of both, brought to (ln r, theta, phi): the same number, not only up to a constant."""
    ours, x = own.coordinates, torch.as_tensor(own.sample(200).x)
    transform = bg.GlobalInternalCoordinateTransformation(z_matrix(ours), raise_warnings=False)
    theirs = from_coordinates(transform, x)
    (_, log_det), (z, log_det_theirs) = ours.to_internal(x), theirs.to_internal(x)
    bonds, angles, torsions = theirs.chart.unpack(z)[0]
    turns = angles.shape[1] * math.log(math.pi) + torsions.shape[1] * math.log(2 * math.pi)
    in_radians = log_det_theirs + theirs.chart.log_det + turns - bonds.log().sum(1)
    torch.testing.assert_close(log_det + torch.linalg.slogdet(ours.mixing).logabsdet, in_radians, rtol=0, atol=1e-6)


@pytest.mark.parametrize("turns", [True, False])
def test_the_measure_is_the_closed_form(bg, own, turns):
    """Of lengths and angles themselves, whether bgflow counts angles in turns or in radians."""
    x = torch.as_tensor(own.sample(50).x)
    transform = bg.GlobalInternalCoordinateTransformation(z_matrix(own.coordinates), normalize_angles=turns)
    theirs = from_coordinates(transform, x)
    z, _ = theirs.to_internal(x)
    _, log_det = theirs.to_cartesian(z)
    d, a, _ = theirs.chart.unpack(z)[0]
    volume = 2 * d.log().sum(1) + (a * (math.pi if turns else 1)).sin().log().sum(1)
    units = 3 * math.log(math.pi) + 2 * math.log(2 * math.pi) if turns else 0.0
    torch.testing.assert_close(log_det, volume + units + theirs.chart.log_det, rtol=0, atol=1e-8)


def _z_matrix_tail(own, first: int) -> np.ndarray:
    return own.coordinates.zmatrix.rows[first:]


def _fixed(own, first: int) -> np.ndarray:
    return own.coordinates.zmatrix.rows[:first, 0]


@pytest.mark.parametrize("kind", ["global", "relative", "mixed"])
def test_there_and_back(bg, own, kind):
    x = torch.as_tensor(own.sample(300).x)
    if kind == "global":
        transform = bg.GlobalInternalCoordinateTransformation(z_matrix(own.coordinates))
    elif kind == "relative":
        transform = bg.RelativeInternalCoordinateTransformation(_z_matrix_tail(own, 3), _fixed(own, 3))
        x = x + 0.05 * torch.randn(300, 1, 3, generator=_random(), dtype=torch.float64)
        x = x + 0.01 * torch.randn(300, 5, 3, generator=_random(1), dtype=torch.float64)
    else:
        flat = x.reshape(300, -1).float()  # buffers in float32, as bgflow's users have them
        transform = bg.MixedCoordinateTransformation(flat, _z_matrix_tail(own, 4), _fixed(own, 4), keepdims=6)
    coordinates = from_coordinates(transform, x)
    assert coordinates.dim == {"global": 9, "relative": 15, "mixed": 9}[kind]
    assert coordinates.periodic.sum() == {"global": 2, "relative": 2, "mixed": 1}[kind]
    z, log_det = coordinates.to_internal(x)
    assert z[:, ~coordinates.periodic].std(0).sub(1).abs().max() < 0.2
    assert z[:, coordinates.periodic].abs().max() <= math.pi
    again, back = coordinates.to_cartesian(z)
    torch.testing.assert_close(back, -log_det, rtol=0, atol=1e-7)
    distances = torch.cdist(again, again) - torch.cdist(x, x)
    assert distances.abs().max() < (1e-9 if kind != "mixed" else 0.02)  # the mean plane of 4 atoms is not exact
    z_again, _ = coordinates.to_internal(again)
    torch.testing.assert_close(z_again, z, rtol=0, atol=1e-6)


def test_mixed_coordinates_do_not_see_overall_motion(bg, own):
    x = torch.as_tensor(own.sample(300).x)
    transform = bg.MixedCoordinateTransformation(x.reshape(300, -1), _z_matrix_tail(own, 4), _fixed(own, 4), keepdims=6)
    coordinates = from_coordinates(transform, x)
    z = torch.where(coordinates.periodic, 1.0, 0.5) * torch.randn(50, 9, generator=_random(), dtype=torch.float64)
    x, _ = coordinates.to_cartesian(z)
    turn, _ = torch.linalg.qr(torch.randn(50, 3, 3, generator=_random(1), dtype=torch.float64))
    turn = turn * torch.linalg.det(turn)[:, None, None]
    torch.testing.assert_close(coordinates.to_internal(x @ turn + 3.0)[0], z, rtol=0, atol=1e-6)


def test_log_det_is_that_of_the_jacobian(bg, own):
    """Of a relative transform, which is a bijection of all 15 numbers."""
    x = torch.as_tensor(own.sample(20).x) + 0.01 * torch.randn(20, 5, 3, generator=_random(), dtype=torch.float64)
    transform = bg.RelativeInternalCoordinateTransformation(_z_matrix_tail(own, 3), _fixed(own, 3))
    coordinates = from_coordinates(transform, x)
    z, _ = coordinates.to_internal(x[:4])
    jacobian = torch.autograd.functional.jacobian(lambda z: coordinates.to_cartesian(z)[0].flatten(1).sum(0), z)
    expected = torch.linalg.slogdet(jacobian.permute(1, 0, 2)).logabsdet
    torch.testing.assert_close(coordinates.to_cartesian(z)[1], expected, rtol=0, atol=1e-8)


def test_impossible_z_have_no_density(bg, own, built):
    flow, coordinates = from_generator(built())
    z = torch.zeros(3, 9, dtype=torch.float64)
    z[1, 0], z[2, 5] = -100.0, 100.0  # a negative length, an angle beyond 180 degrees
    assert torch.isfinite(coordinates.to_cartesian(z)[1]).tolist() == [True, False, False]
    assert torch.isfinite(flow.log_prob(z)).tolist() == [True, False, False]
    with pytest.raises(ValueError, match=r"Expected z with shape \(batch, 9\)"):
        coordinates.to_cartesian(z[:, :4])


def test_wrong_shapes_and_kinds_are_named(bg, own, built):
    with pytest.raises(ValueError, match="Expected a flow that ends with the inverse of a global, mixed or relative"):
        from_generator(bg.BoltzmannGenerator(bg.NormalDistribution(2), bg.AffineFlow(2), None))
    transform = bg.GlobalInternalCoordinateTransformation(z_matrix(own.coordinates))
    shape = bg.ShapeDictionary.from_coordinate_transform(transform, remove_origin_and_rotation=False)
    builder = bg.BoltzmannGeneratorBuilder(shape)
    builder.add_map_to_cartesian(transform, fixed_origin_and_rotation=False)
    with pytest.raises(ValueError, match="fixed_origin_and_rotation=True"):
        from_generator(builder.build_generator(check_target=False))


# --- flows ---


def test_one_density_both_ways(bg, built):
    """bgflow's own density of x and ours of z differ by the coordinates' log_det and the two Euler angles, to 1e-6."""
    generator = built()
    flow, coordinates = from_generator(generator)
    assert flow.chart.sizes == [4, 3, 2] and coordinates.periodic.tolist() == [False] * 7 + [True] * 2
    z, log_q = flow.sample(200, _random())
    torch.testing.assert_close(flow.log_prob(z), log_q, rtol=0, atol=1e-6)
    x, log_det = coordinates.to_cartesian(z)
    theirs = -generator.energy(x.reshape(200, -1))[:, 0]
    # The marginals of builder and prior are normalised; 5 sigma of a normal lie between bgflow's clamps.
    expected = theirs + log_det + 2 * math.log(2 * math.pi)
    torch.testing.assert_close(log_q, expected, rtol=0, atol=1e-6)
    assert log_q.std() > 1
    z_again, _ = coordinates.to_internal(x)
    torch.testing.assert_close(z_again, z, rtol=0, atol=1e-7)


def test_samples_with_a_graph(built):
    """A step down the reverse KL's gradient to a shifted normal lowers it."""
    flow, _ = from_generator(built())
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    losses = []
    for _ in range(10):
        z, log_q = flow.rsample(200, _random())
        loss = (log_q + 0.5 * (z[:, :7] - 0.3).square().sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.1
    torch.testing.assert_close(flow.rsample(5, _random(1))[0].detach(), flow.sample(5, _random(1))[0])


def test_gradient_is_that_of_the_density(built):
    flow, _ = from_generator(built())
    z, _ = flow.sample(5, _random())
    log_q, gradient = flow.log_prob_and_gradient(z)
    step = 1e-6
    for k in range(flow.chart.dim):
        shift = torch.zeros_like(z)
        shift[:, k] = step
        slope = (flow.log_prob(z + shift) - flow.log_prob(z - shift)) / (2 * step)
        torch.testing.assert_close(gradient[:, k], slope.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(log_q, flow.log_prob(z).detach())
    assert all(p.grad is None for p in flow.parameters())


def test_samples_follow_the_generator_alone(built):
    flow, _ = from_generator(built(torch.float32))
    torch.manual_seed(5)
    a, _ = flow.sample(10, _random(3))
    here = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(here, torch.rand(1))  # the global numbers are where they were
    assert torch.equal(a, flow.sample(10, _random(3))[0])
    assert not torch.equal(a, flow.sample(10, _random(4))[0])


def test_a_narrow_torsion_is_straight(bg, own, built):
    """A torsion that the generator draws near 180 degrees, across the seam: z of unit width, log q closed there."""

    def prepare(builder):
        from bgflow import TORSIONS

        shrink = torch.distributions.AffineTransform(
            torch.tensor([0.45, 0.0], dtype=torch.float64), torch.tensor([0.1, 1.0], dtype=torch.float64)
        )
        builder.add_layer(bg.TorchTransform(shrink, 1), what=(TORSIONS,))
        builder.add_torsion_shifts(torch.tensor([0.5, 0.0], dtype=torch.float64))

    flow, coordinates = from_generator(built(prepare=prepare))
    assert coordinates.periodic.tolist() == [False] * 8 + [True]
    z, log_q = flow.sample(1000, _random())
    assert z[:, 7].std() == pytest.approx(1, abs=0.1) and z[:, 7].abs().max() < 3
    torch.testing.assert_close(flow.log_prob(z), log_q, rtol=0, atol=1e-6)
    torsion = coordinates.chart.unpack(z)[0][2][:, 0]
    assert (torsion < 0.06).any() and (torsion > 0.94).any() and not ((torsion > 0.06) & (torsion < 0.94)).any()
    z[:, 7] = 5.0  # inside the circle, outside what the generator draws
    assert torch.isfinite(coordinates.to_cartesian(z)[1]).all() and torch.isneginf(flow.log_prob(z)).all()


def test_constrained_bonds_are_no_coordinates(bg, own):
    from bgflow import BONDS

    transform = bg.GlobalInternalCoordinateTransformation(z_matrix(own.coordinates))
    shape = bg.ShapeDictionary.from_coordinate_transform(transform, n_constraints=1)
    builder = bg.BoltzmannGeneratorBuilder(shape, device=torch.device("cpu"), dtype=torch.float64)
    builder.add_condition(BONDS, on=tuple(shape)[1:], hidden=(8,), num_bins=4)
    builder.add_map_to_ic_domains()
    builder.add_merge_constraints([2], [0.1234])
    builder.add_map_to_cartesian(transform)
    flow, coordinates = from_generator(builder.build_generator(check_target=False))
    assert coordinates.dim == 8 and flow.chart.sizes == [3, 3, 2]
    x, _ = coordinates.to_cartesian(flow.sample(20, _random())[0])
    a, b = transform.bond_indices[2]
    torch.testing.assert_close((x[:, a] - x[:, b]).norm(dim=1), torch.full((20,), 0.1234, dtype=torch.float64))


def test_priors_are_normalised(bg):
    """By quadrature, where bgflow's are not: out of range, and with other constants."""
    grid = torch.linspace(-8, 8, 160_001, dtype=torch.float64)[:, None]
    one = torch.tensor([1.0], dtype=torch.float64)
    priors = [
        bg.TruncatedNormalDistribution(0.3 * one, 0.7 * one, 0.0 * one, 2.0 * one),
        bg.UniformDistribution(-1 * one, 2 * one),
        bg.NormalDistribution(1, one),
        bg.ProductDistribution([bg.UniformDistribution(0 * one, 3 * one)], cat_dim=-1),
    ]
    for prior in priors:
        density = log_density(prior, (grid,)).exp()
        assert float(torch.trapezoid(density, grid[:, 0])) == pytest.approx(1, abs=2e-4)
    turns = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
    circular = log_density(bg.CircularNormalDistribution(0.4 * one, 0.1 * one), (turns,)).exp()
    assert float(torch.trapezoid(circular, turns[:, 0])) == pytest.approx(1, abs=1e-6)


def test_a_flow_of_vectors_learns_bgflows_double_well(bg):
    """bgflow's affine couplings and energy, our trainer."""
    torch.manual_seed(0)
    layers = []
    for _ in range(4):
        nets = [bg.DenseNet([2, 16, 2], activation=torch.nn.Tanh()) for _ in range(2)]
        layers += [bg.CouplingFlow(bg.AffineTransformer(*nets)), bg.SwapFlow()]
    inner = bg.SequentialFlow([bg.SplitFlow(2), *layers, bg.MergeFlow(2)])
    flow = from_flow(inner, bg.NormalDistribution(4))
    target = EnergyTarget(bg.DoubleWellEnergy(4))
    settings = TrainSettings(batch=64, updates=4, buffer_min=4, buffer_max=32, learning_rate=3e-3, averaging=0.9)

    def ess() -> float:
        z, log_q = flow.sample(2000, _random(1))
        return effective_sample_size((target.log_prob(z) - log_q).detach().numpy()) / 2000

    before = ess()
    for _ in Trainer(flow, target, Budget(iterations=30), settings=settings, rng=_random()):
        pass
    assert ess() > 1.5 * before
    z, _ = flow.sample(100, _random(2))
    torch.testing.assert_close(flow.log_prob(z), flow.sample(100, _random(2))[1], rtol=0, atol=1e-4)


def test_ranges_of_other_tensors(bg):
    """Angles in turns beside numbers with bounds: z is periodic where they are."""
    prior = bg.UniformDistribution(torch.zeros(3), torch.tensor([1.0, 1.0, 2.0]))
    flow = from_flow(bg.SequentialFlow([bg.SplitFlow(2)]), prior, ranges=[Range.circle(2), Range.line(1, 0.0, 2.0)])
    assert flow.chart.periodic.tolist() == [True, True, False]
    z = torch.tensor([[0.1, -3.0, 0.0], [0.1, -3.0 + 2 * math.pi, 0.0], [0.1, 0.1, 5.0]])
    log_q = flow.log_prob(z)
    assert log_q[0] == log_q[1] == pytest.approx(-2 * math.log(2 * math.pi) - math.log(2 / float(flow.chart.width[2])))
    assert torch.isneginf(log_q[2])


# --- energies ---


@pytest.fixture(scope="module")
def bridge(bg, alanine_dipeptide):
    integrator = openmm.LangevinIntegrator(alanine_dipeptide.temperature, 1.0, 0.001)
    return bg.OpenMMBridge(alanine_dipeptide.system, integrator, platform_name="Reference", n_workers=1)


def test_energies_and_forces_of_the_bridge_are_ours(bg, bridge, alanine_dipeptide):
    noise = 0.003 * torch.randn(5, 22, 3, generator=_random(), dtype=torch.float64)
    x = torch.as_tensor(alanine_dipeptide.minimum) + noise
    with OpenMMEnergy(alanine_dipeptide, platform="Reference", workers=1) as ours:
        u, gradient = ours.value_and_gradient(x)
    energies, forces, *_ = bridge.evaluate(x.reshape(5, -1))
    torch.testing.assert_close(energies[:, 0], u, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(-forces.reshape(x.shape), gradient, rtol=1e-9, atol=1e-7)
    for energy in (bridge, bg.OpenMMEnergy(bridge=bridge), bg.OpenMMEnergy(bridge=bridge, two_event_dims=True)):
        start = x.clone().requires_grad_()
        found = from_energy(energy)(start)
        torch.testing.assert_close(found.detach(), u, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(torch.autograd.grad(found.sum(), start)[0], gradient, rtol=1e-9, atol=1e-7)


def test_failed_structures_have_infinite_energy(bg, bridge, alanine_dipeptide):
    """bgflow gives 0 kT and no force to the first, and a number to the second that is nan."""
    x = torch.as_tensor(alanine_dipeptide.minimum).repeat(3, 1, 1)
    x[0, 3] = torch.nan
    x[1, 3] = x[1, 4]
    x.requires_grad_()
    u = from_energy(bridge)(x)
    assert torch.isinf(u).tolist() == [True, True, False]
    (gradient,) = torch.autograd.grad(u[2], x)
    assert torch.isfinite(gradient).all() and gradient[2].abs().max() > 0
    clipped = from_energy(bg.LinLogCutEnergy(bg.OpenMMEnergy(bridge=bridge), 0.0, 1e9))
    noise = 0.02 * torch.randn(3, 22, 3, generator=_random(), dtype=torch.float64)
    y = torch.as_tensor(alanine_dipeptide.minimum) + noise
    raw = from_energy(bridge)(y)
    torch.testing.assert_close(clipped(y), torch.where(raw > 0, (1 + raw).log(), raw))


def test_wrong_structures_are_refused(bg, bridge):
    with pytest.raises(ValueError, match=r"Expected x with shape \(batch, 22, 3\)"):
        from_energy(bridge)(torch.zeros(2, 66))
    with pytest.raises(ValueError, match="Expected an energy of structures"):
        from_energy(bg.NormalDistribution(4))


# --- all of it ---


def test_fab_trains_a_generator_of_bgflow(bg, system, energy, built, tmp_path):
    """Trained in place: what bgflow then says of its own generator is what we say. Saved, loaded and resumed."""
    theirs = built(torch.float32)
    flow, coordinates = from_generator(theirs)
    generator = BoltzmannGenerator(system, SMALL, seed=0, energy=energy, coordinates=coordinates, flow=flow)
    before = generator.sample(2000).ess
    history = generator.train(Budget(iterations=12), folder=tmp_path, **QUIET)
    assert "outside" not in history[-1] and "annealed_outside" not in history[-1] and "ess" in history[-1]
    ensemble = generator.sample(2000)
    assert ensemble.ess > 1.3 * before
    torch.testing.assert_close(generator.log_prob(ensemble.x), torch.as_tensor(ensemble.log_q), rtol=0, atol=5e-3)
    density = -theirs.energy(torch.as_tensor(ensemble.x, dtype=torch.float32).reshape(2000, -1))[:, 0].detach()
    # The flow's density over shapes is per 8 pi^2 of orientations; bgflow's counts its three Euler numbers.
    off = density.double() + 2 * math.log(2 * math.pi) - torch.as_tensor(ensemble.log_q)
    assert off.abs().median() < 1e-3
    with pytest.raises(TypeError, match="have no such range"):
        generator.outside_range(ensemble)

    path = generator.save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"Expected \['coordinates', 'flow'\] of another library"):
        BoltzmannGenerator.load(path, system)
    flow, coordinates = from_generator(built(torch.float32, seed=1))
    loaded = BoltzmannGenerator.load(path, system, coordinates=coordinates, flow=flow)
    again = loaded.sample(2000)
    np.testing.assert_allclose(again.x, ensemble.x, atol=1e-12)
    np.testing.assert_allclose(again.log_q, ensemble.log_q, atol=1e-12)

    flow, coordinates = from_generator(built(torch.float32))
    resumed = BoltzmannGenerator(system, SMALL, seed=0, energy=energy, coordinates=coordinates, flow=flow)
    resumed.train(Budget(iterations=12), folder=tmp_path, resume=True, **QUIET)
    np.testing.assert_array_equal(resumed.sample(100).x, generator.sample(100).x)


def test_a_flow_of_the_wrong_dimension_is_refused(system, energy):
    flow = CouplingFlow(torch.zeros(4, dtype=torch.bool))
    with pytest.raises(
        ValueError, match=r"Expected a flow over z \(batch, 9\); 256 of its samples have shape \(256, 4\)"
    ):
        BoltzmannGenerator(system, SMALL, seed=0, energy=energy, flow=flow)
