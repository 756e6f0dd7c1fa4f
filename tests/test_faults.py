"""Nothing is lost: runs that are killed, checkpoints that are damaged, old or of something else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from examples import chain

from openmm_fab import generator
from openmm_fab.ais.annealing import AISSettings
from openmm_fab.coordinates.settings import CoordinateSettings
from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.md.reference import run_reference
from openmm_fab.md.store import Store
from openmm_fab.target import Gaussian, ManyWell
from openmm_fab.tools import files
from openmm_fab.tools.files import DamagedFileError, FormatError, NotWrittenError, load_torch, previous, save_torch
from openmm_fab.tools.run_log import read_metrics
from openmm_fab.train.checkpoints import CHECKPOINT_FORMAT
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.train.trainer import Trainer

ROOT, DATA = Path(__file__).parents[1], Path(__file__).parent / "data"
TINY = TrainSettings(batch=16, updates=1, buffer_min=1, buffer_max=4, warmup=2, ais=AISSettings(intermediate=1, leapfrogs=1))  # noqa: E501 # fmt: skip
SETTINGS = GeneratorSettings(flow=FlowSettings(layers=2, hidden=8), train=TINY)
QUIET = {"progress": False, "compile": False, "evaluate_every": np.inf, "evaluate_samples": 16}


# --- the trainer ---


def _trainer(iterations: int = 100, seed: int = 0) -> Trainer:
    random, target = torch.Generator().manual_seed(seed), ManyWell(2)
    flow = CouplingFlow(target.periodic, FlowSettings(layers=2, hidden=8), rng=random)
    return Trainer(flow, target, Budget(iterations=iterations), settings=TINY, rng=random, about={"molecule": "wells"})


def test_a_hundred_steps_in_parts_are_a_hundred_steps(tmp_path) -> None:
    """To the bit, with a new process' worth of objects after steps 1, 30 and 77."""
    path, whole = tmp_path / "checkpoint.pt", _trainer()
    infos = list(whole)
    parts, trainer = [], _trainer()
    for info in trainer:
        parts.append(info)
        if info["iteration"] in (1, 30, 77):
            trainer.save(path)
            break
    while len(parts) < 100:
        trainer = _trainer(seed=len(parts))
        trainer.load(path)
        for info in trainer:
            parts.append(info)
            if info["iteration"] in (30, 77):
                trainer.save(path)
                break
    keys = set(infos[0]) - {"seconds"}
    for a, b in zip(infos, parts, strict=True):
        assert repr([a[k] for k in sorted(keys)]) == repr([b[k] for k in sorted(keys)])
    assert _bits(whole.state_dict()) == _bits(trainer.state_dict())


def _bits(state) -> object:
    if isinstance(state, torch.Tensor):
        return state.dtype, tuple(state.shape), state.contiguous().numpy().tobytes()
    if isinstance(state, dict):
        return {k: _bits(v) for k, v in state.items() if k != "counts"}
    return [_bits(v) for v in state] if isinstance(state, list | tuple) else repr(state)


def test_checkpoints_of_other_versions_say_so(tmp_path) -> None:
    path, trainer = tmp_path / "checkpoint.pt", _trainer()
    state = trainer.state_dict()
    for number, age in ((1, "older"), (CHECKPOINT_FORMAT - 1, "older"), (CHECKPOINT_FORMAT + 1, "newer")):
        save_torch(path, state | {"format": number})
        with pytest.raises(FormatError, match=rf"got format {number} of an? {age} version. Resume with that version"):
            trainer.load(path)
    torch.save({"format": 3, "settings": {}}, path)  # as the version before wrote it, without a checksum
    with pytest.raises(FormatError, match="got format 3 of an older version"):
        trainer.load(path)


def test_checkpoints_that_versions_left_load_or_say_why_not() -> None:
    """Files in tests/data, each written by the version that had its format; today's goes on to the end."""
    target, random = Gaussian(torch.zeros(2), torch.ones(2)), torch.Generator()
    formats = [4, 5, 6, 7, 8, 9, 10, 11, 12, CHECKPOINT_FORMAT]
    found = [DATA / f"checkpoint_format_{number}.pt" for number in formats]
    assert set(found) == set(DATA.glob("checkpoint_format_*.pt"))
    for path in found:
        kept = load_torch(path, "a checkpoint")["settings"]  # those it was made with, whatever the defaults are now
        settings = TrainSettings.from_dict(kept)
        flow = CouplingFlow(target.periodic, FlowSettings(layers=2, hidden=4, bins=4))
        trainer = Trainer(flow, target, Budget(iterations=4), settings=settings, rng=random)
        if path == found[-1]:
            trainer.load(path)
            assert trainer.iteration == 1 and [info["iteration"] for info in trainer] == [2, 3, 4]
        else:
            with pytest.raises(FormatError, match=r"of an older version. Resume with that version, or train anew"):
                trainer.load(path)


