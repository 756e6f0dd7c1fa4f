"""What a GPU does in a second: the parts of training by batch, with and without CUDA graphs.

Times alanine dipeptide's flow (the preset gpu's shape, or --layers and --hidden), energy and iterations: by CUDA graphs
("graphs"), fused layer by layer only ("fused"), and by graphs with matrix products in float32 instead of bfloat16. It
needs a GPU, but for `--quick --device cpu`, which only shows that it runs. Each finished run goes to stderr at once.
Where the GPU's machine has no git, `--commit` says what ran; the file of results/ that it leaves can be read and
recorded on another one, with `--read FILE --record`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from openmm_fab.flow.settings import FlowSettings
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.train.experience import RECENT
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.train.trainer import Trainer

from .runner import Skip

HOW = {"graphs": ("bfloat16", True), "fused": ("bfloat16", False), "graphs, float32": ("float32", True)}
PARTS = (
    *("sample", "log_prob", "gradient to z", "gradient to parameters"),
    *("coordinates", "energy and its gradient", "log p and its gradient", "iteration, annealed", "iteration, drawn"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--system", default="alanine_dipeptide")
    parser.add_argument("--batches", type=int, nargs="+", default=[1024, 16384])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--how", nargs="+", choices=list(HOW), default=list(HOW))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--profile", type=Path, help="write a table of the GPU's steps in an iteration to this file")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise Skip("PyTorch finds no GPU; --quick --device cpu shows that it runs.")
    found: dict[str, Any] = {"system": options.system, "layers": options.layers, "hidden": options.hidden, "runs": []}
    for run in runs(options):
        found["runs"].append(run)
        print(json.dumps(run), file=sys.stderr, flush=True)
    return found


def title(found: dict[str, Any]) -> str:
    return f"{found['system']} on a GPU: {found['layers']} layers of {found['hidden']} hidden units"


def runs(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    system = MolecularSystem.load(options.system)
    for batch in [64] if options.quick else options.batches:
        for how in options.how:
            products, graphs = HOW[how]
            train = TrainSettings(batch=batch, buffer_min=4, buffer_max=16, matmul_dtype=products)
            settings = GeneratorSettings(flow=FlowSettings(layers=options.layers, hidden=options.hidden), train=train)
            generator = BoltzmannGenerator(system, settings, device=options.device)
            if not options.quick:
                generator.compile()
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                milliseconds = parts(generator, graphs, options)
            yield {"batch": batch, "how": how, **milliseconds, "warnings": [str(w.message) for w in told]}


def parts(generator: BoltzmannGenerator, graphs: bool, options: argparse.Namespace) -> dict[str, Any]:
    """Medians in ms of each part, and the seconds of its first call, in which it is compiled and recorded."""
    trainer = Trainer(generator.flow, generator.target, Budget(iterations=10**9), settings=generator.settings.train)
    flow, n = trainer.learner.flow, trainer.settings.batch
    if not graphs:
        flow._graphs = None
    parameters = list(flow.parameters())
    z = trainer.flow.sample(n, trainer.rng)[0]
    x = torch.from_numpy(generator.system.minimum).to(generator.device).expand(n, -1, -1)

    def iteration(below: float) -> Callable[[], object]:
        def step() -> None:
            trainer.experience.settings = replace(trainer.settings, anneal_below=below)
            trainer.iteration = RECENT + 1  # no pass out of turn, and no look at the buffer
            trainer.step()

        return step

    work: dict[str, Callable[[], object]] = {
        "sample": lambda: flow.sample(n, trainer.rng),
        "log_prob": torch.no_grad()(lambda: flow.log_prob(z)),
        "gradient to z": lambda: flow.log_prob_and_gradient(z),
        "gradient to parameters": lambda: torch.autograd.grad(flow.log_prob(z).mean(), parameters),
        "coordinates": lambda: generator.coordinates.to_cartesian(z.double()),
        "energy and its gradient": lambda: generator.energy.value_and_gradient(x),
        "log p and its gradient": lambda: trainer.experience.target.log_prob_and_gradient(z),
        "iteration, annealed": iteration(1.0),
        "iteration, drawn": iteration(0.0),
    }
    found: dict[str, Any] = {"first": {}}
    for name, part in work.items():
        started = time.perf_counter()
        for _ in range(RECENT if name == "iteration, annealed" else 1):
            part()
        wait(generator.device)
        found["first"][name] = time.perf_counter() - started
        found[name] = median(part, 2 if options.quick else options.repeats, generator.device)
        print(f"{n} {name}: {found['first'][name]:.1f} s, then {found[name]:.2f} ms", file=sys.stderr, flush=True)
    if options.profile and graphs:
        profile(work["iteration, drawn"], options.profile.with_suffix(f".{n}.{trainer.settings.matmul_dtype}.txt"))
    return found


def median(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """ms, until the GPU has finished."""
    times = []
    for _ in range(repeats):
        wait(device)
        started = time.perf_counter()
        work()
        wait(device)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def profile(work: Callable[[], object], path: Path) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    with profiled(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        for _ in range(3):
            work()
    order = "cuda_time_total" if torch.cuda.is_available() else "cpu_time_total"
    tables = [
        found.key_averages().table(sort_by=key, row_limit=45, max_name_column_width=90)
        for key in (order, "cpu_time_total")
    ]
    path.write_text("\n".join(tables))


def table(found: dict[str, Any]) -> str:
    rows = found["runs"]
    text = ["| ms | " + " | ".join(f"{r['batch']:,}: {r['how']}" for r in rows) + " |", "|---" * (1 + len(rows)) + "|"]
    for part in PARTS:
        text.append(f"| {part} | " + " | ".join(f"{r[part]:.2f}" for r in rows) + " |")
    per_second = (f"{2 * r['batch'] / r['iteration, drawn']:.0f}" for r in rows)
    text.append("| thousand energies a second, drawn | " + " | ".join(per_second) + " |")
    text.append("| s, first calls in all | " + " | ".join(f"{sum(r['first'].values()):.0f}" for r in rows) + " |")
    note = (
        "Medians by batch size, of one batch each; an iteration has one gradient step, and one batch that is annealed "
        "or two drawn. The first calls are mostly compiling, of which later columns find some done."
    )
    return "\n".join(text) + "\n\n" + note
