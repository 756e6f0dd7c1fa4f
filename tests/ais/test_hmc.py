"""HMC keeps its density: started in equilibrium, moments stay what they are, rejections and all."""

from __future__ import annotations

import math

import pytest
import torch
from examples import GaussianFlow
from torch import Tensor

from openmm_fab.ais.kernels import adapt, hmc, widths
from openmm_fab.ais.path import AnnealedDensity, Path, Points
from openmm_fab.flow.base import Counted
from openmm_fab.target import Gaussian, Target, VonMises
from openmm_fab.tools.circle import wrap_periodic

CHAINS, TRAJECTORIES = 20_000, 25


class Plain(Target):
    """A target made of one function of z."""

    def __init__(self, dim: int, log_prob) -> None:
        self.dim, self.periodic = dim, torch.zeros(dim, dtype=torch.bool)
        self._log_prob = log_prob

    def log_prob(self, z: Tensor) -> Tensor:
        return self._log_prob(z)


def _flow(dim: int, mean: float = 0.0, std: float = 1.0) -> GaussianFlow:
    return GaussianFlow(torch.full((dim,), mean, dtype=torch.float64), torch.full((dim,), std, dtype=torch.float64))


def _run(z: Tensor, target: Target, step_size: float, leapfrogs: int, path=None, lam=1.0, flow=None, n=TRAJECTORIES):
    random = torch.Generator().manual_seed(5)
    path, flow = path or Path(1.0), flow or _flow(z.shape[1])
    points, accepted = Points.at(z, flow, target), []
    for _ in range(n):
        points, acceptance = hmc(points, AnnealedDensity(path, lam, flow, target), step_size, leapfrogs, random)
        accepted.append(float(acceptance.mean()))
    return points, sum(accepted) / n


