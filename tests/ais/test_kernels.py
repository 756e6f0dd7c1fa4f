"""Random-walk Metropolis and MALA: both keep densities of the path, and do what their closed forms say."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import wraps

import numpy as np
import pytest
import torch
from examples import GaussianFlow
from scipy.stats import chi2
from torch import Tensor

from openmm_fab.ais.annealing import AISSettings, run_ais
from openmm_fab.ais.kernels import KERNELS, _in_base, hmc, latent_hmc, mala, metropolis
from openmm_fab.ais.path import AnnealedDensity, Path, Points
from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.target import Gaussian, ManyWell, Target, VonMises

CHAINS = 20_000


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _flow(mean: float = 0.0, std: float = 1.0) -> GaussianFlow:
    return GaussianFlow(torch.tensor([mean], dtype=torch.float64), torch.tensor([std], dtype=torch.float64))


def _check_counts(x: Tensor, cdf) -> None:
    """Chi-square of x in ten bins that are equally likely by cdf."""
    counts = np.histogram(cdf(x.numpy()), 10, (0, 1))[0]
    expected = len(x) / 10
    assert counts.sum() == len(x)
    assert chi2.sf(((counts - expected) ** 2 / expected).sum(), 9) > 1e-4, counts


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("alpha, lam", [(1.0, 0.4), (2.0, 0.5), (2.0, 0.8)])
def test_keeps_every_density_of_the_path(name, alpha, lam):
    """Products of powers of normal densities are normal."""
    flow, mean, std = _flow(-0.5, 1.2), 1.0, 0.8
    target = Gaussian(torch.tensor([mean], dtype=torch.float64), torch.tensor([std], dtype=torch.float64))
    a, b = Path(alpha).exponents(lam)
    precision = a / 1.2**2 + b / std**2
    centre, width = (a * -0.5 / 1.2**2 + b * mean / std**2) / precision, precision**-0.5
    start = centre + width * torch.randn(CHAINS, 1, generator=_random(0), dtype=torch.float64)
    points, random = Points.at(start, flow, target), _random(1)
    for _ in range(4):
        points, acceptance = KERNELS[name](
            points, AnnealedDensity(Path(alpha), lam, flow, target), 1.4 * width, 3, random
        )
    assert 0.3 < float(acceptance.mean()) < 0.97  # rejections matter
    assert float((points.z - start).abs().mean()) > 0.5 * width
    x = (points.z[:, 0] - centre) / width
    _check_counts(x, lambda v: 0.5 * (1 + np.vectorize(math.erf)(v / math.sqrt(2))))
    torch.testing.assert_close(points.log_p, target.log_prob(points.z))
    torch.testing.assert_close(points.log_q, flow.log_prob(points.z))


@pytest.mark.parametrize("name", KERNELS)
def test_finds_a_density_from_elsewhere(name):
    """From a wrong start, the double well's shares of both sides, and its shape within: 30 calls."""
    target = ManyWell(2)
    flow = GaussianFlow(torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    z, random = 0.3 * torch.randn(4000, 2, generator=_random(0), dtype=torch.float64), _random(1)
    points = Points.at(z, flow, target)
    step = {"hmc": 0.12, "mala": 0.3, "metropolis": 1.2, "latent": 0.12}[name]
    # At lam = 0.1 the barrier is 0.9 kT high.
    for _ in range(40):
        points, _ = KERNELS[name](points, AnnealedDensity(Path(1.0), 0.1, flow, target), step, 5, random)
    x = np.linspace(-4, 4, 8001)
    density = np.exp(-0.9 * 0.5 * x**2 + 0.1 * (-(x**4) + 6 * x**2 + 0.5 * x))
    cdf = np.cumsum(density) / density.sum()
    _check_counts(points.z[:, 0], lambda v: np.interp(v, x, cdf))


def test_mala_is_the_langevin_proposal_with_its_correction():
    """One move against the textbook's formula (Roberts and Tweedie 1996), from the same random numbers."""
    target = ManyWell(2)
    flow = GaussianFlow(torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    z, h = torch.randn(500, 2, generator=_random(0), dtype=torch.float64), 0.25
    points, acceptance = mala(
        Points.at(z, flow, target), AnnealedDensity(Path(1.0), 1.0, flow, target), h, 1, _random(1)
    )
    random = _random(1)
    noise = torch.randn(z.shape, generator=random, dtype=torch.float64)
    log_p, gradient = target.log_prob_and_gradient(z)
    proposal = z + 0.5 * h**2 * gradient + h * noise
    log_p_new, gradient_new = target.log_prob_and_gradient(proposal)

    def log_move(to: Tensor, start: Tensor, gradient: Tensor) -> Tensor:
        return -0.5 * ((to - start - 0.5 * h**2 * gradient) / h).square().sum(1)

    log_ratio = log_p_new + log_move(z, proposal, gradient_new) - log_p - log_move(proposal, z, gradient)
    torch.testing.assert_close(acceptance, log_ratio.clamp(max=0).exp())
    accepted = torch.rand(500, generator=random, dtype=torch.float64) < acceptance
    assert 0.2 < accepted.double().mean() < 0.95
    torch.testing.assert_close(points.z, torch.where(accepted[:, None], proposal, z))


def test_metropolis_accepts_by_the_ratio_of_densities():
    flow, target = _flow(), Gaussian(torch.tensor([0.7]).double(), torch.tensor([0.5]).double())
    z = torch.randn(500, 1, generator=_random(0), dtype=torch.float64)
    points, acceptance = metropolis(
        Points.at(z, flow, target), AnnealedDensity(Path(1.0), 1.0, flow, target), 0.8, 1, _random(1)
    )
    proposal = z + 0.8 * torch.randn(z.shape, generator=_random(1), dtype=torch.float64)
    torch.testing.assert_close(acceptance, (target.log_prob(proposal) - target.log_prob(z)).exp().clamp(max=1))
    moved = (points.z != z)[:, 0]
    torch.testing.assert_close(points.z[moved], proposal[moved])
    assert abs(float(moved.double().mean() - acceptance.mean())) < 0.1


def test_several_moves_are_one_after_another():
    flow, target = _flow(), Gaussian(torch.tensor([0.7]).double(), torch.tensor([0.5]).double())
    start = Points.at(torch.randn(50, 1, generator=_random(0), dtype=torch.float64), flow, target)
    density = AnnealedDensity(Path(1.0), 1.0, flow, target)
    for name, kernel in (("mala", mala), ("metropolis", metropolis)):
        at_once, random = kernel(start, density, 0.6, 3, _random(1))[0], _random(1)
        one_by_one = start
        for _ in range(3):
            one_by_one, _ = KERNELS[name](one_by_one, density, 0.6, 1, random)
        assert torch.equal(at_once.z, one_by_one.z)


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.5, 1.0])
def test_latent_force_is_the_gradient_of_its_density(lam):
    """A bent flow with circles: density by change of variables, force by finite differences."""
    target, flow, x = _bent()
    path = Path(2.0)
    pulled = _in_base(x, AnnealedDensity(path, lam, flow, target))
    z, log_det = flow.from_base(x)
    expected = path.log_prob(Points.at(z, flow, target), lam) + log_det
    torch.testing.assert_close(pulled.log_density, expected.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(pulled.points.z, z.detach())
    torch.testing.assert_close(pulled.points.log_q, flow.log_prob(z).detach())
    h = 1e-5
    for k in range(x.shape[1]):
        step = torch.zeros_like(x)
        step[:, k] = h
        up, down = (_in_base(x + s, AnnealedDensity(path, lam, flow, target)).log_density for s in (step, -step))
        torch.testing.assert_close(pulled.force[:, k], (up - down) / (2 * h), rtol=1e-5, atol=1e-5)


def test_latent_moves_keep_a_density_on_a_line_and_a_circle():
    """Means of cos, sin and z under p, from exact samples of p, through a bent flow that is not p."""
    target, flow, _ = _bent()
    start = target.sample(CHAINS, _random(3))
    points, random = Points.at(start, flow, target), _random(4)
    for _ in range(5):
        points, acceptance = latent_hmc(points, AnnealedDensity(Path(1.0), 1.0, flow, target), 0.5, 4, random)
    assert 0.5 < float(acceptance.mean()) < 0.98
    assert float((points.z - start).abs().mean()) > 0.4
    for values, exact in zip(_moments(points.z), _moments(target.sample(400_000, _random(5))), strict=True):
        assert abs(float(values.mean() - exact.mean())) < 4.5 * float(values.std()) / math.sqrt(CHAINS)


def _moments(z: Tensor) -> list[Tensor]:
    line, circle = z[:, 0], z[:, 1]
    return [line, line.square(), circle.cos(), circle.sin(), (2 * circle).cos()]


class _LineAndCircle(Target):
    dim, periodic = 2, torch.tensor([False, True])

    def __init__(self) -> None:
        self.line = Gaussian(torch.tensor([0.6]).double(), torch.tensor([0.7]).double())
        self.circle = VonMises(torch.tensor([2.5]).double(), torch.tensor([1.2]).double())

    def log_prob(self, z: Tensor) -> Tensor:
        return self.line.log_prob(z[:, :1]) + self.circle.log_prob(z[:, 1:])

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        line = self.line.mean + self.line.std * torch.randn(n, 1, generator=rng, dtype=torch.float64)
        seed = int(torch.randint(2**31, (1,), generator=rng))
        circle = np.random.default_rng(seed).vonmises(2.5, 1.2, (n, 1))
        return torch.cat([line, torch.from_numpy(circle)], 1)


def _bent() -> tuple[_LineAndCircle, CouplingFlow, Tensor]:
    target = _LineAndCircle()
    flow = CouplingFlow(target.periodic, FlowSettings(layers=4, hidden=8, bins=4), rng=_random(0)).double()
    with torch.no_grad():
        for layer in flow.layers:
            layer.w3.normal_(0, 0.3, generator=_random(1))
    return target, flow, flow.sample_base(50, _random(2)).double()


def test_latent_needs_a_base():
    class NoBase:
        def log_prob(self, z: Tensor) -> Tensor:
            return -0.5 * z.square().sum(1)

    target = Gaussian(torch.zeros(1).double(), torch.ones(1).double())
    points = Points.at(torch.zeros(5, 1).double(), NoBase(), target)
    with pytest.raises(ValueError, match=r"to_base.*Use the kernel hmc"):
        latent_hmc(points, AnnealedDensity(Path(2.0), 0.5, NoBase(), target), 0.1, 2)


def test_walks_on_circles():
    mean, kappa = torch.tensor([2.5], dtype=torch.float64), torch.tensor([1.5], dtype=torch.float64)
    target, flow = VonMises(mean, kappa), _flow()
    points, random = Points.at(2 * torch.ones(CHAINS, 1, dtype=torch.float64), flow, target), _random(0)
    for _ in range(6):
        points, _ = metropolis(points, AnnealedDensity(Path(1.0), 1.0, flow, target), 2.0, 5, random)
    assert (points.z >= -math.pi).all() and (points.z < math.pi).all() and (points.z < 0).any()
    ratio = float(torch.special.i1(kappa) / torch.special.i0(kappa))
    cosine = (points.z - mean).cos()
    assert abs(float(cosine.mean()) - ratio) < 4 * float(cosine.std()) / math.sqrt(CHAINS)


@pytest.mark.parametrize("name, cost", [("hmc", 4), ("mala", 4), ("metropolis", 4), ("latent", 5)])
def test_costs_one_evaluation_a_step(name, cost):
    target = Gaussian(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    points = Points.at(torch.zeros(10, 1, dtype=torch.float64), _flow(), target)
    before = target.evaluations
    KERNELS[name](points, AnnealedDensity(Path(2.0), 0.5, _flow(), target), 0.1, 4, _random(0))
    assert target.evaluations - before == 10 * cost


@pytest.mark.parametrize("name", KERNELS)
def test_a_hole_is_never_entered(name):
    class Half(Target):
        dim, periodic = 1, torch.zeros(1, dtype=torch.bool)

        def log_prob(self, z: Tensor) -> Tensor:
            return torch.where(z[:, 0] > 0, -0.5 * z[:, 0].square(), torch.nan)

    target, flow, random = Half(), _flow(), _random(0)
    points = Points.at(torch.randn(CHAINS, 1, generator=random, dtype=torch.float64).abs(), flow, target)
    for _ in range(4):
        points, _ = KERNELS[name](points, AnnealedDensity(Path(1.0), 1.0, flow, target), 0.9, 3, random)
    assert (points.z > 0).all()
    _check_counts(points.z[:, 0], lambda v: np.vectorize(math.erf)(v / math.sqrt(2)))


def test_a_kernel_of_ones_own_is_taken_and_known_by_its_name():
    def borrowed(points, density, step_size, steps, rng=None):
        return hmc(points, density, step_size, steps, rng)

    target, flow = ManyWell(2), GaussianFlow(torch.zeros(2).double(), torch.ones(2).double())
    try:
        settings = AISSettings(kernel=borrowed, intermediate=2)
        runs = [
            run_ais(flow, target, 10, s, [0.1, 0.1], rng=_random(1)).log_w
            for s in (settings, replace(settings, kernel="borrowed"), replace(settings, kernel="hmc"))
        ]
        assert settings.kernel == "borrowed" and torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])
        with pytest.raises(ValueError, match="another one is called 'borrowed'"):
            AISSettings(kernel=wraps(borrowed)(lambda *_: None))
    finally:
        KERNELS.pop("borrowed", None)
    with pytest.raises(ValueError, match="Expected a kernel of"):
        replace(settings, intermediate=3)


def test_one_leapfrog_of_hmc_is_one_move_of_mala():
    target, flow = ManyWell(2), GaussianFlow(torch.zeros(2).double(), torch.ones(2).double())
    start = Points.at(torch.randn(20, 2, generator=_random(0), dtype=torch.float64), flow, target)
    one, other = (k(start, AnnealedDensity(Path(1.0), 1.0, flow, target), 0.2, 1, _random(1))[0].z for k in (hmc, mala))
    assert torch.equal(one, other)
