"""Profiles, surfaces and basins against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import vonmises
from test_ensemble import backbone, flat

from openmm_fab.free_energy import basin_difference, phi_positive, profile, surface

KAPPA = 1.5


def exact_probability(bins: int) -> np.ndarray:
    return np.diff(vonmises.cdf(np.linspace(-np.pi, np.pi, bins + 1), KAPPA))


@pytest.mark.parametrize("weighted", [False, True])
def test_profile_of_a_von_mises_density_with_calibrated_errors(weighted: bool) -> None:
    rng, n, z = np.random.default_rng(0), 4000, []
    for seed in range(8):
        angle = rng.uniform(-np.pi, np.pi, n) if weighted else vonmises.rvs(KAPPA, size=n, random_state=rng)
        ensemble = flat(n, log_w=KAPPA * np.cos(angle) if weighted else np.zeros(n))
        result = profile(ensemble, angle, bins=20, n_bootstrap=100, seed=seed)
        exact = -np.log(exact_probability(20))
        assert result.value.min() == 0.0
        np.testing.assert_allclose(result.value, exact - exact.min(), atol=0.8)
        z.append((-np.log(result.probability) - exact) / result.error)
    assert 0.8 < np.std(z) < 1.25
    assert result.centers[0] == pytest.approx(-np.pi + np.pi / 20)


def test_empty_bins_are_infinite_and_carry_no_error() -> None:
    result = profile(flat(3), [-3.0, -3.0, 0.1], bins=4)
    np.testing.assert_allclose(result.probability, [2 / 3, 0, 1 / 3, 0])
    assert np.isinf(result.value[[1, 3]]).all() and np.isnan(result.error[[1, 3]]).all()
    assert result.value[2] == pytest.approx(np.log(2.0))


def test_angles_wrap_and_other_values_do_not() -> None:
    wrapped = profile(flat(3), [np.float32(np.pi), np.pi + 0.1, -np.pi + 0.1], bins=10)
    assert wrapped.probability[0] == pytest.approx(1.0)
    outside = profile(flat(4), [0.5, 1.0, 1.5, np.nan], bins=2, range=(0.0, 1.0))
    np.testing.assert_allclose(outside.probability, [0.0, 0.5])
    with pytest.raises(ValueError, match="unit"):
        profile(flat(2), [10.0, 20.0], range=(0.0, 1.0))
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        profile(flat(2), [0.0, 0.0, 0.0])


def test_surface_of_independent_variables_is_the_product_of_profiles() -> None:
    rng, n = np.random.default_rng(1), 100_000
    a, b = rng.uniform(-np.pi, np.pi, (2, n))
    ensemble = flat(n, log_w=KAPPA * np.cos(a))
    result = surface(ensemble, a, b, bins=8, n_bootstrap=50)
    exact = np.outer(exact_probability(8), np.full(8, 1 / 8))
    z = (result.probability - exact) / (result.probability * result.error)
    assert np.abs(result.value - (-np.log(exact) + np.log(exact.max()))).max() < 0.2
    assert 0.7 < np.std(z) < 1.35


def test_basin_difference_closed_form_and_error() -> None:
    # 0.7 of the proposal is inside, with weight e^-0.5; the rest has weight 1.
    rng, n, exact = np.random.default_rng(2), 3000, -np.log(0.7 * np.exp(-0.5) / 0.3)
    z = []
    for seed in range(100):
        inside = rng.random(n) < 0.7
        result = basin_difference(flat(n, log_w=np.where(inside, -0.5, 0.0)), inside, n_bootstrap=100, seed=seed)
        z.append((result.value - exact) / result.error)
    assert abs(np.mean(z)) < 0.4
    assert 0.8 < np.std(z) < 1.25
    assert result.samples == inside.sum() and result.effective == pytest.approx(inside.sum()) and result.note == ""
    assert result.probability == pytest.approx(1 / (1 + np.exp(result.value)))


def test_empty_full_and_nearly_empty_basins_are_honest() -> None:
    ensemble, nobody = flat(100), np.zeros(100, dtype=bool)
    empty = basin_difference(ensemble, nobody)
    assert empty.value == np.inf and np.isnan(empty.error) and "none of 100" in str(empty)
    full = basin_difference(ensemble, ~nobody)
    assert full.value == -np.inf and "all of 100" in str(full)
    few = basin_difference(ensemble, np.arange(100) < 3)
    assert few.effective == pytest.approx(3.0) and "only 3.0 effective" in str(few)
    # One inside that is heavy counts as one, however many light ones stand beside it.
    heavy = basin_difference(flat(100, log_w=np.r_[20.0, np.zeros(99)]), np.arange(100) < 50)
    assert heavy.samples == 50 and heavy.effective == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(ValueError, match="boolean"):
        basin_difference(ensemble, np.zeros(100))


def test_default_basin_is_phi_between_0_and_2_5() -> None:
    phi = np.array([-3.0, -1.0, 0.1, 1.0, 2.4, 2.6, 3.1])
    ensemble = backbone(phi, np.zeros(7))
    np.testing.assert_array_equal(phi_positive(ensemble), [False, False, True, True, True, False, False])
    assert basin_difference(ensemble).value == pytest.approx(np.log(4 / 3))
    by_callable = basin_difference(ensemble, lambda trajectory: np.arange(trajectory.n_frames) < 2)
    assert by_callable.samples == 2
    with pytest.raises(ValueError, match="below 1"):
        phi_positive(ensemble, 1)
