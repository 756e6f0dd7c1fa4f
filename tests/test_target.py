"""Targets: closed forms are normalised as they say, gradients are right, invalid points are zero density."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import chi2, kstest, multivariate_normal, norm
from torch import Tensor

from openmm_fab.coordinates.internal import InternalCoordinates
from openmm_fab.energy.bridge import OpenMMEnergy
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.target import BoltzmannTarget, Gaussian, GaussianMixture, ManyWell, Target, VonMises


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


CLOSED_FORMS = {
    "gaussian": Gaussian(_double(1.0, -2.0), _double(0.5, 3.0), log_z=1.5),
    "von Mises": VonMises(_double(0.5, 3.0), _double(2.0, 0.3)),
    "von Mises, 3 modes": VonMises(_double(0.5, -1.0), _double(2.0, 30.0), modes=3),
    "many well": ManyWell(2),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_log_z(name):
    """By quadrature of one coordinate at a time: all of these are products."""
    target = CLOSED_FORMS[name]
    assert target.dim == len(target.periodic) == 2
    at = target.mean if hasattr(target, "mean") else torch.zeros(2, dtype=torch.float64)
    here = float(target.log_prob(at[None])[0])
    log_z = here
    for k in range(2):
        limits = (-math.pi, math.pi) if target.periodic[k] else (float(at[k]) - 25, float(at[k]) + 25)

        def relative(value: float, k: int = k) -> float:
            z = at.clone()
            z[k] = value
            return math.exp(float(target.log_prob(z[None])[0]) - here)

        log_z += math.log(quad(relative, *limits, limit=400)[0])
    assert abs(log_z - getattr(target, "log_z", 0.0)) < 1e-6


def test_von_mises_modes_are_equal():
    target = VonMises(_double(0.5), _double(4.0), modes=3)
    z = _double(0.5, 0.5 + 2 * math.pi / 3, 0.5 - 2 * math.pi / 3)[:, None]
    values = target.log_prob(z)
    torch.testing.assert_close(values, values[:1].expand(3))
    assert values[0] > target.log_prob(z + math.pi / 3).max() + 7.9  # 2 kappa


def test_many_well():
    target = ManyWell(6)
    assert target.dim == 6 and not target.periodic.any()
    z = torch.tensor([[1.7, 0.3, -1.7, -1.0, 0.0, 2.0]], dtype=torch.float64)
    u = sum(a**4 - 6 * a**2 - a / 2 + b**2 / 2 for a, b in zip(z[0, ::2].tolist(), z[0, 1::2].tolist(), strict=True))
    assert abs(float(target.log_prob(z)[0]) + u) < 1e-12
    assert abs(target.log_z - 3 * ManyWell(2).log_z) < 1e-9
    # The paper's own constant for one well.
    assert ManyWell(2).log_z == pytest.approx(math.log(11784.50927) + 0.5 * math.log(2 * math.pi), abs=1e-7)
    for wrong in (0, 3):
        with pytest.raises(ValueError, match="even number of dimensions"):
            ManyWell(wrong)


def test_many_well_modes():
    target = ManyWell(6)
    assert target.modes.shape == (8, 6) and len(target.modes.unique(dim=0)) == 8
    assert (target.modes[:, ::2].abs() - 1.7).abs().max() < 1e-6 and not target.modes[:, 1::2].any()
    assert target.mode_of(target.modes).tolist() == list(range(8)) and target.modes_found(target.modes[2:5]) == 3
    large = ManyWell(60)  # 2^30 modes: some of them
    assert large.modes.shape == (2**16, 60) and large.modes_found(large.modes[:1000]) == 1000
    for dim in (34, 126, 128, 300):  # 2^17 modes, half of which are listed; more than a number's bits
        target = ManyWell(dim)
        assert target.modes.shape == (2**16, dim) and target.modes_found(target.modes) == 2**16
        assert target.modes_found(target.modes[:7].repeat(3, 1) + 0.1) == 7


def test_many_well_samples():
    """Kolmogorov-Smirnov against distribution functions by quadrature; pairs and samples are independent."""
    target, n = ManyWell(4), 20_000
    z = target.sample(n, _random(0)).double().numpy()
    x = np.linspace(-4, 4, 20_001)
    density = np.exp(-(x**4) + 6 * x**2 + 0.5 * x)
    cdf = np.concatenate([[0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    for column in (0, 2):
        assert kstest(z[:, column], lambda v: np.interp(v, x, cdf / cdf[-1])).pvalue > 1e-3
    for column in (1, 3):
        assert kstest(z[:, column], norm.cdf).pvalue > 1e-3
    left = (z[:, [0, 2]] < 0).astype(int)
    counts = np.bincount(2 * left[:, 0] + left[:, 1], minlength=4)
    share = np.array([cdf[-1] - np.interp(0, x, cdf), np.interp(0, x, cdf)]) / cdf[-1]
    expected = n * np.outer(share, share).ravel()
    assert expected.min() > 100 and chi2.sf(((counts - expected) ** 2 / expected).sum(), 3) > 1e-3
    assert np.abs(np.corrcoef(z.T) - np.eye(4)).max() < 4 / math.sqrt(n)


def test_gmm40_is_the_papers():
    """40 locations from torch's generator of seed 0 and standard deviations softplus(1), against scipy."""
    target = GaussianMixture()
    torch.manual_seed(0)  # as the paper's code does
    places = (torch.rand((40, 2)) - 0.5) * 2 * 40
    assert torch.equal(target.modes, places) and target.dim == 2 and target.log_z == 0.0
    std = float(torch.nn.functional.softplus(torch.tensor(1.0, dtype=torch.float64)))
    assert target.std == pytest.approx(std)
    z = 20 * torch.randn(50, 2, generator=_random(1), dtype=torch.float64)
    exact = np.mean([multivariate_normal(m, std**2).pdf(z.numpy()) for m in places.double().numpy()], axis=0)
    np.testing.assert_allclose(target.log_prob(z).numpy(), np.log(exact), rtol=1e-9)


