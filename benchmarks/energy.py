"""The translated energy against OpenMM: microseconds per structure, gradient included.

`python benchmarks/energy.py [--quick] [--system NAME] [--record]`. OpenMM and torch take turns in one run, batch by
batch, and the ratio to OpenMM's Reference platform stands beside each figure: it is steadier than the figure where
the machine has other work. Each figure is the median of five repeats. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from record import record

from openmm_fab.energy import CompiledEnergy, OpenMMEnergy
from openmm_fab.system import MolecularSystem

REPEATS = 5
OPENMM_STRUCTURES = 256  # it takes structures one by one: the batch does not matter


def _median(call: Callable[[], object], n: int) -> float:
    call()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)) / n * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="below a minute: one batch size, float64")
    parser.add_argument("--system", default="alanine_dipeptide")
    parser.add_argument("--record", action="store_true", help="write the table to RESULTS.md")
    options = parser.parse_args()
    system = MolecularSystem.load(options.system)
    batches = (256,) if options.quick else (64, 256, 1024, 4096)
    dtypes = (torch.float64,) if options.quick else (torch.float64, torch.float32)
    noise = np.random.default_rng(0).normal(scale=0.003, size=(max(batches), system.n_atoms, 3))
    x = torch.from_numpy(system.positions + noise)

    energies: dict[str, OpenMMEnergy | CompiledEnergy] = {
        "OpenMM Reference, 1 worker": OpenMMEnergy(system, platform="Reference", workers=1),
        "OpenMM CPU": OpenMMEnergy(system, platform="CPU"),
    }
    workers = energies["OpenMM CPU"].workers
    # An empty cache: what a first user waits for.
    cache = tempfile.TemporaryDirectory()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache.name
    compile_seconds = {}
    for dtype in dtypes:
        name = str(dtype).removeprefix("torch.")
        energies[f"eager {name}"] = CompiledEnergy(system, dtype)
        energies[f"fused {name}"] = CompiledEnergy(system, dtype).compile()
        start = time.perf_counter()
        energies[f"fused {name}"].value_and_gradient(x[:8])
        compile_seconds[name] = round(time.perf_counter() - start, 1)

    figures: dict[str, dict[str, float]] = {}
    for n in batches:
        found = {}
        for name, energy in energies.items():
            batch = x[: min(n, OPENMM_STRUCTURES)] if isinstance(energy, OpenMMEnergy) else x[:n]
            found[name] = round(_median(lambda e=energy, b=batch: e.value_and_gradient(b), len(batch)), 2)
            print(f"batch {n:5d}  {name:28s}{found[name]:9.1f} us", flush=True)
        figures[str(n)] = found
    if options.record:
        table = ["| | " + " | ".join(f"batch {n}" for n in batches) + " |", "|---" * (len(batches) + 1) + "|"]
        for name in energies:
            cells = [f"{figures[str(n)][name]:.1f} ({_ratio(figures[str(n)], name):.1f}x)" for n in batches]
            table.append(f"| {name} | " + " | ".join(cells) + " |")
        text = "Microseconds per structure, energy and gradient; in brackets how much faster than OpenMM Reference.\n"
        text += f"OpenMM CPU with {workers} workers; fusing takes "
        text += ", ".join(f"{s:.0f} s ({name})" for name, s in compile_seconds.items())
        text += f" with an empty cache; {torch.get_num_threads()} threads.\n\n" + "\n".join(table)
        command = f"python benchmarks/energy.py --system {system.name} --record"
        record(f"energy_{system.name}", f"{system.name}: energy and gradient", command, text)
    report = {
        "system": system.name,
        "microseconds": figures,
        "compile_seconds": compile_seconds,
        "cpu_workers": workers,
    }
    print(json.dumps({"benchmark": "energy", "quick": options.quick, **report}))


def _ratio(figures: dict[str, float], name: str) -> float:
    return figures["OpenMM Reference, 1 worker"] / figures[name]


if __name__ == "__main__":
    main()
