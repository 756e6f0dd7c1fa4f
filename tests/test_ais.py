"""Annealed importance sampling against closed forms: right on average, and far better than importance sampling."""

from __future__ import annotations

import math

import pytest
import torch
from examples import GaussianFlow
from torch import Tensor

from openmm_fab.ais import AISSettings, run_ais
from openmm_fab.target import Gaussian
from openmm_fab.weights import Estimate, log_z, z_score

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
    target = target or Gaussian(MEAN, STD, LOG_Z)
    random = torch.Generator().manual_seed(seed)
    return run_ais(flow, target, n, settings, [step] * settings.intermediate, random)


def test_log_z_agrees_within_its_error():
    result = _run(ANNEALED, 3000)
    estimate = log_z(result.log_w.numpy())
    assert estimate.error < 0.05
    assert abs(z_score(estimate, Estimate(LOG_Z, 0.0))) < 4


def test_beats_importance_sampling_and_guessing():
    errors = {}
    for name, settings in (("annealed", ANNEALED), ("plain", PLAIN)):
        errors[name] = [abs(float(log_z(_run(settings, 200, s).log_w.numpy()).value) - LOG_Z) for s in range(8)]
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
    target = Gaussian(torch.tensor([0.7], dtype=torch.float64), torch.tensor([0.6], dtype=torch.float64), math.log(2))
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
    estimate = log_z(result.log_w.numpy())
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
    result = _run(AISSettings(alpha, intermediate=3, leapfrogs=3), 20_000, 0, Cut(mean, std, outside), flow)
    integral, centre, width = (1.0, 0.5, 0.8) if alpha == 1 else _p_squared_over_q(0.5, 0.8)
    exact = math.log(integral * 0.5 * math.erfc(-centre / width / math.sqrt(2)))
    estimate = log_z(result.log_w.numpy())
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
        with pytest.raises(ValueError, match="Expected intermediate"):
            AISSettings(**wrong)


def test_costs_what_it_says():
    target = Gaussian(MEAN, STD)
    _run(AISSettings(intermediate=3, leapfrogs=4), 10, 0, target)
    assert target.evaluations == 10 * (1 + 3 * 4)
