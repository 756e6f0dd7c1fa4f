"""Weights: closed forms, known tails, and errors checked against repeated experiments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

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
    assert (weights.tail_in_words(-np.inf), weights.tail_in_words(0.284)) == ("no tail", "k-hat 0.28")
    assert np.isnan(weights.pareto_khat(np.arange(20.0)))
    hopeless = weights.pareto_khat(-10_000.0 * np.random.default_rng(0).random(1000))
    assert hopeless == np.inf


def test_log_z_error_is_the_spread_of_repeated_experiments() -> None:
    rng, s = np.random.default_rng(2), 0.8
    runs = [weights.log_mean_weight(gaussian_log_w(rng, 2000, s)) for _ in range(300)]
    values, errors = np.array([r.value for r in runs]), np.array([r.error for r in runs])
    assert values.mean() == pytest.approx(s * s / 2, abs=4 * values.std() / np.sqrt(300) + 1e-3)
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.15)


def test_invalid_samples_count_in_z() -> None:
    log_w = np.array([0.0, 0.0, -np.inf, -np.inf])
    assert weights.log_mean_weight(log_w).value == pytest.approx(np.log(0.5))
    # A fraction p of ones: relative error sqrt((1 - p) / (p (n - 1))).
    assert weights.log_mean_weight(log_w).error == pytest.approx(np.sqrt(1 / 3))


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
    for function in (weights.effective_sample_size, weights.log_mean_weight, weights.pareto_khat, weights.clipped):
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
    assert str(Estimate(123.4, 31.0)) == "120 ± 30"
    assert str(Estimate(-4.0, 31.0)) == "0 ± 30" and str(Estimate(1234.0, 14.0)) == "1234 ± 14"
    assert str(Estimate(0.5, 1.04)) == "0.5 ± 1.0"
    assert str(Estimate(np.inf, np.nan)) == "inf"
    assert str(Estimate(1.23456, np.nan)) == "1.235 ± ?"
    assert z_score(Estimate(3.0, 0.3), Estimate(1.0, 0.4)) == pytest.approx(4.0)


def test_log_z_of_blocks_is_that_of_their_means() -> None:
    """Samples repeated within blocks carry no more than one of each."""
    log_w = gaussian_log_w(np.random.default_rng(6), 200, 0.5)
    once, copies = (
        weights.log_mean_weight(log_w),
        weights.log_mean_weight(np.repeat(log_w, 5), block=np.repeat(np.arange(200), 5)),
    )
    assert copies.value == pytest.approx(once.value) and copies.error == pytest.approx(once.error)
    assert np.isnan(weights.log_mean_weight(log_w, block=np.zeros(200)).error)
    with pytest.raises(ValueError, match="label a sample"):
        weights.log_mean_weight(log_w, block=np.zeros(3))


def test_trust_needs_a_light_tail_and_enough_samples() -> None:
    rng = np.random.default_rng(7)
    assert weights.trusted(gaussian_log_w(rng, 20_000, 0.3)) and weights.trusted(np.zeros(500))
    assert not weights.trusted(np.zeros(50))
    assert not weights.trusted(-1.2 * np.log(rng.random(20_000)))


def fitted(log_w: np.ndarray, tail: int) -> float:
    """Shape of a generalised Pareto distribution: Zhang and Stephens (2009), with PSIS' prior of ten at 0.5."""
    log_w = np.sort(log_w) - np.max(log_w)
    x = np.exp(log_w[-tail:]) - np.exp(log_w[-tail - 1])
    grid = 30 + int(np.sqrt(tail))
    b = 1 / x[-1] + (1 - np.sqrt(grid / (np.arange(grid) + 0.5))) / (3 * x[int(tail / 4 + 0.5) - 1])
    k = np.log1p(-b[:, None] * x).mean(1)
    likelihood = tail * (np.log(-b / k) - k - 1)
    share = np.exp(likelihood - likelihood.max())
    k = np.log1p(-(share @ b) / share.sum() * x).mean()
    return float((tail * k + 10 * 0.5) / (tail + 10))


@pytest.mark.parametrize(("n", "tail"), [(25, 5), (64, 12), (224, 44), (225, 45), (226, 45), (400, 60), (5000, 212)])
def test_khat_is_fitted_to_the_tail_of_the_paper(n: int, tail: int) -> None:
    """The smaller of a fifth and 3 sqrt(n); compared with the neighbouring lengths, so that one more or less shows."""
    log_w = 1.5 * np.random.default_rng(n).normal(size=n)
    found = weights.pareto_khat(log_w)
    assert found == pytest.approx(fitted(log_w, tail), abs=1e-7)
    assert min(abs(found - fitted(log_w, other)) for other in (tail - 1, tail + 1)) > 1e-5


