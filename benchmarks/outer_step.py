"""What one outer step of FAB costs, by part and by size of the molecule: a pass of annealing and eight gradient steps.

`python benchmarks/outer_step.py [--repeats 5] [--quick] [--flame FILE.svg] [--record]`: the FAB paper's shape for
alanine dipeptide: 12 layers of 256 hidden units and 8 bins, batch 1024, 8 intermediate densities of 4 leapfrog steps, 8
gradient steps; with nothing compiled ("eager"), with flow, coordinates and energy compiled ("fused"), and fused with
the flow's gradient taken at every 4th leapfrog step only (AISSettings.flow_every). Then the fused step for growing
peptides. --flame draws where the time of fused steps goes, by py-spy (pip install py-spy). The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from record import record

from openmm_fab.ais.annealing import AISSettings
from openmm_fab.flow.coupling import FlowSettings
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.tools.memory import keep_freed_memory
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.train.trainer import Trainer

SIZES = ("alanine_dipeptide", "alanine_tetrapeptide", "alanine_hexapeptide")
SELDOM = "{}, flow once a trajectory"
PARTS = ("flow, sample", "flow, gradient", "energy and coordinates", "updates", "rest of the pass")
PAPER = (
    FlowSettings(layers=12, hidden=256, bins=8),
    TrainSettings(
        batch=1024,
        updates=8,
        buffer_min=8,
        buffer_max=64,
        products="float32",
        ais=AISSettings(intermediate=8, leapfrogs=4),
    ),
)
LITTLE = (
    FlowSettings(layers=2, hidden=32, bins=8),
    TrainSettings(batch=64, updates=2, buffer_min=2, buffer_max=8, ais=AISSettings(intermediate=2, leapfrogs=2)),
)


FLAME = Path(__file__).with_name("figures") / "outer_step.svg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="below a minute: a small step, nothing compiled")
    parser.add_argument("--flame", type=Path, help="only draw a flame graph into this file")
    parser.add_argument("--record", action="store_true", help="write the tables to RESULTS.md and the flame graph")
    options = parser.parse_args()
    if options.quick and options.record:
        raise SystemExit("--quick measures nothing worth keeping: leave out --record.")
    keep_freed_memory()
    shape, repeats = (LITTLE, 2) if options.quick else (PAPER, options.repeats)
    if options.flame:
        flame(options.flame, shape, not options.quick)
        return

    how = "eager" if options.quick else "fused"
    sizes = {name: measure(name, shape, repeats, fused=not options.quick) for name in SIZES}  # small ones first
    parts = {how: sizes[SIZES[0]]}
    parts[SELDOM.format(how)] = measure(SIZES[0], seldom(shape), repeats, fused=not options.quick)
    if not options.quick:
        parts["eager"] = measure(SIZES[0], shape, repeats, fused=False)
    body = f"{by_part(parts)}\n\n{by_size(sizes, how)}"
    print(body)
    if options.record:
        title = "One outer step of FAB: 12 layers, 256 hidden units, batch 1024, 8 x 4 leapfrog steps, 8 gradient steps"
        if flame(FLAME, shape, True):
            body += f"\n\nWhere the time of fused steps goes: [flame graph](figures/{FLAME.name})."
        record("outer_step", title, f"python benchmarks/outer_step.py --repeats {repeats} --record", body)
    print(json.dumps({"benchmark": "outer_step", "quick": options.quick, "dipeptide": parts, "sizes": sizes}))


def seldom(shape: tuple[FlowSettings, TrainSettings]) -> tuple[FlowSettings, TrainSettings]:
    """The same shape, the flow's gradient taken once a trajectory."""
    flow, train = shape
    return flow, replace(train, ais=replace(train.ais, flow_every=train.ais.leapfrogs))


