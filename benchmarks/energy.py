"""Energy and gradient, translated and by OpenMM: what they cost, and how far they are apart.

speed: microseconds per structure. All take turns in one run, and the ratio to OpenMM's Reference platform stands beside
each figure: it is steadier than the figure where the machine has other work. Each figure is the median of repeats.
Names are those of `systems/` and of the peptides in `tests/data/`.
bridge: OpenMM in threads against OpenMM in processes, microseconds of wall time per structure for a whole batch,
handing over of positions and results included: the median of five repeats.
accuracy: the translated energy against OpenMM's Reference platform, in float64: the largest deviations on many systems,
of structures with thermal noise (0.003 nm) and of strained ones (0.03 nm); every force is compared alone, then all of
them together. The systems are those of `tests/energy_systems.py`; most of them need openmmtools.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import openmm
import torch

from openmm_fab.energy.bridge import OpenMMEnergy
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.molecule.folders import available_systems
from openmm_fab.molecule.system import MolecularSystem

from .records import ROOT
from .runner import Skip

PEPTIDES = ROOT / "tests" / "data"
FORCEFIELD = ("amber14-all.xml", "implicit/obc2.xml")  # of those peptides
SECONDS = 1.0  # a figure takes, or three repeats
OPENMM_STRUCTURES = 256  # it takes structures one by one: the batch does not matter
REFERENCE = "OpenMM Reference, 1 worker"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("part", nargs="?", choices=("speed", "bridge", "accuracy"), default="speed")
    parser.add_argument("--system", default="alanine_dipeptide", help="of speed and bridge")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024, 4096, 16384], help="of speed")
    parser.add_argument("--structures", type=int, default=8, help="of accuracy, of each kind")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    figures = {"speed": speed, "bridge": bridge, "accuracy": accuracy}[options.part](options)
    return {"part": options.part, **figures}


def section_name(figures: dict[str, Any]) -> str:
    if figures["part"] == "accuracy":
        return "energy_accuracy"
    return f"{'energy' if figures['part'] == 'speed' else 'bridge'}_{figures['system']}"


def title(figures: dict[str, Any]) -> str:
    return {
        "speed": "{system}: energy and gradient",
        "bridge": "OpenMM in threads and in processes: {system}, {n} structures",
        "accuracy": "The translated energy against OpenMM Reference, float64",
    }[figures["part"]].format(**figures)


def table(figures: dict[str, Any]) -> str:
    tables = {"speed": _speed_table, "bridge": _bridge_table, "accuracy": _accuracy_table}
    return tables[figures["part"]](figures)


def load(name: str) -> MolecularSystem:
    """One of `systems/`, or a peptide of the tests' data."""
    if name in available_systems():
        return MolecularSystem.load(name)
    return MolecularSystem.from_pdb(PEPTIDES / f"{name}.pdb", FORCEFIELD)


def _noise(n: int, n_atoms: int) -> np.ndarray:
    return np.random.default_rng(0).normal(scale=0.003, size=(n, n_atoms, 3))


class _Loop:
    """One Context in a Python loop."""

    def __init__(self, system: openmm.System, platform: str, threads: int) -> None:
        properties = {"Threads": str(threads)} if platform == "CPU" else {}
        where = openmm.Platform.getPlatformByName(platform)
        self.context = openmm.Context(system, openmm.VerletIntegrator(0.001), where, properties)

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        energies, forces = np.empty(len(x)), np.empty(x.shape)
        for row, positions in enumerate(x):
            self.context.setPositions(positions)
            state = self.context.getState(energy=True, forces=True)
            energies[row] = state.getPotentialEnergy()._value
            forces[row] = state.getForces(asNumpy=True)._value
        return energies, forces


def _pool(system: MolecularSystem, platform: str, workers: int) -> Any:
    """Processes, each with a Context of one thread. Spawned, as OpenMM's threads would not survive a fork."""
    xml = openmm.XmlSerializer.serialize(system.system)
    return multiprocessing.get_context("spawn").Pool(workers, _in_process, (xml, platform))


def _in_process(xml: str, platform: str) -> None:
    global _loop
    _loop = _Loop(openmm.XmlSerializer.deserialize(xml), platform, threads=1)


