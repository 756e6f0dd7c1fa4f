"""Ours inside bgflow: shapes, signs, temperatures, and bgflow's own machines running on them."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from generators import SMALL

from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.interop.bgflow.inward import from_generator
from openmm_fab.interop.bgflow.outward import (
    to_coordinates,
    to_energy,
    to_flow,
    to_generator,
    to_prior,
    to_sampler,
    z_matrix,
)


def _random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def flow() -> CouplingFlow:
    """Float64, four lines and three circles, bent as after training."""
    periodic = torch.arange(7) >= 4
    flow = CouplingFlow(periodic, FlowSettings(layers=4, hidden=16, bins=4), rng=_random()).double()
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            if name.endswith(("w3", "b3")):
                parameter.normal_(0.0, 0.3, generator=_random(1))
    return flow


@pytest.fixture
def mine(system, energy) -> BoltzmannGenerator:
    """A generator of our own whose flow is bent, to be changed at will."""
    generator = BoltzmannGenerator(system, SMALL, seed=0, energy=energy)
    with torch.no_grad():
        for name, parameter in generator.flow.named_parameters():
            if name.endswith(("w3", "b3")):
                parameter.normal_(0.0, 0.1, generator=_random(1))
    return generator


def test_energy(bg, system, energy):
    exported = to_energy(energy, system.n_atoms)
    assert isinstance(exported, bg.Energy) and exported.dim == 15
    x = torch.as_tensor(system.minimum)[None] + 0.01 * torch.randn(6, 5, 3, generator=_random(), dtype=torch.float64)
    u = exported.energy(x.reshape(6, 15))
    assert u.shape == (6, 1)
    torch.testing.assert_close(u[:, 0], energy(x))
    torch.testing.assert_close(exported.energy(x.reshape(6, 15), temperature=2.5), u / 2.5)
    torch.testing.assert_close(exported.energy(x.reshape(2, 3, 15))[:, :, 0], u.reshape(2, 3))
    force = exported.force(x.reshape(6, 15), temperature=2.0)
    torch.testing.assert_close(force, -energy.value_and_gradient(x)[1].reshape(6, 15) / 2)
    clipped = bg.LinLogCutEnergy(exported, -1e3, 1e9).energy(x.reshape(6, 15))
    torch.testing.assert_close(clipped, -1e3 + (1 + u + 1e3).log())


def test_flow_both_ways(bg, flow):
    """forward is base -> z, dlogp (batch, 1) that of the direction called, to 1e-6."""
    exported, prior = to_flow(flow), to_prior(flow)
    assert isinstance(exported, bg.Flow)
    base = prior.sample(50)
    z, dlogp = exported(base)
    assert dlogp.shape == (50, 1)
    jacobian = torch.autograd.functional.jacobian(lambda b: exported(b)[0].sum(0), base[:5]).permute(1, 0, 2)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, dlogp[:5, 0], rtol=0, atol=1e-6)
    log_q = -prior.energy(base)[:, 0] - dlogp[:, 0]
    torch.testing.assert_close(flow.log_prob(z), log_q, rtol=0, atol=1e-6)
    back, inverse_dlogp = exported(z, inverse=True)
    turned = torch.remainder(back - base + math.pi, 2 * math.pi) - math.pi
    assert torch.where(flow.periodic, turned, back - base).abs().max() < 1e-6
    torch.testing.assert_close(inverse_dlogp, -dlogp, rtol=0, atol=1e-6)
    assert dlogp.std() > 0.1


def test_prior_at_temperatures(bg):
    flow = CouplingFlow(torch.tensor([False, False, True]), SMALL.flow, rng=_random()).double()
    prior = to_prior(flow)
    base = torch.randn(20, 3, generator=_random(), dtype=torch.float64)
    normal = bg.NormalDistribution(2, torch.zeros(2, dtype=torch.float64))
    for t in (1.0, 2.0):
        expected = normal.energy(base[:, :2], temperature=t) + math.log(2 * math.pi)
        torch.testing.assert_close(prior.energy(base, temperature=t), expected)
        torch.manual_seed(0)
        drawn = prior.sample(4000, temperature=t)
        assert drawn[:, :2].std() == pytest.approx(math.sqrt(t), rel=0.03) and drawn[:, 2].abs().max() <= math.pi


def test_coordinates_go_the_way_of_bgflows(bg, own):
    exported = to_coordinates(own.coordinates)
    x = torch.as_tensor(own.sample(20).x)
    z, dlogp = exported(x.reshape(20, -1))
    expected, log_det = own.coordinates.to_internal(x)
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(dlogp, log_det[:, None])
    again, back = exported(z, inverse=True)
    assert again.shape == (20, 15)
    torch.testing.assert_close(back, -dlogp, rtol=0, atol=1e-8)


def test_inside_bgflows_containers(bg, flow):
    """SequentialFlow and its slices, InverseFlow, WrapFlow among other tensors."""
    exported = to_flow(flow)
    base, other = to_prior(flow).sample(10), torch.rand(10, 2, dtype=torch.float64)
    z, dlogp = exported(base)
    chain = bg.SequentialFlow([exported, bg.InverseFlow(exported)])
    there, total = chain(base, temperature=2.0)
    turned = torch.remainder(there - base + math.pi, 2 * math.pi) - math.pi
    assert torch.where(flow.periodic, turned, there - base).abs().max() < 1e-6 and total.abs().max() < 1e-6
    torch.testing.assert_close(chain[:1](base)[0], z)
    wrapped = bg.WrapFlow(exported, (1,))
    kept, moved, change = wrapped(other, base)
    torch.testing.assert_close((kept, moved, change), (other, z, dlogp))
    _, back, _ = wrapped(other, z, inverse=True)
    turned = torch.remainder(back - base + math.pi, 2 * math.pi) - math.pi
    assert torch.where(flow.periodic, turned, back - base).abs().max() < 1e-6
    assert len(list(bg.SequentialFlow([exported]).parameters())) == len(list(flow.parameters()))


def test_bgflow_samples_our_generator_with_the_same_ess(bg, mine):
    exported = to_generator(mine)
    assert isinstance(exported, bg.BoltzmannGenerator)
    torch.manual_seed(0)
    with torch.no_grad():
        x, latent, dlogp, energy, log_w, weights = exported.sample(
            4000, with_latent=True, with_dlogp=True, with_energy=True, with_log_weights=True, with_weights=True
        )
    assert (
        x.shape == (4000, 15) and latent.shape == (4000, 9) and dlogp.shape == energy.shape == log_w.shape == (4000, 1)
    )
    ours = -mine.energy(x.reshape(4000, 5, 3)) - mine.log_prob(x.reshape(4000, 5, 3))
    torch.testing.assert_close(log_w[:, 0], ours, rtol=0, atol=5e-3)  # float32 in the flow
    torch.testing.assert_close(weights, torch.softmax(log_w, 0)[:, 0])
    ess = float(bg.sampling_efficiency(log_w))
    spread = [mine.sample(4000, seed=seed).ess_fraction for seed in range(5)]
    assert abs(ess - np.mean(spread)) < 4 * np.std(spread) + 1e-3 and ess > 0.01
    torch.testing.assert_close(exported.energy(x), energy, rtol=0, atol=5e-3)
    torch.testing.assert_close(exported.log_weights(x, normalize=False), log_w[:, 0], rtol=0, atol=5e-3)


def test_kltrainer_trains_it(bg, mine):
    """On the energy and on data; our generator learns with it."""
    exported, reference = to_generator(mine), mine.sample(3000, seed=3)
    data = to_sampler(reference, seed=0)
    before = mine.sample(2000).ess
    optimizer = torch.optim.Adam(exported.parameters(), lr=5e-3)
    trainer = bg.KLTrainer(exported, optim=optimizer)
    trainer.train(60, data=data, batchsize=64, w_energy=0.5, w_likelihood=0.5)
    _, _, (energy, likelihood) = trainer.losses(n_smooth=10)
    assert energy[-1] < energy[0] and likelihood[-1] < likelihood[0]
    assert mine.sample(2000).ess > 1.3 * before


def test_sampler_draws_by_weight(bg, own):
    ensemble = own.sample(500)
    sampler = to_sampler(ensemble, seed=0, dtype=torch.float64)
    assert isinstance(sampler, bg.Sampler)
    drawn = sampler.sample(20_000)
    assert drawn.shape == (20_000, 15) and drawn.dtype == torch.float64
    key = {x.tobytes(): k for k, x in enumerate(ensemble.x.reshape(500, -1))}
    counts = np.bincount([key[x.tobytes()] for x in drawn.numpy()], minlength=500)
    expected = 20_000 * ensemble.weights
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected.max() + 1)
    cold = sampler.sample(20_000, temperature=0.5)
    log_w = ensemble.log_w - ensemble.u
    weights = np.exp(log_w - log_w.max())
    counts = np.bincount([key[x.tobytes()] for x in cold.numpy()], minlength=500)
    expected = 20_000 * weights / weights.sum()
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected.max() + 1)
    same = [to_sampler(ensemble, seed=0).sample(7) for _ in range(2)]
    assert torch.equal(*same)
    torch.manual_seed(3)
    a = to_sampler(ensemble).sample(10)
    torch.manual_seed(3)
    assert torch.equal(a, to_sampler(ensemble).sample(10)) and a.dtype == torch.float32


def test_copies_and_pickles(bg, flow, own):
    base = to_prior(flow).sample(5)
    for other in (copy.deepcopy(to_flow(flow)), pickle.loads(pickle.dumps(to_flow(flow)))):
        torch.testing.assert_close(other(base), to_flow(flow)(base))
    assert len(list(to_generator(own).parameters())) == len(list(own.flow.parameters()))


def test_z_matrix_is_a_chain_of_bonds(bg, own, alanine_dipeptide):
    coordinates = BoltzmannGenerator(alanine_dipeptide, SMALL).coordinates
    rows = z_matrix(coordinates)
    assert (np.sort(rows[:, 0]) == np.arange(22)).all() and (rows[3:] >= 0).all()
    bonds = {tuple(sorted(pair)) for pair in alanine_dipeptide.bonds.tolist()}
    transform = bg.GlobalInternalCoordinateTransformation(rows)
    assert {tuple(sorted(pair)) for pair in transform.bond_indices.tolist()} == bonds


def test_a_foreign_flow_is_not_exported(bg, system, energy, built):
    flow, coordinates = from_generator(built(torch.float32))
    generator = BoltzmannGenerator(system, SMALL, seed=0, energy=energy, coordinates=coordinates, flow=flow)
    with pytest.raises(TypeError, match="shares its parameters with the bgflow generator it was made from: use that"):
        to_generator(generator)
