"""EXP, BAR and MBAR on cases with known free energies; their errors; what they say when they fail."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import i0

from openmm_fab.free_energy.estimators import FreeEnergy, bar_estimate, exponential_average, mbar_estimate
from openmm_fab.weights import effective_sample_size, log_ratio, pareto_khat

SEEDS = 200
CENTRES, STIFFNESS = np.array([0.0, 0.6, 1.2]), np.array([1.0, 1.6, 2.5])
EXACT = 0.5 * np.log(STIFFNESS / STIFFNESS[0])
KAPPAS = np.array([0.5, 1.5])
EXACT_TORSION = -np.log(i0(KAPPAS[1]) / i0(KAPPAS[0]))


def oscillator(k: int, x: np.ndarray) -> np.ndarray:
    return 0.5 * STIFFNESS[k] * (x - CENTRES[k]) ** 2


def draw(k: int, n: int, rng: np.random.Generator) -> np.ndarray:
    return CENTRES[k] + rng.normal(size=n) / np.sqrt(STIFFNESS[k])


def walkers(k: int, walkers: int, n: int, rng: np.random.Generator, memory: float = 0.8) -> tuple:
    """Autoregressive walkers with the oscillator's stationary density; positions and labels (walkers * n,)."""
    x = np.empty((walkers, n))
    x[:, 0] = rng.normal(size=walkers)
    for t in range(1, n):
        x[:, t] = memory * x[:, t - 1] + np.sqrt(1 - memory**2) * rng.normal(size=walkers)
    return (CENTRES[k] + x / np.sqrt(STIFFNESS[k])).ravel(), np.repeat(np.arange(walkers), n)