def _evaluate(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _loop(x)


# --- speed ---


def speed(options: argparse.Namespace) -> dict[str, Any]:
    system = load(options.system)
    batches = [256] if options.quick else options.batches
    dtypes = (torch.float64,) if options.quick else (torch.float64, torch.float32)
    x = torch.from_numpy(system.positions + _noise(max(batches), system.n_atoms))

    starts = _compile_seconds(options.system, dtypes)
    calls, workers = _contenders(system, dtypes)
    microseconds: dict[str, dict[str, float]] = {str(n): {} for n in batches}
    for n in batches:
        for name, call in calls.items():
            batch = x[: min(n, OPENMM_STRUCTURES)] if name.startswith("OpenMM") else x[:n]
            microseconds[str(n)][name] = round(_median(call, batch), 2)
            print(f"batch {n:5d}  {name:32s}{microseconds[str(n)][name]:9.1f} us", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "system": system.name,
        "atoms": system.n_atoms,
        "microseconds": microseconds,
        "compile_seconds": starts,
        "cpu_workers": workers,
        "threads": torch.get_num_threads(),
        "float32": _float32_deviation(system, x[:256]),
        "peak_gib": round(peak, 2),
    }


def _contenders(system: MolecularSystem, dtypes: tuple[torch.dtype, ...]) -> tuple[dict[str, Callable], int]:
    """What is timed, x -> (u, gradient), by name; and how many workers OpenMM's CPU platform has."""
    cpu = OpenMMEnergy(system, platform="CPU")
    calls: dict[str, Callable] = {REFERENCE: OpenMMEnergy(system, platform="Reference", workers=1).value_and_gradient}
    for threads in (1, 2):
        loop = _Loop(system.system, "CPU", threads)
        calls[f"OpenMM CPU, a loop, {threads} threads"] = lambda x, loop=loop: loop(x.numpy())
    pool = _pool(system, "CPU", os.cpu_count() or 1)  # each structure goes through a pickle, as in bgflow's bridge
    calls["OpenMM CPU, processes and pickles"] = lambda x: pool.map(_evaluate, list(x.numpy()[:, None]))
    calls["OpenMM CPU, OpenMMEnergy"] = cpu.value_and_gradient
    for dtype in dtypes:
        name = str(dtype).removeprefix("torch.")
        calls[f"eager {name}"] = CompiledEnergy(system, dtype).value_and_gradient
        calls[f"fused {name}"] = CompiledEnergy(system, dtype).compile().value_and_gradient
    return calls, cpu.workers


def _median(call: Callable, x: torch.Tensor) -> float:
    """Microseconds a structure."""
    call(x)
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds) < SECONDS:
        start = time.perf_counter()
        call(x)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) / len(x) * 1e6


def _compile_seconds(name: str, dtypes: tuple[torch.dtype, ...]) -> dict[str, dict[str, float]]:
    """Until the first energies of a new process: with an empty cache, and again with what that one left."""
    found: dict[str, dict[str, float]] = {}
    for dtype in (str(dtype).removeprefix("torch.") for dtype in dtypes):
        with tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
            command = [sys.executable, "-c", f"from benchmarks import energy; energy.start({name!r}, {dtype!r})"]
            seconds = [
                json.loads(
                    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True).stdout
                )
                for _ in range(2)
            ]
        found[dtype] = {"cold": round(seconds[0], 1), "warm": round(seconds[1], 1)}
        print(f"fusing {dtype}: {found[dtype]}", flush=True)
    return found


def start(name: str, dtype: str) -> None:
    """Print the seconds until the first energies of this process."""
    system = load(name)
    x = torch.from_numpy(system.positions)[None]
    begun = time.perf_counter()
    CompiledEnergy(system, getattr(torch, dtype)).compile().value_and_gradient(x)
    print(time.perf_counter() - begun)


def _float32_deviation(system: MolecularSystem, x: torch.Tensor) -> dict[str, float]:
    u, gradient = CompiledEnergy(system).value_and_gradient(x)
    rough, slope = CompiledEnergy(system, torch.float32).value_and_gradient(x)
    off = (slope - gradient).abs().amax((1, 2)) / gradient.abs().amax((1, 2))
    return {"u": float((rough - u).abs().max()), "gradient": float(off.max())}


def _speed_table(figures: dict[str, Any]) -> str:
    batches, accuracy = figures["microseconds"], figures["float32"]
    starts = [
        f"{s['cold']:.0f} s with an empty cache, {s['warm']:.1f} s ({n})" for n, s in figures["compile_seconds"].items()
    ]
    text = (
        "Microseconds per structure, energy and gradient; in brackets how much faster than OpenMM Reference.\n"
        f"{figures['atoms']} atoms; OpenMM CPU with {figures['cpu_workers']} workers; {figures['threads']} threads. "
        f"Fusing: {', '.join(starts)} with a full one. float32 is off by {accuracy['u']:.1g} kT in u and "
        f"{accuracy['gradient']:.1g} of the largest component in the gradient. Peak memory of the whole run "
        f"{figures['peak_gib']:.1f} GiB.\n\n"
    )
    rows = ["| | " + " | ".join(f"batch {n}" for n in batches) + " |", "|---" * (len(batches) + 1) + "|"]
    for name in next(iter(batches.values())):
        cells = [f"{found[name]:.1f} ({found[REFERENCE] / found[name]:.1f}x)" for found in batches.values()]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return text + "\n".join(rows)