@pytest.mark.parametrize("key", ["learner", "optimizer", "buffer", "health", "random", "counts", "step_sizes"])
def test_checkpoints_without_a_part_are_refused(tmp_path, key) -> None:
    path, trainer = tmp_path / "checkpoint.pt", _trainer()
    state = trainer.state_dict()
    for broken in ({k: v for k, v in state.items() if k != key}, state | {key: "nonsense"}):
        save_torch(path, broken)
        with pytest.raises(ValueError, match=r"Expected a (training )?checkpoint"):
            _trainer().load(path)


def test_checkpoints_of_another_target_are_refused(tmp_path) -> None:
    trainer = _trainer()
    trainer.save(tmp_path / "checkpoint.pt")
    trainer.about = {"molecule": "another"}
    with pytest.raises(ValueError, match="Expected a checkpoint of the same molecule; it was made with another"):
        trainer.load(tmp_path / "checkpoint.pt")


def test_checkpoints_of_another_density_are_refused(tmp_path) -> None:
    """It has the same name, and the same shape."""
    trainer = _trainer()
    trainer.save(tmp_path / "checkpoint.pt")
    _trainer().load(tmp_path / "checkpoint.pt")
    trainer.target = Gaussian(torch.ones(2), torch.ones(2))
    with pytest.raises(ValueError, match="Expected a checkpoint of the same target, whose log p at a few points is"):
        trainer.load(tmp_path / "checkpoint.pt")


def test_checkpoints_with_other_settings_are_not_called_damaged(tmp_path) -> None:
    """Even where what is stored is then of another kind."""
    trainer = _trainer()
    trainer.save(tmp_path / "checkpoint.pt")
    trainer.settings = replace(trainer.settings, ais=replace(trainer.settings.ais, widths=True))
    trainer.experience.widths = torch.ones(2)
    with pytest.raises(ValueError, match="Resume with the settings it was made with"):
        trainer.load(tmp_path / "checkpoint.pt")


# --- the generator ---


@pytest.fixture(scope="module")
def molecules(tmp_path_factory):
    return [chain(tmp_path_factory.mktemp("chain"), temperature=t) for t in (300.0, 310.0)]


def _generator(system, settings=SETTINGS) -> BoltzmannGenerator:
    return BoltzmannGenerator(system, settings)


