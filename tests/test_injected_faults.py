"""Faults of workers, platforms and memory, put in on purpose: a named error or the same numbers, never a hang."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from itertools import chain as joined

import numpy as np
import openmm
import pytest
import torch
from examples import chain

from openmm_fab.ais.annealing import AISSettings, anneal_to_target
from openmm_fab.energy.agreement import DisagreementError
from openmm_fab.energy.bridge import OpenMMEnergy, WorkerError, _Worker
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.target import Gaussian, ManyWell, Target
from openmm_fab.tools.adaptive_batch import AdaptiveBatch
from openmm_fab.train.errors import TrainingError
from openmm_fab.train.multimodal import evaluate
from openmm_fab.train.objectives import replay
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.train.trainer import Trainer
from openmm_fab.weights import log_mean_weight

LOST = "Error invoking kernel: CUDA_ERROR_LAUNCH_FAILED (719)"


def _structures(system: MolecularSystem, n: int) -> torch.Tensor:
    return torch.from_numpy(system.positions + np.random.default_rng(0).normal(scale=0.003, size=(n, 22, 3)))


class Broken:
    """A Context that says what a device says that was lost, from the `after`th state on."""

    def __init__(self, context: openmm.Context, after: int = 0) -> None:
        self.context, self.after = context, after

    def setPositions(self, x: np.ndarray) -> None:
        self.context.setPositions(x)

    def getState(self, **what: bool) -> openmm.State:
        self.after -= 1
        if self.after < 0:
            raise openmm.OpenMMException(LOST)
        return self.context.getState(**what)


# --- workers of the OpenMM bridge ---


@pytest.mark.parametrize("workers", [1, 3])
def test_a_lost_context_is_named_and_replaced(alanine_dipeptide, workers):
    x = _structures(alanine_dipeptide, 7)
    with OpenMMEnergy(alanine_dipeptide, platform="Reference", workers=workers) as energy:
        expected = energy.value_and_gradient(x)
        energy._contexts[-1] = Broken(energy._contexts[-1], after=1)
        first = {1: 1, 3: 6}[workers]  # of 7 structures the third worker has 5 and 6
        with pytest.raises(
            WorkerError, match=rf"Reference.*worker {workers - 1} of .* structure {first} .*719"
        ) as caught:
            energy.value_and_gradient(x)
        assert isinstance(caught.value.__cause__, openmm.OpenMMException)
        assert energy.evaluations == 7  # nothing of the failed call counts
        for got, want in zip(energy.value_and_gradient(x), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_hangs_is_given_up(alanine_dipeptide, monkeypatch, workers):
    """And the program can end: the thread that hangs is a daemon."""
    x, awake = _structures(alanine_dipeptide, 4), threading.Event()
    evaluate = _Worker.evaluate

    def hang(worker: _Worker, row: int) -> None:
        if row == 3:
            awake.wait(60)
        evaluate(worker, row)

    with OpenMMEnergy(alanine_dipeptide, platform="Reference", workers=workers, time_limit=0.5) as energy:
        expected = energy(x)
        monkeypatch.setattr(_Worker, "evaluate", hang)
        started = time.monotonic()
        with pytest.raises(WorkerError, match=rf"in 0\.5 s; worker {workers - 1} of {workers} has been at structure 3"):
            energy(x)
        assert time.monotonic() - started < 20
        assert all(thread.daemon for thread in threading.enumerate() if thread.name == "openmm")
        monkeypatch.setattr(_Worker, "evaluate", evaluate)
        torch.testing.assert_close(energy(x), expected, rtol=0, atol=0)
        awake.set()


def test_a_program_ends_while_a_worker_hangs():
    """In a process of its own: the worker waits for ever, the program says so and ends."""
    code = (
        "import threading, torch\n"
        "from openmm_fab.energy import WorkerError, bridge\n"
        "from openmm_fab.molecule.system import MolecularSystem\n"
        "system = MolecularSystem.load('alanine_dipeptide')\n"
        "energy = bridge.OpenMMEnergy(system, platform='Reference', workers=2, time_limit=0.5)\n"
        "bridge._Worker.evaluate = lambda worker, row: threading.Event().wait()\n"
        "try:\n    energy(torch.from_numpy(system.positions).expand(4, -1, -1))\n"
        "except WorkerError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert "has been at structure 0 for longer" in done.stdout


def test_a_slow_worker_is_not_given_up(alanine_dipeptide, monkeypatch):
    """The limit is for one structure: the whole call takes five times as long."""
    evaluate = _Worker.evaluate

    def slow(worker: _Worker, row: int) -> None:
        time.sleep(0.2)
        evaluate(worker, row)

    x = _structures(alanine_dipeptide, 10)
    with OpenMMEnergy(alanine_dipeptide, platform="Reference", workers=1, time_limit=0.4) as energy:
        expected = energy(x)
        monkeypatch.setattr(_Worker, "evaluate", slow)
        torch.testing.assert_close(energy(x), expected, rtol=0, atol=0)


def test_a_worker_that_ends_without_a_word(alanine_dipeptide, monkeypatch):
    with OpenMMEnergy(alanine_dipeptide, platform="Reference", workers=2) as energy:
        monkeypatch.setattr(_Worker, "run", lambda worker: None)
        with pytest.raises(WorkerError, match="worker 0 of 2 ended at structure 0"):
            energy(_structures(alanine_dipeptide, 4))


def test_time_limit_is_checked(alanine_dipeptide):
    for wrong in (0.0, float("nan")):
        with pytest.raises(ValueError, match=r"time_limit > 0 s; got"):
            OpenMMEnergy(alanine_dipeptide, platform="Reference", workers=1, time_limit=wrong)


# --- platforms ---


def _wrong(monkeypatch, only: int, energy: float = 0.0, force: float = 1.0, value: float | None = None) -> None:
    """Make one Context of the CPU platform answer with another energy (kJ/mol added) or with scaled forces."""
    evaluate = _Worker.evaluate

    def wrong(worker: _Worker, row: int) -> None:
        evaluate(worker, row)
        if worker.context.getPlatform().getName() == "CPU" and row == only:
            worker.energies[row] = worker.energies[row] + energy if value is None else value
            if worker.forces is not None:
                worker.forces[row] *= force

    monkeypatch.setattr(_Worker, "evaluate", wrong)


@pytest.mark.parametrize(
    "fault",
    [{"energy": 1.0}, {"energy": -1.0}, {"force": 1.05}, {"force": -1.0}, {"value": np.nan}, {"value": 0.0}],
    ids=str,
)
@pytest.mark.parametrize("context", [0, 2])
def test_a_platform_that_differs_from_reference_is_refused(alanine_dipeptide, monkeypatch, fault, context):
    """Whichever of its Contexts it is; 1 kJ/mol is 0.4 kT."""
    _wrong(monkeypatch, context, **fault)
    with pytest.raises(DisagreementError, match=rf'1 of 3 structures differ, the first is {context}.*platform "CPU"'):
        OpenMMEnergy(alanine_dipeptide, platform="CPU", workers=3)


def test_a_platform_that_is_right_passes(alanine_dipeptide):
    with OpenMMEnergy(alanine_dipeptide, platform="CPU", workers=2) as energy:
        assert energy.evaluations == energy.invalid == 0


def test_a_clash_in_the_file_is_no_disagreement(alanine_dipeptide):
    """Two atoms 1e-5 nm apart: single precision overflows, so the minimum is compared."""
    x = alanine_dipeptide.positions.copy()
    x[21] = x[0] + np.array([1e-5, 0, 0])
    system = MolecularSystem(alanine_dipeptide.topology, alanine_dipeptide.system, x, 300.0)
    with OpenMMEnergy(system, platform="CPU", workers=1) as energy:
        assert energy.evaluations == 0


@pytest.mark.parametrize(("more", "factor"), [(1.0, 1.0), (0.0, 1.05)])
def test_a_translated_energy_that_is_wrong_makes_no_generator(tmp_path, monkeypatch, more, factor):
    system, original = chain(tmp_path / "chain"), CompiledEnergy.value_and_gradient

    def wrong(energy: CompiledEnergy, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        u, gradient = original(energy, x)
        return u + more, gradient * factor

    monkeypatch.setattr(CompiledEnergy, "value_and_gradient", wrong)
    with pytest.raises(DisagreementError, match=r'4 of 4 structures differ.*backend="openmm"'):
        BoltzmannGenerator(system, GeneratorSettings(flow=FLOW, train=TRAIN))


# --- memory of the accelerator ---


class Small(CouplingFlow):
    """A flow whose device holds no more than `room` rows at once; `with_graph` is for those that are trained on."""

    room: float = np.inf
    with_graph: float = np.inf

    def _fits(self, rows: int, room: float) -> None:
        if rows > room:
            raise torch.cuda.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {rows} rows.")

    def from_base(self, base: torch.Tensor, frozen: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        self._fits(len(base), self.room)
        return super().from_base(base, frozen)

    def _to_base(self, z: torch.Tensor, frozen: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        self._fits(len(z), self.room if frozen or not torch.is_grad_enabled() else self.with_graph)
        return super()._to_base(z, frozen)


FLOW = FlowSettings(layers=2, hidden=8)
TRAIN = TrainSettings(
    batch=16, updates=2, buffer_min=2, buffer_max=4, warmup=2, path_gradient=0.5, path_above=0.0, matmul_dtype="float32"
)


def _trainer(target: Target, settings: TrainSettings = TRAIN) -> Trainer:
    random = torch.Generator().manual_seed(0)
    return Trainer(
        Small(target.periodic, FLOW, rng=random),
        target,
        Budget(iterations=10),
        settings=settings,
        rng=random,
    )


def test_halving_covers_every_row_once_and_remembers():
    halving, calls = AdaptiveBatch("Sampling"), []

    def rows(start: int, stop: int) -> list[int]:
        calls.append(stop - start)
        if stop - start > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return list(range(start, stop))

    with pytest.warns(UserWarning, match=r"Sampling: out of memory with 17 rows at once; goes on with 9") as seen:
        assert list(joined.from_iterable(halving(rows, 17))) == list(range(17))
    assert calls == [17, 9, 5, 3, 3, 3, 3, 3, 2] and len(seen) == 3
    calls.clear()
    assert list(joined.from_iterable(halving(rows, 4))) == list(range(4)) and calls == [3, 1]
    assert halving(lambda start, stop: (start, stop), 0) == [(0, 0)]  # an empty batch is asked for, too


def test_halving_gives_up_at_one_row():
    def never(start: int, stop: int) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.cuda.OutOfMemoryError), pytest.warns(UserWarning):
        AdaptiveBatch("Sampling")(never, 8)


def test_other_errors_are_not_taken_for_memory():
    def broken(start: int, stop: int) -> None:
        raise RuntimeError("no memory of that")

    with pytest.raises(RuntimeError, match="no memory of that"):
        AdaptiveBatch("Sampling")(broken, 8)


def test_a_gradient_step_in_pieces_is_the_same_step():
    """Parameters after two steps in pieces of 2 rows are those after two steps on all 16, but for rounding."""
    whole, pieces = _trainer(ManyWell(4)), _trainer(ManyWell(4))
    for trainer in (whole, pieces):
        trainer.experience.fill()
    pieces.learner.flow.with_graph = 2
    replay(whole.learner, whole.experience, whole.settings)
    with pytest.warns(UserWarning, match="Gradient step: out of memory with 16 rows at once; goes on with 8"):
        replay(pieces.learner, pieces.experience, pieces.settings)
    np.testing.assert_allclose(pieces.learner.steps, whole.learner.steps, rtol=1e-5)
    for a, b in zip(pieces.learner.flow.parameters(), whole.learner.flow.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert pieces.learner.counted.evaluations == whole.learner.counted.evaluations
    torch.testing.assert_close(pieces.experience.buffer.log_w, whole.experience.buffer.log_w, rtol=1e-5, atol=1e-4)


def test_training_goes_on_where_a_batch_does_not_fit():
    trainer = _trainer(ManyWell(4))
    trainer.learner.flow.room = trainer.learner.flow.with_graph = 5
    with pytest.warns(UserWarning, match="Annealing: out of memory with 16 rows at once; goes on with 8"):
        infos = list(trainer)
    assert len(infos) == 10 and all(np.isfinite(info["loss"]) for info in infos)
    assert trainer.experience.buffer.size == 4 * 16
    assert trainer.experience.annealing.limit == trainer.learner.differentiating.limit == 4


def test_no_memory_for_the_gradient_stops_training_with_advice(monkeypatch):
    trainer = _trainer(ManyWell(4))
    next(iter(trainer))
    before = [p.clone() for p in trainer.learner.flow.parameters()]

    def backward(loss: torch.Tensor) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    with pytest.raises(TrainingError, match=r"a gradient step on 16 samples.*smaller TrainSettings\.batch"):
        trainer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.learner.flow.parameters(), strict=True))


@pytest.mark.parametrize("settings", [{}, {"spacing": "adaptive", "ess_drop": 0.5}, {"resample": 0.99}], ids=str)
def test_log_z_in_passes_is_right(settings):
    """Chains that are annealed in passes of 8 instead of 32 estimate the same, known, log Z."""
    target = Gaussian(torch.tensor([0.3, -0.2]), torch.tensor([0.8, 0.7]), log_z=2.0)
    flow = Small(target.periodic, FLOW, rng=torch.Generator().manual_seed(0))
    flow.room = 10
    ais = AISSettings(alpha=1.0, intermediate=2, leapfrogs=2, **settings)
    with pytest.warns(UserWarning, match="Annealing: out of memory with 32 rows"):
        points, log_w = anneal_to_target(
            flow, target, 640, ais, rng=torch.Generator().manual_seed(1), batch=32, pilots=3
        )
    assert points.z.shape == (640, 2) and log_w.shape == (640,)
    found = log_mean_weight(log_w.numpy())
    assert abs(found.value - 2.0) < 4 * found.error < 0.3


def test_sampling_where_a_batch_does_not_fit(tmp_path):
    """The same ensemble whenever memory runs out the same way, with the flow's own weights, and in a file."""
    settings = GeneratorSettings(flow=FLOW, train=TRAIN)
    system = chain(tmp_path / "chain")
    generator = BoltzmannGenerator(system, settings)
    small = Small(generator.coordinates.periodic, FLOW, rng=torch.Generator().manual_seed(0))
    generator = BoltzmannGenerator(system, settings, flow=small)
    small.room = small.with_graph = 6
    with pytest.warns(UserWarning, match="Sampling: out of memory with 16 rows at once; goes on with 8"):
        ensemble = generator.sample(40)
    assert ensemble.n == 40 and len(np.unique(ensemble.x[:, 0], axis=0)) == 40
    again = generator.sample(40)
    np.testing.assert_array_equal(again.x, ensemble.x)
    with torch.no_grad():
        log_q = generator.log_prob(ensemble.x).numpy()
        np.testing.assert_allclose(log_q, ensemble.log_q, atol=1e-3)
        u = generator.energy(torch.from_numpy(ensemble.x)).numpy()
    np.testing.assert_allclose(ensemble.log_w, -u - ensemble.log_q, rtol=1e-6, atol=1e-6)
    streamed = generator.sample(40, out=tmp_path / "ensemble.nc")
    np.testing.assert_allclose(streamed.load().log_w, ensemble.log_w, rtol=1e-12)


def test_evaluation_where_a_batch_does_not_fit():
    target = ManyWell(4)
    flow = Small(target.periodic, FLOW, rng=torch.Generator().manual_seed(0))
    expected = evaluate(flow, target, 64, torch.Generator().manual_seed(1), batch=8)
    flow.room = 9
    with pytest.warns(UserWarning, match="Evaluation: out of memory with 32 rows"):
        found = evaluate(flow, target, 64, torch.Generator().manual_seed(1), batch=32)
    assert found == pytest.approx(expected, rel=1e-5)
