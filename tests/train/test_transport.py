"""Constrained mass transport: the density of a stage in closed form, and what it learns from energies alone."""

from __future__ import annotations

import math

import pytest
import torch

from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.target import Gaussian, ManyWell
from openmm_fab.train.objectives import objective_by_name
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.train.trainer import Trainer
from openmm_fab.train.transport import ConstrainedMassTransport, log_weights, multipliers
from openmm_fab.weights import effective_share

SETTINGS = TrainSettings(batch=256, updates=8, warmup=5, learning_rate=5e-3, averaging=0.9)


def normal_samples(n: int = 400_000) -> tuple[torch.Tensor, torch.Tensor]:
    """x of a standard normal, and its log density."""
    x = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, -0.5 * x.square() - 0.5 * math.log(2 * math.pi)


def of_normals(mean: float, std: float) -> tuple[float, float]:
    """KL(g | q) and H(q) - H(g) of a normal g and the standard normal q."""
    return 0.5 * (std**2 + mean**2 - 1) - math.log(std), -math.log(std)


@pytest.mark.parametrize(
    ("mean", "std", "divergence", "entropy"),
    [(0.0, 0.2, 0.1, 10.0), (0.0, 0.2, 10.0, 0.3), (1.5, 0.5, 0.2, 0.2), (1.5, 0.5, 0.3, 10.0), (0.2, 0.9, 1.0, 1.0)],
)
def test_a_stage_is_as_far_as_its_constraints_allow(mean, std, divergence, entropy):
    """Towards a normal p, in a scale of its own, g is a normal too: mean and deviation follow from the multipliers."""
    x, log_q = normal_samples()
    log_p = -0.5 * ((x - mean) / std).square() + 123.0
    lam, eta = multipliers(log_p, log_q, divergence, entropy)
    s = 1 + lam + eta
    precision = (1 / std**2 + lam) / s
    expected = (mean / std**2 / s / precision, precision**-0.5)
    w = log_weights(log_p, log_q, lam, eta).softmax(0)
    found = float(w @ x)
    assert (found, float(w @ (x - found).square()) ** 0.5) == pytest.approx(expected, abs=0.02)
    kl, fall = of_normals(*expected)
    assert kl < divergence * 1.03 and fall < entropy * 1.03
    # What has a price binds, and p itself is taken where it is within reach.
    if lam > 1e-3:
        assert kl == pytest.approx(divergence, rel=0.03)
    if eta > 1e-3:
        assert fall == pytest.approx(entropy, rel=0.03)
    whole = of_normals(mean, std)
    if whole[0] < divergence and whole[1] < entropy:
        assert lam == eta == 0.0
    else:
        assert max(lam, eta) > 0.1


def test_samples_without_energy_have_no_weight():
    x, log_q = normal_samples(2000)
    log_p = torch.where(x > 0, -2 * x.square(), -torch.inf)
    lam, eta = multipliers(log_p, log_q, 0.9, 2.0)
    log_w = log_weights(log_p, log_q, lam, eta)
    assert (log_w[x <= 0] == -torch.inf).all() and torch.isfinite(log_w[x > 0]).all()
    with pytest.raises(ValueError, match="none of the flow's has one"):
        multipliers(torch.full((4,), -torch.inf), torch.zeros(4), 0.3, 0.5)


class NoGradient(ManyWell):
    counted = 0

    def log_prob(self, z):
        self.counted += len(z)
        return super().log_prob(z)

    def log_prob_and_gradient(self, z):
        raise AssertionError("an energy without a gradient was asked for one")


def trainer_of(target, objective, iterations: int) -> Trainer:
    random = torch.Generator().manual_seed(0)
    flow = CouplingFlow(target.periodic, FlowSettings(layers=4, hidden=16), rng=random)
    return Trainer(flow, target, Budget(iterations=iterations), settings=SETTINGS, rng=random, objective=objective)


def test_energies_alone_are_enough():
    """Both wells, by their shares: the deeper one of this double well is missed by none."""
    target = NoGradient(2)
    objective = ConstrainedMassTransport(4000, steps=40)
    trainer = trainer_of(target, objective, 50)
    list(trainer)
    assert target.counted == 10 * -(-4000 // 256) * 256  # one energy a sample, none in the fits
    assert objective.multipliers == (0.0, 0.0) and objective.lam == 1.0  # the target itself is within reach in the end
    z, log_q = trainer.flow.sample(4000, torch.Generator().manual_seed(1))
    log_w = (target.log_prob(z) - log_q).detach().double()
    assert effective_share(log_w) > 0.7
    left = float(log_w.softmax(0) @ (z[:, 0] < 0).double())
    exact = target.sample(20_000, torch.Generator().manual_seed(2))
    assert left == pytest.approx(float((exact[:, 0] < 0).double().mean()), abs=0.03)


def test_a_resumed_stage_is_the_same(tmp_path):
    target = Gaussian(torch.tensor([0.8, -0.6]), torch.tensor([0.3, 1.3]))
    whole = trainer_of(target, ConstrainedMassTransport(600, steps=12), 6)
    losses = [info["loss"] for info in whole]
    first = trainer_of(target, ConstrainedMassTransport(600, steps=12), 6)
    for info in first:
        if info["iteration"] == 4:  # within a stage
            break
    first.save(tmp_path / "checkpoint.pt")
    second = trainer_of(target, ConstrainedMassTransport(600, steps=12), 6)
    second.load(tmp_path / "checkpoint.pt")
    assert [info["loss"] for info in second] == losses[4:]


def test_by_name_every_training_has_its_own():
    assert isinstance(objective_by_name("cmt"), ConstrainedMassTransport)
    assert objective_by_name("cmt") is not objective_by_name("cmt")
    with pytest.raises(ValueError, match="Expected samples and steps"):
        ConstrainedMassTransport(0)
