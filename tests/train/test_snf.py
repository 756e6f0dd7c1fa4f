"""Stochastic flows: weights of paths are proper, backward paths give the density, the gradient is the loss's."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from examples import slopes_along

from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.target import Gaussian, GaussianMixture, ManyWell, VonMises
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.train.snf import PathSampler, StochasticFlow
from openmm_fab.train.trainer import Trainer

LAYERS = {
    "hmc": StochasticFlow(every=1, kernel="hmc", steps=3, step_size=0.4),
    "mala": StochasticFlow(every=2, kernel="mala", steps=2, step_size=0.5),
    "metropolis": StochasticFlow(every=1, kernel="metropolis", steps=4, step_size=0.8),
}


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _flow(target, scale: float = 1.0, weight: float = 0.1) -> CouplingFlow:
    flow = CouplingFlow(target.periodic, FlowSettings(layers=4, hidden=8, bins=4, scale=scale), rng=_random(0)).double()
    with torch.no_grad():
        for layer in flow.layers:
            layer.w3.normal_(0, weight, generator=_random(1))
    return flow


def _target() -> Gaussian:
    return Gaussian(torch.tensor([0.8, -0.5]).double(), torch.tensor([0.7, 0.6]).double(), log_z=1.2)


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("name", LAYERS)
def test_path_weights_are_proper(name, scale):
    """Their mean is Z, and weighted means are the target's; the kernels are worth something."""
    target = _target()
    flow, n = _flow(target, scale), 20_000
    with torch.no_grad():
        z, log_q = LAYERS[name].sample_path(flow, target, n, _random(2))
        plain, plain_log_q = flow.sample(n, _random(2))
    w = (target.log_prob(z) - log_q).exp()
    error = float(w.std()) / math.sqrt(n)
    assert error < 0.05 * math.exp(1.2) and abs(float(w.mean()) - math.exp(1.2)) < 4 * error
    mean = (w[:, None] * z).mean(0) / w.mean()
    error = ((w[:, None] * (z - mean)) / w.mean()).std(0) / math.sqrt(n)
    assert ((mean - target.mean) / error).abs().max() < 4
    spread = (target.log_prob(plain) - plain_log_q).std()
    assert float((target.log_prob(z) - log_q).std()) < 0.95 * float(spread)


@pytest.mark.parametrize("name", LAYERS)
def test_backward_paths_give_the_density(name):
    """Over exact samples of p, q / p averages to one, q being exp of `log_prob_path`, whose mean is a lower bound."""
    # Wider than the flow, so that q / p is bounded.
    target = Gaussian(torch.tensor([0.3, -0.2]).double(), torch.tensor([1.6, 1.4]).double(), log_z=1.2)
    flow, n = _flow(target), 20_000
    z = target.mean + target.std * torch.randn(n, 2, generator=_random(3), dtype=torch.float64)
    with torch.no_grad():
        log_q = LAYERS[name].log_prob_path(flow, target, z, _random(4))
    ratio = (log_q - target.log_prob(z) + target.log_z).exp()
    error = float(ratio.std()) / math.sqrt(n)
    assert error < 0.05 and abs(float(ratio.mean()) - 1) < 4 * error
    # A bound of the mean of log q is below that of log p.
    assert float((log_q - target.log_prob(z)).mean()) + target.log_z < 4 * error


def test_without_kernels_it_is_the_flow():
    target = _target()
    flow, never = _flow(target, 1.5), StochasticFlow(every=5)
    z, log_q = never.sample_path(flow, target, 50, _random(2))
    torch.testing.assert_close(log_q, flow.log_prob(z), atol=1e-8, rtol=0)
    torch.testing.assert_close(never.log_prob_path(flow, target, z.detach(), _random(0)), log_q, atol=1e-8, rtol=0)


@pytest.mark.parametrize("target", [_target(), ManyWell(2)])
def test_gradient_is_that_of_the_loss(target):
    """Metropolis moves are constants, so that differences of the loss over the same random numbers are its gradient."""
    flow, layers = _flow(target), LAYERS["metropolis"]

    def loss() -> torch.Tensor:
        z, log_q = layers.sample_path(flow, target, 200, _random(2))
        log_p, gradient = target.log_prob_and_gradient(z)
        return (log_q - log_p - ((z - z.detach()) * gradient).sum(1)).mean()

    expected, found = slopes_along(flow, loss, _random(7))
    assert abs(expected) > 0.1
    assert found == pytest.approx(expected, rel=1e-3)


