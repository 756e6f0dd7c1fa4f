"""The trainer: learns targets with a known answer from nothing, resumes exactly, and says when it cannot go on."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from examples import losses_of
from scipy.stats import chi2
from torch import Tensor, nn

from openmm_fab.ais.annealing import AISSettings
from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.target import Gaussian, ManyWell, Target, VonMises
from openmm_fab.tools.metrics import IterationMetrics
from openmm_fab.train.errors import TrainingError
from openmm_fab.train.experience import BASINS_EVERY, PLAIN, RECENT
from openmm_fab.train.objectives import OBJECTIVES, MaximumLikelihood, path_share, replay
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.train.snf import StochasticFlow
from openmm_fab.train.trainer import Trainer
from openmm_fab.weights import (
    Estimate,
    effective_sample_size,
    effective_share,
    log_mean_weight,
    normalized_weights,
    z_score,
)

SMALL = TrainSettings(batch=32, updates=2, buffer_min=4, buffer_max=8, warmup=4, path_gradient=0.3, path_above=0.0)
LEARN = TrainSettings(batch=128, updates=8, buffer_min=8, warmup=50, learning_rate=2e-3, averaging=0.98)


class Mixed(Target):
    """Two angles with two modes each and two lines, one of them off the middle and narrow; log Z = 1.5."""

    dim, log_z = 4, 1.5

    def __init__(self) -> None:
        self.angles = VonMises(torch.tensor([0.5, -1.0]), torch.tensor([3.0, 2.0]), modes=2)
        self.lines = Gaussian(torch.tensor([2.0, 0.0]), torch.tensor([0.4, 1.3]), log_z=self.log_z)
        self.periodic = torch.tensor([False, True, False, True])

    def log_prob(self, z: Tensor) -> Tensor:
        return self.lines.log_prob(z[:, ::2]) + self.angles.log_prob(z[:, 1::2])


EVERY = OBJECTIVES | {"maximum_likelihood": MaximumLikelihood(ManyWell(2).sample), "snf": StochasticFlow()}


def _trainer(
    target: Target,
    settings: TrainSettings,
    iterations: int,
    seed: int = 0,
    hidden: int = 16,
    layers: int = 2,
    objective=OBJECTIVES["fab"],
):
    random = torch.Generator().manual_seed(seed)
    flow = CouplingFlow(target.periodic, FlowSettings(layers=layers, hidden=hidden), rng=random)
    return Trainer(flow, target, Budget(iterations=iterations), settings=settings, rng=random, objective=objective)


def _log_w(trainer: Trainer, n: int) -> tuple[Tensor, Tensor]:
    z, log_q = trainer.flow.sample(n, torch.Generator().manual_seed(99))
    return z, trainer.target.log_prob(z).double() - log_q.double()


@pytest.mark.parametrize("dtype, path", [("float32", 0.0), ("bfloat16", 0.0), ("float32", 0.7)])
def test_learns_double_wells(dtype, path):
    target = ManyWell(4)
    trainer = _trainer(
        target,
        replace(LEARN, matmul_dtype=dtype, path_gradient=path, path_above=0.0),
        iterations=45,
        hidden=48,
        layers=6,
    )
    assert trainer.learner.flow.matmul_dtype is (torch.bfloat16 if dtype == "bfloat16" else None)
    assert trainer.flow.matmul_dtype is None
    _, before = _log_w(trainer, 8192)
    assert effective_sample_size(before.numpy()) < 0.05 * 8192
    assert abs(log_mean_weight(before.numpy()).value - target.log_z) > 0.05
    history = list(trainer)
    z, log_w = _log_w(trainer, 8192)
    assert effective_sample_size(log_w.numpy()) > 0.6 * 8192
    estimate = log_mean_weight(log_w.numpy())
    assert abs(estimate.value - target.log_z) < 0.04
    assert abs(z_score(estimate, Estimate(target.log_z, 0.0))) < 4
    a = torch.linspace(-6, 6, 100_001, dtype=torch.float64)
    well = torch.softmax(target._well(a), 0)
    right = float(well[a > 0].sum())
    w = torch.from_numpy(normalized_weights(log_w.numpy()))
    for k in (0, 2):
        assert float(w[z[:, k] > 0].sum()) == pytest.approx(right, abs=0.03)
    accepted = [h["acceptance"] for h in history if math.isfinite(h["acceptance"])]
    assert history[-1]["ess_flow"] > 0.5 and 0.3 < accepted[-1] < 0.95
    assert 20 < len(accepted) < 45  # annealed while it paid
    assert [h["iteration"] for h in history] == list(range(1, 46))
    assert history[-1]["spent"] == 1.0 and history[-1]["evaluations"] == target.evaluations


def test_learns_angles_and_lines():
    target = Mixed()
    trainer = _trainer(target, LEARN, iterations=45, hidden=48, layers=6)
    _, before = _log_w(trainer, 8192)
    assert effective_sample_size(before.numpy()) < 0.1 * 8192
    list(trainer)
    z, log_w = _log_w(trainer, 8192)
    assert effective_sample_size(log_w.numpy()) > 0.6 * 8192
    estimate = log_mean_weight(log_w.numpy())
    assert abs(estimate.value - target.log_z) < 0.04
    assert abs(z_score(estimate, Estimate(target.log_z, 0.0))) < 4
    w = torch.from_numpy(normalized_weights(log_w.numpy()))
    for k, mean in ((1, 0.5), (3, -1.0)):
        assert float(w[(z[:, k] - mean).cos() > 0].sum()) == pytest.approx(0.5, abs=0.04)  # both modes


@pytest.mark.parametrize("ladder", [{"spacing": "adaptive"}, {"spacing": "geometric"}, {"resample": 1.0}])
def test_a_plain_pass_is_plain_with_every_ladder(ladder):
    """One step from q to p^alpha q^(1 - alpha): the samples stay, and their weights are (p / q)^alpha."""
    trainer = _trainer(ManyWell(2), replace(SMALL, ais=AISSettings(intermediate=3, **ladder)), 1)
    sizes = list(trainer.experience.step_sizes)
    result = trainer.experience.draw()
    assert result.ladder == [0.0, 1.0] and result.resampled == 0 and trainer.experience.step_sizes == sizes
    assert torch.equal(result.points.z, result.start.z)
    torch.testing.assert_close(result.log_w, 2 * (result.start.log_p - result.start.log_q).double())


@pytest.mark.parametrize("below", [-0.1, 1.1])
def test_shares_that_are_none_are_refused(below):
    with pytest.raises(ValueError, match="Expected 0 <= anneal_below <= 1"):
        TrainSettings(anneal_below=below)


@pytest.mark.parametrize("below, annealed", [(1.0, 40), (0.0, 2)])
def test_annealing_while_it_pays(below, annealed):
    """By the share that is set: all passes, or one in 16 behind those that fill the window; a plain one is cheaper."""
    settings = replace(SMALL, buffer_min=16, buffer_max=16, anneal_below=below)
    trainer = _trainer(ManyWell(2), settings, 40)
    history = list(trainer)[1:]
    by_annealing = settings.batch * (1 + settings.ais.leapfrogs)
    spent = [b["evaluations"] - a["evaluations"] for a, b in pairwise(history)]
    were = [math.isfinite(info["acceptance"]) for info in history]
    assert sum(were) == annealed - (below == 1.0)  # the first iteration, which fills the buffer, is left out
    assert spent == [by_annealing if were[k + 1] else PLAIN * settings.batch for k in range(len(spent))]
    assert all(math.isfinite(info["ess_ais"]) and math.isfinite(info["ess_flow"]) for info in history)
    assert math.isfinite(history[-1]["step_size"])


def test_passes_of_both_kinds_have_weights_of_one_scale():
    """Means of p^2 / q, and of x^2 under it, by annealed and by plain passes in one buffer, against closed forms."""
    mean, std = torch.tensor([0.4]), torch.tensor([0.8])
    target = Gaussian(mean, std, log_z=0.7)
    settings = TrainSettings(batch=512, updates=1, buffer_min=20, buffer_max=400, basin_share=0.0, anneal_below=0.0)
    trainer = _trainer(target, settings, 1)  # a new flow is the identity: q is the standard normal
    annealed, plain = (
        torch.cat([one().log_w for _ in range(200)]) for one in (trainer.experience.anneal, trainer.experience.draw)
    )
    assert len(plain) == PLAIN * len(annealed)
    # p = Z N(mean, std): p^2 / q is a Gaussian of precision 2 / std^2 - 1, times a constant.
    m, s = float(mean), float(std)
    precision = 2 / s**2 - 1
    peak = 2 * m / s**2 / precision
    exact = 2 * 0.7 - 2 * math.log(s) - 0.5 * math.log(precision) + 0.5 * precision * peak**2 - m**2 / s**2
    for estimate in (log_mean_weight(annealed.numpy()), log_mean_weight(plain.numpy())):
        assert estimate.error < 0.01 and abs(z_score(estimate, Estimate(exact, 0.0))) < 4
    trainer.experience.begin(1)  # the first of every 16 is annealed
    for _ in range(30):
        trainer.experience.fill()
    z, weights = trainer.experience.buffer.z[:, 0].double(), torch.softmax(trainer.experience.buffer.log_w, 0)
    assert trainer.experience.buffer.size > 25 * PLAIN * 512
    assert float((weights * z).sum()) == pytest.approx(peak, abs=0.02)
    assert float((weights * (z - peak) ** 2).sum()) == pytest.approx(1 / precision, abs=0.02)


@pytest.mark.parametrize("name", EVERY)
def test_resumed_is_uninterrupted(tmp_path, name):
    whole = _trainer(ManyWell(2), SMALL, 6, objective=EVERY[name])
    infos = list(whole)

    first = _trainer(ManyWell(2), SMALL, 6, objective=EVERY[name])
    for info in first:
        if info["iteration"] == 3:
            break
    first.save(tmp_path / "checkpoint.pt")
    second = _trainer(ManyWell(2), SMALL, 6, seed=77, objective=EVERY[name])  # everything random comes out of the file
    second.load(tmp_path / "checkpoint.pt")
    rest = list(second)

    assert [i["iteration"] for i in rest] == [4, 5, 6]
    assert {*infos[0], "lost_basins"} == set(IterationMetrics.__annotations__)
    for a, b in zip(infos[3:], rest, strict=True):
        assert _comparable(a) == _comparable(b)
    states = [{k: v for k, v in t.state_dict().items() if k != "counts"} for t in (whole, second)]
    _check_equal(*states)
    assert whole.evaluations == second.evaluations and whole.learner.updates == second.learner.updates
    assert whole.learner.counted.evaluations == second.learner.counted.evaluations > 0
    if name == "fab":
        assert whole.experience.buffer.size == 8 * 32  # full, and already overwritten


def _comparable(info: dict[str, float]) -> dict[str, float | str]:
    """nan equals nan here."""
    return {k: "nan" if math.isnan(v) else v for k, v in info.items() if k != "seconds"}


@pytest.mark.parametrize("name", EVERY)
def test_every_objective_learns(name):
    """A normal target off the flow's middle, for which all of them are good."""
    target = Gaussian(torch.tensor([0.8, -0.6]), torch.tensor([0.6, 1.3]))
    settings = TrainSettings(
        batch=128, updates=4, buffer_min=4, buffer_max=16, warmup=5, learning_rate=1e-2, averaging=0.9
    )
    objective = EVERY[name]
    if name == "maximum_likelihood":
        samples = target.mean + target.std * torch.randn(2000, 2, generator=torch.Generator().manual_seed(5))
        objective = MaximumLikelihood(samples)
    trainer = _trainer(target, settings, 25, objective=objective)
    _, before = _log_w(trainer, 4096)
    history = list(trainer)
    if name == "snf":
        z, log_q = objective.sample_path(trainer.flow, target, 4096, torch.Generator().manual_seed(99))
        log_w = (target.log_prob(z) - log_q).detach().double()
    else:
        _, log_w = _log_w(trainer, 4096)
    assert effective_sample_size(before.numpy()) < 0.6 * 4096
    assert effective_sample_size(log_w.numpy()) > 0.85 * 4096
    if name in ("fab", "fab_no_buffer"):
        assert history[-1]["ess_ais"] > 0.5
    else:
        assert math.isnan(history[-1]["ess_ais"]) and history[-1]["buffer"] == 0
    assert math.isnan(history[-1]["ess_flow"]) == (name == "maximum_likelihood")