def test_khat_of_the_largest_is_that_of_all() -> None:
    for n in (100, 225, 226, 3000):
        log_w = np.sort(1.5 * np.random.default_rng(n).normal(size=n))
        kept = log_w[-int(3 * np.sqrt(n)) - 1 :]
        assert weights.pareto_khat(kept, n) == pytest.approx(weights.pareto_khat(log_w), abs=1e-9)


def test_khat_at_its_edges() -> None:
    rng = np.random.default_rng(8)
    assert np.isfinite(weights.pareto_khat(rng.normal(size=25))) and np.isnan(weights.pareto_khat(rng.normal(size=24)))
    assert np.isnan(weights.pareto_khat([-5.0, 0.0, 0.0]))  # not all equal, and too few
    assert np.isfinite(weights.pareto_khat(np.r_[0.0, 0.0, np.arange(1.0, 50.0)]))
    # The tail of 1000 is 94 long: all of it equal, or all but its first.
    log_w = np.sort(rng.normal(size=1000))
    assert weights.pareto_khat(np.r_[log_w[:-94], np.full(94, 5.0)]) == -np.inf
    assert weights.pareto_khat(np.r_[log_w[:-93], np.full(93, 5.0)]) != -np.inf
    # Fitting starts from number 94 - 23 from the top; 700 nats below the largest exp underflows.
    for below, hopeless in ((699.5, False), (700.5, True)):
        log_w = np.r_[np.full(1000 - 71, -1000.0) + rng.random(1000 - 71), -below, np.linspace(-600, 0, 70)]
        assert (weights.pareto_khat(log_w) == np.inf) == hopeless


def test_limits_belong_to_the_better_side(monkeypatch) -> None:
    assert "reliable" in weights.diagnosed(100.0, 0.4999) and "underrated" in weights.diagnosed(100.0, 0.5)
    assert "underrated" in weights.diagnosed(100.0, 0.7) and "do not" in weights.diagnosed(100.0, 0.7001)
    assert "few" not in weights.diagnosed(100.0, 0.1) and "few" in weights.diagnosed(99.9, 0.1)
    assert "cannot be estimated" in weights.diagnosed(500.0, np.nan)
    monkeypatch.setattr(weights, "pareto_khat", lambda log_w: 0.7)
    assert weights.trusted(np.zeros(100)) and not weights.trusted(np.zeros(99))


def test_sums_over_blocks_of_arrays() -> None:
    values = np.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(weights.block_sums(values, [7, 2, 7, 2]), [[12, 14, 16], [6, 8, 10]])
    assert weights.block_sums(values) is values
    mean = weights.weighted_mean(np.log([1.0, 3.0]), np.arange(12.0).reshape(2, 2, 3))
    np.testing.assert_allclose(mean.value, np.arange(6.0).reshape(2, 3) + 4.5)
    np.testing.assert_allclose(mean.error, np.sqrt((0.25 * 4.5) ** 2 + (0.75 * 1.5) ** 2))
    for wrong in (np.zeros(3), np.zeros((1, 2)), np.float64(1.0)):
        with pytest.raises(ValueError, match="one value a sample"):
            weights.weighted_mean([0.0, 0.0], wrong)


def test_resampling_one_and_none() -> None:
    rng = np.random.default_rng(9)
    drawn = [int(weights.systematic_resample(np.log([0.2, 0.8]), 1, rng)[0]) for _ in range(500)]
    assert np.mean(drawn) == pytest.approx(0.8, abs=0.07)
    with pytest.raises(ValueError, match="n >= 1"):
        weights.systematic_resample([0.0], 0, rng)


@given(hnp.arrays(np.float64, st.integers(2, 40), elements=st.floats(-30, 30)), st.floats(-500, 500))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_a_factor_on_all_weights_changes_log_z_only(log_w: np.ndarray, factor: float) -> None:
    moved = log_w + factor
    assert weights.log_mean_weight(moved).value == pytest.approx(
        weights.log_mean_weight(log_w).value + factor, abs=1e-9
    )
    assert weights.log_mean_weight(moved).error == pytest.approx(weights.log_mean_weight(log_w).error, abs=1e-9)
    assert weights.effective_sample_size(moved) == pytest.approx(weights.effective_sample_size(log_w), rel=1e-9)
    np.testing.assert_allclose(weights.clipped(moved, 0.1), weights.clipped(log_w, 0.1) + factor, atol=1e-9)
    values = np.cos(log_w)
    mean = weights.weighted_mean(log_w, values)
    assert values.min() - 1e-12 <= mean.value <= values.max() + 1e-12
    w = np.exp(log_w - log_w.max())
    assert mean.value == pytest.approx((w * values).sum() / w.sum())
    assert mean.error == pytest.approx(np.sqrt((w**2 * (values - mean.value) ** 2).sum()) / w.sum())


