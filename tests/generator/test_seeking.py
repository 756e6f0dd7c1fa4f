"""Runs until an error: how time is divided, coverage with optional stopping, checks that fail, interrupted runs."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.double_well import DoubleWell
from openmm_fab.generator.outcome import Outcome
from openmm_fab.generator.planning import Point, plan, steepness
from openmm_fab.generator.quantities import measured
from openmm_fab.generator.seeking import CHECK, Seeking, State


def sought(work: DoubleWell, error: float = 0.1, at_most: float = 7200.0, seed: int = 0, **about: object) -> Outcome:
    return Seeking(work, error, at_most, seed=seed, clock=work.clock, **about).run()  # type: ignore[arg-type]


# --- the division of time ---


def curve(work: float, power: float, times: tuple[float, ...]) -> list[Point]:
    return [Point(t, 0, 0.5, 0.2, work * t**-power, "plain") for t in times]


@pytest.mark.parametrize("power", [0.4, 1.0, 1.7])
def test_power_of_a_learning_curve(power: float) -> None:
    assert steepness(curve(30.0, power, (20.0, 40.0, 80.0))) == pytest.approx(power)


@pytest.mark.parametrize(("power", "work"), [(0.5, 40.0), (1.0, 300.0), (1.5, 3000.0)])
def test_training_ends_where_the_total_is_least(power: float, work: float) -> None:
    error, beside = 0.1, 1.5
    times = np.linspace(40.0, 3000.0, 100_000)
    totals = times + beside * work * times**-power / error**2
    best = float(times[totals.argmin()])
    points = curve(work, power, (20.0, 40.0))
    found = plan(points, error, 1e9, beside)
    assert found.takes == pytest.approx(totals.min() - 40.0, rel=1e-6)
    assert found.train == pytest.approx(min(best, 80.0) if best > 1.15 * 40.0 else 40.0, rel=1e-3)
    assert found.reached == error


def test_what_the_time_left_allows() -> None:
    """The error at the limit is the least that any division of the time gives, and more than was asked for."""
    work, power, left = 1000.0, 1.0, 500.0
    times = np.linspace(40.0, 539.0, 100_000)
    errors = np.sqrt(work * times**-power / (40.0 + left - times))
    found = plan(curve(work, power, (20.0, 40.0)), 0.01, left)
    assert found.reached == pytest.approx(errors.min(), rel=1e-4) and found.reached > 0.01
    assert found.left == left and found.takes > left


def test_weights_of_no_use_are_trained_on() -> None:
    found = plan([Point(20.0, 0, 0.01, 1.2, math.inf, "plain")], 0.1, 1000.0)
    assert found.train == 40.0 and math.isinf(found.reached)
    assert plan([Point(20.0, 0, 0.01, 1.2, math.inf, "plain")], 0.1, 1.0).train == 20.0


# --- quantities ---


def test_error_of_a_basin_is_the_scatter_of_its_free_energy() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        log_w, inside = 0.7 * rng.normal(size=2000), rng.random(2000) < 0.2
        found.append(measured(log_w, inside))
    values = np.array([m.value for m in found])
    assert values.mean() == pytest.approx(math.log(4.0), abs=4 * values.std() / 14)
    assert np.mean([m.error for m in found]) == pytest.approx(values.std(), rel=0.17)
    assert found[0].variance == pytest.approx(2000 * found[0].error ** 2)


def test_blocks_count_once() -> None:
    rng = np.random.default_rng(0)
    inside, observable = rng.random(500) < 0.3, rng.normal(size=500)
    block = np.repeat(np.arange(500), 10)
    for values in (inside, observable):
        once, ten = measured(np.zeros(500), values), measured(np.zeros(5000), np.repeat(values, 10), block)
        assert (ten.value, ten.error) == pytest.approx((once.value, once.error))
        assert ten.effective == pytest.approx(once.effective)


# --- runs ---


EASY: dict[str, float] = {}
RARE = {"loss": 8.0, "share": 0.005, "each": 1e-3}


@pytest.mark.parametrize(
    ("about", "runs"), [(EASY, 80), pytest.param(RARE, 300, marks=pytest.mark.slow)], ids=["easy", "rare"]
)
def test_the_truth_is_within_the_errors_though_runs_stop_when_they_like(about: dict[str, float], runs: int) -> None:
    """Of many runs: z has a deviation of one, no bias, and 2 errors hold the truth in about 95 %."""
    z = []
    for seed in range(runs):
        work = DoubleWell(**about)  # type: ignore[arg-type]
        outcome = sought(work, seed=7919 * seed)
        assert outcome.believed and outcome.reached <= 0.1
        z.append((outcome.rows[0].value - work.truth) / outcome.rows[0].error)
    found = np.array(z)
    assert 0.8 < found.std(ddof=1) < 1.25
    assert abs(found.mean()) < 4.0 / math.sqrt(runs)
    assert 0.9 <= (abs(found) < 2.0).mean() <= 0.995


def test_the_result_is_of_samples_that_decided_nothing() -> None:
    work = DoubleWell()
    outcome = sought(work)
    (final,) = [(n, seed) for purpose, n, seed in work.purposes if purpose == "final"]
    assert final[0] == outcome.n
    assert final[1] not in {seed for purpose, _, seed in work.purposes if purpose != "final"}


def test_more_samples_than_were_decided_on_are_all_new() -> None:
    """A result whose error is too large is not gone on with: the next is of other samples, and as unbiased."""
    z = []
    for seed in range(60):
        work = DoubleWell(0.3)
        decision = {
            "method": "plain",
            "n": 250,
            "seed": seed,
            "pilot": [64, 7, "plain"],
            "takes": 9.0,
            "sampling": 0.04,
        }
        state = State(points=[Point(60.0, 1, 0.5, 0.2, 1e-3, "plain")], decision=decision, asked=0.1)
        outcome = sought(work, 0.1, seed=seed, state=state)
        finals = [(n, drawn_with) for purpose, n, drawn_with in work.purposes if purpose == "final"]
        assert len(finals) > 1 and outcome.n == finals[-1][0]
        assert len({drawn_with for _, drawn_with in finals}) == len(finals)
        z.append((outcome.rows[0].value - work.truth) / outcome.rows[0].error)
    assert abs(np.mean(z)) < 4.0 / math.sqrt(60) and 0.75 < np.std(z, ddof=1) < 1.3


def test_time_left_is_told_and_about_right() -> None:
    work, lines = DoubleWell(loss=12.0, each=5e-3, power=1.0), []
    seeking = Seeking(work, 0.1, 7200.0, say=lambda line: lines.append((work.now, line)), clock=work.clock)
    outcome = seeking.run()
    assert outcome.believed
    (now, line) = lines[-1]
    assert "time to sample" in line and "left" in line
    assert work.now - now < (1.0 + CHECK) * outcome.seconds["sampling"] + 40.0
    assert len(lines) > 1 and "training goes on" in lines[0][1]


def test_at_the_limit_it_says_what_was_reached_and_what_it_takes() -> None:
    def work() -> DoubleWell:
        return DoubleWell(loss=12.0, each=5e-3, power=1.0)

    short, error, limit = work(), 0.02, 400.0
    outcome = sought(short, error, limit)
    assert not outcome.believed and error < outcome.reached < 10 * error
    assert short.now < 1.2 * limit < outcome.takes
    assert "It would take about" in outcome.finding.because and outcome.finding.grade == "bad"
    # With that time it is reached.
    assert sought(work(), error, 1.2 * outcome.takes).reached <= error


def test_a_basin_that_the_flow_lacks_is_no_result() -> None:
    """All weights are even and no sample is in the basin: no number of samples makes an error of it."""
    outcome = sought(DoubleWell(lacks=True), 0.1, 600.0)
    assert not outcome.believed and math.isinf(outcome.reached)


def test_weights_that_chains_contradict_are_not_believed() -> None:
    class Wrong(DoubleWell):
        """Its weights have the rarer well at a quarter of its share."""

        def draw(self, n: int, seed: int, method: str, purpose: str):  # type: ignore[no-untyped-def]
            found = super().draw(n, seed, method, purpose)
            if method == "chains":
                return found
            return dataclasses.replace(found, log_w=found.log_w - math.log(4.0) * found.values["rare"])

    outcome = sought(Wrong(share=0.1), 0.1, 600.0)
    assert outcome.reached <= 0.1 and not outcome.believed
    assert "disagrees" in outcome.finding.because


@pytest.mark.parametrize("after", [1, 2, 4, 5])
def test_a_run_that_was_killed_goes_on(tmp_path: Path, after: int) -> None:
    """Stopped in a draw it ends with the number of samples, and the result, that it would have had."""

    class Stopped(DoubleWell):
        left = after

        def draw(self, *about: object):  # type: ignore[no-untyped-def]
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            return super().draw(*about)  # type: ignore[arg-type]

    alone = sought(DoubleWell())
    work = Stopped()
    with pytest.raises(KeyboardInterrupt):
        sought(work, state=State(tmp_path / "state.json"))
    work.left = -1
    again = sought(work, state=State.of(tmp_path / "state.json", True))
    assert (again.n, again.rows) == (alone.n, alone.rows)
    assert again.believed


def test_outcomes_are_kept_as_json() -> None:
    outcome = sought(DoubleWell(loss=12.0, each=5e-2), 0.1, 60.0)
    again = Outcome.from_json(outcome.to_json())
    assert again.summary() == outcome.summary()
    assert again.to_json() == outcome.to_json()
    assert "NaN" not in outcome.to_json() and "Infinity" not in outcome.to_json()