def test_checkpoints_of_other_objectives_are_refused(tmp_path):
    path = _trainer(ManyWell(2), SMALL, 2).save(tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="Expected a checkpoint of the objective reverse_kl; got one of fab"):
        _trainer(ManyWell(2), SMALL, 2, objective=EVERY["reverse_kl"]).load(path)


def _check_equal(a, b) -> None:
    if isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            _check_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        for one, other in zip(a, b, strict=True):
            _check_equal(one, other)
    else:
        assert a == b


def test_foreign_checkpoints_are_refused(tmp_path):
    trainer, path = _trainer(ManyWell(2), SMALL, 2), tmp_path / "checkpoint.pt"
    path.write_text("no checkpoint")
    with pytest.raises(ValueError, match="Expected a training checkpoint"):
        trainer.load(path)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="Expected a training checkpoint"):
        trainer.load(path)
    trainer.save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="Expected a training checkpoint"):
        trainer.load(path)


def test_checkpoints_of_other_settings_are_refused(tmp_path):
    path = _trainer(ManyWell(2), SMALL, 2).save(tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="Resume with the settings"):
        _trainer(ManyWell(2), TrainSettings(batch=64, updates=2, buffer_min=4, buffer_max=8), 2).load(path)
    with pytest.raises(ValueError, match="of another shape"):
        _trainer(ManyWell(2), SMALL, 2, hidden=8).load(path)
    with pytest.raises(ValueError, match="of the same target"):
        _trainer(ManyWell(4), SMALL, 2).load(path)


