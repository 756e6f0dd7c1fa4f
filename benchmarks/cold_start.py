"""Seconds from the command to the first metrics, and a short run's ensemble, where nothing is compiled yet.

Every run has caches of its own, empty at the start, one thread and one core. With `--peer FOLDER` another checkout of
this project does the same, in turn. Seconds of the processor, the compilers' included, depend less than those on the
clock on what else the core has to do; but they grow with it, too: caches are shared.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .records import ROOT

SYSTEMS = ("alanine_dipeptide", "adenosine", "alanine_tetrapeptide")
PATIENCE = 600.0  # s
STARTS = {"import openmm_fab": ["-c", "import openmm_fab"], "openmm-fab --help": ["-m", "openmm_fab", "--help"]}
Figures = dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peer", type=Path, help="another checkout, beside this one")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS))
    parser.add_argument("--patience", type=float, default=PATIENCE, help="s, after which first metrics are given up")
    parser.add_argument(
        "--preset", default="smoke", help="of the run to the end, on the first system; none: no such run"
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    systems = options.systems[:1] if options.quick else options.systems
    builds = {"this": ROOT} | ({} if options.peer is None else {"peer": options.peer.resolve()})
    load = os.getloadavg()[0]
    starts: list[Figures] = []
    for what, arguments in STARTS.items():
        for build, folder in builds.items():
            starts.append({"what": what, "build": build, **_start(folder, arguments)})
    first: list[Figures] = []
    for system in systems:
        for build, folder in builds.items():
            row = {"system": system, "build": build, **_first_metrics(folder, system, options.patience)}
            print(json.dumps(row), flush=True)
            first.append(row)
    whole = (
        []
        if options.quick or options.preset == "none"
        else [
            {"system": systems[0], "build": build, **_whole_run(folder, systems[0], options.preset)}
            for build, folder in builds.items()
        ]
    )
    commits = {build: _commit(folder) for build, folder in builds.items()}
    return {
        "starts": starts,
        "first": first,
        "whole": whole,
        "preset": options.preset,
        "patience": options.patience,
        "load": [load, os.getloadavg()[0]],
        "commits": commits,
    }


def title(figures: dict[str, Any]) -> str:
    return "From the command to the first metrics, with empty caches"


def table(figures: dict[str, Any]) -> str:
    builds = list(figures["commits"])
    head = "".join(f" {build}, on the clock | {build}, of the processor |" for build in builds)
    lines = [f"| seconds |{head}", "|---|" + "---|---|" * len(builds)]
    rows = {row["what"]: row["what"] for row in figures["starts"]}
    rows |= {row["system"]: f"first metrics of {row['system']}" for row in figures["first"]}
    found = {(row.get("what", row.get("system")), row["build"]): row for row in figures["starts"] + figures["first"]}
    for key, name in rows.items():
        cells = [cell for build in builds for cell in _shown(found[key, build], figures["patience"])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if figures["whole"]:
        lines += [
            "",
            f"| preset {figures['preset']}, to the end | seconds | iterations | ESS, % | k-hat | basins that agree |",
        ]
        lines.append("|---|---|---|---|---|---|")
        for row in figures["whole"]:
            basins = f"{row['agree']} of {row['basins']}"
            cells = [
                f"{row['seconds']:.0f}",
                row["iterations"],
                f"{100 * row['ess']:.1f}",
                f"{row['khat']:.2f}",
                basins,
            ]
            lines.append(f"| {row['system']}, {row['build']} | {' | '.join(map(str, cells))} |")
    where = ", ".join(f"{build}: {commit}" for build, commit in figures["commits"].items())
    load = " to ".join(f"{value:.1f}" for value in figures["load"])
    return "\n".join(
        [*lines, "", f"Empty caches, one thread on one core of a machine whose load was {load}. Builds: {where}."]
    )


def _shown(row: Figures, patience: float) -> list[str]:
    if row["seconds"] is None:
        return [f"over {patience:g}", f"over {row['cpu']:.1f}"]
    return [f"{row['seconds']:.1f}", f"{row['cpu']:.1f}"]


def _environment(folder: Path, caches: Path) -> dict[str, str]:
    own = {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return os.environ | own | {name: str(caches / name) for name in ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR")}


def _pinned(*arguments: str) -> list[str]:
    core = ["taskset", "-c", str(max(os.sched_getaffinity(0)))] if shutil.which("taskset") else []
    return [*core, sys.executable, *arguments]


def _command(system: str, runs: Path, *more: str) -> list[str]:
    return _pinned("-m", "openmm_fab", "run", system, "--runs", str(runs), "--name", "run", *more)


def _processor() -> float:
    """Seconds of the processor that processes took which this one started, and has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _start(folder: Path, arguments: list[str]) -> Figures:
    """The best of three."""
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        for _ in range(3):
            started, before = time.perf_counter(), _processor()
            environment = _environment(folder, Path(temporary))
            subprocess.run(_pinned(*arguments), cwd=temporary, env=environment, capture_output=True, check=True)
            found.append((time.perf_counter() - started, _processor() - before))
    seconds, cpu = map(min, zip(*found, strict=True))
    return {"seconds": seconds, "cpu": cpu}


def _first_metrics(folder: Path, system: str, patience: float) -> Figures:
    """No seconds on the clock, and those of the processor until then, where nothing came within `patience`."""
    before, seconds = _processor(), None
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        started = time.perf_counter()
        process = subprocess.Popen(
            _command(system, place, "--minutes", "30"),
            cwd=place,
            env=_environment(folder, place),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        metrics = place / "run" / "metrics.jsonl"
        try:
            while not (metrics.exists() and metrics.stat().st_size):
                if process.poll() is not None:
                    raise RuntimeError(f"The run of {system} ended with {process.returncode} before its first metrics.")
                if time.perf_counter() - started > patience:
                    break
                time.sleep(0.02)
            else:
                seconds = time.perf_counter() - started
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    return {"seconds": seconds, "cpu": _processor() - before}


def _whole_run(folder: Path, system: str, preset: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        started = time.perf_counter()
        command = _command(system, place, "--preset", preset)
        subprocess.run(command, cwd=place, env=_environment(folder, place), capture_output=True, check=True)
        seconds = time.perf_counter() - started
        compared = json.loads((place / "run" / "comparison.json").read_text("utf-8"))
        verdicts = [basin["verdict"] for basin in compared["basins"]]
        ensemble = compared["ensemble"]
        return {
            "seconds": seconds,
            "iterations": len((place / "run" / "metrics.jsonl").read_text("utf-8").splitlines()),
            "ess": ensemble["ess"] / ensemble["n"],
            "khat": ensemble["khat"],
            "agree": sum(verdict.startswith("agree") for verdict in verdicts),
            "basins": len(verdicts),
        }


def _commit(folder: Path) -> str:
    command = ["git", "-C", str(folder), "rev-parse", "--short=10", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
