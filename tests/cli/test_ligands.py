"""Small molecules on the command line: run by SDF or SMILES, and screened as a list that goes on where it stopped."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from command import _call
from ligands import drawn, standin_xml, without_openff  # noqa: F401

from openmm_fab import Ensemble
from openmm_fab.cli import screening
from openmm_fab.cli.ligands import Ligand, source_of
from openmm_fab.cli.screening import Job, molecules_of, rows_by_threads, run_job
from openmm_fab.cli.source import Source
from openmm_fab.molecule.ligand import read_smiles
from openmm_fab.molecule.ligand_folder import sdf_text
from openmm_fab.report.overview import overview_html

pytest.importorskip("rdkit")


def test_a_ligand_is_parametrised_once_and_found_by_other_commands(tmp_path: Path, without_openff: None) -> None:  # noqa: F811
    sdf, runs = tmp_path / "drug.sdf", tmp_path / "runs"
    sdf.write_text(sdf_text(read_smiles("CCO"), "ethanol"))
    source = source_of(Ligand(str(sdf), solvent="none", temperature=310.0), runs)
    folder = Path(source.system)
    assert folder.parent == runs / "molecules" and folder.name.startswith("drug-")
    molecule = source.load()
    assert molecule.name == "ethanol" and molecule.temperature == 310.0 and molecule.n_atoms == 9
    before = (folder / "ligand.xml").stat().st_mtime_ns
    assert source_of(Ligand(str(sdf), solvent="none", temperature=310.0), runs) == source
    assert (folder / "ligand.xml").stat().st_mtime_ns == before
    other = source_of(Ligand(str(sdf), solvent="obc2", temperature=310.0), runs)
    assert other != source and other.load().fingerprint != molecule.fingerprint
    # compare and sample are given the file, and take the molecule of the run
    run = runs / "a"
    run.mkdir()
    (run / "settings.json").write_text(json.dumps({"source": source.absolute()}))
    assert Source(str(sdf)).as_in(run).load().fingerprint == molecule.fingerprint
    sdf.write_text(sdf_text(read_smiles("CCN"), "amine"))
    assert Source(str(sdf)).as_in(run) == Source(str(sdf))


def test_what_a_ligand_lacks_is_said(tmp_path: Path) -> None:
    for arguments, words in (
        ((), "or --smiles; got neither"),
        (("butane", "--smiles", "CCO"), "got both"),
        (("butane", "--charges", "nagl"), "with an SDF file or --smiles"),
        ((tmp_path / "none.sdf",), "Expected an SDF file at"),
        (("--smiles", "CC(O)N"), "C[C@H](N)O"),
        (("--smiles", "CCO", "--solvent", "water"), "gbn2, gbn, obc2"),
    ):
        said = _call("run", *arguments, "--runs", tmp_path / "runs")
        assert said.exit_code == 1 and words in said.output, said.output


def test_a_dry_run_of_smiles(tmp_path: Path, without_openff: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("openmm_fab.cli.training.PROBE_SECONDS", 0.1)
    said = _call("run", "--smiles", "CO", "--name", "methanol", "--solvent", "none", "--runs", tmp_path, "--dry-run")
    assert said.exit_code == 0, said.output
    assert (
        "MolecularSystem('methanol', 6 atoms, 300 K; openff-2.2.1, charges nagl; no solvent)" in said.output
        and "Parametrised" in said.output
    )


def test_lists_of_molecules(tmp_path: Path) -> None:
    smi = tmp_path / "a.smi"
    smi.write_text("CCO ethanol\n# a comment\n\nCCN\tan amine/x\nCO\nCC ethanol\n")
    assert molecules_of(smi, tmp_path) == {
        "ethanol": ("--smiles", "CCO"),
        "an_amine_x": ("--smiles", "CCN"),
        "a-3": ("--smiles", "CO"),
        "ethanol-2": ("--smiles", "CC"),
    }
    sdf = tmp_path / "b.sdf"
    sdf.write_text(sdf_text(read_smiles("CCO"), "x") + sdf_text(read_smiles("CCN"), "x"))
    found = molecules_of(sdf, tmp_path / "kept")
    assert list(found) == ["x", "x-2"]
    assert Path(found["x-2"][0]).read_text() == sdf_text(read_smiles("CCN"), "x")
    smi.write_text("# nothing\n")
    with pytest.raises(ValueError, match="there is none"):
        molecules_of(smi, tmp_path)
    with pytest.raises(ValueError, match=r"\.smi or \.sdf"):
        molecules_of(Path(__file__), tmp_path)


# In place of Python with openmm_fab: stops at the first call, and finishes where it is told to go on.
STAND_IN = """\
import json, os, shutil, sys
arguments = sys.argv[1:]
after = lambda option: arguments[arguments.index(option) + 1]
folder = os.path.join(after("--runs"), after("--name"))
with open(os.path.join(after("--runs"), "calls.txt"), "a") as calls:
    print(json.dumps(arguments), file=calls)