def test_broken_losses_end_training():
    class Broken(CouplingFlow):
        def base_log_prob(self, base: Tensor) -> Tensor:
            log_q = super().base_log_prob(base)
            return log_q * torch.nan if self.broken else log_q

    target, random = ManyWell(2), torch.Generator().manual_seed(0)
    flow = Broken(target.periodic, FlowSettings(layers=2, hidden=16), rng=random)
    flow.broken = False
    trainer = Trainer(flow, target, Budget(iterations=100), settings=SMALL, rng=random)
    trainer.step()
    before = [p.clone() for p in flow.parameters()]
    trainer.learner.flow.broken = True
    with pytest.raises(TrainingError, match="Expected finite losses; got nan"):
        for _ in range(40):
            replay(trainer.learner, trainer.experience, trainer.settings)
    assert all(torch.equal(a, b) for a, b in zip(before, flow.parameters(), strict=True))


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_poisoned_learner_is_taken_back(poison):
    """Parameters that are no numbers any more: its samples have no weight, and the last good state comes back."""
    trainer = _trainer(ManyWell(2), SMALL, 100)
    steps = iter(trainer)
    next(steps)
    with torch.no_grad():
        for parameter in trainer.learner.flow.parameters():
            parameter.fill_(poison)
    with pytest.warns(UserWarning, match="goes back to its last good state"):
        infos = [next(steps) for _ in range(16)]
    assert infos[0]["ess_ais"] == 0.0 and math.isfinite(infos[-1]["loss"]) and infos[-1]["ess_ais"] > 0.0
    assert all(torch.isfinite(p).all() for p in trainer.learner.flow.parameters())


