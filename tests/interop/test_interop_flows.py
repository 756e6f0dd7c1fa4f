"""Flows of torch.distributions, normflows and zuko as ours."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from examples import chain
from generators import QUIET, SMALL
from torch import nn
from torch.distributions import Independent, Normal, TransformedDistribution, VonMises
from torch.distributions.transforms import AffineTransform, TanhTransform

from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.interop.flows import from_distribution, from_normflows, from_zuko, tear
from openmm_fab.target import Gaussian
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.train.trainer import Trainer
from openmm_fab.weights import effective_sample_size

QUICK = TrainSettings(batch=64, updates=4, buffer_min=4, buffer_max=16, learning_rate=2e-2, warmup=5, averaging=0.8)


def _random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Bent(nn.Module):
    """A normal, bent by tanh and stretched: all that a user's own flow needs is to return a distribution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean, self.log_std = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self) -> torch.distributions.Distribution:
        base = Independent(Normal(self.mean, self.log_std.exp()), 1)
        stretch = AffineTransform(torch.zeros(len(self.mean)), torch.full((len(self.mean),), 0.5))
        return TransformedDistribution(base, [stretch, TanhTransform(), stretch.inv])


class Diagonal(nn.Module):
    """Independent normals and, on circles, von Mises densities."""

    def __init__(self, periodic: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("periodic", periodic)
        self.mean, self.log_std = nn.Parameter(torch.zeros(len(periodic))), nn.Parameter(torch.zeros(len(periodic)))

    def forward(self) -> torch.distributions.Distribution:
        return _Mixed(self.periodic, self.mean, self.log_std)


class _Mixed(torch.distributions.Distribution):
    arg_constraints: ClassVar = {}

    def __init__(self, periodic, mean, log_std) -> None:
        super().__init__(event_shape=mean.shape, validate_args=False)
        self.periodic = periodic
        self.lines = Normal(mean[~periodic], log_std[~periodic].exp())
        self.circles = VonMises(mean[periodic], (-2 * log_std[periodic] - 2).exp())

    def sample(self, shape=()):
        z = torch.zeros(*shape, len(self.periodic))
        z[..., ~self.periodic], z[..., self.periodic] = self.lines.sample(shape), self.circles.sample(shape)
        return z

    def log_prob(self, z):
        lines, circles = self.lines.log_prob(z[..., ~self.periodic]), self.circles.log_prob(z[..., self.periodic])
        return lines.sum(-1) + circles.sum(-1)


def _learns(flow, target) -> None:
    def ess() -> float:
        z, log_q = flow.sample(1000, _random(5))
        return effective_sample_size((target.log_prob(z) - log_q).detach().numpy()) / 1000

    before = ess()
    for _ in Trainer(flow, target, Budget(iterations=40), settings=QUICK, rng=_random()):
        pass
    assert ess() > min(1.5 * before, 0.9)


def test_a_module_that_returns_a_distribution():
    flow = from_distribution(Bent(3))
    z, log_q = flow.sample(500, _random())
    torch.testing.assert_close(flow.log_prob(z), log_q, rtol=0, atol=1e-4)
    # The density of tanh(x / 2) * 2, x normal, in closed form.
    x = 2 * torch.atanh(z / 2)
    expected = (Normal(0.0, 1.0).log_prob(x) - (1 - (z / 2).square()).log()).sum(1)
    torch.testing.assert_close(log_q, expected, rtol=0, atol=1e-3)
    _learns(from_distribution(Bent(2)), Gaussian(torch.tensor([0.5, -0.5]), torch.tensor([0.2, 0.3])))


def test_samples_are_reproducible_and_leave_the_global_numbers():
    flow = from_distribution(Bent(3))
    torch.manual_seed(1)
    a, _ = flow.sample(5, _random(2))
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    assert torch.equal(a, flow.sample(5, _random(2))[0]) and not torch.equal(a, flow.sample(5, _random(3))[0])
    random = _random(2)
    assert not torch.equal(flow.sample(5, random)[0], flow.sample(5, random)[0])
    torch.manual_seed(1)
    b, _ = flow.sample(5)
    torch.manual_seed(1)
    assert torch.equal(b, flow.sample(5)[0])


def test_samples_with_a_graph():
    """The same samples, and they move with the mean."""
    flow = from_distribution(Bent(3))
    z, log_q = flow.rsample(50, _random(1))
    torch.testing.assert_close((z, log_q), flow.sample(50, _random(1)))
    small = from_distribution(_Normal(0.0))
    z, _ = small.rsample(10, _random())
    z[:, 0].sum().backward()
    assert small.module.mean.grad.tolist() == [10.0, 0.0]
    circle = torch.tensor([True])
    assert not hasattr(from_distribution(Diagonal(circle), circle), "rsample")


def test_gradient_in_z():
    flow = from_distribution(Bent(3))
    z, _ = flow.sample(10, _random())
    log_q, gradient = flow.log_prob_and_gradient(z)
    x = 2 * torch.atanh(z / 2)
    expected = (-x + z / 2) / (1 - (z / 2).square())
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-3)
    assert not log_q.requires_grad and all(p.grad is None for p in flow.parameters())