def test_gmm40_samples():
    """Every component as often, and normal about its place with the right width."""
    target, n = GaussianMixture(), 40_000
    z = target.sample(n, _random(0))
    assert target.modes_found(z) == 40 and (target.mode_of(z) >= 0).double().mean() > 0.999
    line = torch.linspace(-50, 50, 301, dtype=torch.float64)
    log_p = target.log_prob(torch.cartesian_prod(line, line))
    p = log_p.exp() * (100 / 300) ** 2
    assert float(p.sum()) == pytest.approx(1, abs=1e-6)
    drawn = target.log_prob(z).double()
    assert abs(float(drawn.mean() - (p * log_p).sum())) < 4 * float(drawn.std()) / math.sqrt(n)
    far = torch.cdist(target.modes, target.modes).fill_diagonal_(torch.inf).min(1).values > 8 * target.std
    assert far.sum() >= 4
    index = target.mode_of(z)
    counts = torch.bincount(index[index >= 0], minlength=40)[far].numpy()
    expected = n / 40 * (1 - math.exp(-0.5 * target.REACH**2))
    assert chi2.sf(((counts - expected) ** 2 / expected).sum(), len(counts)) > 1e-3
    for k in torch.nonzero(far)[:, 0]:
        d = ((z[index == k] - target.modes[k]) / target.std).double().numpy()
        assert kstest(d.ravel(), norm.cdf).pvalue > 1e-4


def test_modes_are_found():
    target = GaussianMixture(components=5, width=100.0)
    assert target.modes_found(target.modes[:3]) == 3
    assert target.modes_found(target.modes[:1] + 3.9 * target.std * torch.tensor([1.0, 0.0])) == 1
    assert target.modes_found(target.modes[:1] + 4.1 * target.std * torch.tensor([1.0, 0.0])) == 0


@pytest.mark.parametrize("target", [GaussianMixture(4, width=5.0), ManyWell(4)])
def test_samples_agree_with_the_density(target):
    """E_p[g / p] = 1 for any density g that p covers: here a normal one at a mode, whatever the normalisation says."""
    z = target.sample(50_000, _random(2)).double()
    centre, width = target.modes[-1].double(), 0.3
    g = torch.distributions.Normal(centre, width).log_prob(z).sum(1)
    ratio = (g - target.log_prob(z) + target.log_z).exp()
    error = float(ratio.std()) / math.sqrt(len(z))
    assert error < 0.05 and abs(float(ratio.mean()) - 1) < 4 * error


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_gradient_by_differences(name):
    target = CLOSED_FORMS[name]
    z = torch.randn(8, 2, generator=_random(0), dtype=torch.float64)
    log_p, gradient = target.log_prob_and_gradient(z)
    assert not log_p.requires_grad and not gradient.requires_grad and not z.requires_grad
    torch.testing.assert_close(log_p, target.log_prob(z))
    for k in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[k] = 1e-5
        slope = (target.log_prob(z + step) - target.log_prob(z - step)) / 2e-5
        torch.testing.assert_close(gradient[:, k], slope, atol=1e-6, rtol=1e-6)


def test_evaluations_are_counted():
    target = Gaussian(_double(0.0), _double(1.0))
    for n in (3, 5):
        target.log_prob_and_gradient(torch.zeros(n, 1, dtype=torch.float64))
    assert target.evaluations == 8
    assert Gaussian(_double(0.0), _double(1.0)).evaluations == 0


