"""What was never or always seen has an error that is not 0: the rule of three."""

from __future__ import annotations

import numpy as np
import pytest
from ensembles import flat, two_basins

from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.free_energy.populations import basin_populations
from openmm_fab.free_energy.profiles import basin_difference, profile
from openmm_fab.weights import rule_of_three, share_error, weighted_mean

NONE, ALL = np.zeros(300, dtype=bool), np.ones(300, dtype=bool)


def test_the_rule_in_closed_form() -> None:
    for n in (50, 300, 10_000):
        assert 0.04 < (1.0 - rule_of_three(n)) ** n < 0.05  # such a share is missed in less than 5 %
        assert (1.0 - 0.9 * rule_of_three(n)) ** n > 0.05
    assert rule_of_three(2.0) == rule_of_three(0.0) == 1.0
    np.testing.assert_allclose(share_error([0.0, 0.5, 1.0], [0.0, 0.1, 0.0], 300), [0.01, 0.1, 0.01])


def test_shares_of_nothing_and_of_all() -> None:
    ensemble = flat(300)
    for mask, value in ((NONE, 0.0), (ALL, 1.0)):
        for found in (ensemble.expectation(mask, n_bootstrap=20), weighted_mean(ensemble.log_w, mask)):
            assert (found.value, found.error) == pytest.approx((value, 0.01))
    # Weights and blocks leave fewer: a half of the frames has no weight; there are 30 blocks.
    halved = flat(300, log_w=np.where(np.arange(300) % 2, 0.0, -np.inf))
    assert halved.expectation(NONE, n_bootstrap=20).error == pytest.approx(3 / 150)
    blocks = flat(300, block=np.arange(300) // 10)
    assert blocks.expectation(ALL, n_bootstrap=20).error == pytest.approx(3 / 30)
    # Numbers that are constant are no shares; and shares in between keep their own error.
    assert ensemble.expectation(np.ones(300), n_bootstrap=20).error < 1e-12
    some = np.arange(300) % 2 == 0
    assert ensemble.expectation(some, n_bootstrap=400).error == pytest.approx(0.5 / np.sqrt(300), rel=0.15)
    assert ensemble.expectation(np.stack([some, NONE], 1), n_bootstrap=50).error[1] == pytest.approx(0.01)


def test_a_bound_stands_for_a_basin_never_seen() -> None:
    ensemble = flat(300)
    never, always = basin_difference(ensemble, NONE), basin_difference(ensemble, ALL)
    bound = np.log(0.99 / 0.01)
    assert (never.bound, always.bound) == pytest.approx((bound, -bound))
    assert (never.number, always.number) == ("> 4.6", "< -4.6")
    assert str(never) == "> 4.6 kT (none of 300 samples is inside: less than 0.01 of the weight inside at 95 %)"
    assert str(always) == "< -4.6 kT (all of 300 samples are inside: less than 0.01 of the weight elsewhere at 95 %)"
    assert np.isinf(never.value) and np.isnan(never.error)
    # Two walkers that never crossed know nothing.
    stuck = basin_difference(flat(300, block=np.arange(300) // 150), NONE)
    assert stuck.number == "inf" and stuck.bound == -np.inf


def test_populations_and_profiles() -> None:
    ensemble = two_basins(300, 0.3, seed=0)
    found = basin_populations(ensemble, {"any": ALL, "none": NONE})
    np.testing.assert_allclose(found.population.error, 0.01)
    assert found.elsewhere.error == pytest.approx(0.01) and "less than 0.01" in found.notes["none"]
    assert "p = 1.000 ± 0.010" in str(found) and "p = 0.000 ± 0.010" in str(found)
    # A bin that holds all.
    line = profile(ensemble, np.full(300, 0.01), bins=4)
    assert line.value[2] == 0.0 and line.error[2] == pytest.approx(0.01) and np.isnan(line.error[[0, 1, 3]]).all()


def test_streams_and_halves_of_walkers(tmp_path) -> None:
    from openmm_fab.ensemble.netcdf import WeightedTrajectory
    from openmm_fab.ensemble.stream import StreamedEnsemble
    from openmm_fab.md.convergence import assess_convergence

    ensemble: Ensemble = two_basins(300, 0.3, seed=0)
    path = tmp_path / "a.nc"
    WeightedTrajectory.create(path, ensemble.topology, {"temperature": 300.0, "name": "a"}, b"0")
    with WeightedTrajectory.open(path, append=True) as file:
        file.write(0, ensemble.x, u=np.zeros(300), log_w=ensemble.log_w, log_q=np.zeros(300))
        file.commit(300, 300, b"0")
    found = StreamedEnsemble(path).expectation(lambda t: np.zeros(t.n_frames, dtype=bool), size=100)
    assert (found.value, found.error) == pytest.approx((0.0, 0.01))
    # One half of the walkers was never inside: that differs by no more than its bound allows.
    inside = np.repeat(np.arange(4) % 2 == 0, 75) & (np.arange(300) % 25 == 0)
    report = assess_convergence(ensemble, 4, basin=lambda t: inside)
    share, error = 6 / 150, np.sqrt(0.04 * 0.96 / 150)
    assert report.halves_z == pytest.approx(share / np.hypot(error, 3 / 150), rel=0.2)