if "C(" in arguments:
    sys.exit("openmm-fab: Expected a SMILES\\n  string.")
if "--resume" not in arguments:
    os.makedirs(folder)
    open(os.path.join(folder, "checkpoint.pt"), "w").close()
    print("Stopped by the machine.")
    sys.exit(3)
shutil.copy({ensemble!r}, os.path.join(folder, "ensemble.npz"))
"""


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs are made by STAND_IN; returns the file with its calls."""
    topology, x = drawn("CCO")
    weights = np.log(np.arange(1.0, 51.0))
    Ensemble(np.repeat(x[None], 50, 0), np.zeros(50), weights, topology, 300.0).save(tmp_path / "made.npz")
    script = tmp_path / "standin.py"
    script.write_text(STAND_IN.replace("{ensemble!r}", repr(str(tmp_path / "made.npz"))))
    launcher = tmp_path / "python"
    launcher.write_text(f'#!/bin/sh\nshift 3\nexec "{sys.executable}" "{script}" "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setattr(screening.sys, "executable", str(launcher))
    return tmp_path / "out" / "calls.txt"


def calls(path: Path) -> list[list[str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_screening_goes_on_where_it_stopped(tmp_path: Path, standin: Path) -> None:
    smi = tmp_path / "list.smi"
    smi.write_text("CCO ethanol\nC( broken\nCC ethane\n")
    arguments = ("screen", smi, "--folder", tmp_path / "out", "--minutes", 2, "--workers", 2, "--solvent", "obc2")
    first = _call(*arguments, "--set", "train.batch=64")
    assert first.exit_code == 1 and "0 of 3 done" in first.output, first.output
    assert "ethanol: Stopped by the machine." in first.output
    made = calls(standin)
    assert len(made) == 3
    (ethanol,) = [one for one in made if "ethanol" in one]
    assert ethanol[:2] == ["--smiles", "CCO"] and "--resume" not in ethanol
    for pair in (("--solvent", "obc2"), ("--set", "train.batch=64"), ("--minutes", "2")):
        assert ethanol[ethanol.index(pair[0]) + 1] == pair[1]

    second = _call(*arguments, "--set", "train.batch=64")
    assert second.exit_code == 1 and "2 of 3 done" in second.output, second.output
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
    assert [(row["name"], row["status"]) for row in rows] == [
        *(("ethanol", "done"), ("broken", "Expected a SMILES string."), ("ethane", "done"))
    ]
    # Weights 1 to 50: (sum w)^2 / sum w^2
    assert float(rows[0]["ess"]) == pytest.approx(1275**2 / 42925, rel=1e-5)
    assert rows[0]["atoms"] == "9" and rows[0]["conformers"] == "1" and float(rows[0]["first"]) == pytest.approx(1.0)
    page = (tmp_path / "out" / "index.html").read_text()
    assert 'href="ethanol/report.html"' in page and "2 of 3 molecules done" in page and "Expected a SMILES" in page

    third = _call(*arguments, "--set", "train.batch=64")
    assert len(calls(standin)) == 7 and "2 of 3 done" in third.output  # only the broken one was tried again
    longer = _call("screen", smi, "--folder", tmp_path / "out", "--minutes", 5, "--solvent", "obc2", "--set",
                   "train.batch=64")  # fmt: skip
    assert "2 of 3 done" in longer.output and len(calls(standin)) == 10
    assert "5" in calls(standin)[-1] and any("--resume" in one for one in calls(standin)[-3:])
    other = _call(*arguments)
    assert other.exit_code == 1 and "options that" in other.output and "--set train.batch=64" in other.output


def test_a_run_without_a_checkpoint_begins_anew(tmp_path: Path, standin: Path) -> None:
    job = Job("a", ("--smiles", "CCO"), (), str(tmp_path / "out"), 1.0, 1)
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "settings.json").write_text("{}")
    assert run_job(job).status == "Stopped by the machine."
    assert run_job(job).status == "done"
    assert run_job(job) == run_job(job) and len(calls(standin)) == 2


def test_so_many_molecules_at_a_time() -> None:
    import threading

    jobs = [Job(f"{k}", (), (), "", 1.0, 1) for k in range(6)]
    meet, most, now = threading.Barrier(3, timeout=20), [0], [0]
    lock = threading.Lock()

    def run(job: Job) -> screening.Row:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        meet.wait()  # passes only where three are there at once
        with lock:
            now[0] -= 1
        return screening.Row(job.name, "done")

    assert {row.name for row in rows_by_threads(jobs, 3, run)} == {f"{k}" for k in range(6)}
    assert most[0] == 3


def test_the_overview_escapes_what_it_shows() -> None:
    row = {"name": "<b>x", "status": "a < b", "atoms": 0, "ess": 0.0, "khat": 0.0, "conformers": 0}
    rows = [row, {**row, "name": "y", "status": "done", "ess": 5.0, "khat": 0.9, "first": 0.5, "first_error": 0.1,
                  "seconds": 90.0}]  # fmt: skip
    page = overview_html(rows, "a & b")
    assert "&lt;b&gt;x" in page and "a &lt; b" in page and "a &amp; b" in page and "1 of 2" in page
    assert '<td class="care">!</td>' in page and "0.50 ± 0.10" in page and "1.5" in page


def test_a_cluster_is_reached_by_dask(tmp_path: Path, standin: Path) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        jobs = [Job(f"{k}", ("--smiles", "CCO"), (), str(tmp_path / "out"), 1.0, 1) for k in range(3)]
        with distributed.Client(cluster) as client:
            rows = list(screening.rows_by_dask(jobs, client))
            assert {row.status for row in rows} == {"Stopped by the machine."}
            assert {row.status for row in screening.rows_by_dask(jobs, client)} == {"done"}


def dies_once(job: Job) -> screening.Row:
    marker = Path(job.folder) / "died"
    if job.name == "0" and not marker.exists():
        marker.touch()
        os._exit(1)
    return screening.Row(job.name, "done" if job.name != "2" else "failed")


def test_the_job_of_a_worker_that_dies_is_done_by_another(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    jobs = [Job(f"{k}", (), (), str(tmp_path), 1.0, 1) for k in range(3)]
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with distributed.Client(cluster) as client:
            found = {row.name: row.status for row in screening.rows_by_dask(jobs, client, dies_once)}
    assert (tmp_path / "died").exists() and found == {"0": "done", "1": "done", "2": "failed"}


def test_a_scheduler_without_dask_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    (tmp_path / "a.smi").write_text("CCO\n")
    said = _call("screen", tmp_path / "a.smi", "--folder", tmp_path / "b", "--scheduler", "tcp://127.0.0.1:9")
    assert said.exit_code == 1 and "pip install distributed" in said.output
