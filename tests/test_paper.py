"""The benchmark of the paper: it runs, refuses results of other settings, and its tables are what was found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import runner
from benchmarks.paper import molecule, tables

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results" / "paper"


def _paper(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks", "paper", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(("target", "method"), [("gmm40", "snf"), ("alanine_dipeptide", "fab")])
def test_a_few_steps_end_in_one_line_of_figures(target, method):
    done = _paper(target, method, "--quick")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["target"], found["method"], found["seeds"]) == (target, method, [0])
    wanted = {"ess", "ess_clipped", "mean_log_q", "evaluations", "flow_evaluations", "seconds"}
    wanted |= (
        {"kld", "kld_flow", "tv", "tv_flow", "log_z"} if target == "alanine_dipeptide" else {"modes", "log_z_error"}
    )
    assert wanted <= found.keys() and all(found[key] is not None for key in wanted)
    assert found["evaluations"] > 0 and 0.0 <= found["ess"] <= 1.0


def test_a_result_of_other_settings_is_not_taken(tmp_path, monkeypatch):
    path = tmp_path / "gmm40_fab_cpu_0.json"
    path.write_text(json.dumps({"minutes": 5.0, "device": "cpu", "target": "gmm40", "method": "fab", "scale": "cpu"}))
    arguments = ("paper", "gmm40", "fab", "--seeds", "0", "--minutes", "3", "--results", tmp_path, "--out", tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmarks", *map(str, arguments)])
    with pytest.raises(SystemExit, match=r"Expected a result of .*'minutes': 5\.0"):
        runner.main()


def test_means_have_standard_errors_and_name_what_diverged():
    made = [{"method": "fab", "ess": ess} for ess in (0.5, 0.7)] + [
        {"method": "snf", "ess": ess} for ess in (0.1, None)
    ]
    text = tables.table(made, (("ESS %", "ess", 100, 1),))
    assert "| FAB with buffer (2) | 60.0 ± 10.0 |" in text
    assert "| stochastic normalizing flow (2) | 10.0, infinite in 1 |" in text


def test_the_records_of_the_targets_are_of_the_files_beside_them():
    """RESULTS.md is made of the records; what they say of each seed is what that seed's own file says."""
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    assert results
    for target, scale in {(r["target"], r["scale"]) for r in results}:
        record = json.loads((RESULTS.parent / f"paper_{target}_{scale}.json").read_text())
        mine = [r for r in results if (r["target"], r["scale"]) == (target, scale)]
        for kept, result in zip(record["figures"]["results"], mine, strict=True):
            assert kept == {key: value for key, value in result.items() if key != "curve"}
        columns = molecule.COLUMNS if target == molecule.TARGET else tables.COLUMNS
        page = (BENCHMARKS / "RESULTS.md").read_text()
        for row in tables.table(mine, columns).split("\n")[2:]:  # the page may have two of them in a line
            assert row.strip("| ") in page
