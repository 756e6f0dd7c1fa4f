"""Annealed importance sampling against closed forms: right on average, and far better than importance sampling."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, pairwise

import pytest
import torch
from examples import GaussianFlow
from torch import Tensor

from openmm_fab.ais.annealing import AISSettings, anneal_to_target, concatenate, run_ais
from openmm_fab.ais.kernels import KERNELS, adapted
from openmm_fab.target import Gaussian
from openmm_fab.weights import Estimate, effective_sample_size, log_mean_weight, z_score

MEAN = torch.tensor([1.5, -1.0, 0.8, 1.2, -1.4], dtype=torch.float64)
STD = torch.tensor([0.5, 0.7, 0.4, 0.6, 0.3], dtype=torch.float64)
LOG_Z = 3.7
FLOW = GaussianFlow(torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64))
ANNEALED = AISSettings(alpha=1.0, intermediate=24, leapfrogs=4)
PLAIN = AISSettings(alpha=1.0, intermediate=0)


class Cut(Gaussian):
    """A normal density that exists for z[:, 0] > 0 only; `outside` stands elsewhere."""

    def __init__(self, mean: Tensor, std: Tensor, outside: float) -> None:
        super().__init__(mean, std)
        self.outside = outside

    def log_prob(self, z: Tensor) -> Tensor:
        return torch.where(z[:, 0] > 0, super().log_prob(z), self.outside)


def _run(settings: AISSettings, n: int, seed: int = 0, target=None, flow=FLOW, step: float = 0.35):
    target = target or Gaussian(MEAN, STD, log_z=LOG_Z)
    random = torch.Generator().manual_seed(seed)
    return run_ais(flow, target, n, settings, [step] * settings.intermediate, rng=random)


def test_log_z_agrees_within_its_error():
    result = _run(ANNEALED, 3000)
    estimate = log_mean_weight(result.log_w.numpy())
    assert estimate.error < 0.05
    assert abs(z_score(estimate, Estimate(LOG_Z, 0.0))) < 4


def test_beats_importance_sampling_and_guessing():
    errors = {}
    for name, settings in (("annealed", ANNEALED), ("plain", PLAIN)):
        errors[name] = [
            abs(float(log_mean_weight(_run(settings, 200, s).log_w.numpy()).value) - LOG_Z) for s in range(8)
        ]
    annealed, plain = (math.sqrt(sum(e**2 for e in errors[k]) / 8) for k in ("annealed", "plain"))
    assert plain > 1.0  # the problem is not trivial: the flow alone is lost
    assert annealed < 0.2
    assert annealed < 0.1 * LOG_Z  # a guess of zero


def test_without_intermediate_densities_it_is_importance_sampling():
    result = _run(PLAIN, 500)
    torch.testing.assert_close(result.log_w, result.start.log_p - result.start.log_q)
    assert result.points is result.start and result.acceptance == []


def test_weights_are_right_on_average():
    """Means of w over many short and poor runs: unbiased, however few densities there are and however bad the steps."""
    target = Gaussian(
        torch.tensor([0.7], dtype=torch.float64), torch.tensor([0.6], dtype=torch.float64), log_z=math.log(2)
    )
    flow = GaussianFlow(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    settings = AISSettings(alpha=1.0, intermediate=2, leapfrogs=2)
    w = torch.stack([_run(settings, 400, s, target, flow, step=0.9).log_w.exp().mean() for s in range(60)])
    error = float(w.std() / len(w) ** 0.5)
    assert error < 0.02
    assert abs(float(w.mean()) - 2.0) < 4 * error


def _p_squared_over_q(mean: float, std: float) -> tuple[float, float, float]:
    """For q = N(0, 1) and p = N(mean, std^2): the integral of p^2 / q, and mean and deviation of this density."""
    a, b = 2 / std**2 - 1, 2 * mean / std**2
    integral = math.exp(b**2 / (2 * a) - mean**2 / std**2) / (std**2 * math.sqrt(a))
    return integral, b / a, a**-0.5


def test_the_closed_form_itself():
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    p, q = (torch.exp(-0.5 * ((x - m) / s) ** 2) / (s * math.sqrt(2 * math.pi)) for m, s in ((0.7, 0.6), (0.0, 1.0)))
    f = p**2 / q
    integral, mean, std = _p_squared_over_q(0.7, 0.6)
    total = torch.trapezoid(f, x)
    assert integral == pytest.approx(float(total), rel=1e-8)
    assert mean == pytest.approx(float(torch.trapezoid(x * f, x) / total), rel=1e-8)
    assert std**2 == pytest.approx(float(torch.trapezoid((x - mean) ** 2 * f, x) / total), rel=1e-8)


def test_alpha_two_estimates_the_integral_of_p_squared_over_q():
    mean, std = torch.tensor([0.7, -0.4], dtype=torch.float64), torch.tensor([0.6, 0.8], dtype=torch.float64)
    flow = GaussianFlow(torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    result = _run(AISSettings(alpha=2.0, intermediate=4, leapfrogs=4), 20_000, 0, Gaussian(mean, std), flow)
    parts = [_p_squared_over_q(float(m), float(s)) for m, s in zip(mean, std, strict=True)]
    exact = math.log(parts[0][0] * parts[1][0])
    assert exact > 0.5  # the integral of p would be log 1 = 0
    estimate = log_mean_weight(result.log_w.numpy())
    assert estimate.error < 0.02
    assert abs(z_score(estimate, Estimate(exact, 0.0))) < 4
    w = (result.log_w - result.log_w.max()).exp()
    for k, (_, centre, width) in enumerate(parts):
        x = result.points.z[:, k]
        average = (w * x).sum() / w.sum()
        error = (w**2 * (x - average) ** 2).sum().sqrt() / w.sum()
        assert abs(float(average) - centre) < 4 * float(error)
        assert float(error) < 0.03 * width


def test_fab_sees_more_of_what_the_flow_misses():
    """Ends towards p^2 / q lie further from the flow than p does."""
    ends = {a: _run(AISSettings(alpha=a, intermediate=12, leapfrogs=4), 2000) for a in (1.0, 2.0)}
    away = {a: float((e.points.z * MEAN.sign()).mean()) for a, e in ends.items()}
    assert away[2.0] > away[1.0]


@pytest.mark.parametrize("alpha", [1.0, 2.0])
@pytest.mark.parametrize("outside", [-torch.inf, torch.nan])
def test_invalid_points_leave_z_unbiased(alpha, outside):
    mean, std = torch.tensor([0.5], dtype=torch.float64), torch.tensor([0.8], dtype=torch.float64)
    flow = GaussianFlow(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    result = _run(AISSettings(alpha=alpha, intermediate=3, leapfrogs=3), 20_000, 0, Cut(mean, std, outside), flow)
    integral, centre, width = (1.0, 0.5, 0.8) if alpha == 1 else _p_squared_over_q(0.5, 0.8)
    exact = math.log(integral * 0.5 * math.erfc(-centre / width / math.sqrt(2)))
    estimate = log_mean_weight(result.log_w.numpy())
    assert abs(z_score(estimate, Estimate(exact, 0.0))) < 4
    assert estimate.error < 0.03  # leaving out the invalid ones would cost log 2
    lost = result.start.z[:, 0] <= 0
    assert 0.4 < lost.double().mean() < 0.6
    assert torch.equal(lost, result.log_w == -torch.inf)


def test_nothing_but_invalid_points():
    target = Cut(MEAN, STD, -torch.inf)
    target.log_prob = lambda z: torch.full_like(z[:, 0], torch.nan) + 0 * z.sum(1)
    result = _run(AISSettings(), 20, 0, target)
    assert (result.log_w == -torch.inf).all()
    assert torch.isfinite(result.points.z).all()


def test_settings_are_checked():
    assert AISSettings(intermediate=3).ladder == [0.0, 0.25, 0.5, 0.75, 1.0]
    for wrong in ({"intermediate": -1}, {"leapfrogs": 0}, {"step_size": 0.0}, {"acceptance": 1.0}):
        with pytest.raises(ValueError, match=rf"Expected (0 < )?{next(iter(wrong))}\b"):
            AISSettings(**wrong)
    for wrong in ({"kernel": "gibbs"}, {"spacing": "quadratic"}):
        with pytest.raises(ValueError, match="Expected a kernel of"):
            AISSettings(**wrong)
    for wrong in ({"ess_drop": 0.0}, {"resample": 1.5}):
        with pytest.raises(ValueError, match="Expected 0 < ess_drop"):
            AISSettings(**wrong)


def test_costs_what_it_says():
    target = Gaussian(MEAN, STD)
    _run(AISSettings(intermediate=3, leapfrogs=4), 10, 0, target)
    assert target.evaluations == 10 * (1 + 3 * 4)


SETTINGS = {
    **{kernel: AISSettings(alpha=1.0, intermediate=3, leapfrogs=2, kernel=kernel) for kernel in KERNELS},
    "geometric": AISSettings(alpha=1.0, intermediate=3, leapfrogs=2, spacing="geometric"),
    "adaptive": AISSettings(alpha=1.0, intermediate=6, leapfrogs=2, spacing="adaptive", ess_drop=0.2),
    "resampled": AISSettings(alpha=1.0, intermediate=3, leapfrogs=2, resample=1.0),
    "resampled, alpha = 2": AISSettings(alpha=2.0, intermediate=3, leapfrogs=2, resample=0.5),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_option_is_calibrated(name):
    """Means of w over many short and poor runs: unbiased for each kernel and spacing, resampled or not."""
    settings = SETTINGS[name]
    mean, std = torch.tensor([0.7], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
    flow = GaussianFlow(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    exact = 1.0 if settings.alpha == 1 else _p_squared_over_q(0.7, 0.7)[0]
    results = [_run(settings, 500, s, Gaussian(mean, std), flow, step=0.9) for s in range(60)]
    w = torch.stack([r.log_w.exp().mean() for r in results])
    error = float(w.std() / len(w) ** 0.5)
    assert 1e-4 < error < 0.04 * exact
    assert abs(float(w.mean()) - exact) < 4 * error
    assert all(r.resampled > 0 for r in results) if settings.resample == 1 else True
    # The weighted ends have the target's mean, too.
    centre = 0.7 if settings.alpha == 1 else _p_squared_over_q(0.7, 0.7)[1]
    averages = torch.stack([(r.log_w.softmax(0) * r.points.z[:, 0]).sum() for r in results])
    assert abs(float(averages.mean()) - centre) < 4 * float(averages.std()) / 60**0.5 + 0.01


def test_geometric_spacing():
    ladder = AISSettings(intermediate=4, spacing="geometric").ladder
    assert ladder[0] == 0.0 and ladder[1] == pytest.approx(0.01) and ladder[-1] == 1.0 and len(ladder) == 6
    ratios = [b / a for a, b in pairwise(ladder[1:])]
    assert ratios == pytest.approx([ratios[0]] * 4)
    assert AISSettings(intermediate=0, spacing="geometric").ladder == [0.0, 1.0]


def test_adaptive_spacing_loses_the_same_share_at_each_step():
    """Recomputed from the definition (Zhou et al. 2016, eq. 4); the last step loses less."""
    settings = AISSettings(alpha=1.0, intermediate=50, leapfrogs=3, spacing="adaptive", ess_drop=0.3)
    result = _run(settings, 2000, 3)
    ladder = result.ladder
    assert ladder[0] == 0.0 and ladder[-1] == 1.0 and 3 <= len(ladder) < 50
    assert len(result.acceptance) == len(ladder) - 2
    ratio = result.start.log_p - result.start.log_q  # the first step, where all weights are one

    def share(step: float) -> float:
        u = (step * ratio).exp()
        return float(u.mean() ** 2 / u.square().mean())

    assert share(ladder[1]) == pytest.approx(0.7, abs=1e-4)
    assert share(1.0) < 0.05  # in one step all would be lost
    finer = _run(AISSettings(alpha=1.0, intermediate=50, leapfrogs=3, spacing="adaptive", ess_drop=0.1), 2000, 3)
    assert len(finer.ladder) > len(ladder)
    capped = _run(AISSettings(alpha=1.0, intermediate=2, leapfrogs=3, spacing="adaptive", ess_drop=0.1), 2000, 3)
    assert len(capped.ladder) == 4 and capped.ladder[-1] == 1.0


def test_an_easy_target_needs_no_density_between():
    settings = AISSettings(alpha=1.0, intermediate=8, spacing="adaptive", ess_drop=0.2)
    target = Gaussian(torch.zeros(5, dtype=torch.float64), torch.full((5,), 0.99, dtype=torch.float64))
    result = _run(settings, 500, 0, target)
    assert result.ladder == [0.0, 1.0] and result.acceptance == []


def test_adaptive_spacing_passes_over_what_is_lost():
    target = Cut(MEAN, STD, -torch.inf)
    result = _run(
        AISSettings(alpha=1.0, intermediate=30, leapfrogs=3, spacing="adaptive", ess_drop=0.3), 1000, 0, target
    )
    lost = result.start.z[:, 0] <= 0
    assert lost.any() and torch.equal(lost, result.log_w == -torch.inf) and result.ladder[1] > 1e-4


def test_resampling_levels_the_weights_and_keeps_their_mean():
    """Just after it all weights are one number; far from the flow it is worth its while."""
    few = AISSettings(alpha=1.0, intermediate=12, leapfrogs=3)
    often = AISSettings(alpha=1.0, intermediate=12, leapfrogs=3, resample=0.5)
    plain, resampled = _run(few, 2000), _run(often, 2000)
    assert plain.resampled == 0 < resampled.resampled
    ess = [effective_sample_size(r.log_w.numpy()) / 2000 for r in (plain, resampled)]
    assert ess[1] > 0.5 > ess[0]
    errors = [float(log_mean_weight(_run(often, 500, s).log_w.numpy()).value) - LOG_Z for s in range(8)]
    assert max(map(abs, errors)) < 0.5
    x = resampled.points.z
    w = resampled.log_w.softmax(0)[:, None]
    assert ((w * x).sum(0) - MEAN).abs().max() < 0.1
    assert ((w * (x - MEAN) ** 2).sum(0).sqrt() / STD - 1).abs().max() < 0.15


def test_resampling_drops_the_lost_and_still_counts_them():
    mean, std = torch.tensor([0.5], dtype=torch.float64), torch.tensor([0.8], dtype=torch.float64)
    flow = GaussianFlow(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    settings = AISSettings(alpha=1.0, intermediate=3, leapfrogs=3, resample=1.0)
    result = _run(settings, 20_000, 0, Cut(mean, std, -torch.inf), flow)
    assert torch.isfinite(result.log_w).all() and (result.points.z > 0).all()
    exact = math.log(0.5 * math.erfc(-0.5 / 0.8 / math.sqrt(2)))
    assert abs(float(result.log_w.exp().mean().log()) - exact) < 0.03


def test_step_sizes_of_densities_not_reached_stay():
    result = _run(AISSettings(intermediate=2, leapfrogs=2), 100)
    steps = adapted([0.1, 0.1, 0.1], result.acceptance, goal=0.65)
    assert steps[2] == 0.1 and all(s != 0.1 for s in steps[:2])


def test_anneal_to_target():
    settings = AISSettings(alpha=1.0, intermediate=8, leapfrogs=4)
    target = Gaussian(MEAN, STD, log_z=LOG_Z)
    points, log_w = anneal_to_target(FLOW, target, 2500, settings, rng=torch.Generator().manual_seed(0), batch=1000)
    assert points.z.shape == (2500, 5) and log_w.shape == (2500,)
    torch.testing.assert_close(points.log_p, target.log_prob(points.z))
    torch.testing.assert_close(points.log_q, FLOW.log_prob(points.z))
    estimate = log_mean_weight(log_w.numpy())
    assert estimate.error < 0.15 and abs(z_score(estimate, Estimate(LOG_Z, 0.0))) < 4


def test_limits_of_settings():
    for right in (
        {"kernel": "mala"},
        {"intermediate": 0},
        {"leapfrogs": 1},
        {"acceptance": 0.99},
        {"resample": 0.0},
        {"resample": 1.0},
    ):
        AISSettings(**right)
    for wrong in ({"acceptance": 0.0}, {"step_size": -0.1}):
        with pytest.raises(ValueError, match=rf"Expected (0 < )?{next(iter(wrong))}\b"):
            AISSettings(**wrong)
    for wrong in ({"ess_drop": 1.0}, {"resample": -0.1}):
        with pytest.raises(ValueError, match="Expected 0 < ess_drop"):
            AISSettings(**wrong)
    with pytest.raises(ValueError, match="whole multiples"):
        AISSettings(leapfrogs=3, flow_every=2)
    with pytest.raises(ValueError, match='kernel "hmc" only'):
        AISSettings(kernel="mala", widths=True)
    for n, alpha in ((0, 1.0), (10, 2.0)):
        with pytest.raises(ValueError, match=f"got {n} and alpha = {alpha}"):
            anneal_to_target(FLOW, Gaussian(MEAN, STD), n, AISSettings(alpha=alpha))


def test_chains_are_resampled_only_where_they_are_worn():
    """Of a target that is nearly the flow all weights are nearly one; a share of one is reached by nothing less."""
    target = Gaussian(torch.zeros(5, dtype=torch.float64), torch.full((5,), 0.97, dtype=torch.float64))
    for share, times in ((0.5, 0), (1.0, 3)):
        settings = AISSettings(alpha=1.0, intermediate=3, leapfrogs=2, resample=share)
        assert _run(settings, 500, 0, target).resampled == times


def test_pilots_are_no_more_than_step_sizes_need():
    target, settings = Gaussian(MEAN, STD), AISSettings(alpha=1.0, intermediate=1, leapfrogs=1)
    anneal_to_target(FLOW, target, 700, settings, rng=torch.Generator().manual_seed(0), batch=700, pilots=3)
    assert target.evaluations == 2 * (700 + 3 * 256)


def test_pilots_come_before_what_counts():
    """They adapt the steps, cost a batch each, and none where there is nothing to adapt."""
    settings = AISSettings(alpha=1.0, intermediate=2, leapfrogs=3, step_size=1e-3)
    cost, spread = 1 + 2 * 3, {}
    for pilots in (0, 3, 40):
        target = Gaussian(MEAN, STD)
        random = torch.Generator().manual_seed(0)
        _, log_w = anneal_to_target(FLOW, target, 250, settings, rng=random, batch=100, pilots=pilots)
        assert target.evaluations == cost * (250 + 100 * pilots)
        spread[pilots] = float(log_w.std())
    assert spread[40] < 0.9 * spread[0]  # with steps of a thousandth the chains stand still
    target = Gaussian(MEAN, STD)
    anneal_to_target(FLOW, target, 250, AISSettings(alpha=1.0, intermediate=0), rng=None, batch=100)
    assert target.evaluations == 250


def test_passes_are_concatenated_by_their_sizes():
    settings = AISSettings(alpha=1.0, intermediate=2, leapfrogs=2)
    a, b = _run(settings, 30, 0), _run(settings, 10, 1)
    whole = concatenate([a, b])
    expected = [(30 * x + 10 * y) / 40 for x, y in zip(a.acceptance, b.acceptance, strict=True)]
    assert whole.acceptance == pytest.approx(expected) and whole.ladder == a.ladder and whole.resampled == 0
    for name in ("z", "log_q", "log_p", "grad_log_p"):
        torch.testing.assert_close(getattr(whole.points, name)[30:], getattr(b.points, name))
        torch.testing.assert_close(getattr(whole.start, name)[:30], getattr(a.start, name))
    assert torch.equal(whole.log_w, torch.cat([a.log_w, b.log_w])) and concatenate([a]) is a
    short = replace(b, acceptance=b.acceptance[:1], resampled=2)
    longer = concatenate([short, a])
    assert longer.acceptance[1] == a.acceptance[1] and len(longer.acceptance) == 2 and longer.resampled == 2


def test_widths_multiply_the_steps():
    settings = AISSettings(alpha=1.0, intermediate=2, leapfrogs=3)
    random = [torch.Generator().manual_seed(0) for _ in range(2)]
    widths = torch.full((5,), 2.0, dtype=torch.float64)
    wide = run_ais(FLOW, Gaussian(MEAN, STD), 50, settings, [0.1, 0.3], rng=random[0], widths=widths)
    plain = run_ais(FLOW, Gaussian(MEAN, STD), 50, settings, [0.2, 0.6], rng=random[1])
    torch.testing.assert_close(wide.points.z, plain.points.z)
    torch.testing.assert_close(wide.log_w, plain.log_w)


def test_one_chain_is_enough():
    points, log_w = anneal_to_target(FLOW, Gaussian(MEAN, STD), 1, AISSettings(alpha=1.0), batch=8, pilots=0)
    assert points.z.shape == (1, 5) and log_w.shape == (1,)


def test_every_kernel_moves_in_its_own_way():
    """The same random numbers end elsewhere; only MALA of one step is HMC of one leapfrog step."""
    ends = {}
    for kernel in KERNELS:
        if kernel != "latent":  # which needs a flow with a base
            settings = AISSettings(alpha=1.0, intermediate=1, leapfrogs=2, kernel=kernel)
            ends[kernel] = _run(settings, 50).points.z
    assert len(ends) >= 3
    for a, b in combinations(ends.values(), 2):
        assert (a - b).abs().max() > 0.01
    single = [_run(AISSettings(alpha=1.0, leapfrogs=1, kernel=kernel), 50).points.z for kernel in ("hmc", "mala")]
    torch.testing.assert_close(*single)


def test_the_last_step_of_adaptive_spacing_ends_at_the_target():
    for drop in (0.2, 0.35, 0.5, 0.65):
        settings = AISSettings(alpha=1.0, intermediate=30, leapfrogs=2, spacing="adaptive", ess_drop=drop)
        assert _run(settings, 200, 4).ladder[-1] == 1.0


def test_an_adaptive_ladder_is_not_chosen_by_the_chains_that_count() -> None:
    """257 chains in batches of 256: the last one, alone, would lose nothing at any step and jump to the end."""
    seen: list[int] = []

    class Watched(Gaussian):
        def log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(len(z))
            return super().log_prob_and_gradient(z)

    target = Watched(MEAN, STD, log_z=LOG_Z)
    settings = AISSettings(alpha=1.0, intermediate=30, leapfrogs=2, spacing="adaptive", ess_drop=0.3, step_size=0.3)
    _, log_w = anneal_to_target(FLOW, target, 257, settings, rng=torch.Generator().manual_seed(0), batch=256)
    assert len(log_w) == 257 and seen.count(1) > 5  # the last chain took as many steps as the others
    tail = seen[-seen.count(1) :]
    assert set(tail) == {1} and seen.count(1) == seen[: -len(tail)][::-1].index(256) + len(tail)
    runs = [
        float(anneal_to_target(FLOW, target, 1, settings, rng=torch.Generator().manual_seed(s), batch=256, pilots=5)[1])
        for s in range(40)
    ]
    plain = _run(PLAIN, 400).log_w
    assert float(torch.tensor(runs).std()) < 0.3 * float(plain.std())


def test_a_broken_flow_is_no_invalid_structure() -> None:
    class Broken(GaussianFlow):
        def sample(self, n: int, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
            z, log_q = super().sample(n, rng)
            return z, torch.where(torch.arange(n) % 5 == 0, torch.nan, log_q)

    flow = Broken(torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64))
    with pytest.raises(FloatingPointError, match="the flow is broken"):
        anneal_to_target(flow, Gaussian(MEAN, STD, log_z=LOG_Z), 50, PLAIN)
