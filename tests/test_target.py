"""Targets: closed forms are normalised as they say, gradients are right, invalid points are zero density."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from openmm_fab.coordinates import InternalCoordinates
from openmm_fab.energy.bridge import OpenMMEnergy
from openmm_fab.system import MolecularSystem
from openmm_fab.target import BoltzmannTarget, DoubleWells, Gaussian, Target, VonMises


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


CLOSED_FORMS = {
    "gaussian": Gaussian(_double(1.0, -2.0), _double(0.5, 3.0), log_z=1.5),
    "von Mises": VonMises(_double(0.5, 3.0), _double(2.0, 0.3)),
    "von Mises, 3 modes": VonMises(_double(0.5, -1.0), _double(2.0, 30.0), modes=3),
    "double wells": DoubleWells(1),
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


def test_double_wells():
    target = DoubleWells(3)
    assert target.dim == 6 and not target.periodic.any()
    z = torch.tensor([[1.7, 0.3, -1.7, -1.0, 0.0, 2.0]], dtype=torch.float64)
    u = sum(a**4 - 6 * a**2 - a / 2 + b**2 / 2 for a, b in zip(z[0, ::2].tolist(), z[0, 1::2].tolist(), strict=True))
    assert abs(float(target.log_prob(z)[0]) + u) < 1e-12
    assert abs(target.log_z - 3 * DoubleWells(1).log_z) < 1e-9


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
    tamed = BoltzmannTarget(energy, _Stretch(), lambda u: u / 100)
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