@pytest.mark.parametrize("buffer_min", [2, 16])
def test_a_target_without_valid_points_ends_training(buffer_min):
    class Nowhere(ManyWell):
        def log_prob(self, z: Tensor) -> Tensor:
            return super().log_prob(z) * torch.nan

    settings = TrainSettings(batch=8, updates=1, buffer_min=buffer_min, buffer_max=32)
    with pytest.raises(TrainingError, match="non-finite energy"):
        next(iter(_trainer(Nowhere(2), settings, 5)))


def test_budget_by_evaluations():
    trainer = _trainer(ManyWell(2), SMALL, 1)
    trainer.budget = Budget(evaluations=3000)
    history = list(trainer)
    assert history[-1]["evaluations"] >= 3000 > history[-2]["evaluations"]
    assert history[-1]["spent"] == history[-1]["evaluations"] / 3000


def test_budget_by_time():
    trainer = _trainer(ManyWell(2), SMALL, 1)
    trainer.budget = Budget(minutes=1.0 / 60)
    history = list(trainer)
    assert history[-1]["seconds"] >= 1.0 and all(h["seconds"] < 1.0 for h in history[:-1])


def test_budget_is_the_first_limit_reached():
    budget = Budget(minutes=2.0, iterations=10, evaluations=1000)
    assert budget.spent(60.0, 1, 10) == 0.5
    assert budget.spent(6.0, 8, 10) == 0.8
    assert budget.spent(6.0, 1, 2000) == 2.0


@pytest.mark.parametrize(
    "wrong", [{}, {"minutes": 0}, {"iterations": -1}, {"minutes": 1, "evaluations": 0}, {"minutes": math.nan}]
)
def test_budgets_are_checked(wrong):
    with pytest.raises(ValueError, match=r"Expected a positive number|Expected minutes in Budget to be a"):
        Budget(**wrong)


