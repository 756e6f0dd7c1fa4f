"""Seconds of an iteration of FAB in the middle of a run, beside another checkout of this project.

With `--peer FOLDER` both builds run in turn, twice each, by the command line program and with FAB from the first step,
one thread on one core. What is compiled is kept: a run of each that is not timed makes it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from .cold_start import _command, _commit, _environment
from .records import ROOT

SYSTEMS = ("alanine_dipeptide", "alanine_tetrapeptide")
WARMING = 4.0  # minutes of training at most, the compilers' time included
REPEATS = 2


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peer", type=Path, help="another checkout, beside this one")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS))
    parser.add_argument("--minutes", type=float, default=1.5, help="of a timed run")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    builds = {"this": ROOT} | ({} if options.peer is None else {"peer": options.peer.resolve()})
    systems, minutes = (options.systems[:1], 0.2) if options.quick else (options.systems, options.minutes)
    load, rows = os.getloadavg()[0], []
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for system in systems:
            if not options.quick:
                for build, folder in builds.items():
                    _run(place / build, folder, system, WARMING if build == "peer" else minutes)
            for _ in range(1 if options.quick else REPEATS):
                for build, folder in builds.items():
                    rows.append({"system": system, "build": build, **_run(place / build, folder, system, minutes)})
                    print(json.dumps(rows[-1]), flush=True)
    commits = {build: _commit(folder) for build, folder in builds.items()}
    return {"rows": rows, "minutes": minutes, "load": [load, os.getloadavg()[0]], "commits": commits}


def title(figures: dict[str, Any]) -> str:
    return "An iteration of FAB in the middle of a run, from the first step on"


def table(figures: dict[str, Any]) -> str:
    builds = list(figures["commits"])
    lines = [f"| ms, each run | {' | '.join(builds)} |" + (" ratio |" if len(builds) > 1 else "")]
    lines.append("|---" * (len(builds) + 1 + (len(builds) > 1)) + "|")
    for system in dict.fromkeys(row["system"] for row in figures["rows"]):
        found = {
            build: [1e3 * r["seconds"] for r in figures["rows"] if (r["system"], r["build"]) == (system, build)]
            for build in builds
        }
        cells = [", ".join(f"{value:.0f}" for value in found[build]) for build in builds]
        if len(builds) > 1:
            cells.append(f"{statistics.mean(found['peer']) / statistics.mean(found['this']):.2f}")
        lines.append(f"| {system} | {' | '.join(cells)} |")
    where = ", ".join(f"{build}: {commit}" for build, commit in figures["commits"].items())
    return "\n".join(
        [*lines, "", f"Medians of the second half of runs of {figures['minutes']:g} minutes; builds: {where}."]
    )


def _run(place: Path, folder: Path, system: str, minutes: float) -> dict[str, Any]:
    """Caches stay in `place`, the run does not."""
    place.mkdir(exist_ok=True)
    asked = ["--minutes", f"{minutes:g}", "--samples", "256"]
    # Builds without the option have FAB from the first step only.
    asked += ["--objective", "fab"] if folder == ROOT else []
    with tempfile.TemporaryDirectory(dir=place) as runs:
        command = _command(system, Path(runs), *asked)
        subprocess.run(command, cwd=runs, env=_environment(folder, place / "caches"), capture_output=True, check=True)
        metrics = [json.loads(line) for line in (Path(runs) / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    seconds = [row["seconds"] for row in metrics]
    steps = [b - a for a, b in itertools.pairwise(seconds)][len(seconds) // 2 :]
    return {"seconds": statistics.median(steps), "iterations": len(metrics)}
