"""Do runs that are killed resume with the same result, and does memory stay flat over hours?

kill9: SIGKILL at random moments of training, sampling and reference MD. Butane, all numbers by seed, on one core; a
state is saved as often as can be. A process is killed, another goes on in its folder and is killed again, until one
ends: its result must be that of a run left alone, to the bit. Then the next folder, until N processes were killed.
soak: `openmm-fab train` in another process, whose resident memory is looked at every few seconds. `--out` keeps the
trained run and the whole series (memory.csv: seconds, MiB).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import torch

import openmm_fab as fab
import openmm_fab.ensemble.stream
import openmm_fab.generator.training
import openmm_fab.md.langevin
import openmm_fab.md.walkers
from openmm_fab.ais.annealing import AISSettings
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.free_energy.estimators import import_pymbar
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.train.settings import Budget, TrainSettings

from .records import FIGURES
from .runner import Skip

# kill9
SETTINGS = GeneratorSettings(
    flow=FlowSettings(layers=2, hidden=16),
    train=TrainSettings(batch=32, buffer_min=2, buffer_max=8, warmup=4, ais=AISSettings(intermediate=1, leapfrogs=2)),
)
ITERATIONS, SAMPLES = 12, 960
MD = {"time_ps": 1.0, "frame_ps": 0.1, "equilibration_ps": 0.1}
Work = Callable[[Path], str]  # goes on in a folder to the end; a digest of the result
# soak
SETTLED = 0.15  # share of the time after which the buffer is full and everything is compiled


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("part", nargs="?", choices=("kill9", "soak"), default="kill9")
    parser.add_argument("--times", type=int, default=50, help="kill9: kills each; 3 with --quick")
    parser.add_argument("--seed", type=int, default=0, help="kill9")
    parser.add_argument("--only", default="", help="kill9: what to kill, those with this in their name")
    parser.add_argument("--system", default="alanine_dipeptide", help="soak")
    parser.add_argument("--minutes", type=float, default=120.0, help="soak: half a minute with --quick")
    parser.add_argument("--out", type=Path, help="soak: keep the run and the series of memory there")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    return {"part": options.part, **(kill9 if options.part == "kill9" else soak)(options)}


def section_name(figures: dict[str, Any]) -> str:
    return figures["part"]


def title(figures: dict[str, Any]) -> str:
    if figures["part"] == "kill9":
        return "Runs killed at random moments"
    return f"Memory of a training of {figures['asked_minutes']:g} minutes, {figures['system']}"


def table(figures: dict[str, Any]) -> str:
    return (_kill9_table if figures["part"] == "kill9" else _soak_table)(figures)


def failure(figures: dict[str, Any]) -> str | None:
    if figures["part"] == "soak":
        status = figures["exit_status"]
        return f"The training ended with status {status}." if status else None
    if any(of["same"] != of["runs"] for of in figures["works"].values()):
        return "A run that was killed and resumed ended with another result."
    return None


# --- kill9 ---


def works() -> dict[str, Work]:
    """What is killed. The molecule is read here, once; a process gets its own copy of everything."""
    import_pymbar()  # slow, and needed by reports on MD
    system = fab.MolecularSystem.load("butane")
    generator = fab.BoltzmannGenerator(system, SETTINGS)

    def training(folder: Path) -> str:
        generator.train(
            Budget(iterations=ITERATIONS),
            folder=folder,
            resume=True,
            progress=False,
            compile=False,
            evaluate_every=np.inf,
            evaluate_samples=64,
        )
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        metrics = [{k: v for k, v in row.items() if k not in ("seconds", "spent", "setup")} for row in rows]
        return _digest(json.dumps(metrics), *(p.detach().numpy() for p in generator.flow.parameters()))

    def sampling(folder: Path) -> str:
        path = folder / "ensemble.nc"
        generator.sample(SAMPLES, seed=3, out=path, resume=True)
        found = fab.Ensemble.load(path)
        return _digest(found.x, found.u, found.log_w)

    def walkers(folder: Path) -> str:
        about = {"walkers": 4, "compile": False, **MD}
        found = fab.run_reference(system, "walkers", folder=folder, resume=True, progress=False, **about)
        return _digest(found.x, found.u)

    def langevin(folder: Path) -> str:
        about = {"platform": "Reference", **MD}
        found = fab.run_reference(system, "langevin", folder=folder, resume=True, progress=False, **about)
        return _digest(mdtraj.load(folder / "trajectory.dcd", top=system.md_topology).xyz, found.u)

    return {
        "training": training,
        "sampling": sampling,
        "reference MD, walkers": walkers,
        "reference MD, OpenMM": langevin,
    }


def _digest(*parts: np.ndarray | str) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode() if isinstance(part, str) else np.ascontiguousarray(part).tobytes())
    return found.hexdigest()


def spawn(work: Work, folder: Path) -> int:
    """Id of a process that works in the folder and leaves its digest there."""
    child = os.fork()
    if child:
        return child
    status = 1
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        digest = work(folder)
        (folder / "digest").write_text(digest)
        status = 0
    except BaseException as error:
        (folder / "error").write_text(f"{type(error).__name__}: {error}")
    finally:
        os._exit(status)


def ended(child: int) -> tuple[bool, int]:
    """Was it killed; its exit status."""
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status), os.waitstatus_to_exitcode(status)


def trial(work: Work, folder: Path, seconds: float, kills: int, random: np.random.Generator) -> int:
    """Processes killed, one after the other, until one ends or so many were killed and the next is left alone."""
    killed = 0
    while True:
        child = spawn(work, folder)
        if killed < kills:
            time.sleep(random.uniform(0.0, seconds))
            os.kill(child, signal.SIGKILL)
        was_killed, status = ended(child)
        if not was_killed:
            if status:
                raise SystemExit(f"A run that was killed does not go on: {(folder / 'error').read_text()}")
            return killed
        killed += 1


def kill9(options: argparse.Namespace) -> dict[str, Any]:
    """Of each work that is killed: kills, runs, those with the same result, files left over, seconds if left alone."""
    if not hasattr(os, "fork"):
        raise Skip("this system has no fork.")
    times, random = 3 if options.quick else options.times, np.random.default_rng(options.seed)
    torch.set_num_threads(1)  # what is forked must have one thread
    warnings.simplefilter("ignore")
    for module, name in (
        (openmm_fab.generator.training, "CHECKPOINT_EVERY"),
        (openmm_fab.md.walkers, "SAVE_EVERY"),
        (openmm_fab.md.langevin, "SAVE_EVERY"),
        (openmm_fab.ensemble.stream, "COMMIT_EVERY"),
    ):
        setattr(module, name, 0.0)
    found: dict[str, dict[str, float]] = {}
    for name, work in works().items():
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory() as place:
            started = time.perf_counter()
            alone = Path(place, "alone")
            if ended(spawn(work, alone))[1]:
                raise SystemExit(f"{name}: {(alone / 'error').read_text()}")
            seconds, expected = time.perf_counter() - started, (alone / "digest").read_text()
            killed = runs = same = left = 0
            while killed < times:
                folder = Path(place, str(runs))
                # At most four kills of one run, so that there are many runs.
                killed += trial(work, folder, seconds, min(4, times - killed), random)
                runs += 1
                same += (folder / "digest").read_text() == expected
                left += sum(1 for path in folder.iterdir() if path.name.startswith("."))
        found[name] = {"kills": killed, "runs": runs, "same": same, "left": left, "seconds_alone": round(seconds, 3)}
        print(name, found[name], flush=True)
    return {"works": found}


def _kill9_table(figures: dict[str, Any]) -> str:
    rows = ["| what | kills | runs | same result | files left over |", "|---|---|---|---|---|"]
    for name, of in figures["works"].items():
        rows.append(f"| {name} | {of['kills']} | {of['runs']} | {of['same']} | {of['left']} |")
    return "\n".join(rows)


# --- soak ---


def soak(options: argparse.Namespace) -> dict[str, Any]:
    minutes = 0.5 if options.quick else options.minutes
    with contextlib.ExitStack() as stack:
        runs = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runs.mkdir(parents=True, exist_ok=True)
        command = ["train", options.system, "--minutes", f"{minutes:g}", "--runs", str(runs), "--name", "soak"]
        command += ["--preset", "smoke"] if options.quick else []
        began = time.time()
        times, memory, status = watch([sys.executable, "-m", "openmm_fab", *command], 1.0 if options.quick else 10.0)
        np.savetxt(runs / "memory.csv", np.stack([times, memory], 1), "%.1f", ",", header="seconds,MiB", comments="")
        metrics = runs / "soak" / "metrics.jsonl"
        last = json.loads(metrics.read_text(encoding="utf-8").splitlines()[-1])
        trained = metrics.stat().st_mtime - began  # what comes after the last line is no training
    shown = np.linspace(0, len(times) - 1, 9).round().astype(int)
    figures = {
        "system": options.system,
        "asked_minutes": minutes,
        **flatness(times, memory, trained),
        "minutes": trained / 60,
        "iterations": last["iteration"],
        "evaluations": last["evaluations"],
        "exit_status": status,
        "series": [[times[k], memory[k]] for k in shown],
    }
    if options.record:
        draw(times, memory, trained)
    return figures


def watch(command: list[str], every: float) -> tuple[list[float], list[float], int]:
    """Seconds, resident MiB of the process and its children, exit status."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    times: list[float] = []
    memory: list[float] = []
    while process.poll() is None:
        found = resident(process.pid)
        if found:
            times.append(time.monotonic() - started)
            memory.append(found)
        time.sleep(every)
    return times, memory, process.returncode


