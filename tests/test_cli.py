"""openmm-fab run: what a run leaves, what it refuses, and that nothing is overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from examples import chain, write_chain
from typer.testing import CliRunner

from openmm_fab.cli import app
from openmm_fab.ensemble import Ensemble
from openmm_fab.generator import BoltzmannGenerator
from openmm_fab.train import Trainer, TrainingError

OUTPUTS = {
    "settings.json",
    "metrics.jsonl",
    "checkpoint.pt",
    "model.safetensors",
    "ensemble.npz",
    "report.txt",
    "learning.png",
}


def _run(system: Path | str, runs: Path, *options: str, minutes: float = 0.01):
    arguments = ["run", str(system), "--preset", "smoke", "--minutes", str(minutes), "--samples", "500", "--no-compile"]
    return CliRunner().invoke(app, [*arguments, "--runs", str(runs), *options])


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """A system folder, and the runs folder of one finished run of it."""
    root = tmp_path_factory.mktemp("cli")
    result = _run(write_chain(root / "chain"), root / "runs", minutes=0.1)
    assert result.exit_code == 0, result.output
    return root / "chain", root / "runs"


def _contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_a_run_leaves_everything(folders):
    folder = folders[1] / "chain-smoke"
    assert set(_contents(folder)) == OUTPUTS
    settings = json.loads((folder / "settings.json").read_text())
    assert (settings["system"], settings["preset"], settings["minutes"], settings["samples"]) == (
        "chain",
        "smoke",
        0.1,
        500,
    )
    assert settings["flow"]["layers"] == 8 and settings["train"]["ais"]["leapfrogs"] == 3
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["seconds"] >= 6 and "ess" in rows[-1]
    ensemble = Ensemble.load(folder / "ensemble.npz")
    assert ensemble.n == 500 and ensemble.name == "FAB"
    assert "ESS" in (folder / "report.txt").read_text()


def test_the_saved_model_made_the_ensemble(folders):
    system, runs = folders
    generator = BoltzmannGenerator.load(runs / "chain-smoke" / "model.safetensors", chain(system))
    ensemble = Ensemble.load(runs / "chain-smoke" / "ensemble.npz")
    np.testing.assert_allclose(generator.sample(500).x, ensemble.x, atol=1e-6)


def test_a_second_run_does_not_overwrite_the_first(folders):
    system, runs = folders
    before = _contents(runs / "chain-smoke")
    result = _run(system, runs)
    assert result.exit_code == 0, result.output
    assert set(_contents(runs / "chain-smoke-2")) == OUTPUTS
    assert _contents(runs / "chain-smoke") == before


def test_resume(folders):
    system, runs = folders
    assert _run(system, runs, "--name", "resumed").exit_code == 0
    first = (runs / "resumed" / "metrics.jsonl").read_text().splitlines()
    result = _run(system, runs, "--name", "resumed", "--resume", minutes=2 * json.loads(first[-1])["seconds"] / 60)
    assert result.exit_code == 0, result.output
    lines = (runs / "resumed" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) > len(first) and lines[: len(first)] == first
    assert [json.loads(line)["iteration"] for line in lines] == list(range(1, len(lines) + 1))
    assert not (runs / "resumed-2").exists()


def test_resuming_a_finished_run_draws_again(folders):
    system, runs = folders
    (runs / "chain-smoke" / "ensemble.npz").rename(runs / "moved.npz")
    result = _run(system, runs, "--resume", minutes=0.1)
    assert result.exit_code == 0, result.output
    old, new = Ensemble.load(runs / "moved.npz"), Ensemble.load(runs / "chain-smoke" / "ensemble.npz")
    np.testing.assert_array_equal(old.x, new.x)


def test_other_settings_do_not_resume(folders, tmp_path):
    system, runs = folders
    before = _contents(runs / "chain-smoke")
    hot = write_chain(tmp_path / "hot", temperature=310.0)
    cases = {"another seed": (system, "--seed", "3"), "another fingerprint": (hot,)}
    for message, (folder, *options) in cases.items():
        result = _run(folder, runs, "--resume", *options)
        assert result.exit_code == 1 and message in result.output
    result = _run(system, runs, "--resume", "--preset", "laptop", "--name", "chain-smoke")
    assert result.exit_code == 1 and "another preset" in result.output
    assert _contents(runs / "chain-smoke") == before


@pytest.mark.parametrize(
    "options, message",
    [
        (["--preset", "huge"], "Expected a preset out of ['laptop', 'smoke']; got 'huge'"),
        (["--name", "a/b"], "Expected a run's name to be one folder name; got 'a/b'"),
        (["--name", ".."], "Expected a run's name"),
        (["--minutes", "0"], "Expected a positive number of minutes"),
        (["--resume"], "Expected a checkpoint to resume from"),
    ],
)
def test_wrong_options(folders, tmp_path, options, message):
    result = _run(folders[0], tmp_path / "runs", *options)
    assert result.exit_code == 1
    assert message in result.output and "Traceback" not in result.output
    assert not (tmp_path / "runs").exists()


def test_unknown_system(tmp_path):
    result = _run("unobtainium", tmp_path)
    assert result.exit_code == 1
    assert "alanine_dipeptide" in result.output and "unobtainium" in result.output


def test_no_samples_is_refused_before_training(folders, tmp_path):
    result = _run(folders[0], tmp_path / "runs", "--samples", "0")
    assert result.exit_code == 2 and not (tmp_path / "runs").exists()


def test_an_unsupported_molecule(tmp_path):
    folder = write_chain(tmp_path / "broken")
    lines = (folder / "chain.pdb").read_text().splitlines()
    (folder / "chain.pdb").write_text("\n".join(line for line in lines if not line.startswith("CONECT    3")) + "\n")
    result = _run(folder, tmp_path / "runs")
    assert result.exit_code == 1 and "This system is not supported" in result.output


def test_failed_training_is_told_in_words(folders, tmp_path, monkeypatch):
    def step(trainer: Trainer):
        raise TrainingError("Expected finite losses; got nan.")

    monkeypatch.setattr(Trainer, "step", step)
    result = _run(folders[0], tmp_path)
    assert result.exit_code == 1 and "openmm-fab: Expected finite losses; got nan." in result.output


def test_an_interrupted_run_can_be_resumed(folders, tmp_path, monkeypatch):
    step = Trainer.step

    def interrupted(trainer: Trainer):
        if trainer.iteration == 1:
            raise KeyboardInterrupt
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", interrupted)
    result = _run(folders[0], tmp_path, minutes=5)
    assert result.exit_code == 130 and "--resume goes on" in result.output
    assert set(_contents(tmp_path / "chain-smoke")) == {
        "settings.json",
        "metrics.jsonl",
        "checkpoint.pt",
        "model.safetensors",
    }
    monkeypatch.undo()
    result = _run(folders[0], tmp_path, "--resume")
    assert result.exit_code == 0, result.output
    assert set(_contents(tmp_path / "chain-smoke")) == OUTPUTS


def test_a_run_with_a_reference_compares(tmp_path):
    folder = write_chain(tmp_path / "chain")
    system = chain(folder)
    jiggle = np.random.default_rng(0).normal(scale=0.003, size=(200, 5, 3))
    mdtraj.Trajectory(system.minimum + jiggle, system.md_topology).save_dcd(str(folder / "md.dcd"))
    with open(folder / "system.toml", "a") as file:
        file.write('[reference]\ntrajectory = "md.dcd"\n')
    result = _run(folder, tmp_path / "runs")
    assert result.exit_code == 0, result.output
    assert set(_contents(tmp_path / "runs" / "chain-smoke")) == OUTPUTS | {"comparison.json", "comparison.png"}
    assert "MD reference" in (tmp_path / "runs" / "chain-smoke" / "report.txt").read_text()


def test_systems_lists_the_shipped_ones():
    result = CliRunner().invoke(app, ["systems"])
    assert result.exit_code == 0 and "alanine_dipeptide" in result.output.split()
