"""Energy and gradient, translated and by OpenMM: microseconds per structure.

`python benchmarks/energy.py [--quick] [--system NAME] [--record]`. All take turns in one run, and the ratio to OpenMM's
Reference platform stands beside each figure: it is steadier than the figure where the machine has other work. Each
figure is the median of repeats. Names are those of `systems/` and of the peptides in `tests/data/`. Ends in one JSON
line.
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
from pathlib import Path

import numpy as np
import openmm
import torch
from record import record

from openmm_fab.energy.bridge import OpenMMEnergy
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.molecule.system import MolecularSystem, available_systems

PEPTIDES = Path(__file__).parents[1] / "tests" / "data"
FORCEFIELD = ("amber14-all.xml", "implicit/obc2.xml")  # of those peptides
SECONDS = 1.0  # a figure takes, or three repeats
OPENMM_STRUCTURES = 256  # it takes structures one by one: the batch does not matter
REFERENCE = "OpenMM Reference, 1 worker"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="below a minute: one batch size, float64")
    parser.add_argument("--system", default="alanine_dipeptide")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024, 4096, 16384])
    parser.add_argument("--record", action="store_true", help="write the table to RESULTS.md")
    parser.add_argument("--start", choices=("float64", "float32"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    system = _load(options.system)
    if options.start:
        return _start(system, getattr(torch, options.start))
    batches = [256] if options.quick else options.batches
    dtypes = (torch.float64,) if options.quick else (torch.float64, torch.float32)
    x = torch.from_numpy(system.positions + _noise(max(batches), system.n_atoms))

    starts = _compile_seconds(options.system, dtypes)
    calls, workers = _contenders(system, dtypes)
    figures: dict[str, dict[str, float]] = {str(n): {} for n in batches}
    for n in batches:
        for name, call in calls.items():
            batch = x[: min(n, OPENMM_STRUCTURES)] if name.startswith("OpenMM") else x[:n]
            figures[str(n)][name] = round(_median(call, batch), 2)
            print(f"batch {n:5d}  {name:32s}{figures[str(n)][name]:9.1f} us", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    accuracy = _float32_deviation(system, x[:256])
    if options.record:
        text = "Microseconds per structure, energy and gradient; in brackets how much faster than OpenMM Reference.\n"
        text += (
            f"{system.n_atoms} atoms; OpenMM CPU with {workers} workers; {torch.get_num_threads()} threads. Fusing: "
        )
        text += ", ".join(f"{s['cold']:.0f} s with an empty cache, {s['warm']:.1f} s ({n})" for n, s in starts.items())
        text += (
            f" with a full one. float32 is off by {accuracy['u']:.1g} kT in u and {accuracy['gradient']:.1g} of the "
        )
        text += f"largest component in the gradient. Peak memory of the whole run {peak:.1f} GiB.\n\n"
        command = f"python benchmarks/energy.py --system {options.system} --record"
        table = _table(figures, list(calls))
        record(f"energy_{system.name}", f"{system.name}: energy and gradient", command, text + table)
    report = {"microseconds": figures, "compile_seconds": starts, "cpu_workers": workers, "float32": accuracy}
    report |= {"benchmark": "energy", "quick": options.quick, "system": system.name, "peak_gib": round(peak, 2)}
    print(json.dumps(report))


def _load(name: str) -> MolecularSystem:
    if name in available_systems():
        return MolecularSystem.load(name)
    return MolecularSystem.from_pdb(PEPTIDES / f"{name}.pdb", FORCEFIELD)


def _noise(n: int, n_atoms: int) -> np.ndarray:
    return np.random.default_rng(0).normal(scale=0.003, size=(n, n_atoms, 3))


def _contenders(system: MolecularSystem, dtypes: tuple[torch.dtype, ...]) -> tuple[dict[str, Callable], int]:
    """What is timed, x -> (u, gradient), by name; and how many workers OpenMM's CPU platform has."""
    cpu = OpenMMEnergy(system, platform="CPU")
    calls: dict[str, Callable] = {REFERENCE: OpenMMEnergy(system, platform="Reference", workers=1).value_and_gradient}
    for threads in (1, 2):
        calls[f"OpenMM CPU, a loop, {threads} threads"] = _Loop(system.system, threads)
    calls["OpenMM CPU, processes and pickles"] = _Processes(system)
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


class _Loop:
    """One Context in a Python loop."""

    def __init__(self, system: openmm.System, threads: int) -> None:
        platform = openmm.Platform.getPlatformByName("CPU")
        integrator = openmm.VerletIntegrator(0.001)
        self.context = openmm.Context(system, integrator, platform, {"Threads": str(threads)})

    def __call__(self, x: torch.Tensor) -> list[tuple[float, np.ndarray]]:
        found = []
        for positions in x.numpy():
            self.context.setPositions(positions)
            state = self.context.getState(energy=True, forces=True)
            found.append((state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value))
        return found


class _Processes:
    """A process per core, each with a Context of one thread; structures go through pickles, as bgflow's bridge does."""

    def __init__(self, system: MolecularSystem) -> None:
        serialized = openmm.XmlSerializer.serialize(system.system)
        spawn = multiprocessing.get_context("spawn")
        self.pool = spawn.Pool(os.cpu_count(), initializer=_in_process, initargs=(serialized,))

    def __call__(self, x: torch.Tensor) -> list[tuple[float, np.ndarray]]:
        return self.pool.map(_evaluate, list(x.numpy()))


def _in_process(serialized: str) -> None:
    global _loop
    _loop = _Loop(openmm.XmlSerializer.deserialize(serialized), threads=1)


def _evaluate(positions: np.ndarray) -> tuple[float, np.ndarray]:
    return _loop(torch.from_numpy(positions)[None])[0]


def _compile_seconds(name: str, dtypes: tuple[torch.dtype, ...]) -> dict[str, dict[str, float]]:
    """Until the first energies of a new process: with an empty cache, and again with what that one left."""
    found: dict[str, dict[str, float]] = {}
    for dtype in (str(dtype).removeprefix("torch.") for dtype in dtypes):
        with tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
            command = [sys.executable, __file__, "--system", name, "--start", dtype]
            seconds = [
                float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
                for _ in range(2)
            ]
        found[dtype] = {"cold": round(seconds[0], 1), "warm": round(seconds[1], 1)}
        print(f"fusing {dtype}: {found[dtype]}", flush=True)
    return found


def _start(system: MolecularSystem, dtype: torch.dtype) -> None:
    x = torch.from_numpy(system.positions)[None]
    start = time.perf_counter()
    CompiledEnergy(system, dtype).compile().value_and_gradient(x)
    print(time.perf_counter() - start)


def _float32_deviation(system: MolecularSystem, x: torch.Tensor) -> dict[str, float]:
    u, gradient = CompiledEnergy(system).value_and_gradient(x)
    rough, slope = CompiledEnergy(system, torch.float32).value_and_gradient(x)
    off = (slope - gradient).abs().amax((1, 2)) / gradient.abs().amax((1, 2))
    return {"u": float((rough - u).abs().max()), "gradient": float(off.max())}


def _table(figures: dict[str, dict[str, float]], names: list[str]) -> str:
    rows = ["| | " + " | ".join(f"batch {n}" for n in figures) + " |", "|---" * (len(figures) + 1) + "|"]
    for name in names:
        cells = [f"{found[name]:.1f} ({found[REFERENCE] / found[name]:.1f}x)" for found in figures.values()]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