def test_kernels_on_circles():
    target = VonMises(torch.tensor([0.5, -2.0]).double(), torch.tensor([2.0, 1.0]).double())
    with torch.no_grad():
        z, log_q = StochasticFlow(every=1, kernel="metropolis", steps=3, step_size=1.0).sample_path(
            _flow(target), target, 20_000, _random(2)
        )
    assert (z >= -math.pi).all() and (z < math.pi).all()
    w = (target.log_prob(z) - log_q).exp()
    assert abs(float(w.mean()) - 1) < 4 * float(w.std()) / math.sqrt(len(w))


def test_trains():
    """Learns a mixture of two near modes better than it began."""
    target = GaussianMixture(components=2, width=2.0, std=0.5)
    layers, random = StochasticFlow(every=2, kernel="metropolis", steps=2, step_size=0.5), _random(0)
    flow = CouplingFlow(target.periodic, FlowSettings(layers=4, hidden=16), rng=random)
    settings = TrainSettings(batch=256, updates=4, warmup=10, learning_rate=5e-3, averaging=0.9, basin_share=0.0)
    trainer = Trainer(flow, target, Budget(iterations=20), settings=settings, rng=random, objective=layers)
    history = list(trainer)
    assert history[-1]["loss"] < history[0]["loss"] - 0.3
    sampler = PathSampler(layers, flow, target, _random(1))
    z, log_q = sampler.sample(5000, _random(2))
    log_w = target.log_prob(z) - log_q
    assert float(log_w.exp().mean()) == pytest.approx(1, abs=0.1)
    assert float((2 * torch.logsumexp(log_w, 0) - torch.logsumexp(2 * log_w, 0)).exp()) > 0.4 * 5000
    assert torch.isfinite(sampler.log_prob(target.sample(100, _random(3)))).all()


def test_settings_are_checked():
    for wrong in ({"every": 0}, {"kernel": "gibbs"}, {"steps": 0}, {"step_size": 0.0}):
        with pytest.raises(ValueError, match="Expected every >= 1"):
            StochasticFlow(**wrong)


def test_other_flows_are_refused():
    resampled = CouplingFlow(torch.tensor([False, False]), FlowSettings(layers=2, hidden=4, resampled=True))
    for flow in (object(), resampled):
        with pytest.raises(ValueError, match="Expected a CouplingFlow of plain base"):
            StochasticFlow()(SimpleNamespace(flow=flow), None, TrainSettings())


def test_paths_may_rest_where_there_is_no_density() -> None:
    """A target on the right only: a sample on the left that stays is carried on by the next layer, and its weight
    counts; their mean is Z."""

    class Right(Gaussian):
        def log_prob(self, z: torch.Tensor) -> torch.Tensor:
            return torch.where(z[:, 0] > 0, super().log_prob(z), -torch.inf)

    target = Right(torch.tensor([0.8, -0.5]).double(), torch.tensor([0.7, 0.6]).double(), log_z=0.0)
    exact = float(torch.special.ndtr(torch.tensor(0.8 / 0.7)))
    flow, n = _flow(target, weight=0.2), 160_000
    layers = StochasticFlow(every=2, kernel="metropolis", steps=2, step_size=0.3)
    with torch.no_grad():
        z, log_q = layers.sample_path(flow, target, n, _random(2))
    rested = torch.isfinite(log_q)
    w = torch.where(rested, target.log_prob(z) - log_q, -torch.inf).exp().nan_to_num(0.0)
    error = float(w.std()) / math.sqrt(n)
    assert not torch.isnan(log_q).any() and error < 0.005 and abs(float(w.mean()) - exact) < 4 * error
    z, log_q = layers.sample_path(flow, target, 500, _random(3))
    kept = torch.isfinite(target.log_prob(z) - log_q)
    (log_q[kept] - target.log_prob(z)[kept]).mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in flow.parameters() if p.grad is not None)
