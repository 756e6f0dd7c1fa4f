"""Training that goes wrong is seen: each fault is provoked, and the reaction checked."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import Tensor

from openmm_fab.ais.annealing import AISSettings
from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.target import ManyWell, VonMises
from openmm_fab.train import health as watch
from openmm_fab.train.errors import TrainingError
from openmm_fab.train.experience import RECENT
from openmm_fab.train.health import missing_basins
from openmm_fab.train.objectives import OBJECTIVES, MaximumLikelihood
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.train.trainer import Trainer

SMALL = TrainSettings(batch=32, updates=2, buffer_min=4, buffer_max=8, warmup=1, ais=AISSettings(intermediate=1, leapfrogs=1))  # noqa: E501 # fmt: skip


def _trainer(target=None, iterations: int = 1000, settings: TrainSettings = SMALL, objective=OBJECTIVES["fab"]):
    target = target or ManyWell(2)
    random = torch.Generator().manual_seed(0)
    flow = CouplingFlow(target.periodic, FlowSettings(layers=2, hidden=16), rng=random)
    return Trainer(flow, target, Budget(iterations=iterations), settings=settings, rng=random, objective=objective)


def _parameters(trainer: Trainer) -> list[Tensor]:
    return [p.detach().clone() for p in (*trainer.flow.parameters(), *trainer.learner.flow.parameters())]


def _check(trainer: Trainer, info: dict[str, float]) -> dict[str, float]:
    return trainer.health.check(trainer.learner, trainer.experience, {"iteration": trainer.iteration, **info})


def _told(caught) -> list[str]:
    return [str(w.message) for w in caught]


def test_a_healthy_run_says_nothing(monkeypatch) -> None:
    monkeypatch.setattr(watch, "LOOK_EVERY", 5)
    target = VonMises(torch.tensor([0.5, -1.0]), torch.tensor([2.0, 1.0]), modes=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = list(_trainer(target, iterations=15))
    assert [h["lost_basins"] for h in history if "lost_basins" in h] == [0.0] * 3


def test_an_explosion_is_taken_back() -> None:
    trainer = _trainer()
    for _ in range(watch.WINDOW + 5):
        trainer.step()
    good, steps = copy.deepcopy(trainer.health._good), trainer.iteration
    with torch.no_grad():  # a step of training gone wild
        for p in trainer.learner.flow.parameters():
            p.mul_(8.0)
    with pytest.warns(UserWarning, match="training explodes. Training goes back to its last good state, with half"):
        while trainer.health.restored == 0 and trainer.iteration < steps + 20:
            trainer.step()
    for name, p in trainer.learner.flow.state_dict().items():
        assert torch.equal(p, good["learner"][name])
    assert trainer.learner.rate == 0.5 and trainer.iteration > steps  # time goes on
    before = trainer.learner.learning_rate
    trainer.learner.rate = 1.0
    assert trainer.learner.learning_rate == pytest.approx(2 * before)
    trainer.learner.rate = 0.5
    losses = [trainer.step()["loss"] for _ in range(10)]
    assert max(losses) < 20 and trainer.health.restored == 1


class NaNAfter(CouplingFlow):
    broken = False

    def log_prob(self, z: Tensor) -> Tensor:
        return super().log_prob(z) * (math.nan if self.broken else 1.0)


def test_losses_that_stay_nan_stop_training_with_advice() -> None:
    random, target = torch.Generator().manual_seed(0), ManyWell(2)
    flow = NaNAfter(target.periodic, FlowSettings(layers=2, hidden=16), rng=random)
    trainer = Trainer(flow, target, Budget(iterations=1000), settings=SMALL, rng=random)
    trainer.step()
    good = _parameters(trainer)
    trainer.learner.flow.broken = True
    with warnings.catch_warnings(record=True) as caught, pytest.raises(TrainingError) as stopped:
        warnings.simplefilter("always")
        for loss in iter(lambda: torch.ones((), requires_grad=True) * math.nan, None):
            trainer.learner.learn(loss * sum(p.sum() for p in trainer.learner.flow.parameters()))
    assert len(caught) == watch.TRIES - 1 and all("last good state" in text for text in _told(caught))
    assert "This is the 3. time" in str(stopped.value) and "Lower TrainSettings.learning_rate" in str(stopped.value)
    assert all(torch.equal(a, b) for a, b in zip(good, _parameters(trainer), strict=True))
    assert trainer.learner.rate == 0.125


@pytest.mark.parametrize(("acceptance", "factor"), [(0.0, 0.25), (1.0, 2.0)])
def test_hmc_that_is_dead_gets_other_steps(acceptance, factor) -> None:
    trainer = _trainer()
    step = dict.fromkeys(("loss", "ess_flow"), math.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(watch.DEAD - 1):
            _check(trainer, step | {"acceptance": acceptance})
        _check(trainer, step | {"acceptance": 0.6})  # lives: counted anew
        for _ in range(watch.DEAD - 1):
            _check(trainer, step | {"acceptance": acceptance})
    sizes = list(trainer.experience.step_sizes)
    with pytest.warns(UserWarning, match="HMC (refuses|accepts) nearly every step"):
        _check(trainer, step | {"acceptance": acceptance})
    assert trainer.experience.step_sizes == [factor * size for size in sizes]


def test_a_hopeless_step_size_is_found_again() -> None:
    """A real one, a thousand times too long, which adaptation alone would take 140 iterations to mend."""
    ais = AISSettings(intermediate=1, leapfrogs=5, step_size=300.0)
    trainer = _trainer(settings=TrainSettings(batch=8, updates=1, buffer_min=1, buffer_max=2, ais=ais))
    with pytest.warns(UserWarning, match=r"HMC refuses nearly every step \(0 % for 50 iterations\)"):
        for _ in range(watch.DEAD):
            trainer.step()
    assert trainer.experience.step_sizes[0] == pytest.approx(300.0 / 1.05**50 / 4, rel=0.01)


def test_an_ess_that_collapses_is_told_once() -> None:
    trainer = _trainer()
    with pytest.warns(UserWarning, match=r"ESS collapsed from 60.0 % to 1 %") as caught:
        for ess in [0.6] * 100 + [0.01] * 100:
            _check(trainer, {"loss": math.nan, "acceptance": math.nan, "ess_flow": ess})
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="ESS collapsed"):  # again, after it was well in between
        for ess in [0.6] * 100 + [0.01] * 100:
            _check(trainer, {"loss": math.nan, "acceptance": math.nan, "ess_flow": ess})


def test_a_heavy_sample_of_a_good_flow_is_no_collapse() -> None:
    """It stays in the ESS of so many passes as that is made of, twice in a while."""
    trainer = _trainer()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for ess in ([0.6] * 70 + [0.01] * RECENT + [0.6] * 20 + [0.01] * RECENT) * 3:
            _check(trainer, {"loss": math.nan, "acceptance": math.nan, "ess_flow": ess})


def test_one_point_that_holds_the_buffer_is_told() -> None:
    trainer = _trainer()
    trainer.step()
    trainer.experience.buffer._log_w[3] += 30.0
    with pytest.warns(UserWarning, match=r"One sample holds \d+ % of the buffer's weight \(1\.0 effective samples"):
        trainer.health._buffer(trainer.experience)


def test_a_mode_that_is_lost_is_told_and_counted(monkeypatch) -> None:
    """A flow that learned one of two modes, and a buffer in which both are."""
    target = VonMises(torch.tensor([0.5]), torch.tensor([8.0]), modes=2)  # at 29 and -151 degrees
    angles = 0.5 + 0.35 * torch.randn(4000, 1, generator=torch.Generator().manual_seed(1))
    settings = TrainSettings(batch=64, updates=8, buffer_min=16, warmup=5, learning_rate=3e-2, averaging=0.9)
    trainer = _trainer(target, 40, settings, MaximumLikelihood(angles))
    list(trainer)
    trainer.flow.load_state_dict(trainer.learner.flow.state_dict())
    z, _ = trainer.flow.sample(4096, torch.Generator().manual_seed(2))
    assert float((z - 0.5).cos().gt(0).double().mean()) > 0.98

    both = torch.remainder(angles + math.pi * torch.arange(2).repeat(2000)[:, None] + math.pi, 2 * math.pi) - math.pi
    trainer.experience.buffer.add(both[:1000], torch.zeros(1000), torch.zeros(1000), torch.zeros(1000, 1))
    monkeypatch.setattr(watch, "LOOK_EVERY", 1)
    nothing = dict.fromkeys(("loss", "ess_flow", "acceptance"), math.nan)
    random = trainer.rng.get_state()
    with pytest.warns(UserWarning, match=r"lost 1 basin.* near -15\d degrees \(\d\d\.\d % of the buffer, [01]\S* % of"):
        info = _check(trainer, nothing)
    assert info["lost_basins"] == 1.0
    assert torch.equal(random, trainer.rng.get_state())  # looking changes nothing

    healthy = CouplingFlow(target.periodic, FlowSettings(layers=2, hidden=16), rng=torch.Generator().manual_seed(0))
    trainer.learner.flow.load_state_dict(healthy.state_dict())  # nearly uniform: knows both
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _check(trainer, nothing)["lost_basins"] == 0.0


def test_missing_basins() -> None:
    random = torch.Generator().manual_seed(0)
    left, right = (torch.normal(at, 0.3, (1000,), generator=random) for at in (-1.0, 2.0))
    held, even = torch.cat([left[:900], right[:100]]), torch.full((1000,), 1e-3, dtype=torch.float64)
    (found,) = missing_basins(held, even, left)
    assert found.startswith("near 11") and "(10.0 % of the buffer, 0 % of samples)" in found
    assert missing_basins(held, even, held) == []
    assert len(missing_basins(held, even, right)) == 1
    # A basin that is one heavy sample is no basin; nor is one that hardly holds anything.
    one = torch.full((901,), 0.8 / 900, dtype=torch.float64)
    one[-1] = 0.2
    assert missing_basins(torch.cat([held[:900], torch.tensor([2.0])]), one, held[:900]) == []
    few = torch.where(held > 0.5, 1e-4, 1.0).double()
    assert missing_basins(held, few / few.sum(), held[:900]) == []


def test_health_is_part_of_the_checkpoint(tmp_path) -> None:
    trainer = _trainer()
    for _ in range(8):
        trainer.step()
    trainer.learner.rate, trainer.health.restored, trainer.health._told = 0.25, 2, {"ess"}
    trainer.save(tmp_path / "checkpoint.pt")
    other = _trainer()
    other.load(tmp_path / "checkpoint.pt")
    assert other.learner.rate == 0.25 and other.health.restored == 2 and other.health._told == {"ess"}
    assert other.health._losses == trainer.health._losses
    for name, p in other.health._good["learner"].items():
        assert torch.equal(p, trainer.health._good["learner"][name])