def angles(kappa: float, n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.vonmises(0.0, kappa, n)


def exp_oscillator(rng: np.random.Generator) -> FreeEnergy:
    x = draw(0, 1000, rng)
    return -exponential_average(oscillator(0, x) - oscillator(1, x))


def exp_torsion(rng: np.random.Generator) -> FreeEnergy:
    return -exponential_average((KAPPAS[1] - KAPPAS[0]) * np.cos(angles(KAPPAS[0], 1000, rng)))


def exp_weighted(rng: np.random.Generator) -> FreeEnergy:
    """From a uniform proposal with weights towards the first torsion."""
    c = np.cos(rng.uniform(-np.pi, np.pi, 2000))
    return -exponential_average(KAPPAS[1] * c, KAPPAS[0] * c)


def exp_walkers(rng: np.random.Generator) -> FreeEnergy:
    x, block = walkers(0, 40, 100, rng)
    return -exponential_average(oscillator(0, x) - oscillator(1, x), block=block)


def bar_oscillator(rng: np.random.Generator) -> FreeEnergy:
    a, b = draw(0, 400, rng), draw(2, 900, rng)
    return bar_estimate(oscillator(2, a) - oscillator(0, a), oscillator(0, b) - oscillator(2, b))


def bar_torsion(rng: np.random.Generator) -> FreeEnergy:
    a, b = (np.cos(angles(kappa, 500, rng)) for kappa in KAPPAS)
    return bar_estimate((KAPPAS[0] - KAPPAS[1]) * a, (KAPPAS[1] - KAPPAS[0]) * b)


def bar_walkers(rng: np.random.Generator) -> FreeEnergy:
    a = draw(0, 1000, rng)
    b, block = walkers(2, 40, 50, rng)
    return bar_estimate(oscillator(2, a) - oscillator(0, a), oscillator(0, b) - oscillator(2, b), block_r=block)


def mbar_oscillators(rng: np.random.Generator) -> FreeEnergy:
    x = np.concatenate([draw(k, n, rng) for k, n in enumerate((300, 400, 200))])
    return mbar_estimate([oscillator(k, x) for k in range(3)], [300, 400, 200]).difference(0, 2)


def mbar_walkers(rng: np.random.Generator) -> FreeEnergy:
    parts = [walkers(k, 30, 40, rng) for k in range(3)]
    x = np.concatenate([part[0] for part in parts])
    u = [oscillator(k, x) for k in range(3)]
    return mbar_estimate(u, [1200] * 3, blocks=[part[1] for part in parts]).difference(1, 2)


CASES: list[tuple[Callable, float]] = [
    (exp_oscillator, EXACT[1]),
    (exp_torsion, EXACT_TORSION),
    (exp_weighted, EXACT_TORSION),
    (exp_walkers, EXACT[1]),
    (bar_oscillator, EXACT[2]),
    (bar_torsion, EXACT_TORSION),
    (bar_walkers, EXACT[2]),
    (mbar_oscillators, EXACT[2]),
    (mbar_walkers, EXACT[2] - EXACT[1]),
]


@pytest.mark.parametrize(("estimate", "exact"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_known_free_energies_with_calibrated_errors(estimate: Callable, exact: float) -> None:
    found = [estimate(np.random.default_rng(seed)) for seed in range(SEEDS)]
    z = np.array([(f.value - exact) / f.error for f in found])
    assert abs(z.mean()) < 3.0 / np.sqrt(SEEDS) + 0.1  # 0.1: -ln of a mean is biased
    assert 0.8 < z.std(ddof=1) < 1.25
    assert (np.abs(z) < 3.0).mean() > 0.98 and np.abs(z).max() < 4.5
    assert np.mean([f.trusted for f in found]) > 0.97, [f.diagnosis for f in found if not f.trusted]


def test_walkers_taken_as_independent_would_be_wrong() -> None:
    """The blocks of the cases above matter: without them the errors are much too small."""
    x, block = walkers(0, 40, 100, np.random.default_rng(0))
    log_w = oscillator(0, x) - oscillator(1, x)
    assert exponential_average(log_w, block=block).error > 1.7 * exponential_average(log_w).error


def test_block_error_is_what_a_bootstrap_of_blocks_gives() -> None:
    rng = np.random.default_rng(1)
    x, block = walkers(0, 40, 50, rng)
    log_a, log_b = -oscillator(1, x) + oscillator(0, x), 0.3 * x
    a, b = (np.bincount(block, np.exp(log)) for log in (log_a, log_b))
    drawn = rng.integers(40, size=(4000, 40))
    replicas = np.log(a[drawn].sum(1) / b[drawn].sum(1))
    assert log_ratio(log_a, log_b, block).error == pytest.approx(replicas.std(), rel=0.06)
    assert log_ratio(log_a, log_b, block).value == pytest.approx(np.log(a.sum() / b.sum()))


def test_bar_and_mbar_are_pymbars() -> None:
    from pymbar import MBAR
    from pymbar.other_estimators import bar, bar_overlap

    rng = np.random.default_rng(2)
    x = np.concatenate([draw(k, 300 + 100 * k, rng) for k in range(3)])
    u, n = np.array([oscillator(k, x) for k in range(3)]), np.array([300, 400, 500])
    w_f, w_r = (u[2] - u[0])[:300], (u[0] - u[2])[700:]
    theirs = bar(w_f, w_r, uncertainty_method="MBAR")
    ours = bar_estimate(w_f, w_r)
    assert ours.value == pytest.approx(theirs["Delta_f"], abs=1e-9)
    assert ours.error == pytest.approx(theirs["dDelta_f"], rel=1e-6)
    assert ours.overlap == pytest.approx(bar_overlap(w_f, w_r), rel=1e-4)
    solved = MBAR(u, n)
    found, states = solved.compute_free_energy_differences(), mbar_estimate(u, n)
    np.testing.assert_allclose(states.value, found["Delta_f"][0], atol=1e-10)
    np.testing.assert_allclose(states.overlap, solved.compute_overlap()["matrix"], atol=1e-10)
    np.testing.assert_allclose(states.ess, solved.compute_effective_sample_number(), rtol=1e-8)
    for i in range(3):
        for j in range(3):
            assert states.difference(i, j).value == pytest.approx(found["Delta_f"][i, j], abs=1e-10)
            assert states.difference(i, j).error == pytest.approx(found["dDelta_f"][i, j], abs=1e-8)


def test_block_errors_of_independent_samples_are_pymbars() -> None:
    rng = np.random.default_rng(3)
    x = np.concatenate([draw(k, 3000, rng) for k in range(3)])
    u = [oscillator(k, x) for k in range(3)]
    labels = [np.arange(3000)] * 3
    np.testing.assert_allclose(
        mbar_estimate(u, [3000] * 3, blocks=labels).error, mbar_estimate(u, [3000] * 3).error, rtol=0.04
    )
    w_f, w_r = (u[1] - u[0])[:3000], (u[0] - u[1])[3000:6000]
    assert bar_estimate(w_f, w_r, block_f=labels[0], block_r=labels[1]).error == pytest.approx(
        bar_estimate(w_f, w_r).error, rel=0.04
    )


def test_a_state_without_samples_is_reweighted_to() -> None:
    rng = np.random.default_rng(4)
    x = np.concatenate([draw(0, 2000, rng), draw(2, 2000, rng)])
    states = mbar_estimate([oscillator(k, x) for k in (0, 2, 1)], [2000, 2000, 0])
    np.testing.assert_allclose((states.value - EXACT[[0, 2, 1]])[1:] / states.error[1:], 0.0, atol=3.0)
    labels = [np.arange(2000), np.arange(2000), None]
    blocks = mbar_estimate([oscillator(k, x) for k in (0, 2, 1)], [2000, 2000, 0], blocks=labels)
    np.testing.assert_allclose(blocks.error, states.error, rtol=0.05)


def test_infinite_energies_are_weight_zero() -> None:
    """Cut both states to x > 0, sampling the first as it is: dF = -ln(Z_1(x > 0) / Z_0)."""
    rng = np.random.default_rng(5)
    a = draw(0, 20_000, rng)
    b = np.abs(rng.normal(size=20_000))
    w_f, w_r = np.where(a > 0, 0.0, np.inf), np.zeros(20_000)
    found = bar_estimate(w_f, w_r)
    assert abs(found.value - np.log(2.0)) < 4 * found.error
    states = mbar_estimate(
        [oscillator(0, np.r_[a, b]), np.where(np.r_[a, b] > 0, oscillator(0, np.r_[a, b]), np.inf)], [20_000] * 2
    )
    assert states.value[1] == pytest.approx(found.value, abs=1e-6)


def test_huge_energies_and_distant_zeros_of_energy_change_nothing() -> None:
    rng = np.random.default_rng(11)
    x = np.concatenate([draw(0, 500, rng), draw(1, 500, rng)])
    u = np.stack([oscillator(0, x), oscillator(1, x)])
    u[1, :5] = np.inf
    plain = mbar_estimate(u, [500, 500])
    u[1, :5] = 10.0 ** np.arange(4, 14, 2)
    huge = mbar_estimate(u + np.array([[-3000.0], [2000.0]]), [500, 500])
    assert plain.trusted and huge.value[1] - 5000.0 == pytest.approx(plain.value[1], abs=1e-6)
    assert huge.error[1] == pytest.approx(plain.error[1], rel=1e-6)
    two_sided = bar_estimate((u[1] - u[0])[:500] + 5000.0, (u[0] - u[1])[500:] - 5000.0)
    assert two_sided.value == pytest.approx(huge.value[1], abs=1e-5)
    assert two_sided.error == pytest.approx(plain.error[1], rel=1e-4)


# --- failures are reported ---


def test_no_overlap_is_reported() -> None:
    rng = np.random.default_rng(6)
    far = 12.0
    a, b = rng.normal(size=500), far + rng.normal(size=500)
    u_0, u_1 = (lambda x: 0.5 * x**2), (lambda x: 0.5 * (x - far) ** 2)
    for found in (
        -exponential_average(u_0(a) - u_1(a)),
        bar_estimate(u_1(a) - u_0(a), u_0(b) - u_1(b)),
        mbar_estimate([u_0(np.r_[a, b]), u_1(np.r_[a, b])], [500, 500]),
    ):
        assert not found.trusted and "TRUSTED" in str(found)
    assert "do not trust" in (-exponential_average(u_0(a) - u_1(a))).diagnosis
    assert "too little" in bar_estimate(u_1(a) - u_0(a), u_0(b) - u_1(b)).diagnosis
    assert "states [1]" in mbar_estimate([u_0(np.r_[a, b]), u_1(np.r_[a, b])], [500, 500]).diagnosis


def test_hopeless_bar_and_mbar_have_no_number_with_a_small_error() -> None:
    w = np.full(100, 5000.0) + np.random.default_rng(7).normal(size=100)
    found = bar_estimate(w, w)
    assert not found.trusted and not found.error < 1.0
    states = mbar_estimate(np.stack([np.r_[0 * w, w], np.r_[w, 0 * w]]), [100, 100])
    assert not states.trusted


def test_one_giant_weight_is_reported() -> None:
    rng = np.random.default_rng(8)
    found = exponential_average(np.append(0.1 * rng.normal(size=5000), 12.0))
    assert not found.trusted and found.ess < 10 and "too few" in found.diagnosis
    blocks = np.repeat(np.arange(50), 100)
    stuck = exponential_average(np.where(blocks == 7, 6.0, 0.0) + 0.1 * rng.normal(size=5000), block=blocks)
    assert not stuck.trusted and "blocks carry the weight" in stuck.diagnosis


def test_a_missed_mode_is_reported_by_the_two_sided_estimator() -> None:
    """q knows one of two wells; samples of p have both. From q's side alone nothing can be seen."""
    rng = np.random.default_rng(9)

    def log_q(x: np.ndarray) -> np.ndarray:
        return -0.5 * (x + 10) ** 2 - 0.5 * np.log(2 * np.pi)

    def log_p(x: np.ndarray) -> np.ndarray:
        return np.logaddexp(-0.5 * (x + 10) ** 2, -0.5 * (x - 10) ** 2)

    x = rng.normal(size=2000) - 10
    y = rng.normal(size=2000) + np.where(rng.random(2000) < 0.5, -10, 10)
    one_sided = exponential_average(log_p(x) - log_q(x))
    assert one_sided.trusted and one_sided.value == pytest.approx(0.5 * np.log(2 * np.pi), abs=0.01)
    found = bar_estimate(log_q(x) - log_p(x), log_p(y) - log_q(y), names=("the flow", "MD"))
    assert "of MD lie where the flow has no frames" in found.diagnosis
    # And the other way round, a reference that is stuck in one well.
    both = rng.normal(size=2000) + np.where(rng.random(2000) < 0.5, -10, 10)
    log_q2 = lambda x: log_p(x) - np.log(2) - 0.5 * np.log(2 * np.pi) + 0.1 * np.sin(x)  # noqa: E731
    stuck = rng.normal(size=2000) - 10
    lopsided = lambda x: np.logaddexp(-0.5 * (x + 10) ** 2, 1.0 - 0.5 * (x - 10) ** 2)  # noqa: E731
    found = bar_estimate(log_q2(both) - lopsided(both), lopsided(stuck) - log_q2(stuck), names=("the flow", "MD"))
    assert not found.trusted and "misses a part" in found.diagnosis


def test_few_blocks_are_reported_and_one_block_has_no_error() -> None:
    rng = np.random.default_rng(10)
    x = draw(0, 600, rng)
    log_w = oscillator(0, x) - oscillator(1, x)
    assert "only 4 independent blocks" in exponential_average(log_w, block=np.arange(600) // 150).diagnosis
    assert np.isnan(exponential_average(log_w, block=np.zeros(600)).error)
    y = draw(1, 600, rng)
    one = bar_estimate(-log_w, oscillator(0, y) - oscillator(1, y), block_r=np.zeros(600))
    assert np.isnan(one.error) and np.isfinite(one.value)
    assert "only 1 independent blocks" in one.diagnosis


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="nan"):
        bar_estimate([0.0, np.nan], [0.0])
    with pytest.raises(ValueError, match="finite work"):
        bar_estimate([np.inf], [0.0])
    with pytest.raises(ValueError, match="shape"):
        mbar_estimate(np.zeros((2, 5)), [2, 2])
    with pytest.raises(ValueError, match="state 0"):
        mbar_estimate(np.zeros((2, 4)), [0, 4])
    with pytest.raises(ValueError, match="density in some state"):
        mbar_estimate(np.full((2, 2), np.inf), [1, 1])
    with pytest.raises(ValueError, match="as many"):
        log_ratio([0.0, 0.0], [0.0])


def test_differences_of_results_carry_both_errors_and_doubts() -> None:
    a, b = (
        FreeEnergy(3.0, 0.3, "AIS", "fine", True, ess=500.0, khat=0.2),
        FreeEnergy(1.0, 0.4, "AIS", "poor", False, 90.0),
    )
    found = a - b
    assert found.value == 2.0 and found.error == pytest.approx(0.5) and not found.trusted and found.ess == 90.0
    assert "poor" in found.diagnosis and "NOT TRUSTED" in str(found) and found.khat == 0.2
    assert (-a).value == -3.0 and (-a).error == 0.3


def test_figures_of_a_difference_between_states() -> None:
    rng = np.random.default_rng(12)
    x = np.concatenate([draw(k, n, rng) for k, n in enumerate((300, 500, 400))])
    states = mbar_estimate([oscillator(k, x) for k in range(3)], [300, 500, 400])
    found, itself = states.difference(0, 2), states.difference(1, 1)
    assert found.overlap == pytest.approx(states.overlap[0, 2] + states.overlap[2, 0])
    assert found.ess == min(states.ess[0], states.ess[2]) and found.method == "MBAR" and np.isnan(found.khat)
    assert itself.overlap == 1.0 and itself.value == 0.0 and itself.error == pytest.approx(0.0, abs=1e-7)
    linked = states.overlap + states.overlap.T
    nearest = [max(linked[i, j] for j in range(3) if j != i) for i in range(3)]
    assert states.diagnosis == f"all states overlap: {min(nearest):.2f} or more with the nearest one"
    assert str(states).count("kT") == 3 and "NOT TRUSTED" not in str(states)
    alone = mbar_estimate([oscillator(0, x[:300])], [300])
    assert alone.trusted and alone.value.tolist() == [0.0] and "1.00" in alone.diagnosis


def test_states_are_joined_by_others_or_apart() -> None:
    """Five wells in a row: all reached from the first, though the last has nothing in common with it; one taken out."""
    rng, centres, n = np.random.default_rng(13), np.arange(5) * 2.5, 400
    x = np.concatenate([c + rng.normal(size=n) for c in centres])
    u = 0.5 * (x - centres[:, None]) ** 2
    states = mbar_estimate(u, [n] * 5)
    assert states.trusted and states.overlap[0, 4] < 0.01
    keep = np.repeat(np.arange(5) != 2, n)
    apart = mbar_estimate(u[[0, 1, 3, 4]][:, keep], [n] * 4)
    assert not apart.trusted and "states [2, 3] have too little overlap" in apart.diagnosis
    few = mbar_estimate(u[:2, : n + 60], [n, 60])
    assert few.trusted == (few.ess.min() >= 100) and ("fewer than 100" in few.diagnosis) == (few.ess.min() < 100)
    fewer = mbar_estimate(u[:2, : n + 400][:, n - 30 : n + 30], [30, 30])
    assert not fewer.trusted and "states [0, 1] rest on fewer than 100 effective samples" in fewer.diagnosis


def test_weights_above_and_below_are_both_looked_at() -> None:
    rng = np.random.default_rng(14)
    fine, poor = 0.3 * rng.normal(size=2000), 3.5 * rng.normal(size=2000)
    for above, below in ((fine, poor), (poor, fine)):
        found = exponential_average(above, below)
        assert not found.trusted and ("weights that it starts from" in found.diagnosis) == (below is poor)
        assert found.ess == min(effective_sample_size(fine), effective_sample_size(poor))
        assert found.khat == max(pareto_khat(fine), pareto_khat(poor))
    assert exponential_average(fine, fine[::-1]).trusted


def test_limits_of_blocks() -> None:
    log_w = np.zeros(2000)
    for blocks in (9, 10):
        found = exponential_average(log_w, block=np.arange(2000) * blocks // 2000)
        assert ("only 9 independent blocks" in found.diagnosis) == (blocks == 9) and found.trusted
    # Of 20 blocks 4 or 6 carry all the weight; of 9 it would be said of any.
    for carrying in (4, 6):
        block = np.arange(2000) // 100
        found = exponential_average(np.where(block < carrying, 0.0, -np.inf), block=block)
        assert found.trusted == (carrying == 6)
        assert (f"only {carrying}.0 of 20 blocks carry the weight" in found.diagnosis) == (carrying == 4)
    block = np.arange(2000) * 9 // 2000
    assert exponential_average(np.where(block < 2, 0.0, -np.inf), block=block).trusted
    block = np.arange(2000) // 200
    assert not exponential_average(np.where(block < 2, 0.0, -np.inf), block=block).trusted


def test_two_sides_say_what_the_other_never_saw() -> None:
    """A tenth of one side lies beyond all of the other; a twenty-fifth is not worth a word."""
    rng = np.random.default_rng(15)
    w = 0.3 * rng.normal(size=2000)
    for share, told in ((0.1, True), (0.04, False)):
        beyond = np.where(np.arange(2000) < share * 2000, 3.0, 0.0)
        found = bar_estimate(w, -w[::-1] + beyond, names=("A", "B"))
        assert ("10 % of B lie where A has no frames" in found.diagnosis) == told and "of A lie" not in found.diagnosis
        found = bar_estimate(w + beyond, -w[::-1], names=("A", "B"))
        assert ("10 % of A lie where B has no frames" in found.diagnosis) == told and "of B lie" not in found.diagnosis


def test_states_that_differ_by_round_off_or_a_constant_agree() -> None:
    """Works that are round-off about a constant have errors as small as that, beside which any gap looks large."""
    rng = np.random.default_rng(16)
    blocks = np.arange(1000) // 50
    for noise, shift in ((0.0, 3.0), (1e-12, 0.1), (1e-6, 0.0), (1e-5, -40.0)):
        w_f, w_r = noise * rng.normal(size=(2, 1000))
        for labels in (None, blocks):
            found = bar_estimate(shift + w_f, -shift + w_r + 5 * noise, block_f=labels, block_r=labels)
            assert found.trusted and "alone" not in found.diagnosis and "has no frames" not in found.diagnosis
            assert found.value == pytest.approx(shift, abs=max(6 * noise, 1e-9)) and found.overlap > 0.999
    # A gap of 0.01 kT with errors far below it is none of round-off's.
    found = bar_estimate(1e-5 * w_f, 1e-5 * w_r + 0.01)
    assert not found.trusted and "misses a part" in found.diagnosis


def test_pymbar_leaves_logging_and_numpy_as_they_were() -> None:
    logger = logging.getLogger("pymbar")
    before, state = logger.level, np.geterr()
    logger.setLevel(logging.INFO)
    try:
        bar_estimate([0.0, 0.1], [0.0, 0.1])
        with pytest.raises(ValueError):
            bar_estimate([np.nan], [0.0])
        assert logger.level == logging.INFO and np.geterr() == state
    finally:
        logger.setLevel(before)


def test_no_alarm_where_one_side_cannot_be_relied_on() -> None:
    """Two sides that disagree by far more than their errors; then one of them has a tail too heavy to say so."""
    rng = np.random.default_rng(16)
    w, heavy = 0.3 * rng.normal(size=2000), 1.2 * np.log(rng.random(2000))
    assert "misses a part" in bar_estimate(w, -w[::-1] + 1.0).diagnosis
    assert pareto_khat(-heavy) > 0.7
    assert "misses a part" not in bar_estimate(w, heavy + 1.0).diagnosis
    assert "misses a part" not in bar_estimate(heavy + 1.0, w).diagnosis
