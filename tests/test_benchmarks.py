"""The benchmarks: each is listed, has what the runner needs, and its records make RESULTS.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import page, records, runner

ROOT = Path(__file__).parents[1]
MAIN_JOB = ROOT / "benchmarks" / "results" / "main_job_alanine_dipeptide_laptop_0.json"


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=300
    )


def test_every_module_is_listed_with_a_line() -> None:
    done = _run("-m", "benchmarks")
    assert done.returncode == 0, done.stderr
    found = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[3:])
    assert found == runner.listed() and list(found) == list(runner.MODULES)
    helpers = {
        "__init__",
        "__main__",
        "runner",
        "records",
        "page",
        "pieces",
        "double_well",
        "beads",
        "budgets",
        "contestants",
    }
    files = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - helpers
    assert files | {"paper"} == set(runner.MODULES)


def test_every_benchmark_measures_and_makes_a_table() -> None:
    """In a process of its own: some set what a library reads when it is loaded."""
    look = "print(json.dumps({name: dir(runner.load(name)) for name in runner.MODULES}))"
    done = _run("-c", f"import json; from benchmarks import runner; {look}")
    assert done.returncode == 0, done.stderr
    for name, has in json.loads(done.stdout).items():
        assert {"measure", "table", "title"} <= set(has), name


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("energies",), "Expected one of main_job, energy"),
        (("flow", "--quick", "--record"), "leave out --record"),
        (("flow", "--read", str(MAIN_JOB)), "Expected a record of flow"),
    ],
)
def test_a_name_that_is_none_is_refused(arguments, told, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit, match=told):
        runner.main()


def test_a_quick_run_ends_in_a_table_and_one_line_of_figures() -> None:
    done = _run("-m", "benchmarks", "flow", "--quick", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    figures = json.loads(last)
    assert (figures["benchmark"], figures["quick"], figures["batch"]) == ("flow", True, 64)
    assert sum(line.startswith("| gradient to z |") for line in lines) == 2


def test_what_is_missing_is_said_and_is_no_failure() -> None:
    done = _run("-m", "benchmarks", "gpu", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    assert "PyTorch finds no GPU" in json.loads(done.stdout.splitlines()[-1])["skipped"]


class _Pendulum:
    """A benchmark."""

    @staticmethod
    def table(figures: dict) -> str:
        return f"It swings.\n\n| swings |\n|---|\n| {figures['swings']} |"

    @staticmethod
    def title(figures: dict) -> str:
        return "Pendulum"


def test_a_record_is_kept_and_shown_beside_the_others(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(records, "PAGE", tmp_path / "RESULTS.md")
    monkeypatch.setattr(page, "load", lambda name: _Pendulum)
    about = {"benchmark": "pendulum", "command": "python", "machine": "a clock", "date": "today", "commit": "c"}
    monkeypatch.setattr(page, "questions", lambda: {"How often?": (page._joined, ("pendulum", "clock_*"))})
    for name, swings in (("pendulum", 1), ("clock_1", 2), ("pendulum", 3)):
        runner.record(_Pendulum, about | {"benchmark": name, "figures": {"swings": swings}})  # type: ignore[arg-type]
    kept = json.loads((tmp_path / "results" / "pendulum.json").read_text())
    assert kept == about | {"title": "Pendulum", "figures": {"swings": 3}}
    line = "Pendulum. It swings.\n`python`, today, commit c, a clock"
    assert (tmp_path / "RESULTS.md").read_text() == (
        f"{page.HEAD}\n## How often?\n1. {line}\n2. {line}\n\n| swings |\n|---|\n| 3 |\n| 2 |\n"
    )
    with pytest.raises(SystemExit, match="Expected a question for each record; spring have none"):
        runner.record(_Pendulum, about | {"benchmark": "spring", "figures": {"swings": 4}})  # type: ignore[arg-type]


def test_a_table_turned_has_its_rows_as_columns() -> None:
    table = page.markdown(["", "a", "b"], [["x", "1", "2"], ["y", "3", "4"], ["z", "5", "6"]])
    assert page.transposed(table) == page.markdown(["", "x", "y", "z"], [["a", "1", "3", "5"], ["b", "2", "4", "6"]])


def test_results_are_made_of_the_records() -> None:
    """Nothing is typed in, nothing is stale, nothing is left out, and all of it is a page."""
    written = records.PAGE.read_text("utf-8")
    assert page.text(records.read()) == written
    assert len(written.splitlines()) <= 300
    assert page.short(records.read()).join(page.MARKS) in page.README.read_text("utf-8")
    assert page.costs(records.read()) == page.COSTS.read_text("utf-8")
    for name, found in records.read().items():
        assert {"benchmark", "title", "command", "machine", "date", "commit"} <= set(found), name
        module = records.load(found["benchmark"])
        if "figures" in found:
            assert runner.section_name(module, found) == name


def test_mutation_finds_the_modules_and_tests_of_every_group(tmp_path) -> None:
    from benchmarks import mutation

    for group in mutation.GROUPS:
        files, tests = mutation.files_of(group)
        assert files and tests and all(mutation.Mutant.places(file) for file in files), group
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "twice.py").touch()
    for name in ("twice.py", "never.py"):
        with pytest.raises(SystemExit, match=rf"Expected one {name}"):
            mutation.one(tmp_path, name)
