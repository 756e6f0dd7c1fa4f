"""A resampled base: its density is that of its samples, normalised as well as it says, and it trains."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2, norm

from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.target import GaussianMixture
from openmm_fab.train.objectives import MaximumLikelihood
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.train.trainer import Trainer

SETTINGS = FlowSettings(layers=2, hidden=16, bins=4, scale=1.5, resampled=True)
PERIODIC = torch.tensor([False, True])


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _flow(level: float = 0.0, weight: float = 4.0) -> CouplingFlow:
    """Acceptance between nearly 0 and 1, around sigmoid(level)."""
    flow = CouplingFlow(PERIODIC, SETTINGS, rng=_random(0)).double()
    with torch.no_grad():
        flow.resampling.net[4].weight.normal_(0, weight, generator=_random(1))
        flow.resampling.net[4].bias.fill_(level)
        for layer in flow.layers:
            layer.w3.normal_(0, 0.1, generator=_random(2))
    return flow


def _grid(n: int = 400) -> tuple[torch.Tensor, float]:
    line = 15 * (2 * (torch.arange(n, dtype=torch.float64) + 0.5) / n - 1)
    circle = math.pi * (2 * (torch.arange(n, dtype=torch.float64) + 0.5) / n - 1)
    return torch.cartesian_prod(line, circle), 30 * 2 * math.pi / n**2


@torch.no_grad()
@pytest.mark.parametrize("level", [0.0, -6.0])
def test_density_is_that_of_the_samples(level):
    """Chi-square over cells; at level -6 many samples are kept only because their tries are used up."""
    flow, n = _flow(level, weight=1.5), 20_000
    a = flow.resampling.log_acceptance(flow.resampling.points).exp()
    unsure = float(a.std() / a.mean()) / math.sqrt(len(a))
    used_up = float((1 - a.mean()) ** 99)
    assert used_up < 0.01 if level == 0.0 else 0.1 < used_up < 0.9
    grid, area = _grid()
    q = (flow.log_prob(grid).exp() * area).numpy()
    assert abs(q.sum() - 1) < 4 * unsure < 0.2
    z, log_q = flow.sample(n, _random(3))
    torch.testing.assert_close(flow.log_prob(z), log_q, atol=1e-8, rtol=0)
    edges = [np.array([-15, -2, -1, 0, 1, 2, 15]), np.linspace(-math.pi, math.pi, 5)]
    expected, *_ = np.histogram2d(*grid.numpy().T, edges, weights=q / q.sum())
    counts, *_ = np.histogram2d(*z.numpy().T, edges)
    expected, counts = n * expected.ravel(), counts.ravel()
    few = expected < 30
    expected, counts = np.append(expected[~few], expected[few].sum()), np.append(counts[~few], counts[few].sum())
    expected, counts = expected[expected > 10], counts[expected > 10]
    # The mean acceptance that the density has is known to a per cent, of which a chi-square sees a part.
    assert chi2.sf(((counts - expected) ** 2 / expected).sum() / 1.5, len(counts) - 1) > 1e-4
    plain = CouplingFlow(PERIODIC, SETTINGS, rng=_random(0)).double()
    assert (flow.log_prob(z) - plain.log_prob(z)).abs().mean() > 0.2  # it is not the plain flow


def test_a_new_one_is_the_plain_base():
    resampled = CouplingFlow(PERIODIC, SETTINGS, rng=_random(0)).double()
    plain = CouplingFlow(PERIODIC, FlowSettings(layers=2, hidden=16, bins=4, scale=1.5), rng=_random(0)).double()
    z = torch.randn(50, 2, generator=_random(1), dtype=torch.float64)
    torch.testing.assert_close(resampled.log_prob(z), plain.log_prob(z), atol=1e-12, rtol=0)


def test_gradient_is_that_of_log_prob():
    flow = _flow()
    z = torch.randn(10, 2, generator=_random(1), dtype=torch.float64)
    _, gradient = flow.log_prob_and_gradient(z)
    for k in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[k] = 1e-6
        slope = (flow.log_prob(z + step) - flow.log_prob(z - step)).detach() / 2e-6
        torch.testing.assert_close(gradient[:, k], slope, atol=1e-5, rtol=1e-5)


def test_state_dict_holds_all_of_it():
    flow, other = _flow(), CouplingFlow(PERIODIC, SETTINGS, rng=_random(9)).double()
    other.load_state_dict(flow.state_dict())
    z = torch.randn(10, 2, generator=_random(1), dtype=torch.float64)
    assert torch.equal(flow.log_prob(z), other.log_prob(z))


def _exact(flow: CouplingFlow, dim: int) -> CouplingFlow:
    """Normalised by so many fresh points that it is exact to a per mille or two."""
    flow.resampling.points = torch.randn(200_000, dim, generator=_random(99))
    return flow


def test_it_learns_islands():
    """Two tails of a normal density, by the base alone: the layers stay as they are. The best that can be won over the
    plain base is -ln P(|z| > 1)."""
    random, periodic = _random(0), torch.zeros(2, dtype=torch.bool)
    flow = CouplingFlow(periodic, FlowSettings(layers=2, hidden=32, bins=4, resampled=True), rng=random)
    for layer in flow.layers:
        layer.requires_grad_(False)
    z = torch.randn(60_000, 2, generator=_random(1))
    tails = z[z[:, 0].abs() > 1]
    settings = TrainSettings(batch=256, updates=8, warmup=10, learning_rate=1e-2, averaging=0.9, basin_share=0.0)
    plain_flow = CouplingFlow(periodic, FlowSettings(layers=2, hidden=32, bins=4), rng=_random(0))
    plain = float(plain_flow.log_prob(tails).mean().detach())
    target = GaussianMixture(components=1)
    list(
        Trainer(flow, target, Budget(iterations=25), settings=settings, rng=random, objective=MaximumLikelihood(tails))
    )
    with torch.no_grad():
        won = float(_exact(flow, 2).log_prob(tails).mean()) - plain
    best = -math.log(2 * norm.sf(1.0))
    assert 0.85 * best < won < best + 0.01


def test_its_samples_have_no_derivative():
    random = _random(0)
    flow = CouplingFlow(PERIODIC, SETTINGS, rng=random)
    with pytest.raises(ValueError, match="this one is resampled"):
        flow.rsample(10, random)


def test_training_does_not_fit_the_points_that_it_is_normalised_by() -> None:
    """64 points and a net that could remember them: the mean acceptance over them is that over fresh points too."""
    periodic, random = torch.zeros(10, dtype=torch.bool), _random(0)
    flow = CouplingFlow(periodic, FlowSettings(layers=2, hidden=64, bins=4, resampled=True), rng=random)
    points = flow.resampling.points[:64].clone()
    flow.resampling.points = points.clone()
    data = torch.randn(4000, 10, generator=_random(1)).abs()
    settings = TrainSettings(batch=256, updates=8, warmup=5, learning_rate=1e-2, averaging=0.5, basin_share=0.0)
    target = GaussianMixture(components=1, dim=10)
    list(Trainer(flow, target, Budget(iterations=20), settings=settings, rng=random, objective=MaximumLikelihood(data)))
    with torch.no_grad():
        assert torch.equal(flow.resampling.points, points)  # those of the flow itself stay: its density is a function
        a = flow.resampling.log_acceptance(points).exp()
        fresh = flow.resampling.log_acceptance(torch.randn(100_000, 10, generator=_random(2))).exp()
    assert float(fresh.std() / fresh.mean()) > 0.3  # it has learned something
    assert abs(float(a.mean() - fresh.mean())) < 3 * float(fresh.std()) / 8