@pytest.mark.parametrize("wrong", [{"updates": 0}, {"updates": 9, "buffer_min": 8}, {"buffer_max": 8}, {"batch": 1}])
def test_settings_are_checked(wrong):
    with pytest.raises(ValueError, match="Expected 0 < updates"):
        TrainSettings(**wrong)
    for share, told in (
        (-0.1, "0 <= path_gradient <= 1"),
        (1.1, "0 <= path_gradient <= 1"),
        (math.nan, "path_gradient in"),
    ):
        with pytest.raises(ValueError, match=f"Expected {told}"):
            TrainSettings(path_gradient=share)
    for name in ("learning_rate", "max_gradient", "max_adjustment"):
        for value, told in (
            (0.0, "> 0; got 0.0"),
            (-1.0, "> 0; got -1.0"),
            (math.nan, "in TrainSettings to be a finite"),
        ):
            with pytest.raises(ValueError, match=f"Expected {name} {told}"):
                TrainSettings(**{name: value})
    with pytest.raises(ValueError, match="Expected warmup >= 0; got -1"):
        TrainSettings(warmup=-1)


def test_settings_keep_their_names_in_files():
    settings = replace(SMALL, matmul_dtype="float32", ais=AISSettings(intermediate=3))
    written = settings.to_dict()
    assert written["products"] == "float32" and "matmul_dtype" not in written and written["ais"]["intermediate"] == 3
    assert TrainSettings.from_dict(written) == settings


def test_steps_follow_the_widths_in_the_buffer(tmp_path):
    """A stiff line, a soft one and a circle: HMC's steps are in proportion, and a checkpoint keeps them."""

    class Uneven(Mixed):
        def __init__(self) -> None:
            super().__init__()
            self.lines = Gaussian(torch.tensor([0.0, 0.0]), torch.tensor([0.3, 1.2]), log_z=self.log_z)

    settings = replace(LEARN, ais=AISSettings(widths=True), updates=2)
    trainer = _trainer(Uneven(), settings, iterations=60)
    assert torch.equal(trainer.experience.widths, torch.ones(4))
    for _ in range(BASINS_EVERY + 2):
        trainer.step()
    assert 2.0 < float(trainer.experience.widths[2] / trainer.experience.widths[0]) < 8.0
    assert float(trainer.experience.widths.log().sum()) == pytest.approx(0.0, abs=1e-5)
    trainer.save(tmp_path / "checkpoint.pt")
    other = _trainer(Uneven(), settings, iterations=60)
    other.load(tmp_path / "checkpoint.pt")
    assert torch.equal(other.experience.widths, trainer.experience.widths)


def test_forces_in_the_buffer_are_those_of_the_target_as_trained_on():
    """Whatever basins were lifted when a sample was annealed, and since."""
    trainer = _trainer(Mixed(), replace(LEARN, basin_share=0.0), iterations=3)
    for seed in (0, 1):
        trainer.experience.target.coefficients = torch.randn(
            2, 36, generator=torch.Generator().manual_seed(seed)
        ).double()
        trainer.experience.fill()
    drawn = trainer.experience.buffer.sample(trainer.experience.buffer.size, trainer.rng)
    lifted = trainer.experience.target.add_bias(drawn.grad_log_p, drawn.z)
    torch.testing.assert_close(
        lifted, trainer.experience.target.log_prob_and_gradient(drawn.z)[1], rtol=1e-4, atol=1e-4
    )


@pytest.fixture(scope="module")
def partly_annealed() -> Trainer:
    """Of a good flow that has moved on since its buffer was filled, by annealing and with samples as it drew them."""
    quick = replace(LEARN, warmup=20, learning_rate=5e-3, path_above=0.0, matmul_dtype="float32", anneal_below=0.0)
    trainer = _trainer(Mixed(), quick, iterations=120)
    for _ in trainer:
        if trainer.iteration == 60:
            break
    buffer = trainer.experience.buffer
    own = torch.isfinite(buffer._log_b[: buffer.size])
    assert own.any() and not own.all() and trainer.experience.ess > 0.8
    buffer.adjust = lambda *change: None  # the buffer stays as it is
    return trainer