def test_a_flow_of_ones_own_in_a_molecule(system, energy, own):
    """Trained, saved, loaded; angles that left the circle mean the same."""
    periodic = own.coordinates.periodic
    flow = from_distribution(Diagonal(periodic), periodic)
    z, log_q = flow.sample(20, _random())
    torch.testing.assert_close(flow.log_prob(torch.where(periodic, z + 2 * math.pi, z)), log_q, rtol=0, atol=1e-4)
    generator = BoltzmannGenerator(system, SMALL, seed=0, energy=energy, flow=flow)
    before = generator.sample(1000).ess
    history = generator.train(Budget(iterations=15), **{**QUIET, "compile": True})  # nothing of it can be compiled
    assert "outside" not in history[-1]
    assert generator.sample(1000).ess > 1.1 * before


def test_model_files_of_foreign_flows(system, energy, own, tmp_path):
    periodic = own.coordinates.periodic
    generator = BoltzmannGenerator(
        system, SMALL, seed=0, energy=energy, flow=from_distribution(Diagonal(periodic), periodic)
    )
    generator.train(Budget(iterations=2), **QUIET)
    path = generator.save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"Expected \['flow'\] of another library"):
        BoltzmannGenerator.load(path, system)
    fresh = from_distribution(Diagonal(periodic), periodic)
    loaded = BoltzmannGenerator.load(path, system, flow=fresh)
    assert (loaded.sample(50).x == generator.sample(50).x).all()
    with pytest.raises(ValueError, match="Expected a flow of the shape"):
        BoltzmannGenerator.load(path, system, flow=CouplingFlow(periodic, SMALL.flow))
    plain = own.save(tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match="Expected neither coordinates nor flow of another library"):
        BoltzmannGenerator.load(plain, system, flow=fresh)


def test_what_is_no_flow_is_refused():
    with pytest.raises(TypeError, match="got the distribution itself"):
        from_distribution(Normal(torch.zeros(2), torch.ones(2)))
    with pytest.raises(TypeError, match=r"got event_shape \(\)"):
        from_distribution(_Returns(Normal(torch.zeros(2), torch.ones(2))))
    with pytest.raises(TypeError, match="this module has none"):
        from_distribution(_Returns(Independent(Normal(torch.zeros(2), torch.ones(2)), 1)))
    with pytest.raises(TypeError, match=r"Expected a normflows.NormalizingFlow; got Linear"):
        from_normflows(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"Expected periodic with shape \(3,\)"):
        from_distribution(Bent(3), torch.tensor([True]))


class _Returns(nn.Module):
    def __init__(self, distribution) -> None:
        super().__init__()
        self.distribution = distribution

    def forward(self):
        return self.distribution


def test_tear_is_measured(own):
    periodic = torch.tensor([True, False])
    assert tear(from_distribution(Diagonal(periodic), periodic), periodic) < 1e-3
    # A normal density in an angle, mean 2: ((pi + 2)^2 - (pi - 2)^2) / 2 = 4 pi.
    with pytest.warns(UserWarning, match=r"jumps by up to 12\.6 nats"):
        from_distribution(_Normal(2.0), periodic)