def _normal(n: int, dim: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def _check_means(values: Tensor, exact) -> None:
    """Columns of values (chains, k) against their exact means, in standard errors."""
    z = (values.mean(0) - torch.as_tensor(exact, dtype=torch.float64)) / (values.std(0) / len(values) ** 0.5)
    assert z.abs().max() < 4.5, z


def test_keeps_a_normal_density():
    z = _normal(CHAINS, 1)
    target = Gaussian(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    points, acceptance = _run(z, target, step_size=1.6, leapfrogs=3)
    assert 0.5 < acceptance < 0.9  # rejections matter
    assert (points.z - z).abs().mean() > 0.5  # and something moves
    x = points.z
    _check_means(torch.cat([x, x**2, x**3, x**4], 1), [0.0, 1.0, 0.0, 3.0])


def test_keeps_a_correlated_density():
    covariance = torch.tensor([[1.0, 0.9], [0.9, 2.0]], dtype=torch.float64)
    precision, root = torch.linalg.inv(covariance), torch.linalg.cholesky(covariance)
    target = Plain(2, lambda z: -0.5 * torch.einsum("bi,ij,bj->b", z, precision, z))
    points, acceptance = _run(_normal(CHAINS, 2) @ root.T, target, step_size=1.3, leapfrogs=3)
    assert 0.4 < acceptance < 0.95
    a, b = points.z.T
    _check_means(torch.stack([a, b, a * a, b * b, a * b], 1), [0.0, 0.0, 1.0, 2.0, 0.9])


def test_keeps_an_asymmetric_density():
    """Gumbel's, whose wall on the left is steep and whose tail on the right is not."""
    target = Plain(1, lambda z: (-z - (-z).exp())[:, 0])
    uniform = torch.rand(CHAINS, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    points, acceptance = _run(-(-uniform.log()).log(), target, step_size=1.2, leapfrogs=3)
    assert 0.4 < acceptance < 0.95
    x = points.z
    euler = 0.5772156649015329
    variance = math.pi**2 / 6
    third = 2 * 1.2020569031595942  # third central moment
    _check_means(torch.cat([x, (x - euler) ** 2, (x - euler) ** 3], 1), [euler, variance, third])


def test_keeps_a_density_on_the_circle():
    mean, kappa = torch.tensor([2.5], dtype=torch.float64), torch.tensor([1.5], dtype=torch.float64)
    torch.manual_seed(3)  # torch's own sampler takes no generator
    z = torch.distributions.VonMises(mean, kappa).sample((CHAINS,))
    points, acceptance = _run(z, VonMises(mean, kappa), step_size=1.3, leapfrogs=3)
    assert 0.4 < acceptance < 0.95
    assert (points.z >= -math.pi).all() and (points.z < math.pi).all()
    assert ((points.z < 0) != (z < 0)).double().mean() > 0.1  # angles do cross +-pi
    ratio = torch.special.i1(kappa) / torch.special.i0(kappa)
    d = points.z - mean
    second = 1 - 2 * ratio / kappa  # <cos 2d>
    _check_means(torch.cat([d.cos(), d.sin(), (2 * d).cos()], 1), [float(ratio), 0.0, float(second)])


@pytest.mark.parametrize("alpha, lam", [(2.0, 1 / 3), (2.0, 0.5), (2.0, 0.8), (1.0, 0.4)])
def test_keeps_every_density_of_the_path(alpha, lam):
    """Products of powers of normal densities are normal."""
    flow, mean, std = _flow(1, mean=-0.5, std=1.2), 1.0, 0.8
    target = Gaussian(torch.tensor([mean], dtype=torch.float64), torch.tensor([std], dtype=torch.float64))
    a, b = Path(alpha).exponents(lam)
    precision = a / 1.2**2 + b / std**2
    centre = (a * -0.5 / 1.2**2 + b * mean / std**2) / precision
    width = precision**-0.5
    z = centre + width * _normal(CHAINS, 1)
    points, acceptance = _run(z, target, 1.5 * width, 3, Path(alpha), lam, flow)
    assert acceptance < 0.95
    x = (points.z - centre) / width
    _check_means(torch.cat([x, x**2, x**3], 1), [0.0, 1.0, 0.0])


@pytest.mark.parametrize("outside", [-torch.inf, torch.nan])
def test_keeps_a_density_with_a_hole(outside):
    """A half-normal density: trajectories that pass through the forbidden half are as good as any."""
    target = Plain(1, lambda z: torch.where(z[:, 0] > 0, -0.5 * z[:, 0] ** 2, outside))
    points, acceptance = _run(_normal(CHAINS, 1).abs(), target, step_size=0.8, leapfrogs=4)
    assert acceptance < 0.8
    assert (points.z > 0).all() and torch.isfinite(points.log_p).all()
    x = points.z
    _check_means(torch.cat([x, x**2, x**3], 1), [(2 / math.pi) ** 0.5, 1.0, 2 * (2 / math.pi) ** 0.5])


def test_points_of_zero_density_can_leave():
    target = Plain(1, lambda z: torch.where(z[:, 0] > 0, -0.5 * z[:, 0] ** 2, -torch.inf))
    start = torch.full((1000, 1), -0.5, dtype=torch.float64)
    points, _ = _run(start, target, step_size=0.4, leapfrogs=3, n=30)
    assert (points.log_p == -torch.inf).double().mean() < 0.01


def test_a_broken_proposal_is_refused():
    """Steps so long that nothing finite is left of them."""
    target = Plain(1, lambda z: -(z[:, 0] ** 4))
    flow = _flow(1)
    points = Points.at(_normal(50, 1), flow, target)
    after, acceptance = hmc(
        points, AnnealedDensity(Path(1.0), 1.0, flow, target), 1e200, 3, torch.Generator().manual_seed(0)
    )
    assert (acceptance == 0).all()
    assert torch.equal(after.z, points.z) and torch.equal(after.log_p, points.log_p)


@pytest.mark.parametrize("broken, lam", [(torch.nan, 0.3), (-torch.inf, 0.8)])
def test_a_proposal_where_the_flow_is_broken_is_refused(broken, lam):
    """Past the middle of FAB's path q stands in the denominator: a density of zero there would be irresistible."""

    class Broken(GaussianFlow):
        def log_prob(self, z: Tensor) -> Tensor:
            return torch.where(z[:, 0] > 1, broken, super().log_prob(z))

    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    target = Gaussian(zero, one)
    start = _normal(2000, 1).clamp(max=0.9)
    points, acceptance = _run(start, target, 0.8, 3, Path(2.0), lam, Broken(zero, one), n=5)
    assert 0.1 < acceptance < 1
    assert torch.isfinite(points.log_q).all() and (points.z <= 1).all()


def test_costs_one_evaluation_a_leapfrog_step():
    target = Gaussian(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    points = Points.at(_normal(10, 1), _flow(1), target)
    before = target.evaluations
    hmc(points, AnnealedDensity(Path(2.0), 0.5, _flow(1), target), 0.1, 4)
    assert target.evaluations - before == 40


def test_small_steps_conserve_the_energy():
    """Error of the leapfrog is of second order: half the step, a quarter of the energy lost."""
    target = Plain(1, lambda z: -(z[:, 0] ** 4))
    lost = []
    for step, leapfrogs in ((0.02, 20), (0.01, 40)):
        random, flow = torch.Generator().manual_seed(0), _flow(1)
        points = Points.at(_normal(500, 1), flow, target)
        _, acceptance = hmc(points, AnnealedDensity(Path(1.0), 1.0, flow, target), step, leapfrogs, random)
        lost.append(float((1 - acceptance).mean()))
    assert 0 < lost[1] < lost[0] < 0.05
    assert lost[0] / lost[1] == pytest.approx(4, rel=0.2)


def test_adapted_steps_reach_the_wanted_acceptance():
    target = Gaussian(torch.zeros(8, dtype=torch.float64), torch.ones(8, dtype=torch.float64))
    flow, random, step, last = _flow(8), torch.Generator().manual_seed(0), 0.01, []
    points = Points.at(_normal(300, 8), flow, target)
    for k in range(160):
        points, acceptance = hmc(points, AnnealedDensity(Path(1.0), 1.0, flow, target), step, 3, random)
        step = adapt(step, float(acceptance.mean()), goal=0.65)
        last += [float(acceptance.mean())] if k >= 120 else []
    assert sum(last) / len(last) == pytest.approx(0.65, abs=0.04)


def test_adapt_has_a_direction():
    assert adapt(1.0, acceptance=0.9, goal=0.65) == pytest.approx(1.05)
    assert adapt(1.0, acceptance=0.1, goal=0.65) == pytest.approx(1 / 1.05)


@pytest.mark.parametrize("flow_every", [1, 2, 4])
def test_the_flow_may_pull_less_often(flow_every):
    """A density of the path between two normal ones is kept, and the flow is asked so much less."""
    flow, target = _flow(2, -0.5, 1.2), Gaussian(torch.ones(2).double(), torch.full((2,), 0.8).double())
    counted, path, lam = Counted(flow), Path(2.0), 0.8
    a, b = path.exponents(lam)
    precision = a / 1.2**2 + b / 0.8**2
    centre, width = (a * -0.5 / 1.2**2 + b / 0.8**2) / precision, precision**-0.5
    points = Points.at(centre + width * _normal(CHAINS, 2), flow, target, flow_gradient=True)
    before, random, accepted = points.z, torch.Generator().manual_seed(7), []
    for _ in range(5):
        points, acceptance = hmc(
            points, AnnealedDensity(path, lam, counted, target), 0.6 * width, 4, random, flow_every
        )
        accepted.append(float(acceptance.mean()))
    assert 0.4 < sum(accepted) / 5 < 0.995
    assert float((points.z - before).abs().mean()) > 0.5 * width
    x = (points.z - centre) / width
    _check_means(torch.cat([x, x.square(), x[:, :1] * x[:, 1:]], 1), [0.0, 0.0, 1.0, 1.0, 0.0])
    assert counted.evaluations == 5 * CHAINS * 4 // flow_every


def test_a_step_for_each_coordinate_is_a_mass_for_each():
    """A stiff and a soft direction: steps in proportion to their widths make of them the unit density's trajectory."""
    std = torch.tensor([0.01, 3.0], dtype=torch.float64)
    x = _normal(50, 2)
    ends = []
    for scale in (torch.ones(2, dtype=torch.float64), std):
        target, random = Gaussian(torch.zeros(2).double(), scale), torch.Generator().manual_seed(1)
        points = Points.at(x * scale, _flow(2), target)
        points, acceptance = hmc(points, AnnealedDensity(Path(1.0), 1.0, _flow(2), target), 0.7 * scale, 3, random)
        ends.append((points.z / scale, acceptance))
    torch.testing.assert_close(ends[0], ends[1])


def test_widths_are_weighted_deviations():
    random = torch.Generator().manual_seed(2)
    z = torch.randn(200_000, 3, generator=random, dtype=torch.float64) * torch.tensor([0.5, 2.0, 0.3])
    log_w = -0.5 * z[:, 0].square() * (1 / 0.25**2 - 1 / 0.5**2)  # the first column becomes N(0, 0.25^2)
    periodic = torch.tensor([False, False, True])
    z[:, 2] = wrap_periodic(z[:, 2] + math.pi, torch.tensor(True))
    found = widths(z, log_w, periodic)
    expected = torch.tensor([0.25, 2.0, 0.3], dtype=torch.float64)
    torch.testing.assert_close(found, expected / expected.log().mean().exp(), rtol=0.02, atol=0)
    assert float(found.log().sum()) == pytest.approx(0.0, abs=1e-12)
    spread = math.pi * (2 * torch.rand(100_000, 1, generator=random, dtype=torch.float64) - 1)
    two = widths(torch.cat([spread, spread], 1), torch.zeros(100_000).double(), torch.tensor([True, False]))
    torch.testing.assert_close(two, torch.ones(2, dtype=torch.float64), rtol=0.01, atol=0)  # the circle is no wider


@pytest.mark.parametrize("flow_every", [1, 2, 4])
def test_short_steps_of_any_pattern_conserve_energy(flow_every):
    """The flow pulls as hard on average: nearly every trajectory of short steps is accepted."""
    flow, target, path = (
        _flow(2, -0.5, 0.6),
        Gaussian(torch.ones(2).double(), torch.full((2,), 0.8).double()),
        Path(2.0),
    )
    points = Points.at(0.3 + 0.7 * _normal(2000, 2), flow, target, flow_gradient=True)
    random = torch.Generator().manual_seed(7)
    after, acceptance = hmc(points, AnnealedDensity(path, 0.3, flow, target), 0.01, 80, random, flow_every)
    assert float((after.z - points.z).abs().mean()) > 0.3
    assert float(acceptance.mean()) > 0.995
