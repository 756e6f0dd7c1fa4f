"""CUDA graphs of a flow: the same numbers as without, whatever is asked in which order."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.target import BoltzmannTarget
from openmm_fab.tools import graphs
from openmm_fab.tools.graphs import Graphs
from openmm_fab.train import pathwise
from openmm_fab.train.settings import TrainSettings

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
BATCH = 64


def flow_of(settings: FlowSettings, compiled: bool = True) -> CouplingFlow:
    """On the GPU, double precision, with weights that do something."""
    periodic = torch.arange(7) % 3 == 0
    flow = CouplingFlow(periodic, settings, rng=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.05 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(p.numel())))
    flow = flow.cuda()
    if compiled:
        flow.compile(BATCH)
    return flow


def points(seed: int) -> Tensor:
    return torch.randn(BATCH, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).cuda()


@pytest.fixture(params=[False, True], ids=["plain", "resampled"])
def pair(request: pytest.FixtureRequest) -> tuple[CouplingFlow, CouplingFlow]:
    """A flow with graphs, and the same one as it is."""
    settings = FlowSettings(layers=4, hidden=16, resampled=request.param)
    return flow_of(settings), flow_of(settings, compiled=False)


@pytest.fixture(autouse=True)
def no_warnings(recwarn: pytest.WarningsRecorder) -> object:
    """A graph that could not be recorded would only be slower, with a warning."""
    yield
    assert not [w for w in recwarn if "CUDA graphs" in str(w.message)]


@gpu
def test_values_are_those_without_graphs(pair) -> None:
    flow, plain = pair
    for seed in range(3):
        z = points(seed)
        with torch.no_grad():
            torch.testing.assert_close(flow.log_prob(z), plain.log_prob(z))
        for found, wanted in zip(flow.log_prob_and_gradient(z), plain.log_prob_and_gradient(z), strict=True):
            torch.testing.assert_close(found, wanted)
        random = [torch.Generator("cuda").manual_seed(seed) for _ in range(2)]
        for found, wanted in zip(flow.sample(BATCH, random[0]), plain.sample(BATCH, random[1]), strict=True):
            torch.testing.assert_close(found, wanted)
    assert len(flow._graphs._recorded) == 3


@gpu
def test_results_stay_when_more_is_asked(pair) -> None:
    flow, plain = pair
    with torch.no_grad():
        first = flow.log_prob(points(0))
        flow.log_prob(points(1))
        torch.testing.assert_close(first, plain.log_prob(points(0)))


@gpu
def test_derivatives_are_those_without_graphs(pair) -> None:
    flow, plain = pair
    for seed in range(3):
        z = [points(seed).requires_grad_() for _ in range(2)]
        for one, at in zip(pair, z, strict=True):
            one.zero_grad()
            one.log_prob(at).mean().backward()
        torch.testing.assert_close(z[0].grad, z[1].grad)
        for found, wanted in zip(flow.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(found.grad, wanted.grad)
            with torch.no_grad():  # and the graphs see weights that have changed
                found.add_(found.grad, alpha=-1e-3)
                wanted.add_(wanted.grad, alpha=-1e-3)


@gpu
def test_two_densities_in_one_loss_and_gradients_that_add_up(pair) -> None:
    for one in pair:
        for seed in (0, 2):
            (one.log_prob(points(seed)).mean() + (0.1 * one.log_prob(points(seed + 1))).square().mean()).backward()
    for found, wanted in zip(*(flow.parameters() for flow in pair), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad)


@gpu
def test_other_batches_copies_and_moved_flows(pair) -> None:
    flow, plain = pair
    with torch.no_grad():
        torch.testing.assert_close(flow.log_prob(points(0)[:9]), plain.log_prob(points(0)[:9]))
        flow.log_prob(points(0))
        other = copy.deepcopy(flow)
        for p in other.parameters():
            p.mul_(0.5)
        assert not other._graphs._recorded
        assert (other.log_prob(points(0)) - flow.log_prob(points(0))).abs().max() > 1e-3
        back = flow.cpu()
        torch.testing.assert_close(back.log_prob(points(0).cpu()), plain.log_prob(points(0)).cpu())


@gpu
def test_path_gradients_are_those_without_graphs(pair) -> None:
    for one in pair:
        for seed in (0, 2):
            pathwise.log_probs(one, points(seed), points(seed + 1), 2.0, 0.7).mean().backward()
    for found, wanted in zip(*(flow.parameters() for flow in pair), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad)
    assert len(pair[0]._graphs._recorded) == 1


@gpu
def test_a_molecule_s_density_is_that_without_graphs(alanine_dipeptide) -> None:
    settings = GeneratorSettings(flow=FlowSettings(layers=2, hidden=8), train=TrainSettings(batch=BATCH, buffer_min=1))
    generator = BoltzmannGenerator(alanine_dipeptide, settings, device="cuda")
    plain = BoltzmannTarget(generator.energy, generator.coordinates, regularize=generator.target.regularize)
    wanted = [plain.log_prob_and_gradient(2 * points_of(generator, seed)) for seed in range(3)]
    generator.compile()
    for seed, (log_p, gradient) in enumerate(wanted):
        found = generator.target.log_prob_and_gradient(2 * points_of(generator, seed))
        torch.testing.assert_close(found[0], log_p, rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(found[1], gradient, rtol=1e-4, atol=1e-3)
        if seed == 0:
            generator.energy.evaluations = generator.energy.invalid = 0
    assert len(generator.target.graphs._recorded) == 1
    assert generator.target.evaluations == 3 * BATCH and generator.energy.evaluations == 2 * BATCH
    broken = points_of(generator, 0)
    broken[3] = torch.nan
    log_p, gradient = generator.target.log_prob_and_gradient(broken)
    assert log_p[3] == -torch.inf and (gradient[3] == 0).all() and torch.isfinite(gradient).all()
    assert generator.energy.invalid == 1


def points_of(generator: BoltzmannGenerator, seed: int) -> Tensor:
    return 0.5 * torch.randn(BATCH, generator.coordinates.dim, generator=torch.Generator().manual_seed(seed)).cuda()


# What holds without a GPU


class Recomputed(graphs._Differentiable):
    """Without recording: every run is computed, and so are its derivatives."""

    def __init__(self, function: graphs.Function, z: Tensor, parameters: Sequence[Tensor]) -> None:
        self._function, self._parameters, self.runs, self.lost = function, parameters, 0, 0

    @torch.no_grad()
    def run(self, z: Tensor) -> Tensor:
        self.runs += 1
        return self._function(z)[0].clone()

    @torch.enable_grad()
    def derivatives(self, z: Tensor, run: int, above: Tensor) -> Sequence[Tensor]:
        self.lost += run != self.runs
        z = z.detach().requires_grad_()
        (result,) = self._function(z)
        return torch.autograd.grad(result, [z, *self._parameters], above)


def test_autograd_gets_what_belongs_to_it(monkeypatch) -> None:
    monkeypatch.setattr(graphs, "_Differentiable", Recomputed)
    settings, periodic = FlowSettings(layers=2, hidden=8), torch.arange(7) % 3 == 0
    flow = CouplingFlow(periodic, settings, rng=torch.Generator().manual_seed(0)).double()
    plain, z = copy.deepcopy(flow), torch.randn(5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    flow._graphs = Graphs(5)
    gradients = []
    for one in (flow, plain):
        at = [(k * z).requires_grad_() for k in (1, 2)]
        (one.log_prob(at[0]).mean() + one.log_prob(at[1]).square().mean()).backward()
        gradients.append([*(t.grad for t in at), *(p.grad for p in one.parameters())])
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted)
    (recorded,) = flow._graphs._recorded.values()
    assert (recorded.runs, recorded.lost) == (2, 1)  # of two runs the first one's memory was overwritten
    assert not one.log_prob(z).grad_fn.name().startswith("_Derived")


def test_path_gradients_may_be_recorded(monkeypatch) -> None:
    monkeypatch.setattr(graphs, "_Differentiable", Recomputed)
    settings, random = FlowSettings(layers=2, hidden=8), torch.Generator().manual_seed(0)
    flow = CouplingFlow(torch.arange(7) % 3 == 0, settings, rng=random).double()
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.1 * torch.randn(p.shape, dtype=p.dtype, generator=random))
    plain, (z, slope) = copy.deepcopy(flow), torch.randn(2, 5, 7, generator=random, dtype=torch.float64)
    flow._graphs = Graphs(5)
    values = [pathwise.log_probs(one, z, slope, 2.0, share) for one in (flow, plain) for share in (0.7, 0.2)]
    torch.stack(values[:2]).square().sum().backward()
    torch.stack(values[2:]).square().sum().backward()
    for found, wanted in zip(flow.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad)
    assert len(flow._graphs._recorded) == 2 and torch.equal(values[0], values[2])


def test_a_target_may_be_recorded(monkeypatch, alanine_dipeptide) -> None:
    done = stand_in(monkeypatch)
    settings = GeneratorSettings(flow=FlowSettings(layers=2, hidden=8))
    generator = BoltzmannGenerator(alanine_dipeptide, settings)
    target, z = generator.target, 0.5 * torch.randn(4, 60, generator=torch.Generator().manual_seed(0))
    wanted = target.log_prob_and_gradient(z)
    target.graphs = Graphs(4)
    for _ in range(2):
        for found, value in zip(target.log_prob_and_gradient(z), wanted, strict=True):
            assert torch.equal(found, value)
    assert len(done) == 1 and target.evaluations == 12


def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Recording as a CPU can do it: what is replayed is computed again, into the tensors of the first time."""
    done: list[str] = []

    def record(work: Callable[[], Sequence[Tensor]]) -> tuple[Callable[[], None], Sequence[Tensor]]:
        results = work()
        done.append("recorded")

        def replay() -> None:
            for result, value in zip(results, work(), strict=True):
                result.copy_(value)

        return replay, results

    monkeypatch.setattr(graphs, "record", record)
    monkeypatch.setattr(graphs, "warm_up", lambda work: work())
    return done


