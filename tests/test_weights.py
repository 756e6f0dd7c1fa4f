"""Weights: closed forms, known tails, and errors checked against repeated experiments."""

from __future__ import annotations

import numpy as np
import pytest

from openmm_fab import weights
from openmm_fab.weights import Estimate, z_score


def gaussian_log_w(rng: np.random.Generator, n: int, s: float) -> np.ndarray:
    """Log-normal weights: mean exp(s^2 / 2), ESS fraction exp(-s^2)."""
    return s * rng.normal(size=n)


def test_sums_are_those_of_exponentials_also_where_exponentials_overflow() -> None:
    log_w = np.array([0.0, np.log(3.0), -np.inf, np.log(4.0)])
    assert weights.log_sum_exp(log_w + 2000.0) == pytest.approx(2000.0 + np.log(8.0))
    assert weights.log_mean_exp(log_w - 2000.0) == pytest.approx(-2000.0 + np.log(2.0))
    np.testing.assert_allclose(weights.normalized_weights(log_w + 2000.0), [1 / 8, 3 / 8, 0, 1 / 2])


def test_ess_closed_forms() -> None:
    assert weights.effective_sample_size(np.full(7, -3.0)) == pytest.approx(7.0)
    # (1 + 3)^2 / (1 + 9), whatever the number of zeros.
    assert weights.effective_sample_size([0.0, np.log(3.0), -np.inf]) == pytest.approx(1.6)
    log_w = gaussian_log_w(np.random.default_rng(0), 200_000, 0.7)
    assert weights.effective_sample_size(log_w) / log_w.size == pytest.approx(np.exp(-0.49), rel=0.02)


def test_clipping_sets_the_top_fraction_to_the_largest_below() -> None:
    log_w = np.random.default_rng(0).permutation(np.arange(30_000.0))
    result = weights.clipped(log_w, 1e-4)
    assert (result != log_w).sum() == 3
    assert result.max() == 29_996.0
    np.testing.assert_array_equal(weights.clipped(log_w[:9_999], 1e-4), log_w[:9_999])
    assert weights.effective_sample_size(result) > weights.effective_sample_size(log_w)


@pytest.mark.parametrize("k", [0.3, 0.6, 1.0])
def test_khat_of_a_pareto_tail_and_not_of_its_mirror_image(k: float) -> None:
    # P(w > t) = t^(-1/k). The mirror image, log weights negated, is bounded above: k-hat below 0.
    log_w = -k * np.log(np.random.default_rng(1).random(40_000))
    assert weights.pareto_khat(log_w) == pytest.approx(k, abs=0.15)
    assert weights.pareto_khat(-log_w) < 0.15
    assert weights.pareto_khat(np.append(log_w, [-np.inf] * 1000)) == pytest.approx(
        weights.pareto_khat(log_w), abs=1e-12
    )


def test_khat_without_a_tail() -> None:
    assert weights.pareto_khat(np.zeros(1000)) == -np.inf
    assert np.isnan(weights.pareto_khat(np.arange(20.0)))
    hopeless = weights.pareto_khat(-10_000.0 * np.random.default_rng(0).random(1000))
    assert hopeless == np.inf


def test_log_z_error_is_the_spread_of_repeated_experiments() -> None:
    rng, s = np.random.default_rng(2), 0.8
    runs = [weights.log_z(gaussian_log_w(rng, 2000, s)) for _ in range(300)]
    values, errors = np.array([r.value for r in runs]), np.array([r.error for r in runs])
    assert values.mean() == pytest.approx(s * s / 2, abs=4 * values.std() / np.sqrt(300) + 1e-3)
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.15)


def test_invalid_samples_count_in_z() -> None:
    log_w = np.array([0.0, 0.0, -np.inf, -np.inf])
    assert weights.log_z(log_w).value == pytest.approx(np.log(0.5))
    # A fraction p of ones: relative error sqrt((1 - p) / (p (n - 1))).
    assert weights.log_z(log_w).error == pytest.approx(np.sqrt(1 / 3))


