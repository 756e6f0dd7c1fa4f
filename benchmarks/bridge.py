"""Threads against processes for OpenMM energies and forces.

`python benchmarks/bridge.py [--quick] [--system NAME] [--record]`. Each figure is microseconds of wall time per
structure for a whole batch, handing over of positions and results included: the median of five repeats.
Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable

import numpy as np
import openmm
import torch
from record import record

from openmm_fab.energy.bridge import OpenMMEnergy
from openmm_fab.molecule.system import MolecularSystem

_context: openmm.Context


def _open(xml: str, platform: str) -> None:
    global _context
    properties = {"Threads": "1"} if platform == "CPU" else {}
    _context = openmm.Context(
        openmm.XmlSerializer.deserialize(xml),
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatformByName(platform),
        properties,
    )


def _evaluate(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    energies, forces = np.empty(len(x)), np.empty(x.shape)
    for row, positions in enumerate(x):
        _context.setPositions(positions)
        state = _context.getState(energy=True, forces=True)
        energies[row] = state.getPotentialEnergy()._value
        forces[row] = state.getForces(asNumpy=True)._value
    return energies, forces


def _median(call: Callable[[], object], n: int) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return round(float(np.median(times)) / n * 1e6, 1)


def threads(system: MolecularSystem, platform: str, workers: int, x: np.ndarray) -> float:
    batch = torch.from_numpy(x)
    with OpenMMEnergy(system, platform=platform, workers=workers) as energy:
        energy.value_and_gradient(batch[: 4 * workers])
        return _median(lambda: energy.value_and_gradient(batch), len(x))


def processes(system: MolecularSystem, platform: str, workers: int, x: np.ndarray) -> float:
    xml = openmm.XmlSerializer.serialize(system.system)
    # Spawned, as OpenMM's threads would not survive a fork.
    with multiprocessing.get_context("spawn").Pool(workers, _open, (xml, platform)) as pool:
        pool.map(_evaluate, [x[:4]] * 4 * workers, chunksize=1)
        return _median(lambda: pool.map(_evaluate, np.array_split(x, workers), chunksize=1), len(x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--system", default="alanine_dipeptide")
    parser.add_argument("--record", action="store_true", help="write the table to RESULTS.md")
    arguments = parser.parse_args()
    system = MolecularSystem.load(arguments.system)
    n = 64 if arguments.quick else 512
    x = system.positions + np.random.default_rng(0).normal(scale=0.003, size=(n, system.n_atoms, 3))

    known = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
    microseconds = {}
    for platform in known:
        for way in (threads, processes):
            for workers in (1, 2) if arguments.quick else (1, 2, 4, 8):
                label = f"{platform} {way.__name__} {workers}"
                microseconds[label] = way(system, platform, workers, x)
                print(f"{label:30s}{microseconds[label]:10.1f} us per structure", flush=True)

    start = time.perf_counter()
    with OpenMMEnergy(system) as energy:
        seconds = time.perf_counter() - start
        chosen = {"platform": energy.platform, "workers": energy.workers, "start_seconds": round(seconds, 2)}
    figures = {"system": system.name, "n": n, "microseconds": microseconds, "chosen": chosen}
    if arguments.record:
        rows = [f"| {label} | {value} |" for label, value in microseconds.items()]
        table = ["| platform, way, workers | µs a structure, energy and forces |", "|---|---|", *rows]
        picked = f"Picked at start-up in {seconds:.1f} s: {chosen['platform']}, {chosen['workers']} threads."
        command = f"python benchmarks/bridge.py --system {system.name} --record"
        title = f"OpenMM in threads and in processes: {system.name}, {n} structures"
        record(f"bridge_{system.name}", title, command, "\n".join(table) + "\n\n" + picked)
    print(json.dumps({"benchmark": "bridge", "quick": arguments.quick, **figures}))


if __name__ == "__main__":
    main()