@pytest.mark.parametrize("path", [0.0, 0.6])
def test_the_control_variate_takes_noise_away_and_nothing_else(partly_annealed, path):
    """Of single gradient steps on the same buffer, of which none is made."""
    trainer, noise = partly_annealed, {}
    buffer = trainer.experience.buffer
    own = torch.isfinite(buffer._log_b[: buffer.size])

    def gradient(loss: Tensor) -> Tensor:
        by = torch.autograd.grad(loss, list(trainer.learner.flow.parameters()))
        return torch.cat([g.reshape(-1) for g in by]).double()

    for control in (False, True):
        trainer.settings = replace(trainer.settings, path_gradient=path, control_variate=control, updates=1, batch=32)
        drawn = torch.stack([gradient(*losses_of(replay, trainer)) for _ in range(200)])
        noise[control] = drawn.var(0).sum()

        # What it should be on average: sums over all of the buffer.
        slope = trainer.experience.target.add_bias(buffer._grad_log_p[: buffer.size], buffer.z)
        mixed, log_q = trainer.learner.log_probs(buffer.z, slope, path)
        moved = (log_q.detach() - buffer._log_q[: buffer.size]).double()
        a, b = buffer.log_w.exp(), buffer._log_b[: buffer.size].exp()
        kappa = a[own].sum() / b[own].sum() if control else 0.0
        away = (1 - path) * kappa * b * moved.exp().clamp(max=10)
        loss = (away * log_q - a * (-moved).exp().clamp(max=10) * mixed).sum() / a.sum()
        expected = gradient(loss)
        # In the directions that vary most, which are independent of each other.
        _, widths, axes = torch.linalg.svd(drawn - drawn.mean(0), full_matrices=False)
        z = (axes[:8] @ (drawn.mean(0) - expected)) / (widths[:8] / 200)
        assert chi2.sf(float(z.square().sum()), 8) > 1e-3, (control, z)
    assert noise[True] < 0.7 * noise[False], noise


def test_path_gradients_are_the_share_that_was_asked_for():
    """Gradients add up as shares say; values are the same; the flow is asked twice where a path is followed."""
    found = {}
    for share in (0.0, 1.0, 0.25):
        trainer = _trainer(
            Mixed(), replace(LEARN, path_gradient=share, path_above=0.0, matmul_dtype="float32"), iterations=60
        )
        for parameter in trainer.learner.flow.parameters():
            with torch.no_grad():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        z, _ = trainer.learner.flow.sample(64, torch.Generator().manual_seed(2))
        _, slope = trainer.experience.target.log_prob_and_gradient(z)
        log_q = trainer.learner.log_prob(z, slope, share)
        log_q.mean().backward()
        gradient = torch.cat([p.grad.reshape(-1) for p in trainer.learner.flow.parameters()])
        found[share] = log_q.detach(), gradient, trainer.learner.counted.evaluations
    (plain, ml, one), (path, along, two), (mixed, both, _) = found.values()
    torch.testing.assert_close(plain, mixed)
    torch.testing.assert_close(plain, path)
    assert float((ml - along).norm()) > 0.1 * float(ml.norm())
    torch.testing.assert_close(both, 0.75 * ml + 0.25 * along, rtol=1e-3, atol=1e-4)
    assert two == 2 * one == 128


def test_path_gradients_come_in_late_once_the_flow_is_good():
    """After as many passes as its ESS is judged by, from the limit on, when the steps are small; for a limit of zero
    at once."""
    even, uneven = torch.zeros(8, dtype=torch.float64), torch.tensor([0.0] * 4 + [-torch.inf] * 4)  # ESS 100 %, 50 %
    for above, passes, log_w, done, share in (
        *((0.7, RECENT, even, 6, 0.3), (0.7, RECENT, even, 5, 0.0), (0.7, RECENT - 1, even, 6, 0.0)),
        *(
            (0.7, RECENT, uneven, 9, 0.0),
            (0.4, RECENT, uneven, 9, 0.3),
            (0.5, RECENT, uneven, 9, 0.0),
        ),
        (0.0, 0, even, 0, 0.3),
    ):
        trainer = _trainer(Mixed(), replace(SMALL, path_above=above), iterations=10)
        trainer.iteration = done
        for _ in range(passes):
            trainer.experience.record_log_w(log_w, torch.zeros(len(log_w), 2))
        assert path_share(trainer.learner, trainer.experience, trainer.settings) == share, (above, passes, done)
        without = replace(SMALL, path_gradient=0.0, path_above=above)
        trainer = _trainer(Mixed(), without, iterations=3)
        assert path_share(trainer.learner, trainer.experience, trainer.settings) == 0
    for above in (-0.1, 1.1):
        with pytest.raises(ValueError, match="Expected 0 <= path_above <= 1"):
            TrainSettings(path_above=above)