def resident(pid: int) -> float:
    """MiB of its own (files that are mapped, which a system takes back as it likes, not counted), children included; 0
    where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    own = re.search(r"RssAnon:\s+(\d+) kB", text)
    return (int(own[1]) / 1024 if own else 0.0) + sum(resident(int(child)) for child in children)


def flatness(times: list[float], memory: list[float], trained: float) -> dict[str, float | None]:
    """Least, most, their spread over the least, and how the last quarter's mean and most stand to the first's, all
    while the flow is trained; and the most from then on.

    Memory may fall for a while where a library has the C library give back what is free; a leak raises the most.
    """
    time, all_of_it = np.array(times), np.array(memory)
    late = all_of_it[(time >= SETTLED * trained) & (time <= trained)]
    quarter = math.ceil(len(late) / 4)
    first, last = late[:quarter], late[-quarter:]
    least, most, closing = late.min(), late.max(), all_of_it[time > trained]
    return {
        "least_mib": float(least),
        "most_mib": float(most),
        "spread": float(most / least - 1),
        "drift": float(last.mean() / first.mean() - 1),
        "growth": float(last.max() / first.max() - 1),
        "closing_mib": float(closing.max()) if len(closing) else None,
    }


def _soak_table(figures: dict[str, Any]) -> str:
    body = "| after | resident memory, MiB |\n|---|---|\n"
    body += "\n".join(f"| {seconds / 60:.0f} min | {memory:.0f} |" for seconds, memory in figures["series"])
    body += (
        f"\n\n{figures['iterations']:,} iterations and {figures['evaluations']:,} target evaluations in "
        f"{figures['minutes']:.0f} minutes. Over their last {1 - SETTLED:.0%}: least {figures['least_mib']:.0f} MiB, "
        f"most {figures['most_mib']:.0f} MiB, {figures['spread']:.1%} apart; last quarter against first "
        f"{figures['drift']:+.1%}, most of it against most {figures['growth']:+.1%}. Exit status "
        f"{figures['exit_status']}."
    )
    if figures["closing_mib"] is not None:
        body += f" Most afterwards: {figures['closing_mib']:.0f} MiB."
    return f"{body}\n\n![Memory against time](figures/soak.png)"


def draw(times: list[float], memory: list[float], trained: float) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 2.6), layout="constrained")
    axes.plot(np.array(times) / 60, memory, lw=1)
    axes.axvspan(SETTLED * trained / 60, trained / 60, alpha=0.1, label="where it has to be flat")
    axes.set(xlabel="minutes", ylabel="resident memory, MiB", ylim=(0, None))
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(FIGURES / "soak.png", dpi=110)