def _rows(folder: Path) -> list[int]:
    return [json.loads(line)["iteration"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign", "gone"])
def test_training_goes_on_from_the_checkpoint_before(molecules, tmp_path, monkeypatch, damage) -> None:
    monkeypatch.setattr(generator.training, "CHECKPOINT_EVERY", 0.0)
    _generator(molecules[0]).train(Budget(iterations=3), folder=tmp_path, **QUIET)
    path = tmp_path / "checkpoint.pt"
    data = path.read_bytes()
    middle = data[: len(data) // 2] + b"\0\1" + data[len(data) // 2 + 2 :]
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"truncated": data[:999], "flipped": middle, "empty": b"", "foreign": b"GIF89a"}[damage])
    with pytest.warns(UserWarning, match=r"Goes on from .*checkpoint\.previous\.pt"):
        history = _generator(molecules[0]).train(Budget(iterations=5), folder=tmp_path, resume=True, **QUIET)
    assert history[0]["iteration"] in (3, 4) and _rows(tmp_path) == [1, 2, 3, 4, 5]
    assert load_torch(path, "it")["counts"][0] == 5


def test_without_any_good_checkpoint_training_does_not_start_anew(molecules, tmp_path) -> None:
    _generator(molecules[0]).train(Budget(iterations=2), folder=tmp_path, **QUIET)
    for path in (tmp_path / "checkpoint.pt", previous(tmp_path / "checkpoint.pt")):
        path.write_bytes(b"")
    rows = _rows(tmp_path)
    with pytest.raises(DamagedFileError, match=r"checkpoint\.pt"):
        _generator(molecules[0]).train(Budget(iterations=5), folder=tmp_path, resume=True, **QUIET)
    assert _rows(tmp_path) == rows == [1, 2]


def test_checkpoints_belong_to_a_molecule_and_its_coordinates(molecules, tmp_path) -> None:
    _generator(molecules[0]).train(Budget(iterations=1), folder=tmp_path, **QUIET)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    wide = CoordinateSettings(inflate=1.5)
    others = [
        ("molecule, force field and temperature", _generator(molecules[1])),
        ("coordinates", _generator(molecules[0], GeneratorSettings(coordinates=wide, flow=SETTINGS.flow, train=TINY))),
        ("energy cut", _generator(molecules[0], GeneratorSettings(flow=SETTINGS.flow, train=TINY, energy_cut=50.0))),
    ]  # fmt: skip
    for what, other in others:
        with pytest.raises(ValueError, match=f"Expected a checkpoint of the same {what}"):
            other.train(Budget(iterations=2), folder=tmp_path, resume=True, **QUIET)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_rows_that_a_killed_run_wrote_after_its_checkpoint_are_written_again(molecules, tmp_path) -> None:
    _generator(molecules[0]).train(Budget(iterations=2), folder=tmp_path, **QUIET)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 3, "loss": 1e9}\n{"iteration": 4, "lo')
    assert [row["iteration"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [
        1,
        2,
        3,
    ]  # what a report reads of it meanwhile
    _generator(molecules[0]).train(Budget(iterations=4), folder=tmp_path, resume=True, **QUIET)
    assert _rows(tmp_path) == [1, 2, 3, 4] and "1000000000.0" not in (tmp_path / "metrics.jsonl").read_text()


def test_a_full_disk_ends_training_and_leaves_the_last_checkpoint(molecules, tmp_path, monkeypatch) -> None:
    _generator(molecules[0]).train(Budget(iterations=2), folder=tmp_path, **QUIET)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    sync = os.fsync

    def full(handle: int) -> None:
        if os.fstat(handle).st_size > 5000:
            raise OSError(28, "No space left on device")
        sync(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(NotWrittenError, match=r"No space left on device.*checkpoint\.pt was not written"):
        _generator(molecules[0]).train(Budget(iterations=4), folder=tmp_path, resume=True, **QUIET)
    monkeypatch.undo()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    history = _generator(molecules[0]).train(Budget(iterations=4), folder=tmp_path, resume=True, **QUIET)
    assert [h["iteration"] for h in history] == [3, 4] and _rows(tmp_path) == [1, 2, 3, 4]


def test_an_error_does_not_replace_the_checkpoint(molecules, tmp_path, monkeypatch) -> None:
    _generator(molecules[0]).train(Budget(iterations=2), folder=tmp_path, **QUIET)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    monkeypatch.setattr(Trainer, "step", lambda trainer: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        _generator(molecules[0]).train(Budget(iterations=4), folder=tmp_path, resume=True, **QUIET)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_energies_above_the_cut_are_told(molecules, tmp_path) -> None:
    settings = GeneratorSettings(flow=SETTINGS.flow, train=TINY, energy_cut=-500.0)
    words = (
        r"100 % of the weight of annealed structures lies above the cut, -500 kT over thermal motion, where training"
    )
    with pytest.warns(UserWarning, match=words):
        history = _generator(molecules[0], settings).train(Budget(iterations=1), **QUIET)
    assert history[-1]["annealed_above_cut"] == 1.0


# --- reference MD ---

MD = {"walkers": 2, "compile": False, "time_ps": 0.1, "frame_ps": 0.02, "equilibration_ps": 0.02}


def test_reference_md_goes_on_from_the_state_before(molecules, tmp_path) -> None:
    about = {"folder": tmp_path, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of so short a run
        whole = run_reference(molecules[0], "walkers", **(MD | {"time_ps": 0.2}), progress=False)
        for time_ps in (0.1, 0.14):  # two states
            run_reference(molecules[0], "walkers", resume=True, **about, **(MD | {"time_ps": time_ps}))
    (tmp_path / "state.pt").write_bytes((tmp_path / "state.pt").read_bytes()[:500])
    with pytest.warns(UserWarning, match=r"Goes on from .*state\.previous\.pt"):
        found = run_reference(molecules[0], "walkers", resume=True, **about, **(MD | {"time_ps": 0.2}))
    np.testing.assert_array_equal(found.x, whole.x)
    np.testing.assert_array_equal(found.u, whole.u)

    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(DamagedFileError, match=r"the settings of a run at .*settings\.json"):
        run_reference(molecules[0], "walkers", resume=True, **about, **MD)


def test_states_of_md_of_another_kind(tmp_path) -> None:
    save_torch(tmp_path / "state.pt", {"frames": 3})
    with pytest.raises(FormatError, match="got format 0 of an older version"):
        Store(tmp_path).load()
    save_torch(tmp_path / "state.pt", {"weights": torch.ones(2)})
    with pytest.raises(DamagedFileError, match="got a file of another kind"):
        Store(tmp_path).load()


# --- kill -9 ---


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_runs_end_with_the_same_result() -> None:
    """Three kills each; `python -m benchmarks reliability` does fifty."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}
    command = [sys.executable, "-m", "benchmarks", "reliability", "kill9", "--quick"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])["works"]
    assert len(figures) == 4 and all(of["kills"] >= 3 and of["same"] == of["runs"] for of in figures.values())
