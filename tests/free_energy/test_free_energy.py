"""Profiles, surfaces and basins against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from ensembles import backbone, flat
from scipy.stats import vonmises

from openmm_fab.free_energy.profiles import basin_difference, in_phi_positive, phi_positive, profile, surface

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
    # Thirty in three blocks, as of a molecule that came three times: no more than three.
    visits = basin_difference(flat(1000, block=np.arange(1000) // 10), np.arange(1000) < 30)
    assert visits.effective == pytest.approx(30.0) and "only 3.0 effective blocks" in str(visits)
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


def test_edges_belong_to_bins() -> None:
    """Both ends of a range are inside; on a circle its end is its beginning."""
    values = [0.0, 0.49, 0.5, 1.0, 1.01, -0.01, np.inf]
    found = profile(flat(7), values, bins=2, range=(0.0, 1.0))
    np.testing.assert_allclose(found.probability, [2 / 7, 2 / 7])
    np.testing.assert_allclose(found.edges, [0.0, 0.5, 1.0])
    np.testing.assert_allclose(found.centers, [0.25, 0.75])
    around = profile(flat(4), [-np.pi, np.pi, 3 * np.pi, 0.0], bins=4)
    np.testing.assert_allclose(around.probability, [0.75, 0.0, 0.25, 0.0])
    moved = profile(flat(3), [0.1, 6.2, 6.2 - 2 * np.pi], bins=2, range=(0.0, 2 * np.pi))
    np.testing.assert_allclose(moved.probability, [1 / 3, 2 / 3])
    not_a_circle = profile(flat(2), [0.5, 6.1], bins=2, range=(0.0, 6.0))
    np.testing.assert_allclose(not_a_circle.probability, [0.5, 0.0])
    one = profile(flat(3), [0.1, 0.2, 0.3], bins=1, range=(0.0, 1.0))
    assert one.probability.tolist() == [1.0] and one.value.tolist() == [0.0]
    assert one.error[0] == 1.0  # of three frames, all of them inside: see `weights.rule_of_three`
    for bins, range_ in ((0, (0.0, 1.0)), (2, (1.0, 1.0)), (2, (1.0, 0.0))):
        with pytest.raises(ValueError, match="bins >= 1"):
            profile(flat(2), [0.0, 1.0], bins=bins, range=range_)
    assert np.isnan(profile(flat(3), values[:3], bins=2, range=(0.0, 1.0), n_bootstrap=0).error).all()


def test_a_range_is_what_the_frames_with_weight_span() -> None:
    values = np.array([1.0, 2.0, 3.0, 99.0, np.nan])
    ensemble = flat(5, log_w=np.array([0.0, 0.0, 0.0, -np.inf, 0.0]))
    found = profile(ensemble, lambda t: values, bins=2)
    np.testing.assert_allclose(found.edges, [1.0, 2.0, 3.0])
    np.testing.assert_allclose(found.probability, [0.25, 0.5])
    with pytest.raises(ValueError, match="values that differ"):
        profile(ensemble, lambda t: np.full(5, np.nan))
    assert profile(flat(2), lambda t: np.array([[1.0], [2.0]]), bins=1).probability.tolist() == [1.0]


def test_what_lies_outside_a_surface_counts_for_neither() -> None:
    a, b = np.array([0.1, 0.9, 0.1, 5.0, 0.1]), np.array([0.1, 0.1, 0.9, 0.1, 5.0])
    found = surface(flat(5), a, b, bins=2, range=((0.0, 1.0), (0.0, 1.0)))
    np.testing.assert_allclose(found.probability, [[0.2, 0.2], [0.2, 0.0]])
    assert np.isnan(found.error).all() and np.isinf(found.value[1, 1])


def test_limits_of_the_left_handed_basin_and_of_few_samples() -> None:
    angles = np.array([0.0, 1e-9, 2.5 - 1e-9, 2.5])
    np.testing.assert_array_equal(in_phi_positive(angles), [False, True, True, False])
    for inside, told in ((9, True), (11, False)):
        found = basin_difference(flat(100), np.arange(100) < inside)
        assert ("effective samples inside" in found.note) == told and found.effective == pytest.approx(inside)
        assert found.samples == inside and found.probability == pytest.approx(inside / 100)
    weightless = basin_difference(
        flat(4, log_w=np.array([0.0, -np.inf, 0.0, 0.0])), np.array([True, True, False, False])
    )
    assert weightless.samples == 1 and weightless.value == pytest.approx(np.log(2.0))