class Stopwatch:
    """Seconds by part; a function that is timed within another is not counted twice."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._inner.append(0.0)
        started = time.perf_counter()
        try:
            yield
        finally:
            whole, inner = time.perf_counter() - started, self._inner.pop()
            self.seconds[name] += whole - inner
            self._inner[-1] += whole

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return call


class TimedFlow:
    """The learner as annealing sees it. Its log_prob in a gradient step, with a graph, is part of the update."""

    def __init__(self, flow: Any, watch: Stopwatch) -> None:
        self._log_prob, self._value = flow.log_prob, watch.timed("flow, gradient", flow.log_prob)
        self.sample = watch.timed("flow, sample", flow.sample)
        self.log_prob_and_gradient = watch.timed("flow, gradient", flow.log_prob_and_gradient)

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        return (self._log_prob if torch.is_grad_enabled() else self._value)(z)


def prepared(
    name: str, shape: tuple[FlowSettings, TrainSettings], fused: bool
) -> tuple[BoltzmannGenerator, Trainer, float]:
    """A generator and its trainer after one step, and the seconds that this and compiling took."""
    generator = BoltzmannGenerator(MolecularSystem.load(name), GeneratorSettings(flow=shape[0], train=shape[1]))
    started = time.perf_counter()
    if fused:
        generator.compile()
    trainer = Trainer(generator.flow, generator.target, Budget(iterations=10**6), shape[1])
    with torch.no_grad():  # a buffer's content does not shape the cost of a step: filled without annealing
        for _ in range(shape[1].buffer_min):
            z, log_q = trainer.learner.sample(shape[1].batch, trainer.generator)
            trainer.buffer.add(z, torch.zeros(len(z), dtype=torch.float64), log_q, torch.zeros_like(z))
    trainer.step()  # compiles what is left
    return generator, trainer, time.perf_counter() - started


def measure(name: str, shape: tuple[FlowSettings, TrainSettings], repeats: int, fused: bool) -> dict[str, Any]:
    """Medians over outer steps of one molecule: seconds of each part and of all, and evaluations."""
    generator, trainer, first = prepared(name, shape, fused)
    watch = Stopwatch()
    trainer.counted.flow = TimedFlow(trainer.learner, watch)  # type: ignore[assignment]
    trainer.lifted.log_prob_and_gradient = watch.timed(  # type: ignore[method-assign]
        "energy and coordinates", trainer.lifted.log_prob_and_gradient
    )
    trainer.fill = watch.timed("rest of the pass", trainer.fill)  # type: ignore[method-assign]
    rows = []
    for _ in range(repeats):
        watch.seconds.clear()
        before = generator.target.evaluations, trainer.counted.evaluations
        with watch.part("updates"):
            trainer.step()
        spent = generator.target.evaluations - before[0], trainer.counted.evaluations - before[1]
        rows.append((dict(watch.seconds), spent))
    seconds = {part: statistics.median(row.get(part, 0.0) for row, _ in rows) for part in PARTS}
    energies, flows = rows[-1][1]
    return {
        "atoms": generator.system.n_atoms,
        "dim": generator.coordinates.dim,
        "seconds": seconds,
        "total": statistics.median(sum(row.values()) for row, _ in rows),
        "energy_evaluations": energies,
        "flow_evaluations": flows,
        "compile_and_first_step": first,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def flame(path: Path, shape: tuple[FlowSettings, TrainSettings], fused: bool, steps: int = 3) -> bool:
    """Draw a flame graph of some steps; false, with a word, where py-spy is missing."""
    tool = shutil.which("py-spy", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if tool is None:
        print("No flame graph: py-spy is not installed (pip install py-spy).")
        return False
    _, trainer, _ = prepared(SIZES[0], shape, fused)
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [tool, "record", "--pid", str(os.getpid()), "--output", str(path), "--rate", "50", "--duration", "3600"]
    spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(2.0)  # until it looks
    for _ in range(steps):
        trainer.step()
    spy.send_signal(signal.SIGINT)
    _, errors = spy.communicate(timeout=120)
    if not path.exists():
        print(f"No flame graph: {errors.strip()}")
        return False
    # Its title is the command: without the folders of this machine.
    path.write_text(path.read_text(encoding="utf-8").replace(tool, "py-spy").replace(str(path), path.name), "utf-8")
    return True


def by_part(found: dict[str, dict[str, Any]]) -> str:
    names = list(found)
    rows = ["| alanine dipeptide | " + " | ".join(f"{name}, s | share" for name in names) + " |"]
    rows.append("|---" * (1 + 2 * len(names)) + "|")
    for part in (*PARTS, "all"):
        cells = []
        for name in names:
            total = found[name]["total"]
            seconds = total if part == "all" else found[name]["seconds"][part]
            cells += [f"{seconds:.3f}", f"{100 * seconds / total:.0f} %"]
        rows.append(f"| {part} | " + " | ".join(cells) + " |")
    text = "\n".join(rows)
    text += "\n\nMedians, each part on its own. Updates: the flow forward and backward, Adam, the draw from the buffer."
    if "fused" in found:
        text += f" Eager over fused: {found['eager']['total'] / found['fused']['total']:.1f}."
        text += f" Compiling and the first step: {found['fused']['compile_and_first_step']:.0f} s."
    return text


def by_size(found: dict[str, dict[str, Any]], how: str) -> str:
    rows = [
        f"| {how} | atoms | dim | outer step, s | flow in the pass, s | energy and coordinates, s | updates, s "
        "| peak memory, GB | energies | flow evaluations |",
        "|---" * 10 + "|",
    ]
    for name, one in found.items():
        flow = sum(seconds for part, seconds in one["seconds"].items() if part.startswith("flow"))
        rows.append(
            f"| {name} | {one['atoms']} | {one['dim']} | {one['total']:.3f} | {flow:.3f} "
            f"| {one['seconds']['energy and coordinates']:.3f} | {one['seconds']['updates']:.3f} "
            f"| {one['peak_bytes'] / 1e9:.2f} | {one['energy_evaluations']} | {one['flow_evaluations']} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
