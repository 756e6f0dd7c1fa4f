"""The start of training: phases, populations, what is held fixed, checkpoints."""

import math
from dataclasses import replace

import pytest
import torch

from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.generator.parts import objective_of
from openmm_fab.target import Target
from openmm_fab.train.experience import RECENT
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.train.start import JOINT, LIFT_EVERY, LOOK, PHASES, RISE, STEPS, Start
from openmm_fab.train.trainer import Trainer

FLOW = FlowSettings(layers=2, torsion_layers=4, affine_layers=2, hidden=32)
SETTINGS = TrainSettings(batch=128, buffer_min=2, buffer_max=8)


class Rotor(Target):
    """A torsion with two wells, 2 tilt kT apart, and five lines that follow it: mean 2 sin t, width 1/2."""

    def __init__(self, tilt):
        self.dim, self.periodic, self.tilt = 6, torch.tensor([False] * 5 + [True]), tilt

    def log_prob(self, z):
        t = z[:, 5]
        well = 8 * (torch.cos(2 * t) - 1) + self.tilt * torch.cos(t)
        return well - 2 * (z[:, :5] - 2 * torch.sin(t)[:, None]).square().sum(1)


def trainer_of(iterations=500, objective=None, tilt=0.5, settings=SETTINGS):
    target = Rotor(tilt)
    flow = CouplingFlow(target.periodic, FLOW, rng=torch.Generator().manual_seed(0))
    random = torch.Generator().manual_seed(0)
    return Trainer(
        flow, target, Budget(iterations=iterations), settings=settings, rng=random, objective=objective or Start()
    )


def test_phases_follow_each_other_and_the_wells_get_their_populations(monkeypatch):
    monkeypatch.setattr("openmm_fab.train.start.ENOUGH", 0.5)  # in time for a test
    start = Start()
    trainer = trainer_of(1500, start)
    seen = [start.phase]
    while start.phase != "fab" and trainer.iteration < 1500:
        info = trainer.step()
        if start.phase != seen[-1]:
            seen.append(start.phase)
    assert seen in (list(PHASES), [p for p in PHASES if p != "weights"])
    assert math.isnan(info["ess_ais"]), "nothing is annealed before FAB"
    assert info["evaluations"] == 128 * info["iteration"], "one energy a sample"
    z, log_q = trainer.flow.sample(20_000, torch.Generator().manual_seed(1))
    weights = torch.softmax(trainer.target.log_prob(z).double() - log_q.double(), 0)
    exact = 1 / (1 + math.exp(-1.0))  # cos t is 1 and -1 in the wells: they differ by 1 kT, and little in shape
    assert float(weights[z[:, 5].abs() < math.pi / 2].sum()) == pytest.approx(exact, abs=0.02)
    assert float(1 / (weights.square().sum() * len(z))) > 0.4


