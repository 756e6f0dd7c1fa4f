"""Several processes that train one flow: what two cost, what they exchange, and what that would mean for 64 GPUs.

Outer steps of alanine dipeptide with the default flow, by one process and by two (torchrun, gloo, a core and a thread
each). Strong: the batch is shared out; weak: each process has a batch of its own. Bytes are counted where
torch.distributed is called; seconds of exchange include waiting for the other. The table for more processes is
arithmetic on these figures and stated assumptions, not a measurement. It needs as many idle cores as processes.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from openmm_fab.flow.settings import FlowSettings
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.tools.memory import keep_freed_memory
from openmm_fab.train.distributed import process_group
from openmm_fab.train.experience import BASINS_EVERY
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.train.trainer import Trainer

from .records import ROOT

BANDWIDTH, LATENCY = 25e9, 20e-6  # assumed, of the projection: bytes/s out of each process (200 Gbit/s), seconds a hop
PROJECTED, FASTER = (2, 8, 64), (1, 100)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=5)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """A small flow, nothing compiled, if quick."""
    batch = 64 if options.quick else options.batch
    runs = {"one": (1, batch), "two, strong": (2, batch // 2), "two, weak": (2, batch)}
    found = {name: launched(*run, options.steps, options.quick) for name, run in runs.items()}
    one, strong, weak = (found[name]["seconds"] for name in runs)
    cores = len(os.sched_getaffinity(0))
    return {"cores": cores, "runs": found, "strong_speedup": one / strong, "weak_efficiency": one / weak}


def title(figures: dict[str, Any]) -> str:
    return "Several processes: one outer step of alanine dipeptide, the default flow"


def table(figures: dict[str, Any]) -> str:
    found, cores = figures["runs"], figures["cores"]
    body = f"{measured(found)}\n\n{projected(found['one'], found['two, weak'])}"
    return body if cores > 1 else f"Both processes shared {cores} core: times of two mean nothing.\n\n{body}"


def launched(processes: int, batch: int, steps: int, quick: bool) -> dict[str, Any]:
    """Run `work` by so many processes; what the first found."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command += ["-m", __name__, json.dumps([str(out), batch, steps, quick])]
        subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return json.loads(out.read_text())