def test_weighted_mean_and_error_of_repeated_experiments() -> None:
    # Proposal N(0, 1), target N(m, 1): log w = m x - m^2 / 2.
    rng, m = np.random.default_rng(3), 0.6
    z = []
    for _ in range(300):
        x = rng.normal(size=1000)
        estimate = weights.weighted_mean(m * x - m * m / 2, x)
        z.append((estimate.value - m) / estimate.error)
    assert abs(np.mean(z)) < 0.25
    assert 0.85 < np.std(z) < 1.15


def test_values_of_invalid_samples_are_never_looked_at() -> None:
    assert weights.weighted_mean([0.0, 0.0, -np.inf], [1.0, 3.0, np.nan]).value == pytest.approx(2.0)
    assert weights.weighted_mean([0.0, 0.0], np.ones((2, 3))).value.shape == (3,)


def test_systematic_resampling_draws_floor_or_ceil_of_the_expected_count() -> None:
    rng = np.random.default_rng(4)
    log_w = np.append(rng.normal(size=200), -np.inf)
    expected = 1000 * weights.normalized_weights(log_w)
    counts = np.zeros(201)
    for _ in range(50):
        drawn = np.bincount(weights.systematic_resample(log_w, 1000, rng), minlength=201)
        assert (np.abs(drawn - expected) < 1.0 + 1e-9).all() and drawn[200] == 0
        counts += drawn
    assert np.abs(counts / 50 - expected).max() < 0.5


@pytest.mark.parametrize(
    ("log_w", "message"),
    [
        ([-np.inf] * 5, "all 5 log weights"),
        ([0.0, np.nan], "1 of 2"),
        ([0.0, np.inf], "1 of 2"),
        ([], "shape"),
        ([[0.0]], "shape"),
    ],
)
def test_weights_that_mean_nothing_are_refused(log_w: list, message: str) -> None:
    for function in (weights.effective_sample_size, weights.log_z, weights.pareto_khat, weights.clipped):
        with pytest.raises(ValueError, match=message):
            function(np.array(log_w))


def test_diagnosis_in_words() -> None:
    rng = np.random.default_rng(5)
    assert "reliable" in weights.diagnosis(gaussian_log_w(rng, 20_000, 0.3))
    assert "do not trust" in weights.diagnosis(-1.2 * np.log(rng.random(20_000)))
    assert "usable" in weights.diagnosis(-0.6 * np.log(rng.random(100_000)))
    assert "too few" in weights.diagnosis(np.zeros(50))
    assert weights.diagnosis(np.zeros(500)) == "no tail: the largest weights are equal"


def test_estimates_print_the_digits_their_error_supports() -> None:
    assert str(Estimate(6.0312, 0.052)) == "6.03 ± 0.05"
    assert str(Estimate(6.0312, 0.0148)) == "6.031 ± 0.015"
    assert str(Estimate(123.4, 31.0)) == "123 ± 31"
    assert str(Estimate(0.5, 1.04)) == "0.5 ± 1.0"
    assert str(Estimate(np.inf, np.nan)) == "inf"
    assert str(Estimate(1.23456, np.nan)) == "1.235 ± ?"
    assert z_score(Estimate(3.0, 0.3), Estimate(1.0, 0.4)) == pytest.approx(4.0)


def test_log_z_of_blocks_is_that_of_their_means() -> None:
    """Samples repeated within blocks carry no more than one of each."""
    log_w = gaussian_log_w(np.random.default_rng(6), 200, 0.5)
    once, copies = weights.log_z(log_w), weights.log_z(np.repeat(log_w, 5), block=np.repeat(np.arange(200), 5))
    assert copies.value == pytest.approx(once.value) and copies.error == pytest.approx(once.error)
    assert np.isnan(weights.log_z(log_w, block=np.zeros(200)).error)
    with pytest.raises(ValueError, match="label a sample"):
        weights.log_z(log_w, block=np.zeros(3))


def test_trust_needs_a_light_tail_and_enough_samples() -> None:
    rng = np.random.default_rng(7)
    assert weights.trusted(gaussian_log_w(rng, 20_000, 0.3)) and weights.trusted(np.zeros(500))
    assert not weights.trusted(np.zeros(50))
    assert not weights.trusted(-1.2 * np.log(rng.random(20_000)))