def test_torsions_are_held_while_the_rest_learns_their_shape():
    """In the first phase the divergence itself gives q(t) no gradient: with equal weights it stays as it is."""
    start, trainer = Start(), trainer_of(1)
    flow = trainer.learner.flow
    with torch.no_grad():  # else the rest does not depend on the torsions yet
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    before = [p.clone() for p in flow.layers[: flow.torsion_layers].parameters()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("openmm_fab.train.start.trusted_power", lambda log_w, *_: (torch.full_like(log_w, 1 / 128), 0.0))
        trainer.objective = start
        trainer.step()
    after = list(flow.layers[: flow.torsion_layers].parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_rest_gets_the_gradient_of_its_weighted_density():
    """The mean of the gradient along the paths is that of -sum W log q(s | t) and (1 - lam) of the divergence."""
    lam, start, trainer = 0.5, Start(), trainer_of(1)
    flow, start.phase, n = trainer.learner.flow, "weights", 1024
    with torch.no_grad():  # a flow whose s depends on t, and is too narrow
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    parameters = [p for layer in flow.layers[flow.torsion_layers :] for p in layer.parameters()]

    def gradient(loss):
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    def weights_of(log_w, share, log_drawn=0.0):
        return (lam * log_w + log_drawn).softmax(0), lam

    along, weighted = [], []
    random = torch.Generator().manual_seed(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("openmm_fab.train.start.trusted_power", weights_of)
        patch.setattr(start, "_defensive", lambda flow, n: None)
        for _ in range(40):
            loss = start._loss(flow, trainer.learner, trainer.experience, n)
            along.append(gradient(loss))
            z, log_q = flow.sample(n, random)
            w, _ = weights_of(trainer.target.log_prob(z).double() - log_q.double(), None)
            loss = -(w * (flow.log_prob(z) - flow.torsions_log_prob(z).detach())).sum()
            z, _, log_q_s = flow.rsample_torsions_first(n, random, torsions=False)
            weighted.append(gradient(loss + (1 - lam) * (log_q_s - trainer.target.log_prob(z)).mean()))
    along, weighted = torch.stack(along), torch.stack(weighted)
    direction = weighted[::2].mean(0)
    expected, got = (weighted[1::2] @ direction), (along @ direction)
    error = float((expected.var() / len(expected) + got.var() / len(got)).sqrt())
    assert error < 0.1 * float(expected.mean()), "there is a gradient to compare"
    assert float(got.mean()) == pytest.approx(float(expected.mean()), abs=3 * error)


def test_the_forces_on_torsions_are_whole():
    """Cut at walls they are weaker than the entropy, and q(t) spreads into clashes: captopril's divergence rose so."""
    start, trainer = Start(), trainer_of(1, tilt=300.0)  # forces of 300 kT/rad
    flow, start.phase, n = trainer.learner.flow, "joint", 256
    parameters = list(flow.layers[: flow.torsion_layers].parameters())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("openmm_fab.train.start.trusted_power", lambda log_w, *_: (torch.full_like(log_w, 1 / n), 0.0))
        patch.setattr(start, "_defensive", lambda flow, n: None)
        random = trainer.experience.rng.get_state()
        got = torch.autograd.grad(start._loss(flow, trainer.learner, trainer.experience, n), parameters)
        trainer.experience.rng.set_state(random)
        z, log_q_t, log_q_s = flow.rsample_torsions_first(n, trainer.experience.rng)
    expected = torch.autograd.grad((log_q_t + log_q_s - trainer.target.log_prob(z)).mean(), parameters)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert max(float(g.abs().max()) for g in expected if g.numel()) > 1.0


def test_the_joint_phase_ends_where_weights_reach_or_its_divergence_stands_still():
    far, near = JOINT - 0.1, JOINT + 0.1
    for lam, fall, steps, following in ((near, 1.0, STEPS, "weights"), (far, 1.0, 2 * LOOK, "joint")):
        start = Start()
        start._enter("joint")
        for k in range(steps):
            start._follow(lam, torch.full((8,), -fall * k))
        assert start.phase == following
    for _ in range(2 * LOOK):
        start._follow(far, torch.zeros(8))
    assert start.phase == "weights"


def test_a_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path):
    whole, first, second = trainer_of(42), trainer_of(42), trainer_of(42)
    for trainer in (whole, first):
        trainer.objective.phase = "weights"
    for _ in range(42):
        whole.step()
    for _ in range(25):  # basins are lifted once before and once after
        first.step()
    first.save(tmp_path / "c.pt")
    second.load(tmp_path / "c.pt")
    assert second.objective.phase == first.objective.phase == "weights"
    for _ in range(17):
        second.step()
    for a, b in zip(whole.flow.parameters(), second.flow.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("phase", ["apart", "weights"])
def test_chains_elsewhere_join_the_steps_of_the_weights(phase, monkeypatch):
    """Their part of the gradient in closed form, where a batch of 128 has equal weights."""
    start, trainer = Start(), trainer_of(1, tilt=-3.0)
    start.phase = phase
    learner, experience, flow = trainer.learner, trainer.experience, trainer.learner.flow
    monkeypatch.setattr(
        "openmm_fab.train.start.trusted_power", lambda log_w, *_: (torch.full_like(log_w, 1 / 128), 0.5)
    )
    log_w = []
    monkeypatch.setattr(experience, "record_log_w", lambda of_batch, _: log_w.append(of_batch))

    def gradient():
        random.set_state(state)
        parameters = flow.layers[0].parameters()
        return torch.cat(
            [g.flatten() for g in torch.autograd.grad(start._loss(flow, learner, experience, 128), parameters)]
        )

    random, state = experience.rng, experience.rng.get_state()
    experience.begin(0)
    without = gradient()
    experience.start_from(torch.tensor([[0.0] * 5 + [math.pi]]).repeat(16, 1))
    there = gradient() - without
    z = experience._found
    assert (z[:, 5].abs() > 2).all() and z.std(0).min() > 0.01, "chains move, and stay in the well"
    log_q = flow.log_prob(z)
    weights = (0.5 * (trainer.target.log_prob(z) - log_q - log_w[0].max()).clamp(max=0)).exp().detach() / 128
    assert 0 < weights.min() < 0.9 / 128 and weights.max() <= 1 / 128
    expected = torch.autograd.grad(-(weights * flow.torsions_log_prob(z)).sum(), flow.layers[0].parameters())
    torch.testing.assert_close(there, torch.cat([g.flatten() for g in expected]), atol=1e-4, rtol=1e-3)
    experience.begin(1)
    torch.testing.assert_close(gradient(), without)


def test_molecules_begin_so_and_the_papers_objective_can_be_asked_for(butane_generator):
    assert isinstance(objective_of("auto", butane_generator.flow, None), Start)
    assert not isinstance(objective_of("fab", butane_generator.flow, None), Start)


@pytest.fixture
def butane_generator():
    import openmm_fab as fab

    return fab.BoltzmannGenerator(fab.MolecularSystem.load("butane"))


def test_a_flow_that_does_not_draw_torsions_first_is_refused():
    target = Rotor(0.5)
    flow = CouplingFlow(target.periodic, FlowSettings(layers=2, hidden=8))
    trainer = Trainer(flow, target, Budget(iterations=1), settings=SETTINGS, rng=torch.Generator(), objective=Start())
    with pytest.raises(ValueError, match="Expected a flow that draws torsions first"):
        trainer.step()


def test_some_torsions_stay_as_they_were_before_basins_could_be_lost():
    """One sample in eight has torsions of the layers when the joint phase began, and counts by the density of both."""
    start, trainer = Start(), trainer_of(200)
    trainer.objective = start
    while start.phase == "apart":
        trainer.step()
    flow = trainer.learner.flow
    then = [p.clone() for p in flow.layers[: flow.torsion_layers].parameters()]
    for _ in range(30):
        trainer.step()
    k, layers = start._defensive(flow, 128)
    assert k == 16 and all(torch.equal(a, b) for a, b in zip(then, layers.parameters(), strict=True))
    assert not all(
        torch.equal(a, b) for a, b in zip(then, flow.layers[: flow.torsion_layers].parameters(), strict=True)
    )
    z, _, _ = flow.rsample_torsions_first(128, torch.Generator().manual_seed(0), False, (k, layers))
    log_q, log_r = flow.torsions_log_prob(z).detach(), flow.torsions_log_prob(z, layers)
    both = start._mixture(flow, z, log_q, (k, layers)).exp()
    torch.testing.assert_close(both, 7 / 8 * log_q.exp() + 1 / 8 * log_r.exp())
    assert Start()._defensive(flow, 128) is None, "in the first phase none can be lost"


def test_rare_wells_are_lifted_by_the_weights_of_the_steps():
    """The flow draws both wells alike, and as many samples between them; weights tell a rare well and a barrier."""
    angles = torch.linspace(-math.pi, math.pi, 4001)[:-1]
    z = torch.zeros(len(angles), 6)
    z[:, 5] = angles
    log_w = 8 * (torch.cos(2 * angles) - 1) + 3 * torch.cos(angles)  # wells 6 kT apart
    log_w = log_w.double().log_softmax(0) + math.log(1000.0)  # of a thousand batches
    lifts = {}
    for share in (0.0, 0.1):
        start = Start()
        start.phase, start._iterations = "weights", LIFT_EVERY - 1
        start._drawn.append((z, log_w))
        trainer = trainer_of(1000, start, settings=replace(SETTINGS, basin_share=share))
        trainer.step()
        at = torch.zeros(2, 6)
        at[1, 5] = math.pi
        low, high = trainer.experience.target.bias(at)[0].tolist()
        lifts[share] = high - low
    assert lifts[0.0] == 0.0
    assert lifts[0.1] == pytest.approx(6.0 + math.log(0.1), abs=0.5)


def test_a_phase_may_begin_when_basins_are_due():
    start = Start()
    start._iterations = LIFT_EVERY - 1
    start._lams.extend([1.0] * STEPS)
    trainer = trainer_of(10, start)
    trainer.step()
    assert start.phase == "joint" and start._iterations == 0 and not start._drawn
    trainer.step()
    assert len(start._drawn) == 1


@pytest.mark.parametrize(("scatter", "phase"), [(0.3, "fab"), (2.0, "weights")])
def test_fab_begins_slowly_and_goes_back_where_it_loses_the_target(scatter, phase):
    """log w is normal: the effective share of its samples is exp(-scatter^2), 0.91 and 0.02."""
    rates, random = [], torch.Generator().manual_seed(0)

    def then(learner, experience, settings):
        rates.append(learner.faster)
        z = torch.zeros(512, 6)
        experience.record_log_w(scatter * torch.randn(512, generator=random), z)
        learner.learn(learner.log_prob(z).mean())

    start = Start(then)
    start.phase = "fab"
    trainer = trainer_of(1000, start)
    for _ in range(RECENT):
        trainer.experience.record_log_w(scatter * torch.randn(512, generator=random), torch.zeros(512, 6))
    for _ in range(3 if phase == "fab" else 1):
        trainer.step()
    assert rates[0] == 1 / RISE and rates == sorted(set(rates))
    assert start.phase == phase


class Sides(Target):
    """A line with wells at -3 and 3, a share of 0.8 in the second, and one at 2 times it that follows it."""

    def __init__(self):
        self.dim, self.periodic = 3, torch.tensor([False, False, True])

    def log_prob(self, z):
        well = [math.log(share) - 2 * (z[:, 0] - at).square() for share, at in ((0.2, -3.0), (0.8, 3.0))]
        return torch.logsumexp(torch.stack(well), 0) - 2 * (z[:, 1] - 2 * z[:, 0]).square() + torch.cos(z[:, 2])


def test_shares_of_modes_are_learned_once_steps_are_long():
    """Not before: by short steps a mode in which the rest is learned less would lose its share."""
    target, start = Sides(), Start()
    means = torch.tensor([[-3.0, -6.0], [3.0, 6.0]])
    root = torch.linalg.cholesky(torch.tensor([[0.25, 0.5], [0.5, 1.25]])).repeat(2, 1, 1)
    modes = [(torch.tensor([0, 1]), 1, means, root, torch.zeros(2))]
    flow = CouplingFlow(target.periodic, FLOW, rng=torch.Generator().manual_seed(0), modes=modes)
    trainer = Trainer(
        flow, target, Budget(iterations=600), settings=SETTINGS, rng=torch.Generator().manual_seed(0), objective=start
    )
    (mixture,) = trainer.learner.flow.mixtures
    start.phase = "weights"
    start._lams.extend([0.5] * STEPS)
    trainer.step()
    assert torch.equal(mixture.raw, mixture.untrained)
    while trainer.iteration < 200 and start.phase == "weights":
        trainer.step()
    shares = mixture.shares().detach()
    assert 0.6 < float(shares[1] / shares[:2].sum()) < 0.85  # until the weights are even enough