def test_a_flow_that_shows_no_base_is_trained_as_published():
    class Closed(nn.Module):
        """Has what the trainer asks for, and nothing else."""

        def __init__(self, flow: CouplingFlow) -> None:
            super().__init__()
            self.flow = flow
            self.sample, self.log_prob = flow.sample, flow.log_prob
            self.log_prob_and_gradient = flow.log_prob_and_gradient

    ends = []
    for share in (0.7, 0.0):
        trainer = _trainer(Mixed(), SMALL, iterations=3)
        shut = Closed(trainer.flow)
        trainer = Trainer(
            shut,
            Mixed(),
            Budget(iterations=3),
            settings=replace(SMALL, path_gradient=share),
            rng=torch.Generator().manual_seed(3),
        )
        ends.append([info["loss"] for info in trainer])
    assert ends[0] == ends[1]


def test_bfloat16_needs_a_flow_that_has_it():
    with pytest.raises(ValueError, match='"auto", "float32" or "bfloat16"'):
        TrainSettings(matmul_dtype="float16")
    flow = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="Expected a CouplingFlow"):
        Trainer(flow, ManyWell(2), Budget(iterations=1), settings=replace(SMALL, matmul_dtype="bfloat16"))


@pytest.mark.parametrize("quick", [True, False])
def test_auto_takes_bfloat16_where_it_is_quick(quick, monkeypatch):
    monkeypatch.setattr("openmm_fab.train.learner.rounds_quickly", lambda device: quick)

    def lower(flow, dtype):
        budget, settings = Budget(iterations=1), replace(SMALL, matmul_dtype=dtype)
        trainer = Trainer(flow, ManyWell(2), budget, settings=settings, rng=torch.Generator())
        return getattr(trainer.learner.flow, "matmul_dtype", None) is torch.bfloat16

    flow = CouplingFlow(ManyWell(2).periodic, FlowSettings(layers=2, hidden=8))
    assert lower(flow, "auto") == quick and flow.matmul_dtype is None
    assert lower(flow, "bfloat16") and not lower(flow, "float32")
    assert not lower(flow.double(), "auto")  # who asks for more digits gets them
    lower(torch.nn.Linear(2, 2), "auto")  # and a flow of another library stays as it is


def test_learning_rate_rises_then_falls_to_zero():
    settings = TrainSettings(batch=16, updates=2, buffer_min=2, buffer_max=4, warmup=10, learning_rate=1e-3)
    rates = [info["learning_rate"] for info in _trainer(ManyWell(2), settings, 20)]
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak]) and rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[0] == pytest.approx(2e-4) and 0.6e-3 < max(rates) <= 1e-3 and rates[-1] < 0.02e-3


def test_the_flow_is_the_learners_running_average():
    settings = TrainSettings(
        batch=16, updates=2, buffer_min=2, buffer_max=4, learning_rate=1e-2, warmup=1, averaging=0.9
    )
    trainer = _trainer(ManyWell(2), settings, 3)
    average = [p.detach().clone() for p in trainer.flow.parameters()]
    step = trainer.learner.optimizer.step

    def watched():
        step()
        for own, new in zip(average, trainer.learner.flow.parameters(), strict=True):
            kept = min(0.9, (1 + trainer.learner.updates) / (10 + trainer.learner.updates))
            own.copy_(kept * own + (1 - kept) * new.detach())

    trainer.learner.optimizer.step = watched
    list(trainer)
    for own, flow, learner in zip(average, trainer.flow.parameters(), trainer.learner.flow.parameters(), strict=True):
        torch.testing.assert_close(own, flow)
        assert not torch.equal(flow, learner) or not own.any()


def test_a_pass_reaches_no_further_than_its_samples():
    """Of a narrow flow far from the target one sample holds nearly all the weight: not in the buffer."""
    target = ManyWell(4)
    flow = CouplingFlow(target.periodic, FlowSettings(layers=2, hidden=8), rng=torch.Generator().manual_seed(0))
    settings = TrainSettings(batch=200, buffer_min=1, ais=AISSettings(intermediate=0, alpha=8.0))
    trainer = Trainer(flow, target, Budget(iterations=1), settings=settings, rng=torch.Generator().manual_seed(0))
    experience = trainer.experience
    experience.begin(0)
    experience.fill()
    raw = experience.last.log_w
    assert effective_share(raw) < 0.02 < experience.lam < 1
    log_w = experience.buffer.log_w.double()
    assert effective_share(log_w) == pytest.approx(0.05, abs=1e-3)
    # About the mean weight: passes of other powers stay comparable.
    mean = torch.logsumexp(raw, 0) - math.log(len(raw))
    torch.testing.assert_close(log_w, mean + experience.lam * (raw - mean), atol=1e-3, rtol=1e-5)


