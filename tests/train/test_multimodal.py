"""Figures of a flow whose every figure has a closed form: a normal density against another."""

from __future__ import annotations

import math

import pytest
import torch
from examples import GaussianFlow
from torch import Tensor

from openmm_fab.ais.annealing import AISSettings
from openmm_fab.target import Multimodal
from openmm_fab.train.multimodal import BLOCK, evaluate, evaluate_ais, of_weights

STD = 0.8


class Bell(Multimodal):
    """One normal mode at 0 in two dimensions, log Z = 2.5."""

    dim, periodic, log_z, modes = 2, torch.zeros(2, dtype=torch.bool), 2.5, torch.zeros(1, 2, dtype=torch.float64)

    def log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * (z / STD).square().sum(1) - 2 * math.log(STD) - math.log(2 * math.pi) + self.log_z

    def sample(self, n: int, rng: torch.Generator | None = None) -> Tensor:
        return STD * torch.randn(n, 2, generator=rng, dtype=torch.float64)

    def mode_of(self, z: Tensor) -> Tensor:
        return torch.zeros(len(z), dtype=torch.long)


FLOW = GaussianFlow(torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))


def test_figures_of_a_flow():
    n, target = 40_000, Bell()
    figures = evaluate(FLOW, target, n, torch.Generator().manual_seed(0), batch=1500)
    # One dimension: E_q[w]^2 / E_q[w^2] = std sqrt(2 / std^2 - 1) std, here squared for two.
    ess = (STD * math.sqrt(2 - STD**2)) ** 2
    assert figures["ess"] == pytest.approx(ess, abs=0.01) and ess < 0.9
    assert figures["ess_clipped"] >= figures["ess"]
    assert figures["log_z"] == pytest.approx(2.5, abs=4 * math.sqrt((1 / ess - 1) / n))
    # Mean absolute value of a normal variable with the variance of a block's estimate.
    expected = math.sqrt(2 / math.pi) * math.sqrt((1 / ess - 1) / BLOCK)
    assert figures["log_z_error"] == pytest.approx(expected, rel=0.6)
    mean_log_q = -math.log(2 * math.pi) - STD**2
    assert figures["mean_log_q"] == pytest.approx(mean_log_q, abs=0.02)
    kl = -2 * math.log(STD) - 1 + STD**2
    assert figures["forward_kl"] == pytest.approx(kl, abs=0.01) and kl > 0.05
    assert figures["modes"] == figures["modes_sampled"] == 1
    assert figures["modes_log_q"] == pytest.approx(-math.log(2 * math.pi))
    assert target.evaluations == 0


def test_a_mode_that_gets_too_little_is_not_covered():
    """q at the mode is 0.06 of p: below a tenth."""
    wide = GaussianFlow(torch.zeros(2, dtype=torch.float64), torch.full((2,), 0.8 * 4.1, dtype=torch.float64))
    for width, modes in ((4.1, 0), (3.0, 1)):
        wide = GaussianFlow(torch.zeros(2, dtype=torch.float64), torch.full((2,), STD * width, dtype=torch.float64))
        assert evaluate(wide, Bell(), 100, torch.Generator().manual_seed(0), 50)["modes"] == modes


def test_modes_can_be_left_out():
    assert "modes" not in evaluate(FLOW, Bell(), 100, torch.Generator().manual_seed(0), 50, modes=False)


def test_annealed_figures_are_better_and_cost_the_target_nothing():
    target, random = Bell(), torch.Generator().manual_seed(0)
    settings = AISSettings(alpha=1.0, intermediate=4, leapfrogs=3, step_size=0.5)
    figures = evaluate_ais(FLOW, target, 8000, settings, random, 1000)
    plain = evaluate(FLOW, target, 8000, random, 1000)
    assert figures["ess_ais"] > plain["ess"] + 0.03
    assert figures["log_z_ais"] == pytest.approx(2.5, abs=0.02)
    assert figures["modes_sampled_ais"] == 1 and target.evaluations == 0


def test_weights_that_are_all_lost():
    figures = of_weights(torch.full((10,), -torch.inf), 0.0)
    assert figures["ess"] == 0.0 and figures["log_z_error"] == math.inf
    figures = of_weights(torch.tensor([torch.nan, 0.0, 0.0]), 0.0)
    assert figures["ess"] == pytest.approx(2 / 3)
