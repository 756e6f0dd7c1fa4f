"""Levels of several temperatures: log Z by closed forms, and a temperature that no move changes."""

from __future__ import annotations

import math

import pytest
import torch

from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.target import TemperedTarget
from openmm_fab.train.levels import Levels
from openmm_fab.train.objectives import fab
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.train.trainer import Trainer

LOGS = (0.0, math.log(2), math.log(4))
DIM, LOWEST = 3, 40.0


class Plain:
    """Coordinates that are their own Cartesian ones, (batch, 1, 3)."""

    dim, periodic = DIM, torch.zeros(DIM, dtype=torch.bool)

    def to_cartesian(self, z):
        return z[:, None], torch.zeros(len(z), dtype=z.dtype)


def quartic(x):
    """Wells of x^4, above an energy of LOWEST."""
    return LOWEST + x.pow(4).sum((1, 2))


def target_of(regularize=None) -> TemperedTarget:
    return TemperedTarget(quartic, Plain(), LOGS, LOWEST, regularize=regularize)


def flow_of() -> CouplingFlow:
    return CouplingFlow(
        Plain.periodic, FlowSettings(layers=2, hidden=8, bins=4, scale=0.6), log_temperatures=LOGS,
        rng=torch.Generator().manual_seed(0),
    )  # fmt: skip


def exact(c: float) -> float:
    """log Z less that of harmonic coordinates: of x^4 / tau it is log of 2 Gamma(5/4) tau^(1/4)."""
    return DIM * (math.log(2 * math.gamma(1.25)) + c / 4 - c / 2)


def test_the_density_is_boltzmanns_at_each_temperature():
    target = target_of()
    z = torch.randn(20, DIM + 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z[:, -1] = torch.tensor(LOGS, dtype=torch.float64)[torch.arange(20) % 3]
    expected = -z[:, :-1].pow(4).sum(1) / z[:, -1].exp() - 0.5 * DIM * z[:, -1]
    torch.testing.assert_close(target.log_prob(z), expected, rtol=0, atol=1e-10)
    log_p, gradient = target.log_prob_and_gradient(z)
    torch.testing.assert_close(log_p, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient[:, :-1], -4 * z[:, :-1].pow(3) / z[:, -1:].exp(), rtol=1e-9, atol=1e-9)
    assert torch.equal(gradient[:, -1], torch.zeros(20, dtype=torch.float64))


def test_levels_are_lines_between_temperatures_and_no_part_of_the_fingerprint():
    target = target_of()
    mark = target.fingerprint
    target.levels = torch.tensor([1.0, 3.0, -1.0], dtype=torch.float64)
    c = torch.tensor([0.0, 0.5 * LOGS[1], LOGS[1], 0.5 * (LOGS[1] + LOGS[2]), LOGS[2]], dtype=torch.float64)
    harmonic = 0.5 * DIM * c
    expected = torch.tensor([1.0, 2.0, 3.0, 1.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(target.level(c) - harmonic, expected, rtol=0, atol=1e-12)
    assert torch.equal(target.fingerprint, mark)


def test_the_energy_that_is_limited_is_in_kT_of_its_temperature():
    seen = []
    target = target_of(lambda u: seen.append(u) or u)
    z = torch.full((3, DIM + 1), 1.0, dtype=torch.float64)
    z[:, -1] = torch.tensor(LOGS)
    target.log_prob(z)
    torch.testing.assert_close(seen[0], torch.tensor([3.0, 1.5, 0.75], dtype=torch.float64))


def test_estimates_are_log_z():
    target, flow = target_of(), flow_of()
    levels = Levels(target, 4)
    for seed in range(4):
        z, log_q = flow.sample(12_000, torch.Generator().manual_seed(seed))
        levels.record((target.log_prob(z) - log_q).double(), z[:, -1].double())
        levels.update()  # what was recorded is of the levels of then
    for k, c in enumerate(LOGS):
        assert float(target.levels[k]) == pytest.approx(exact(c), abs=0.03)


def test_few_samples_change_nothing():
    target = target_of()
    levels = Levels(target, 4)
    levels.update()
    levels.record(torch.full((15,), 5.0, dtype=torch.float64), torch.zeros(15, dtype=torch.float64))
    levels.record(torch.full((40,), -torch.inf, dtype=torch.float64), torch.full((40,), LOGS[1], dtype=torch.float64))
    levels.update()
    assert torch.equal(target.levels, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("kernel", ["hmc", "metropolis", "latent"])
def test_annealing_moves_all_but_the_temperature(kernel):
    settings = TrainSettings(batch=64, buffer_min=2, ais={"kernel": kernel, "intermediate": 2})
    trainer = Trainer(flow_of(), target_of(), Budget(iterations=3), settings=settings, objective=fab)
    result = trainer.experience.anneal()
    assert torch.equal(result.points.z[:, -1], result.start.z[:, -1])
    assert float((result.points.z[:, :-1] - result.start.z[:, :-1]).abs().min(1).values.max()) > 0
    weights = TrainSettings(batch=64, buffer_min=2, ais={"widths": True})
    trainer = Trainer(flow_of(), target_of(), Budget(iterations=3), settings=weights, objective=fab)
    list(trainer)
    assert trainer.experience.widths[-1] == 0
    assert (trainer.experience.widths[:-1] > 0).all()


def test_a_buffer_follows_the_levels():
    """Its weights are those towards the target as it is; alpha = 2 counts a change of log p twice."""
    trainer = Trainer(
        flow_of(), target_of(), Budget(iterations=100), settings=TrainSettings(batch=64, buffer_min=2), objective=fab
    )
    experience = trainer.experience
    experience.begin(1)
    experience.fill()
    before, level = experience.buffer.log_w.clone(), trainer.target.level(experience.buffer.z[:, -1])
    experience.begin(10)
    change = trainer.target.level(experience.buffer.z[:, -1]) - level
    assert float(change.abs().min()) > 0
    torch.testing.assert_close(experience.buffer.log_w, before - 2 * change, rtol=0, atol=1e-9)


def test_training_brings_every_temperature_to_its_target():
    flow, target = flow_of(), target_of()
    settings = TrainSettings(batch=128, buffer_min=4, buffer_max=16, learning_rate=5e-3)
    for info in Trainer(flow, target, Budget(iterations=100), settings=settings, objective=fab):
        last = info
    assert last["ess_flow"] > 0.9
    for k, c in enumerate(LOGS):
        assert float(target.levels[k]) == pytest.approx(exact(c), abs=0.1)
