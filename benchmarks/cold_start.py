"""Seconds from the command to the first metrics, and a short run's ensemble, where nothing is compiled yet.

Every run has caches of its own, empty at the start, one thread and one core. With `--peer FOLDER` another checkout of
this project does the same, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .runner import ROOT

SYSTEMS = ("alanine_dipeptide", "adenosine", "alanine_tetrapeptide")
PATIENCE = 600.0  # s


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peer", type=Path, help="another checkout, beside this one")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS))
    parser.add_argument(
        "--preset", default="smoke", help="of the run to the end, on the first system; none: no such run"
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    systems = options.systems[:1] if options.quick else options.systems
    builds = {"this": ROOT} | ({} if options.peer is None else {"peer": options.peer.resolve()})
    first: list[dict[str, Any]] = []
    for system in systems:
        for build, folder in builds.items():
            first.append({"system": system, "build": build, "seconds": _first_metrics(folder, system)})
    whole = (
        []
        if options.quick or options.preset == "none"
        else [
            {"system": systems[0], "build": build, **_whole_run(folder, systems[0], options.preset)}
            for build, folder in builds.items()
        ]
    )
    commits = {build: _commit(folder) for build, folder in builds.items()}
    return {"first": first, "whole": whole, "preset": options.preset, "commits": commits}


def title(figures: dict[str, Any]) -> str:
    return "From the command to the first metrics, with empty caches"


def table(figures: dict[str, Any]) -> str:
    seconds = {(row["system"], row["build"]): row["seconds"] for row in figures["first"]}
    builds = list(figures["commits"])
    lines = [f"| seconds to the first iteration's metrics | {' | '.join(builds)} |", "|---|" + "---|" * len(builds)]
    for system in dict.fromkeys(row["system"] for row in figures["first"]):
        cells = [f"{seconds[system, build]:.1f}" for build in builds]
        lines.append(f"| {system} | {' | '.join(cells)} |")
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
    return "\n".join([*lines, "", f"Empty caches, one thread on one core. Builds: {where}."])


def _environment(folder: Path, caches: Path) -> dict[str, str]:
    own = {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return os.environ | own | {name: str(caches / name) for name in ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR")}


def _command(system: str, runs: Path, *more: str) -> list[str]:
    pinned = ["taskset", "-c", str(max(os.sched_getaffinity(0)))] if shutil.which("taskset") else []
    return [*pinned, sys.executable, "-m", "openmm_fab", "run", system, "--runs", str(runs), "--name", "run", *more]


def _first_metrics(folder: Path, system: str) -> float:
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
                if time.perf_counter() - started > PATIENCE:
                    return float("inf")
                time.sleep(0.02)
            return time.perf_counter() - started
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


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
