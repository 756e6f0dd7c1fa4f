"""openmm-fab: what each command leaves, what it refuses, and that nothing is overwritten."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import mdtraj
import numpy as np
import pytest
from command import _call
from examples import chain, write_chain
from typer.testing import CliRunner

from openmm_fab.cli.commands import app
from openmm_fab.ensemble.audit import Audit, State
from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.outcome import COLUMNS
from openmm_fab.report import html
from openmm_fab.report.templates import TEMPLATES
from openmm_fab.tools.native import compiler
from openmm_fab.train.errors import TrainingError
from openmm_fab.train.trainer import Trainer

OUTPUTS = {
    "settings.json",
    "settings.toml",
    "run.log",
    "metrics.jsonl",
    "checkpoint.pt",
    "model.safetensors",
    "ensemble.npz",
    "report.txt",
    "report.html",
    "learning.png",
}


def _run(system: Path | str, runs: Path, *options: str, minutes: float = 0.01):
    arguments = ["run", str(system), "--preset", "smoke", "--minutes", str(minutes), "--samples", "500", "--no-compile"]
    return CliRunner().invoke(app, [*arguments, "--runs", str(runs), *options])


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """A system folder, and the runs folder of one finished run of it."""
    root = tmp_path_factory.mktemp("cli")
    result = _run(write_chain(root / "chain"), root / "runs", minutes=0.05)
    assert result.exit_code == 0, result.output
    return root / "chain", root / "runs"


@pytest.fixture
def quick_page(monkeypatch) -> list[bool]:
    """For what is not about the page itself, whose figures take seconds: was there a comparison, of each page."""
    compared: list[bool] = []

    def page(ensemble, comparison, **_: object) -> str:
        compared.append(comparison is not None)
        return "a page"

    monkeypatch.setattr("openmm_fab.report.html.report_html", page)
    return compared


def _contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_a_run_leaves_everything(folders):
    folder = folders[1] / "chain-smoke"
    assert set(_contents(folder)) == OUTPUTS
    settings = json.loads((folder / "settings.json").read_text())
    assert (settings["system"], settings["preset"], settings["minutes"], settings["samples"]) == (
        "chain",
        "smoke",
        0.05,
        500,
    )
    assert (
        settings["flow"]["torsion_layers"] == 6
        and settings["flow"]["hidden"] == 64
        and settings["train"]["ais"]["leapfrogs"] == 3
    )
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["seconds"] >= 3 and "ess" in rows[-1]
    ensemble = Ensemble.load(folder / "ensemble.npz")
    assert ensemble.n == 500 and ensemble.name == "flow"
    assert "ESS" in (folder / "report.txt").read_text()
    for name in ("report.txt", "report.html"):
        text = (folder / name).read_text()
        assert "What was held fixed, and what that may cost" in text and "An audit: states that" in text
    assert ensemble.audit.states
    assert "Early:" not in (folder / "report.html").read_text() + (folder / "report.txt").read_text()
    assert rows[0]["setup"] > 0 and rows[0]["seconds"] < 3


@pytest.mark.usefixtures("quick_page")
def test_training_goes_on_from_what_an_audit_misses(folders, tmp_path, monkeypatch):
    lost = State("the other side", "missing", 0.0, 0.4, 0.0, x=tuple(map(tuple, chain(tmp_path).positions.tolist())))
    found = [Audit((lost,), 0.01, 1, 1.0, True), Audit((), 0.01, 1, 1.0, True)]
    monkeypatch.setattr(BoltzmannGenerator, "audit", lambda *_: found.pop(0))
    given = []
    train = BoltzmannGenerator.train

    def trained(self, budget, **settings):
        given.append((budget.minutes, settings.get("audit")))
        return train(self, budget, **settings)

    monkeypatch.setattr(BoltzmannGenerator, "train", trained)
    result = _run(folders[0], tmp_path, minutes=0.01)
    assert result.exit_code == 0, result.output
    assert "1 state is missing: some 40 % of the weight: the other side" in result.output
    assert "Training goes on for" in result.output and found == []
    assert [minutes for minutes, _ in given] == pytest.approx([0.01, 0.015])
    assert given[0][1] is None and given[1][1].missing == [lost]


def test_a_run_keeps_a_log(folders):
    first, *rest = (folders[1] / "chain-smoke" / "run.log").read_text().splitlines()
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d training from iteration 0 on\. Set-up: ", first)
    assert re.search(r"iteration \d+, .* evaluations: ESS [\d.]+ %, k-hat ", rest[-1])


def test_a_run_says_what_made_it(folders):
    folder = folders[1] / "chain-smoke"
    settings = json.loads((folder / "settings.json").read_text())
    made = settings["made_with"]
    assert made["openmm_fab"] == "0.1.0" and made["device"] == "cpu" and settings["physics"] == "chain.xml; no solvent"
    for name in ("report.txt", "report.html"):
        text = (folder / name).read_text()
        for what in (made["torch"], made["openmm"], made["date"], "chain.xml; no solvent", "What made this"):
            assert what in text, (name, what)


@pytest.mark.usefixtures("quick_page")
def test_a_run_is_done_again_from_its_folder(folders, tmp_path):
    first = folders[1] / "chain-smoke"
    result = _call(*("run", "--settings", first / "settings.toml", "--minutes", "0.01", "--runs", tmp_path))
    assert result.exit_code == 0, result.output
    again = json.loads((tmp_path / "chain-smoke" / "settings.json").read_text())
    settings = json.loads((first / "settings.json").read_text())
    for key in settings.keys() - {"minutes", "made_with"}:
        assert again[key] == settings[key], key
    result = _call("run", "--dry-run")
    assert result.exit_code == 1 and "Expected SYSTEM, the name of a molecule or a file" in result.output


def test_the_saved_model_made_the_ensemble(folders):
    system, runs = folders
    generator = BoltzmannGenerator.load(runs / "chain-smoke" / "model.safetensors", chain(system))
    ensemble = Ensemble.load(runs / "chain-smoke" / "ensemble.npz")
    np.testing.assert_allclose(generator.sample(500).x, ensemble.x, atol=1e-6)


@pytest.mark.usefixtures("quick_page")
def test_a_second_run_does_not_overwrite_the_first(folders):
    system, runs = folders
    before = _contents(runs / "chain-smoke")
    result = _run(system, runs)
    assert result.exit_code == 0, result.output
    assert set(_contents(runs / "chain-smoke-2")) == OUTPUTS
    assert _contents(runs / "chain-smoke") == before


@pytest.mark.usefixtures("quick_page")
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


@pytest.mark.usefixtures("quick_page")
def test_resuming_a_finished_run_draws_again(folders):
    system, runs = folders
    (runs / "chain-smoke" / "ensemble.npz").rename(runs / "moved.npz")
    result = _run(system, runs, "--resume", minutes=0.05)
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
        (["--preset", "huge"], "Expected a preset out of ['gpu', 'laptop', 'smoke']; got 'huge'"),
        (["--name", "a/b"], "Expected a run's name to be one folder name; got 'a/b'"),
        (["--name", ".."], "Expected a run's name"),
        (["--minutes", "0"], "Expected a positive number of minutes"),
        (["--resume"], "Expected a checkpoint to resume from"),
        (["--error", "0.1"], "Expected an error to reach, or minutes and samples; got both"),
        (["--at-most", "2h"], "Expected at_most with an error to reach"),
        (["--of", "phi ALA2 at -80°"], "Expected --of with --error"),
    ],
)
def test_wrong_options(folders, tmp_path, options, message):
    result = _run(folders[0], tmp_path / "runs", *options)
    assert result.exit_code == 1
    assert message in result.output and "Traceback" not in result.output
    assert not (tmp_path / "runs").exists()


def test_run_until_an_error(folders, tmp_path, monkeypatch):
    """Its verdict in report.txt and on the page; with more time it goes on."""

    def page(ensemble, comparison, *, outcome=None, **_: object) -> str:
        return TEMPLATES.get_template("parts.jinja").module.asked(outcome, COLUMNS)

    monkeypatch.setattr(html, "report_html", page)
    options = ["run", folders[0], "--preset", "smoke", "--no-compile", "--runs", tmp_path, "--report-every", "0"]
    result = _call(*options, "--error", "0.4", "--at-most", "8 s")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "chain-smoke"
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["error"] == 0.4 and "minutes" not in settings and "samples" not in settings
    outcome = json.loads((folder / "outcome.json").read_text())
    assert f"{outcome['n']:,} samples, {outcome['method']}, drawn after the decision to stop" in result.output
    assert (folder / "report.txt").read_text().split("\n")[0] in result.output
    page = (folder / "report.html").read_text()
    assert "The errors that were asked for" in page and outcome["rows"][0]["name"] in page
    assert all(check["head"].split(" (")[0] in page for check in outcome["checks"])
    again = _call(*options, "--error", "0.4", "--at-most", "9 s", "--name", "chain-smoke", "--resume")
    assert again.exit_code == 0, again.output


def test_unknown_system(tmp_path):
    result = _run("unobtainium", tmp_path)
    assert result.exit_code == 1
    assert "alanine_dipeptide" in result.output and "unobtainium" in result.output


def test_no_samples_is_refused_before_training(folders, tmp_path):
    result = _run(folders[0], tmp_path / "runs", "--samples", "0")
    assert result.exit_code == 2 and not (tmp_path / "runs").exists()
    (tmp_path / "my.toml").write_text("samples = 0\n")
    result = _call("train", folders[0], "--runs", tmp_path / "runs", "--settings", tmp_path / "my.toml")
    assert result.exit_code == 1 and "Expected samples >= 1; got 0" in result.output
    assert not (tmp_path / "runs").exists()


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


@pytest.mark.usefixtures("quick_page")
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
        "settings.toml",
        "run.log",
        "metrics.jsonl",
        "checkpoint.pt",
        "model.safetensors",
    }
    monkeypatch.undo()
    result = _run(folders[0], tmp_path, "--resume")
    assert result.exit_code == 0, result.output
    assert set(_contents(tmp_path / "chain-smoke")) == OUTPUTS | {"checkpoint.previous.pt"}


def test_an_early_report_stays_after_ctrl_c(folders, tmp_path, monkeypatch):
    page = tmp_path / "chain-smoke" / "report.html"
    step, seen = Trainer.step, []

    def interrupted(trainer: Trainer):
        if page.exists():
            seen.append(page.read_text())
            raise KeyboardInterrupt
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", interrupted)
    result = _run(folders[0], tmp_path, "--report-every", "0.005", minutes=5)
    assert result.exit_code == 130 and "--resume goes on" in result.output and f"report is {page}" in result.output
    assert "Set-up: " in result.output
    assert set(_contents(page.parent)) == OUTPUTS - {"learning.png"}
    # While it went on the page reloaded itself; it does not any more, and has not become another one.
    early = re.compile(r"Early: after 0\.\d of 5 minutes of training")
    assert "location.reload()" in seen[0] and early.search(seen[0])
    assert "location.reload()" not in page.read_text() and early.search(page.read_text())
    assert early.match((page.parent / "report.txt").read_text())
    assert Ensemble.load(page.parent / "ensemble.npz").n == 500

    monkeypatch.undo()
    result = _run(folders[0], tmp_path, "--resume", "--report-every", "0")
    assert result.exit_code == 0 and not early.search(result.output), result.output
    assert "Early:" not in page.read_text() + (page.parent / "report.txt").read_text()
    assert set(_contents(page.parent)) - {"checkpoint.previous.pt"} == OUTPUTS


def test_an_early_report_that_fails_does_not_end_the_training(folders, tmp_path, monkeypatch, quick_page):
    from openmm_fab.cli import results

    finish = results.finish

    def full(*given, early: str = "", **audit):
        if early:
            raise OSError("no space left")
        return finish(*given)

    monkeypatch.setattr(results, "finish", full)
    with pytest.warns(UserWarning, match=r"There is no report after 0\.\d of 0\.05 minutes .*: OSError: no space left"):
        result = _run(folders[0], tmp_path, "--report-every", "0.005", minutes=0.05)
    assert result.exit_code == 0, result.output
    assert len(quick_page) == 1


def test_an_early_report_draws_what_there_is_time_for(monkeypatch):
    from openmm_fab.cli import results

    clock = iter([0.0, 1.0] * 4)
    monkeypatch.setattr(results.time, "perf_counter", lambda: next(clock))
    generator = SimpleNamespace(batch=100, sample=lambda n: None)  # 100 a second
    drawn = [results.early_samples(generator, n, s) for n, s in ((10**6, 1e3), (500, 1e3), (10**6, 60.0), (10**6, 1e5))]
    assert drawn == [3000, 500, results.LEAST, results.MOST]


@pytest.mark.usefixtures("quick_page")
def test_stopped_before_it_resumes_a_run_keeps_its_model(folders, tmp_path, monkeypatch):
    """While it compiles there is a new flow, untrained."""
    assert _run(folders[0], tmp_path).exit_code == 0
    model = tmp_path / "chain-smoke" / "model.safetensors"
    trained = model.read_bytes()

    def interrupted(*given, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("openmm_fab.generator.generator.Trainer", interrupted)
    result = _run(folders[0], tmp_path, "--resume", minutes=5)
    assert result.exit_code == 130 and "--resume goes on" in result.output
    assert model.read_bytes() == trained


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
    assert "\nreference " in (tmp_path / "runs" / "chain-smoke" / "report.txt").read_text()
    assert "Everything that was compared" in (tmp_path / "runs" / "chain-smoke" / "report.html").read_text()


def test_report_and_compare_again_with_another_reference(folders, tmp_path, quick_page):
    system, runs = folders
    folder = tmp_path / "chain-smoke"
    shutil.copytree(runs / "chain-smoke", folder)
    (folder / "report.html").unlink()
    result = _call("report", folder)
    assert result.exit_code == 0 and f"Open {folder / 'report.html'}" in result.output
    assert quick_page == [False] and (folder / "report.html").read_text() == "a page"

    made = _call("reference", system, "--folder", tmp_path / "md", "--set", "time_ps=20", "--set", "equilibration_ps=1")
    assert made.exit_code == 0, made.output
    md = Ensemble.load(tmp_path / "md" / "ensemble.npz")
    assert md.n == 20 and "langevin" in made.output and (tmp_path / "md" / "convergence.txt").exists()
    again = _call(
        *(
            "reference",
            system,
            "--folder",
            tmp_path / "md",
            "--set",
            "time_ps=30",
            "--set",
            "equilibration_ps=1",
            "--resume",
        )
    )
    assert again.exit_code == 0, again.output
    assert Ensemble.load(tmp_path / "md" / "ensemble.npz").n == 30

    for command in (("report", folder), ("compare", system, folder)):
        (folder / "comparison.json").unlink(missing_ok=True)
        result = _call(*command, "--reference", tmp_path / "md" / "ensemble.npz")
        assert result.exit_code == 0, result.output
        assert json.loads((folder / "comparison.json").read_text())["reference"]["n"] == 30
    assert quick_page == [False, True, True]
    result = _call("compare", system, folder)
    assert result.exit_code == 0 and "has no reference" in result.output


def test_a_reference_of_another_force_field_is_told(folders, tmp_path, quick_page):
    """The fingerprint beside the reference is not the run's."""
    _, runs = folders
    folder, md = tmp_path / "chain-smoke", tmp_path / "md"
    shutil.copytree(runs / "chain-smoke", folder)
    md.mkdir()
    shutil.copy(folder / "ensemble.npz", md / "ensemble.npz")
    for fingerprint, told in (("another", True), (None, False)):
        own = json.loads((folder / "settings.json").read_text())["fingerprint"]
        (md / "settings.json").write_text(json.dumps({"fingerprint": fingerprint or own}))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = _call("report", folder, "--reference", md / "ensemble.npz")
        assert result.exit_code == 0, result.output
        assert any("another molecule, force field or temperature" in str(w.message) for w in caught) is told