def test_a_run_whose_memory_was_overwritten_is_made_again() -> None:
    """The sum of squares, its memory as a GPU's graphs share it."""
    recorded = object.__new__(graphs._Differentiable)
    recorded._z, recorded._result, recorded._above = torch.zeros(3), torch.zeros(()), torch.zeros(())
    recorded._slopes, recorded.runs = [torch.zeros(3)], 0
    recorded._forward = lambda: recorded._result.copy_(recorded._z.square().sum())
    recorded._backward = lambda: recorded._slopes[0].copy_(2 * recorded._z * recorded._above)
    first, second = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0, 6.0])
    assert (float(recorded.run(first)), float(recorded.run(second))) == (14.0, 77.0)
    late, of_first = (recorded.derivatives(z, run, torch.tensor(0.5))[0] for z, run in ((second, 2), (first, 1)))
    assert torch.equal(late, second) and torch.equal(of_first, first)


def test_a_function_is_recorded_once_and_only_at_its_batch(monkeypatch) -> None:
    done, recorded = stand_in(monkeypatch), Graphs(3)
    results = [recorded("twice", lambda z: [2 * z], torch.full((3,), float(k)))[0] for k in range(4)]
    assert [r.tolist() for r in results] == [[2.0 * k] * 3 for k in range(4)] and len(done) == 1
    assert recorded("twice", lambda z: [2 * z], torch.ones(2))[0].tolist() == [2.0, 2.0] and len(done) == 1
    assert recorded("thrice", lambda z: [3 * z], torch.ones(3))[0].tolist() == [3.0] * 3 and len(done) == 2
    assert recorded("twice", lambda z: [2 * z], torch.ones(3).double())[0].dtype == torch.float64 and len(done) == 3
    assert not copy.deepcopy(recorded)._recorded


def test_what_cannot_be_recorded_goes_on_without(monkeypatch, recwarn) -> None:
    def record(work: Callable[[], Sequence[Tensor]]) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(graphs, "record", record)
    monkeypatch.setattr(graphs, "warm_up", lambda work: work())
    recorded = Graphs(3)
    for _ in range(2):
        assert recorded("twice", lambda z: [2 * z], torch.ones(3))[0].tolist() == [2.0] * 3
    (told,) = recwarn
    assert str(told.message).startswith("Goes on without CUDA graphs, slower: RuntimeError: operation not permitted")
    recwarn.clear()


def test_memory_that_runs_out_is_not_hidden(monkeypatch) -> None:
    """Whoever asked knows what to do: smaller batches."""

    def warm_up(work: Callable[[], object]) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(graphs, "warm_up", warm_up)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        Graphs(3)("twice", lambda z: [2 * z], torch.ones(3))