class _Normal(nn.Module):
    def __init__(self, mean: float, std: float = 1.0) -> None:
        super().__init__()
        self.mean, self.std = nn.Parameter(torch.tensor([mean, 0.0])), std

    def forward(self) -> torch.distributions.Distribution:
        return Independent(Normal(self.mean, self.std * torch.ones(2)), 1)


# --- normflows ---


def _circular_normflows(nf):
    torch.manual_seed(0)
    bounds = torch.tensor([math.pi, math.pi, 5.0, 5.0])
    kinds = dict(num_bins=4, tail_bound=bounds, init_identity=False)
    flows = [
        nf.flows.CircularCoupledRationalQuadraticSpline(4, 1, 16, [0, 1], reverse_mask=reverse, **kinds)
        for reverse in (False, True)
    ]
    base = nf.distributions.UniformGaussian(4, [0, 1], torch.tensor([2 * math.pi, 2 * math.pi, 1.0, 1.0]))
    return nf.NormalizingFlow(base, flows)


def test_normflows_circular_splines():
    """Its own numbers, no tear, and it learns."""
    nf = pytest.importorskip("normflows", reason="normflows is not installed: pip install normflows")
    model, periodic = _circular_normflows(nf), torch.tensor([True, True, False, False])
    flow = from_normflows(model, periodic)
    z, log_q = flow.sample(300, _random())
    torch.testing.assert_close(flow.log_prob(z), log_q, rtol=0, atol=1e-3)
    torch.testing.assert_close(model.log_prob(z), log_q, rtol=0, atol=1e-3)
    assert tear(flow, periodic) < 0.01 and log_q.std() > 0.5
    couplings = [
        nf.flows.MaskedAffineFlow(torch.tensor(mask), nf.nets.MLP([2, 16, 2]), nf.nets.MLP([2, 16, 2]))
        for mask in ([1.0, 0.0], [0.0, 1.0])
    ]
    affine = nf.NormalizingFlow(nf.distributions.DiagGaussian(2), couplings)
    _learns(from_normflows(affine), Gaussian(torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.7])))


# --- zuko ---


def test_zuko_spline_flow_learns():
    zuko = pytest.importorskip("zuko", reason="zuko is not installed: pip install zuko")
    torch.manual_seed(0)
    inner = zuko.flows.NSF(2, transforms=2, hidden_features=[16])
    flow = from_zuko(inner)
    z, log_q = flow.sample(100, _random())
    torch.testing.assert_close(inner().log_prob(z), log_q, rtol=0, atol=1e-4)
    _learns(flow, Gaussian(torch.tensor([1.0, -1.0]), torch.tensor([0.4, 0.6])))


def test_angles_that_leave_the_circle_are_warned_of():
    """A broad normal density, symmetric about zero, does not jump at +-pi: what is beyond counts for another place."""
    periodic = torch.tensor([True, False])
    with pytest.warns(UserWarning, match=r"of this flow's samples have angles beyond \+-pi"):
        flow = from_distribution(_Normal(0.0, 1.8), periodic)
    assert tear(flow, periodic) < 1e-3


def test_a_generator_warns_of_angles_that_leave_the_circle(tmp_path):
    """Nobody told this flow that there are any."""

    class Broad(_Normal):
        def forward(self) -> torch.distributions.Distribution:
            return Independent(Normal(torch.zeros(9), 1.8 * self.mean.new_ones(9)), 1)

    with pytest.warns(UserWarning, match=r"of the flow's samples have angles beyond \+-pi"):
        BoltzmannGenerator(chain(tmp_path), flow=from_distribution(Broad(0.0)))


def test_zukos_circular_flow_is_warned_of():
    zuko = pytest.importorskip("zuko", reason="zuko is not installed: pip install zuko")
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="nats where an angle closes"):
        flow = from_zuko(zuko.flows.NCSF(3, transforms=3), torch.ones(3, dtype=torch.bool))
    assert tear(flow, torch.ones(3, dtype=torch.bool)) > 0.3