def test_kish_of_weights_in_columns_and_blocks() -> None:
    w = np.random.default_rng(0).random((50, 3))
    expected = w.sum(0) ** 2 / (w**2).sum(0)
    np.testing.assert_allclose(weights.kish(w), expected, rtol=1e-13)
    np.testing.assert_allclose(weights.kish(w / w.sum(0), total=1.0), expected, rtol=1e-13)
    one = weights.kish(w[:, 0])
    assert isinstance(one, float) and one == pytest.approx(weights.effective_sample_size(np.log(w[:, 0])))


def test_values_of_weightless_samples_do_not_matter() -> None:
    found = weights.weighted_values(np.array([0.5, 0.0, 0.5]), [[1, 2], [np.nan, np.inf], [3, 4]])
    assert found.tolist() == [[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]]
    with pytest.raises(ValueError, match=r"shape \(3, ...\)"):
        weights.weighted_values(np.ones(3), np.zeros(2))


def test_share_of_effective_samples_of_a_tensor() -> None:
    log_w = np.random.default_rng(0).normal(size=50) + 900.0
    assert weights.effective_share(torch.from_numpy(log_w)) == pytest.approx(weights.effective_sample_size(log_w) / 50)
    odd = torch.tensor([0.0, math.log(3.0), -torch.inf, torch.nan])
    assert weights.effective_share(odd) == pytest.approx(1.6 / 4)  # (1 + 3)^2 / (1 + 9), of four
    assert weights.effective_share(torch.full((3,), -torch.inf)) == 0.0


def test_histogram_of_weights() -> None:
    log_w = np.array([-np.inf, 0.0, -1.0, -40.0, 0.5])
    edges, samples, weight = weights.histogram(log_w, 10)
    assert edges[0] == weights.LOWEST and edges[-1] == pytest.approx(0.5 - weights.log_mean_exp(log_w))
    assert samples.sum() == pytest.approx(1.0) == pytest.approx(weight.sum())
    assert samples[0] == 0.25 and weight[0] == pytest.approx(0.0, abs=1e-15)  # what lies below is in the first bin
    assert samples[-1] == 0.75 and weight[-1] == pytest.approx(1.0)  # 0.5, 0 and -1 are within one bin, 1.6 wide
    assert weights.histogram(np.array([1.0, 1.0, -np.inf]), 10) is None


def test_free_energy_of_a_histogram() -> None:
    found = weights.relative_free_energy(np.array([[0.5, 0.25], [0.0, 0.25]]))
    assert found.tolist() == [[0.0, pytest.approx(np.log(2))], [np.inf, pytest.approx(np.log(2))]]
    assert not np.signbit(found[0, 0])


def test_trusted_power_leaves_the_share_effective():
    log_w = 4 * torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    powered, lam = weights.trusted_power(log_w, 0.3)
    assert 0 < lam < 1 and float(1 / powered.square().sum()) == pytest.approx(150, rel=1e-3)
    torch.testing.assert_close(powered, torch.softmax(lam * log_w, 0))
    assert weights.trusted_power(0.1 * log_w, 0.3)[1] == 1.0
    log_w[:300] = -torch.inf  # fewer are left than the share
    powered, lam = weights.trusted_power(log_w, 0.5)
    assert lam < 1e-5 and not powered[:300].any() and float(powered[300:].max()) == pytest.approx(1 / 200, rel=1e-3)


def test_trusted_power_of_samples_that_were_drawn_otherwise():
    """From a density that the samples are weighted to, whatever they were drawn from: none move at lam = 0."""
    random = torch.Generator().manual_seed(0)
    log_w, log_drawn = (k * torch.randn(500, generator=random, dtype=torch.float64) for k in (4.0, 0.3))
    powered, lam = weights.trusted_power(log_w, 0.3, log_drawn)
    assert 0 < lam < 1 and float(1 / powered.square().sum()) == pytest.approx(150, rel=1e-3)
    torch.testing.assert_close(powered, torch.softmax(log_drawn + lam * log_w, 0))
    powered, lam = weights.trusted_power(1e9 * log_w, 0.8, log_drawn)
    torch.testing.assert_close(powered, torch.softmax(log_drawn, 0), atol=1e-3, rtol=0)
