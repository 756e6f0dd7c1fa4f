"""Kill -9 at random moments of training, sampling and reference MD: does each resume, and end with the same result?

`python benchmarks/kill9.py [--quick] [--times N] [--seed S] [--only NAME]`. Butane, all numbers by seed, on one core; a
state is saved as often as can be. A process is killed, another goes on in its folder and is killed again, until one
ends: its result must be that of a run left alone, to the bit. Then the next folder, until N processes were killed. Ends
in one JSON line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import mdtraj
import numpy as np
import torch

import openmm_fab as fab
import openmm_fab.ensemble.stream
import openmm_fab.generator.training
import openmm_fab.md.langevin
import openmm_fab.md.walkers
from openmm_fab.ais.annealing import AISSettings
from openmm_fab.flow.coupling import FlowSettings
from openmm_fab.free_energy.estimators import import_pymbar
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.train.settings import Budget, TrainSettings

SETTINGS = GeneratorSettings(
    flow=FlowSettings(layers=2, hidden=16),
    train=TrainSettings(batch=32, buffer_min=2, buffer_max=8, warmup=4, ais=AISSettings(intermediate=1, leapfrogs=2)),
)
ITERATIONS, SAMPLES = 12, 960
MD = {"time_ps": 1.0, "frame_ps": 0.1, "equilibration_ps": 0.1}

Work = Callable[[Path], str]  # goes on in a folder to the end; a digest of the result


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
        metrics = [{k: v for k, v in row.items() if k not in ("seconds", "spent")} for row in rows]
        return _digest(json.dumps(metrics), *(p.detach().numpy() for p in generator.flow.parameters()))

    def sampling(folder: Path) -> str:
        path = folder / "ensemble.nc"
        generator.sample(SAMPLES, seed=3, out=path, resume=True)
        found = fab.Ensemble.load(path)
        return _digest(found.x, found.u, found.log_w)

    def walkers(folder: Path) -> str:
        about = {"walkers": 4, "compile": False, **MD}
        found = fab.reference(system, "walkers", folder=folder, resume=True, progress=False, **about)
        return _digest(found.x, found.u)

    def langevin(folder: Path) -> str:
        about = {"platform": "Reference", **MD}
        found = fab.reference(system, "langevin", folder=folder, resume=True, progress=False, **about)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 kills each")
    parser.add_argument("--times", type=int, default=50, help="kills each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="what to kill: those with this in their name")
    options = parser.parse_args()
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
    figures: dict[str, dict[str, float]] = {}
    print("| what | kills | runs | same result | files left over |\n|---|---|---|---|---|")
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
        figures[name] = {"kills": killed, "runs": runs, "same": same, "seconds_alone": round(seconds, 3)}
        print(f"| {name} | {killed} | {runs} | {same} | {left} |", flush=True)
    print(json.dumps(figures))
    if any(of["same"] != of["runs"] for of in figures.values()):
        raise SystemExit("A run that was killed and resumed ended with another result.")


if __name__ == "__main__":
    main()