def test_a_file_that_is_no_structure_is_told(tmp_path):
    (tmp_path / "ligand.mol2").write_text("")
    result = _call("run", tmp_path / "ligand.mol2")
    assert result.exit_code != 0 and "Expected a file of a molecule" in result.output and "from_openmm" in result.output


def test_a_structure_file_wants_a_force_field(tmp_path):
    (tmp_path / "my.pdb").write_text("")
    for command in (
        ("run", tmp_path / "my.pdb", "--dry-run"),
        ("prepare", tmp_path / "my.pdb"),
        ("reference", tmp_path / "my.pdb"),
    ):
        result = _call(*command)
        assert result.exit_code == 1 and "has no default" in result.output and "gbn2.xml" in result.output
    result = _call("run", tmp_path / "nothing.pdb")
    assert result.exit_code == 1 and "there is none" in result.output and "has no default" not in result.output


def test_reference_refuses(folders, tmp_path, monkeypatch):
    from openmm_fab.energy.dynamics import UnstableDynamicsError

    def refused(*options: str) -> str:
        result = _call("reference", folders[0], "--folder", tmp_path / "md", *options)
        assert result.exit_code == 1 and "Traceback" not in result.output
        return result.output

    assert "Expected a method out of" in refused("--method", "dreams")
    assert "It takes a trained generator" in refused("--method", "hybrid")
    assert "walkers" in refused("--set", "walkers=3") and "time_ps" in refused("--set", "walkers=3")
    assert "Expected time_ps in --set of langevin to be of type float; got 'long'" in refused("--set", "time_ps=long")
    assert "Expected key=value, such as time_ps=2000; got 'time_ps'" in refused("--set", "time_ps")
    assert not (tmp_path / "md").exists()

    def unstable(*_: object, **__: object):
        raise UnstableDynamicsError("Expected finite energies; got nan.")

    monkeypatch.setattr("openmm_fab.md.reference.run_reference", unstable)
    assert "openmm-fab: Expected finite energies; got nan." in refused()