def work(out: str, batch: int, steps: int, quick: bool) -> None:
    """What each process does: some steps, timed; the first writes the medians."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["LOCAL_RANK"]) % len(cores)]})
    torch.set_num_threads(1)
    keep_freed_memory()
    flow = FlowSettings(layers=2, hidden=32) if quick else FlowSettings()
    settings = GeneratorSettings(flow=flow, train=TrainSettings(batch=batch, buffer_min=4, buffer_max=64))
    with process_group() as ranks:
        generator = BoltzmannGenerator(MolecularSystem.load("alanine_dipeptide"), settings)
        if not quick:
            generator.compile()
        traffic = counted()
        trainer = Trainer(generator.flow, generator.target, Budget(iterations=10**6), settings=settings.train)
        for _ in range(2):  # fills the buffer; compiles what is left
            trainer.step()
        rows = []
        for _ in range(steps):
            traffic.clear()
            ranks.all_gather(None)  # start together
            started = time.perf_counter()
            trainer.step()
            rows.append((time.perf_counter() - started, dict(traffic)))
        medians = {key: statistics.median(row.get(key, 0) for _, row in rows) for key in rows[-1][1]}
        alone = parameters_alone(trainer, ranks.size)
        if ranks.is_main:
            seconds = statistics.median(seconds for seconds, _ in rows)
            parameters = sum(p.numel() for p in trainer.learner.flow.parameters())
            z = trainer.experience.buffer.z
            buffer = settings.train.buffer_max * batch * (z.shape[1] * z.element_size() + 8)
            found = {
                "buffer_bytes": buffer,
                "seconds": seconds,
                "traffic": medians,
                "parameters": parameters,
                "reduce_alone": alone,
            }
            Path(out).write_text(json.dumps({**found, "processes": ranks.size, "batch": batch}))


def counted() -> dict[str, float]:
    """Calls, bytes that a rank gives and seconds of torch.distributed's collectives, counted from now on."""
    traffic: dict[str, float] = defaultdict(float)

    def watched(kind: str, call: Callable[..., Any], size: Callable[..., int]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            traffic[f"{kind}, calls"] += 1
            traffic[f"{kind}, bytes"] += size(*args)
            started = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                traffic[f"{kind}, s"] += time.perf_counter() - started

        return wrapped

    dist.all_reduce = watched("reduced", dist.all_reduce, lambda flat: flat.numel() * flat.element_size())
    dist.all_gather_object = watched("gathered", dist.all_gather_object, lambda _, value: len(pickle.dumps(value)))
    return traffic


def parameters_alone(trainer: Trainer, size: int, repeats: int = 10) -> float:
    """Median seconds of all-reducing the gradients, with nobody to wait for."""
    if size == 1:
        return 0.0
    flat, times = torch.cat([p.detach().reshape(-1) for p in trainer.learner.flow.parameters()]), []
    for _ in range(repeats):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(flat.clone())
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def measured(found: dict[str, dict[str, Any]]) -> str:
    rows = [
        "| processes | batch of each | outer step, s | speed-up | all-reduced, MB (calls) | gathered, kB (calls) "
        "| exchange and waiting, s | one all-reduce alone, ms |",
        "|---" * 8 + "|",
    ]
    one = found["one"]["seconds"]
    for name, run in found.items():
        t = defaultdict(float, run["traffic"])
        speed = one / run["seconds"] * run["batch"] * run["processes"] / found["one"]["batch"]
        rows.append(
            f"| {name} | {run['batch']} | {run['seconds']:.3f} | {speed:.2f} "
            f"| {t['reduced, bytes'] / 1e6:.2f} ({t['reduced, calls']:.0f}) "
            f"| {t['gathered, bytes'] / 1e3:.1f} ({t['gathered, calls']:.0f}) "
            f"| {t['reduced, s'] + t['gathered, s']:.3f} | {1e3 * run['reduce_alone']:.1f} |"
        )
    text = "\n".join(rows) + "\n\nMedians. Speed-up: samples annealed a second, against one process."
    return (
        text
        + f" Bytes are those that a process gives in a step; the flow has {found['one']['parameters']:,} parameters."
    )


def projected(one: dict[str, Any], two: dict[str, Any]) -> str:
    """T(N) = T(1) + sum over calls: a ring all-reduce moves 2 (N - 1) / N of its bytes, a gather N - 1 times them."""
    t = two["traffic"]
    gathered = t["gathered, bytes"] + two["buffer_bytes"] / BASINS_EVERY
    rows = [
        "| processes | exchange, ms | "
        + " | ".join(f"weak efficiency, a step of {_ms(one, f)} ms" for f in FASTER)
        + " |",
        "|---" * (2 + len(FASTER)) + "|",
    ]
    for n in PROJECTED:
        moved = 2 * (n - 1) / n * t["reduced, bytes"] + (n - 1) * gathered
        hops = 2 * (n - 1) * t["reduced, calls"] + (n - 1) * t["gathered, calls"]
        exchange = moved / BANDWIDTH + hops * LATENCY
        cells = [f"{one['seconds'] / f / (one['seconds'] / f + exchange):.1%}" for f in FASTER]
        rows.append(f"| {n} | {1e3 * exchange:.2f} | " + " | ".join(cells) + " |")
    text = (
        "A projection, not a measurement: T(N) = T(1) + [2 (N - 1) / N R + (N - 1) G] / B + [2 (N - 1) r + (N - 1) g] "
        "L for rings, of R bytes in r all-reduces and G bytes in g gathers a step as measured with two processes, "
        f"weak. To G comes 1 / {BASINS_EVERY} of a full buffer, {two['buffer_bytes'] / 1e6:.1f} MB, which every "
        f"{BASINS_EVERY}th step gathers to find basins. Assumed: B = {BANDWIDTH / 1e9:.0f} GB/s out of each process, "
        f"L = {1e6 * LATENCY:.0f} µs a hop. T(1) is the step measured here, and one {FASTER[-1]} times as fast, as a "
        "GPU's might be."
    )
    return f"{text}\n\n" + "\n".join(rows)


def _ms(run: dict[str, Any], faster: float) -> str:
    return f"{1e3 * run['seconds'] / faster:.3g}"


if __name__ == "__main__":  # one of the processes that `launched` starts
    work(*json.loads(sys.argv[1]))
