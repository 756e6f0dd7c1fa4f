"""The annealed path: its two ends, its gradient, and what another lam costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from examples import GaussianFlow

from openmm_fab.ais.kernels import hmc
from openmm_fab.ais.path import AnnealedDensity, Path, Points
from openmm_fab.target import Gaussian, ManyWell

FLOW = GaussianFlow(torch.tensor([0.3, -0.2], dtype=torch.float64), torch.tensor([1.1, 0.9], dtype=torch.float64))


def _points(target=None, n: int = 7) -> Points:
    z, _ = FLOW.sample(n, torch.Generator().manual_seed(1))
    return Points.at(z, FLOW, target or ManyWell(2), flow_gradient=True)


def test_points_know_flow_and_target():
    target, points = ManyWell(2), _points()
    torch.testing.assert_close(points.log_q, FLOW.log_prob(points.z))
    torch.testing.assert_close(points.log_p, target.log_prob(points.z))


@pytest.mark.parametrize("alpha", [1.0, 2.0, 1.5])
def test_ends_of_the_path(alpha):
    points, path = _points(), Path(alpha)
    torch.testing.assert_close(path.log_prob(points, 0.0), points.log_q)
    torch.testing.assert_close(path.log_prob(points, 1.0), alpha * points.log_p + (1 - alpha) * points.log_q)


def test_the_paths_default_is_fabs_goal():
    points = _points()
    torch.testing.assert_close(Path().log_prob(points, 1.0), 2 * points.log_p - points.log_q)


def test_between_the_ends_the_path_is_geometric():
    points, path = _points(), Path(2.0)
    start, end = path.log_prob(points, 0.0), path.log_prob(points, 1.0)
    torch.testing.assert_close(path.log_prob(points, 0.3), 0.7 * start + 0.3 * end)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
def test_gradient_against_finite_differences(alpha, lam):
    target, path, h = ManyWell(2), Path(alpha), 1e-5
    points = _points(target)
    gradient = path.gradient(points, lam)
    for k in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[k] = h
        up, down = (Points.at(points.z + s, FLOW, target) for s in (step, -step))
        slope = (path.log_prob(up, lam) - path.log_prob(down, lam)) / (2 * h)
        torch.testing.assert_close(gradient[:, k], slope, rtol=1e-6, atol=1e-6)


def test_another_lam_costs_no_evaluation():
    target = ManyWell(2)
    points = _points(target, n=7)
    assert target.evaluations == 7
    for lam in (0.0, 0.5, 1.0):
        Path(2.0).log_prob(points, lam)
        Path(2.0).gradient(points, lam)
    assert target.evaluations == 7


def test_at_the_start_zero_density_of_p_does_not_matter():
    """0 times -inf is 0 here: the flow's own density is finite wherever the flow is."""
    points = _points()
    lost = replace(points, log_p=torch.full_like(points.log_p, -torch.inf))
    torch.testing.assert_close(Path(2.0).log_prob(lost, 0.0), points.log_q)
    assert (Path(2.0).log_prob(lost, 0.5) == -torch.inf).all()


def test_where_takes_whole_rows():
    target = Gaussian(torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    a, b = _points(), Points.at(torch.ones(7, 2, dtype=torch.float64), FLOW, target, flow_gradient=True)
    mask = torch.tensor([True, False, True, True, False, False, True])
    chosen = a.where(mask, b)
    for name in ("z", "log_q", "log_p", "grad_log_q", "grad_log_p"):
        assert torch.equal(getattr(chosen, name)[mask], getattr(a, name)[mask])
        assert torch.equal(getattr(chosen, name)[~mask], getattr(b, name)[~mask])


class Counting(GaussianFlow):
    """How often it was asked for what."""

    def __init__(self) -> None:
        super().__init__(FLOW.mean, FLOW.std)
        self.values = self.gradients = 0

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        self.values += 1
        return super().log_prob(z)

    def log_prob_and_gradient(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.gradients += 1
        return GaussianFlow.log_prob(self, z), (self.mean - z) / self.std**2


@pytest.mark.parametrize("lam, values, gradients", [(0.5, 1, 0), (0.25, 0, 5)])
def test_the_flows_gradient_is_taken_only_where_it_counts(lam, values, gradients):
    """In the middle of FAB's path stands p alone."""
    target, flow = ManyWell(2), Counting()
    start = replace(_points(target), grad_log_q=None)
    end, _ = hmc(start, AnnealedDensity(Path(2.0), lam, flow, target), 0.1, 4, torch.Generator().manual_seed(0))
    assert (flow.values, flow.gradients) == (values, gradients)
    torch.testing.assert_close(end.log_q, FLOW.log_prob(end.z))


def test_unknown_gradients_stay_unknown():
    a, b = _points(), replace(_points(), grad_log_q=None)
    assert a.where(torch.ones(7, dtype=torch.bool), b).grad_log_q is None
    torch.testing.assert_close(b.with_flow_gradient(FLOW).grad_log_q, a.grad_log_q)