# --- bridge ---


def bridge(options: argparse.Namespace) -> dict[str, Any]:
    system = load(options.system)
    n = 64 if options.quick else 512
    x = system.positions + _noise(n, system.n_atoms)
    known = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
    microseconds = {}
    for platform in known:
        for way in (threads, processes):
            for workers in (1, 2) if options.quick else (1, 2, 4, 8):
                label = f"{platform} {way.__name__} {workers}"
                microseconds[label] = way(system, platform, workers, x)
                print(f"{label:30s}{microseconds[label]:10.1f} us per structure", flush=True)
    begun = time.perf_counter()
    with OpenMMEnergy(system) as energy:
        seconds = time.perf_counter() - begun
        chosen = {"platform": energy.platform, "workers": energy.workers, "start_seconds": round(seconds, 2)}
    return {"system": system.name, "n": n, "microseconds": microseconds, "chosen": chosen}


def threads(system: MolecularSystem, platform: str, workers: int, x: np.ndarray) -> float:
    batch = torch.from_numpy(x)
    with OpenMMEnergy(system, platform=platform, workers=workers) as energy:
        energy.value_and_gradient(batch[: 4 * workers])
        return _of_five(lambda: energy.value_and_gradient(batch), len(x))


def processes(system: MolecularSystem, platform: str, workers: int, x: np.ndarray) -> float:
    with _pool(system, platform, workers) as pool:
        pool.map(_evaluate, [x[:4]] * 4 * workers, chunksize=1)
        return _of_five(lambda: pool.map(_evaluate, np.array_split(x, workers), chunksize=1), len(x))


def _of_five(call: Callable[[], object], n: int) -> float:
    """Median of microseconds a structure."""
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return round(float(np.median(times)) / n * 1e6, 1)


def _bridge_table(figures: dict[str, Any]) -> str:
    rows = ["| platform, way, workers | µs a structure, energy and forces |", "|---|---|"]
    rows += [f"| {label} | {value} |" for label, value in figures["microseconds"].items()]
    chosen = figures["chosen"]
    picked = (
        f"Picked at start-up in {chosen['start_seconds']:.1f} s: {chosen['platform']}, {chosen['workers']} threads."
    )
    return "\n".join(rows) + f"\n\n{picked}"


# --- accuracy ---


def accuracy(options: argparse.Namespace) -> dict[str, Any]:
    """Of each system the largest deviations of any force alone and of their sum; and the largest of all."""
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        from energy_systems import SYSTEMS, load
        from forces import STRAINED, Deviation, alone, deviation, structures
    except ImportError as error:
        raise Skip(f"the tests' systems are not importable ({error}); pip install 'openmm_fab[test]'.") from error

    def largest(deviations: list[Deviation]) -> Deviation:
        return Deviation(*(max(getattr(d, name) for d in deviations) for name in ("energy", "relative", "force")))

    n, found, worst = options.structures, {}, []
    for name in list(SYSTEMS)[::6] if options.quick else SYSTEMS:
        one = load(name)
        x = torch.cat([structures(one.positions, n), structures(one.positions, n, STRAINED)])
        worst.append(largest([deviation(system, x, one.parameters) for system in (one.system, *alone(one.system))]))
        names = [type(force).__name__.removesuffix("Force") for force in one.system.getForces()]
        forces = list(dict.fromkeys(name for name in names if name != "CMMotionRemover"))
        found[name] = {"atoms": len(one.positions), "forces": forces, **asdict(worst[-1])}
        print(_accuracy_row(name, found[name]), flush=True)
    return {
        "openmm": openmm.version.short_version,
        "structures": n,
        "systems": found,
        "largest": asdict(largest(worst)),
    }


def _accuracy_row(name: str, of: dict[str, Any]) -> str:
    deviations = f"{of['energy']:.1e} | {of['relative']:.1e} | {of['force']:.1e}"
    return f"| {name} | {of.get('atoms', '')} | {', '.join(of.get('forces', ()))} | {deviations} |"


def _accuracy_table(figures: dict[str, Any]) -> str:
    text = (
        f"OpenMM {figures['openmm']}; {2 * figures['structures']} structures of each system, half with 0.003 nm of "
        "noise and half with 0.03 nm; the largest deviation of any force alone and of their sum. Energies relative to "
        "their size or to 1 kJ/mol, forces to the largest component in the structure.\n\n"
    )
    rows = [
        "| system | atoms | forces | energy, kJ/mol | energy, relative | force, relative |",
        "|---|---|---|---|---|---|",
    ]
    rows += [_accuracy_row(name, of) for name, of in figures["systems"].items()]
    return text + "\n".join([*rows, _accuracy_row("largest", figures["largest"])])