def test_train_then_sample(folders, tmp_path):
    system, _ = folders
    options = ("--preset", "smoke", "--minutes", "0.01", "--no-compile", "--runs", tmp_path)
    result = _call("train", system, *options, "--set", "flow.layers=4")
    assert result.exit_code == 0, result.output
    run = tmp_path / "chain-smoke"
    left = {"settings.json", "settings.toml", "run.log", "metrics.jsonl", "checkpoint.pt", "model.safetensors"}
    assert set(_contents(run)) == left
    assert json.loads((run / "settings.json").read_text())["flow"]["layers"] == 4
    for name in ("a.npz", "b.npz"):
        result = _call("sample", system, "--run", run, "--n", 300, "--seed", 5, "--out", tmp_path / name)
        assert result.exit_code == 0 and "ESS" in result.output, result.output
    a, b = Ensemble.load(tmp_path / "a.npz"), Ensemble.load(tmp_path / "b.npz")
    assert a.n == 300
    np.testing.assert_array_equal(a.x, b.x)
    # The model's own file does, too; nothing is written over.
    result = _call("sample", system, "--run", run / "model.safetensors", "--out", tmp_path / "a.npz")
    assert result.exit_code == 1 and "a.npz exists" in result.output
    before = (tmp_path / "a.npz").read_bytes()  # --out without a suffix writes .npz, which is no way around
    result = _call("sample", system, "--run", run, "--n", 10, "--out", tmp_path / "a")
    assert result.exit_code == 1 and "a.npz exists" in result.output and (tmp_path / "a.npz").read_bytes() == before
    (tmp_path / "c.colvar").touch()  # weights beside a trajectory
    result = _call("sample", system, "--run", run, "--n", 10, "--out", tmp_path / "c.dcd")
    assert result.exit_code == 1 and "c.colvar exists" in result.output and not (tmp_path / "c.dcd").exists()
    result = _call("sample", system, "--run", run, "--n", 10**9, "--out", tmp_path / "x.mol3")  # before any is drawn
    assert result.exit_code == 1 and "or a suffix that mdtraj writes; got 'x.mol3'" in result.output
    result = _call("sample", system, "--run", tmp_path)
    assert result.exit_code == 1 and "Expected a trained model at" in result.output
    result = _call("sample", system)
    assert result.exit_code == 1 and "none" in result.output


