"""A learned difference of two densities: fits that are exact, fits that must not be trusted, and their densities."""

from __future__ import annotations

import math

import numpy as np
import torch
from examples import GaussianFlow
from torch import Tensor

from openmm_fab.ais.annealing import AISSettings, anneal_to_target
from openmm_fab.ais.correction import OUTLIERS, WIDEST, Corrected, Correction
from openmm_fab.target import Gaussian

PERIODIC = torch.tensor([False, False, True])


def _z(n: int, seed: int = 0) -> Tensor:
    z = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    z[:, 2] = (2 * torch.rand(n, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64) - 1) * math.pi
    return z


def _difference(z: Tensor) -> Tensor:
    a, b, phi = z.unbind(1)
    return 7.0 + 1.5 * a - 0.4 * a**2 + 0.2 * b**2 + 2.0 * (3 * phi - 0.3).cos() - 0.7 * phi.sin()


def test_a_difference_of_known_functions_is_found():
    fit = Correction.fitted(PERIODIC, _z(60), _difference(_z(60)).numpy())
    z = _z(500, seed=5)
    residual = _difference(z) - fit(z)
    assert float(residual.std()) < 1e-2
    assert abs(float(residual.mean())) > 1.0 and len(fit.coefficients) == 2 * 2 + 6  # a constant is left


def test_noise_is_not_learned():
    """Values left out one at a time tell: there is nothing in them."""
    noise = np.random.default_rng(0).normal(size=40)
    fit = Correction.fitted(PERIODIC, _z(40), noise)
    assert float(fit(_z(500, seed=7)).std()) < 0.35


def test_clashes_do_not_rule_a_fit():
    z, d = _z(200), _difference(_z(200)).numpy()
    d[:4] = [-1e9, -np.inf, -1e4, -200.0]
    fit = Correction.fitted(PERIODIC, z, d)
    assert float((_difference(z) - fit(z))[4:].std()) < OUTLIERS / 6
    assert np.isfinite(fit.coefficients.numpy()).all()


def test_a_fit_cannot_widen_the_density_without_end():
    z = _z(100)
    fit = Correction.fitted(PERIODIC, z, (2.0 * z[:, 0] ** 2).numpy())
    assert float(fit.coefficients[2]) == WIDEST  # z^2 of the first one


def test_a_coordinate_that_does_not_move_has_no_part():
    z = _z(100)
    z[:, 1] = 0.3
    fit = Correction.fitted(PERIODIC, z, _difference(z).numpy())
    assert fit.coefficients[1] == fit.coefficients[3] == 0
    assert float((_difference(z) - fit(z)).std()) < 0.05


def test_the_corrected_density_against_a_closed_form():
    """N(0, 1) times exp(a z - z^2 / 2) is a normal density of variance 1/2, and Z = exp(a^2 / 4) / sqrt(2)."""
    one, none = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    target = Gaussian(none, one)
    fit = Correction(torch.zeros(1, dtype=torch.bool), torch.tensor([1.2, -0.5], dtype=torch.float64))
    corrected, z = Corrected(target, fit), torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    expected = Gaussian(0.6 * one, math.sqrt(0.5) * one, log_z=1.2**2 / 4 - 0.5 * math.log(2))
    torch.testing.assert_close(corrected.log_prob(z), expected.log_prob(z))
    torch.testing.assert_close(corrected.log_prob_and_gradient(z)[1], expected.log_prob_and_gradient(z)[1])
    flow, random = GaussianFlow(none, one), torch.Generator().manual_seed(3)
    _, log_w = anneal_to_target(flow, corrected, 2000, AISSettings(alpha=1.0, intermediate=4), rng=random)
    w = log_w.exp()
    assert abs(float(w.mean()) - math.exp(0.36) / math.sqrt(2)) < 4 * float(w.std()) / math.sqrt(2000)
