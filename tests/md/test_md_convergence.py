"""The convergence report: known correlation times, drifts, round trips."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from examples import chain
from md_examples import coordinates, exact_structures

from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.md.convergence import Convergence, _inefficiency, assess_convergence, count_round_trips, walker_blocks


@pytest.fixture(scope="module")
def structures(tmp_path_factory) -> tuple[Ensemble, np.ndarray]:
    """4000 independent structures of the chain, and which of them are inside 0 < torsion < 2.5."""
    beads = chain(tmp_path_factory.mktemp("md"))
    x = exact_structures(beads.kT, 4000, np.random.default_rng(0))
    torsion = coordinates(x)[:, 7]
    ensemble = Ensemble(x, np.zeros(4000), np.zeros(4000), beads.md_topology, 300.0)
    return ensemble, (torsion > 0) & (torsion < 2.5)


def series(walkers: int, frames: int, rho: float, rng: np.random.Generator) -> np.ndarray:
    """AR(1), stationary; inefficiency (1 + rho) / (1 - rho)."""
    found = np.zeros((walkers, frames))
    found[:, 0] = rng.normal(size=walkers)
    for t in range(1, frames):
        found[:, t] = rho * found[:, t - 1] + np.sqrt(1 - rho**2) * rng.normal(size=walkers)
    return found


@pytest.mark.parametrize(("walkers", "frames"), [(400, 300), (2, 20_000)])
def test_inefficiency_of_known_series(walkers: int, frames: int) -> None:
    pytest.importorskip("pymbar")
    rng = np.random.default_rng(1)
    assert _inefficiency(series(walkers, frames, 0.8, rng)) == pytest.approx(9.0, rel=0.25)
    assert _inefficiency(series(walkers, frames, 0.0, rng)) == pytest.approx(1.0, abs=0.25)
    assert np.isnan(_inefficiency(np.ones((walkers, frames))))


def test_walkers_that_never_move_count_once() -> None:
    stuck = np.repeat(np.random.default_rng(2).normal(size=(100, 1)), 50, axis=1)
    assert _inefficiency(stuck) == pytest.approx(50.0, rel=0.05)


def test_independent_frames_agree_in_all_halves(structures) -> None:
    ensemble, inside = structures
    report = assess_convergence(ensemble, 40, frame_ps=2.0)
    assert report.effective > 2000 and abs(report.halves_z) < 3 and abs(report.drift_z) < 3 and not report.warnings
    assert report.df.value == pytest.approx(np.log((~inside).sum() / inside.sum()))
    times, differences = zip(*report.df_against_time, strict=True)
    assert times == (40.0, 80.0, 120.0, 160.0, 200.0) and differences[-1] == report.df
    # The first fifth of every walker's time.
    early = inside.reshape(40, 100)[:, :20]
    assert differences[0].value == pytest.approx(np.log((~early).sum() / early.sum()))
    assert "40 x 200 ps" in str(report) and "dF(0 < C0-C1-O2-C3 (1,2) < 2.5 rad)" in str(report)


def test_halves_and_drifts_that_disagree_are_seen(structures) -> None:
    ensemble, inside = structures
    # As many inside in every other walker as it takes to bias these; then the same in time.
    order = np.argsort(~inside, kind="stable")
    walker = np.arange(40)
    biased = np.concatenate([walker[walker % 2 == 0], walker[walker % 2 == 1]])
    frames = np.empty((40, 100), dtype=int)
    frames[biased] = order.reshape(40, 100)
    report = assess_convergence(ensemble[frames.flatten()], 40)
    assert report.halves_z > 3 and "halves of the walkers disagree" in str(report)
    drifting = assess_convergence(ensemble[order.reshape(100, 40).T.flatten()], 40)
    assert drifting.drift_z > 3 and "drifts" in str(drifting)


def test_a_basin_may_be_given_and_weights_count(structures) -> None:
    ensemble, inside = structures

    def left(trajectory) -> np.ndarray:
        return inside

    report = assess_convergence(ensemble, 20, basin=left, acceptance=[0.05, 0.5], round_trips=3)
    assert report.basin == "left" and report.df.value == pytest.approx(np.log((~inside).sum() / inside.sum()))
    assert len(report.warnings) == 2 and "5 %" in report.warnings[0] and "3 round trips" in report.warnings[1]
    weighted = Ensemble(ensemble.x, ensemble.u, np.where(inside, 4.0, 0.0), ensemble.topology, 300.0)
    assert assess_convergence(weighted, 20).effective < 0.6 * report.effective
    with pytest.raises(ValueError, match="7 walkers of equal length; got 4000"):
        assess_convergence(ensemble, 7)
    nothing = Convergence(100, 1, 1.0, {}, 5.0)
    assert "Caution: 5 independent samples" in str(nothing)


def test_a_basin_of_few_visits_is_a_caution(structures) -> None:
    """Three of forty walkers were inside, for as long as they ran: three visits, however many frames."""
    ensemble, inside = structures
    frames = np.concatenate([np.resize(np.flatnonzero(inside), 300), np.resize(np.flatnonzero(~inside), 3700)])
    report = assess_convergence(replace(ensemble[frames], block=walker_blocks(40, 100)), 40)
    assert "Caution: 0 < C0-C1-O2-C3 (1,2) < 2.5 rad: only 3.0 effective blocks inside" in str(report)


def test_halves_are_calibrated(structures) -> None:
    ensemble, _ = structures
    rng = np.random.default_rng(4)
    scores = [assess_convergence(ensemble[rng.integers(4000, size=1000)], 50) for _ in range(40)]
    for key in ("halves_z", "drift_z"):
        z = np.array([getattr(s, key) for s in scores])
        assert abs(z.mean()) < 0.5 and 0.75 < z.std() < 1.3


def test_round_trips_are_counted_by_hand() -> None:
    paths = [
        [0, 1, 2, 1, 0],  # one
        [0, 1, 2, 2, 1, 2, 1, 0, 0, 2],  # one
        [2, 1, 0, 1, 2, 1],  # none: it has not come back
        [1, 1, 1, 1],
        [1, 2, 0, 2, 0, 2, 0],  # two
    ]
    for path, trips in zip(paths, (1, 1, 0, 0, 2), strict=True):
        assert count_round_trips(np.array(path)[:, None], 2) == trips
    assert count_round_trips(np.array([[0, 2], [2, 0], [0, 2]]), 2) == 1


def test_blocks_are_walkers_or_pieces_of_few_walkers() -> None:
    np.testing.assert_array_equal(walker_blocks(12, 3), np.repeat(np.arange(12), 3))
    few = walker_blocks(2, 40)
    assert len(np.unique(few)) == 20 and (few[:40] < 10).all() and (np.bincount(few) == 4).all()
    assert len(np.unique(walker_blocks(1, 5))) == 5


def test_blocks_are_not_shorter_than_two_correlation_times() -> None:
    assert len(np.unique(walker_blocks(4, 1000, slowest=60.0))) == 20  # 200 frames each
    assert len(np.unique(walker_blocks(4, 1000, slowest=200.0))) == 8
    assert len(np.unique(walker_blocks(4, 1000, slowest=1e6))) == 4
    assert len(np.unique(walker_blocks(1, 1000, slowest=1e6))) == 2  # one has no error
    np.testing.assert_array_equal(walker_blocks(12, 1000, slowest=1e6), walker_blocks(12, 1000))


def test_a_slow_drift_of_the_same_walkers_is_seen(structures) -> None:
    """All start outside, and one in ten goes in for good at a time of its own: 2.5 % in the first half, 7.5 % then.

    The halves are of the same walkers: taken for independent, they would differ by less than three standard errors.
    """
    ensemble, inside = structures
    rng, shape = np.random.default_rng(0), (256, 20)
    goes, when = rng.random(256) < 0.1, rng.uniform(0, 20, 256)
    state = goes[:, None] & (np.arange(20) >= when[:, None])
    rows = np.where(state, np.flatnonzero(inside)[0], np.flatnonzero(~inside)[0]).flatten()
    walker = np.repeat(np.arange(256), 20)
    slow = Ensemble(ensemble.x[rows], np.zeros(5120), np.zeros(5120), ensemble.topology, 300.0, block=walker)
    report = assess_convergence(slow, 256)
    halves = [state[:, half].mean() for half in (slice(0, 10), slice(10, 20))]
    paired = state[:, :10].mean(1) - state[:, 10:].mean(1)
    assert report.drift_z == pytest.approx((halves[0] - halves[1]) / (paired.std(ddof=1) / 16), rel=0.01)
    assert report.drift_z < -3 and any("drifts" in w for w in report.warnings)
    apart = [state[:, half].mean(1).std(ddof=1) / 16 for half in (slice(0, 10), slice(10, 20))]
    assert abs(halves[0] - halves[1]) < 3 * np.hypot(*apart) and shape == state.shape


def test_nothing_known_of_correlation_is_said(structures, monkeypatch) -> None:
    """Without pymbar, single runs; and a molecule of which no torsion is looked at."""
    ensemble, _ = structures
    monkeypatch.setitem(sys.modules, "pymbar.timeseries", None)
    report = assess_convergence(ensemble)
    assert np.isnan(report.effective) and "an unknown number independent" in str(report)
    assert any("not known" in w for w in report.warnings)
    assert any("no torsion is looked at" in w for w in Convergence(500, 1, 1.0, {}, np.nan).warnings)


def test_halves_that_are_blocks_have_no_error(structures) -> None:
    """Two blocks of one run, each a half of it: one number against one number; and two walkers, a block each."""
    ensemble, inside = structures
    for block, walkers in ((np.arange(4000) // 2000, 1), (np.arange(4000) // 2000, 2)):
        one = replace(ensemble, block=block)
        report = assess_convergence(one, walkers)
        assert np.isnan(report.drift_z if walkers == 1 else report.halves_z)
    odd = replace(ensemble[:3999], block=np.arange(3999) // 2000)
    assert np.isnan(assess_convergence(odd).drift_z) or abs(assess_convergence(odd).drift_z) < 10
    # Four walkers of one block each: two numbers against two, by hand.
    four = assess_convergence(replace(ensemble, block=np.arange(4000) // 1000), 4)
    share = inside.reshape(4, 1000).mean(1)
    error = np.sqrt(np.var(share[::2], ddof=1) / 2 + np.var(share[1::2], ddof=1) / 2)
    assert four.halves_z == pytest.approx((share[::2].mean() - share[1::2].mean()) / error, rel=0.3)