@pytest.mark.usefixtures("quick_page")
def test_a_run_of_several_temperatures(folders, tmp_path):
    system, _ = folders
    result = _run(system, tmp_path, "--temperatures", "300,400,600", "--set", "flow.layers=2")
    assert result.exit_code == 0, result.output
    run, words = tmp_path / "chain-smoke", "One flow for 300, 400 and 600 K"
    assert words in result.output and words in (run / "report.txt").read_text()
    assert json.loads((run / "settings.json").read_text())["temperatures"] == [300, 400, 600]
    assert Ensemble.load(run / "ensemble.npz").temperature == 300.0
    result = _call("sample", system, "--run", run, "--n", 50, "--temperature", 350, "--out", tmp_path / "a.npz")
    assert result.exit_code == 0 and "350 K" in result.output, result.output
    assert Ensemble.load(tmp_path / "a.npz").temperature == 350.0
    result = _call("sample", system, "--run", run, "--temperature", 700, "--out", tmp_path / "b.npz")
    assert result.exit_code == 1 and "from 300 to 600 K" in result.output
    result = _run(system, tmp_path, "--resume", "--temperatures", "300,500", "--set", "flow.layers=2")
    assert result.exit_code == 1 and "got another temperatures" in result.output


def test_sample_of_a_shipped_model(folders, tmp_path, monkeypatch):
    system, runs = folders
    trained = BoltzmannGenerator.load(runs / "chain-smoke" / "model.safetensors", chain(system))
    monkeypatch.setattr("openmm_fab.generator.presets.load_pretrained", lambda molecule, device: trained)
    monkeypatch.chdir(tmp_path)
    result = _call("sample", system, "--n", 50)
    assert result.exit_code == 0 and Ensemble.load("chain-samples.npz").n == 50, result.output