def test_the_buffer_follows_the_learner():
    """Weights towards p^2 / q: the buffer's change by what log q fell, for the samples that were learned from."""
    settings = TrainSettings(batch=32, updates=1, buffer_min=1, buffer_max=1, learning_rate=1e-2, warmup=1)
    trainer = _trainer(ManyWell(2), settings, 100)
    trainer.step()  # the learner moves away from where the samples were annealed
    buffer = trainer.experience.buffer
    log_w, log_q = buffer.log_w.clone(), buffer._log_q.clone()
    with torch.no_grad():
        now = trainer.learner.flow.log_prob(buffer._z)
    replay(trainer.learner, trainer.experience, trainer.settings)  # from the whole buffer
    assert (now - log_q).abs().max() > 0.01
    torch.testing.assert_close(buffer._log_q, now)
    torch.testing.assert_close(buffer.log_w, log_w - (now - log_q).double())


def test_step_sizes_follow_the_acceptance():
    settings = TrainSettings(
        batch=64, updates=1, buffer_min=1, buffer_max=4, ais=AISSettings(intermediate=3, step_size=1e-3)
    )
    trainer = _trainer(ManyWell(2), settings, 10)
    list(trainer)
    assert all(e == pytest.approx(1e-3 * 1.05**10) for e in trainer.experience.step_sizes)


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    trainer, path = _trainer(ManyWell(2), SMALL, 2), tmp_path / "checkpoint.pt"
    trainer.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(trainer.experience.buffer, "state_dict", lambda: {"broken": lambda: 0})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        trainer.save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_running_statistics_of_other_flows_reach_the_averaged_one() -> None:
    class Running(torch.nn.Module):
        """A shifted normal whose shift is no parameter but what it has seen."""

        def __init__(self) -> None:
            super().__init__()
            self.width = torch.nn.Parameter(torch.zeros(2))
            self.register_buffer("seen", torch.zeros(2))

        def sample(self, n, rng=None):
            z = self.seen + self.width.exp() * torch.randn(n, 2, generator=rng)
            return z.detach(), self.log_prob(z).detach()

        def log_prob(self, z):
            if torch.is_grad_enabled():
                self.seen = 0.9 * self.seen + 0.1 * z.mean(0).detach()
            return torch.distributions.Normal(self.seen, self.width.exp()).log_prob(z).sum(1)

    flow, target = Running(), Gaussian(torch.full((2,), 3.0), torch.ones(2))
    objective = MaximumLikelihood(lambda n, generator: 3.0 + torch.randn(n, 2, generator=generator))
    trainer = Trainer(
        flow,
        target,
        Budget(iterations=10),
        settings=SMALL,
        rng=torch.Generator().manual_seed(0),
        objective=objective,
    )
    list(trainer)
    assert trainer.learner.flow is not flow and float(flow.seen.min()) > 1.0
    assert torch.equal(flow.seen, trainer.learner.flow.seen)


def test_a_resampled_base_is_resumed_uninterrupted(tmp_path) -> None:
    """Its points are drawn anew as it learns, and are in no checkpoint."""

    def made(seed: int) -> Trainer:
        random, settings = torch.Generator().manual_seed(seed), FlowSettings(layers=2, hidden=8, resampled=True)
        target = ManyWell(2)
        return Trainer(
            CouplingFlow(target.periodic, settings, rng=random),
            target,
            Budget(iterations=6),
            settings=SMALL,
            rng=random,
        )

    whole, first, second = made(0), made(0), made(5)
    infos = list(whole)
    for info in first:
        if info["iteration"] == 3:
            break
    first.save(tmp_path / "checkpoint.pt")
    second.load(tmp_path / "checkpoint.pt")
    for a, b in zip(infos[3:], list(second), strict=True):
        assert _comparable(a) == _comparable(b)
    _check_equal(*({k: v for k, v in t.state_dict().items() if k != "counts"} for t in (whole, second)))