class _Broken(Target):
    """Standard normal, but for what row k's first entry asks for."""

    dim, periodic = 2, torch.zeros(2, dtype=torch.bool)

    def log_prob(self, z: Tensor) -> Tensor:
        log_p = -0.5 * z.square().sum(1)
        log_p = torch.where(z[:, 0] == 1, torch.nan, log_p)
        log_p = torch.where(z[:, 0] == 2, torch.inf, log_p)
        log_p = torch.where(z[:, 0] == 3, -torch.inf, log_p)
        return log_p + (z[:, 0] - 4).abs().sqrt()  # an infinite slope at 4


def test_what_is_not_finite_has_no_density_and_no_gradient():
    z = torch.tensor([[1.0, 1.0], [0.5, 1.0], [2.0, 1.0], [3.0, 1.0], [4.0, 1.0], [5.0, -1.0]], dtype=torch.float64)
    log_p, gradient = _Broken().log_prob_and_gradient(z)
    good = [1, 5]
    bad = [0, 2, 3, 4]
    assert (log_p[bad] == -torch.inf).all() and (gradient[bad] == 0).all()
    alone, slope = _Broken().log_prob_and_gradient(z[good])
    assert torch.isfinite(alone).all() and (slope != 0).all()
    torch.testing.assert_close(log_p[good], alone)
    torch.testing.assert_close(gradient[good], slope)


class _Stretch:
    """x = exp(z) along one axis of one atom; log |dx/dz| = z."""

    dim, periodic = 1, torch.tensor([False])

    def to_cartesian(self, z: Tensor) -> tuple[Tensor, Tensor]:
        assert z.dtype == torch.float64
        return z.exp()[:, :, None].expand(-1, 1, 3), z[:, 0]


def test_boltzmann_target_changes_variables():
    """u = x: the density e^z exp(-e^z) is normalised."""
    target = BoltzmannTarget(lambda x: x[:, 0, 0], _Stretch())
    assert target.dim == 1 and target.periodic.tolist() == [False]
    total, _ = quad(lambda z: math.exp(float(target.log_prob(_double(z)[None])[0])), -30, 6)
    assert abs(total - 1) < 1e-8
    log_p, gradient = target.log_prob_and_gradient(_double(0.3)[None])
    assert abs(float(log_p[0]) - (0.3 - math.exp(0.3))) < 1e-12
    assert abs(float(gradient[0, 0]) - (1 - math.exp(0.3))) < 1e-12


def test_boltzmann_target_regularizes_only_if_asked():
    def energy(x: Tensor) -> Tensor:
        return 1e4 * x[:, 0, 0]

    z = _double(0.0)[None]
    assert float(BoltzmannTarget(energy, _Stretch()).log_prob(z)[0]) == pytest.approx(-1e4)
    tamed = BoltzmannTarget(energy, _Stretch(), regularize=lambda u: u / 100)
    assert float(tamed.log_prob(z)[0]) == pytest.approx(-100.0)
    assert float(tamed.log_prob_and_gradient(z)[1][0, 0]) == pytest.approx(1 - 100.0)


def test_boltzmann_target_computes_in_double_and_answers_in_kind():
    target = BoltzmannTarget(lambda x: x[:, 0, 0].square(), _Stretch())
    z = torch.tensor([[0.1234567]])
    log_p, gradient = target.log_prob_and_gradient(z)
    assert log_p.dtype == gradient.dtype == torch.float32
    exact, slope = target.log_prob_and_gradient(z.double())
    assert torch.equal(log_p, exact.float()) and torch.equal(gradient, slope.float())


def test_alanine_dipeptide(alanine_dipeptide: MolecularSystem):
    """OpenMM's energy and the coordinates joined: values, gradient by differences, points outside."""
    c = InternalCoordinates.from_system(alanine_dipeptide)
    with OpenMMEnergy(alanine_dipeptide, platform="Reference", workers=1) as energy:
        target = BoltzmannTarget(energy, c)
        z = 0.5 * torch.randn(3, c.dim, generator=_random(1), dtype=torch.float64)
        z[:, c.n_stiff :] = c.to_internal(torch.tensor(alanine_dipeptide.minimum)[None])[0][:, c.n_stiff :]
        z[1, :] = 0.0
        z[1, : c.n_stiff] = 1e3 * c.unmixing.sum(1)  # far outside any angle
        log_p, gradient = target.log_prob_and_gradient(z)
        assert target.evaluations == 3
        assert log_p[1] == -torch.inf and (gradient[1] == 0).all()
        good = z[[0, 2]]
        x, log_det = c.to_cartesian(good)
        torch.testing.assert_close(log_p[[0, 2]], log_det - energy(x), atol=1e-9, rtol=0)
        for seed in range(3):
            direction = torch.randn(c.dim, generator=_random(seed), dtype=torch.float64)
            step = 1e-5 * direction
            slope = (target.log_prob(good + step) - target.log_prob(good - step)) / 2e-5
            torch.testing.assert_close(gradient[[0, 2]] @ direction, slope, atol=1e-3, rtol=1e-5)