@pytest.mark.usefixtures("quick_page")
def test_a_structure_file_is_a_system(folders, tmp_path):
    system, _ = folders
    options = ("--preset", "smoke", "--minutes", "0.01", "--samples", "200", "--no-compile", "--runs", tmp_path)
    files = ("--forcefield", system / "chain.xml", "--temperature", "350")
    result = _call("run", system / "chain.pdb", *files, *options)
    assert result.exit_code == 0, result.output
    run = tmp_path / "chain-smoke"
    assert Ensemble.load(run / "ensemble.npz").temperature == 350.0
    source = json.loads((run / "settings.json").read_text())["source"]
    assert source == {
        "system": str(system / "chain.pdb"),
        "forcefield": [str(system / "chain.xml")],
        "temperature": 350.0,
        "positions": None,
        "solvent": None,
    }
    assert _call("report", run).exit_code == 0
    result = _call("run", system, *files, *options)
    assert result.exit_code == 1 and "Expected --forcefield, --temperature with a file" in result.output


def test_dry_run_shows_the_cost_and_writes_nothing(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("openmm_fab.cli.training.PROBE_SECONDS", 0.5)
    options = ("--preset", "smoke", "--minutes", "7", "--runs", tmp_path / "runs", "--dry-run")
    # Smoke: two batches of 128; one intermediate density with three leapfrogs is four evaluations a chain.
    for command, objective, evaluations in (("run", "auto", 256), ("train", "fab", 512)):
        result = _call(command, folders[0], *options, "--objective", objective)
        assert result.exit_code == 0, result.output
        assert ("fill the buffer" in result.output) == (objective == "fab")
        assert "Energies: C (compiled, all is translated)" in result.output or compiler() is None
        assert "torch.compile" not in result.output
        for words in (
            "5 atoms",
            "9 coordinates: 7 stiff, 2 periodic",
            f" {evaluations} energy evaluations",
            "7 minutes",
        ):
            assert words in result.output, result.output
        assert "memory" in result.output
    assert not (tmp_path / "runs").exists()


def test_help_has_examples_and_exit_codes():
    commands = ("run", "train", "prepare", "sample", "reference", "compare", "report", "systems", "doctor", "cite")
    for command in commands:
        shown = _call(command, "--help").output
        assert f"openmm-fab {command}" in shown and "Exit codes" in shown, command
    listed = _call("--help").output
    assert all(f"\n  {command} " in listed for command in commands) and "..." not in listed.partition("Commands:")[2]


def test_version_and_citation():
    assert _call("--version").output == "openmm_fab 0.1.0\n"
    page = (Path(__file__).parents[2] / "docs" / "cite.md").read_text()
    shown = _call("cite").output
    assert page[page.index("@inproceedings") : page.index("```\n", page.index("@inproceedings"))] in shown
    assert "version = {0.1.0}" in shown


def test_systems_lists_the_shipped_ones():
    result = CliRunner().invoke(app, ["systems"])
    assert result.exit_code == 0 and "alanine_dipeptide" in result.output.split()
