"""What one outer step of FAB costs, by part and by size of the molecule: a pass of annealing and eight gradient steps.

ours: the FAB paper's shape for alanine dipeptide, 12 layers of 256 hidden units and 8 bins, batch 1024, 8 intermediate
densities of 4 leapfrog steps, 8 gradient steps; with nothing compiled ("eager"), with flow, coordinates and energy
compiled ("fused"), and fused with the flow's gradient taken at every 4th leapfrog step only (AISSettings.flow_every).
Then the fused step for growing peptides; --record also draws where the time of fused steps goes, by py-spy (pip install
py-spy).
peer: the same step by fab-torch, the FAB paper's own code, beside ours: same molecule, shape, machine, threads. With
fab-torch and boltzgen (VincentStimper/boltzmann-generators) on PYTHONPATH, and normflows installed; without them it
says so and ends.

fab-torch's settings are those of its experiments/aldp/config/fab_buff.yaml: 12 layers of 256 hidden units and 8 bins,
batch 1024, 8 intermediate densities of 4 leapfrog steps, 8 gradient steps on its prioritised buffer. Energies by its
own layers over OpenMM's Reference platform, in this process (n_threads = 1: its pool serves more cores). It is timed in
double precision, which is its default, and in single, which is ours. Ours is timed with the same gradients, with the
flow's gradients taken at every 4th leapfrog step only (AISSettings.flow_every), and, on processors that multiply
bfloat16 quickly, with the flow's matrix products in that (TrainSettings.matmul_dtype). fab-torch's flow, target,
annealing, buffer and optimiser run as they are, composed as its experiments/aldp/train.py does; a name that left NumPy
since, and packages that this step does not use, are filled in.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmm_fab.ais.annealing import AISSettings
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.tools.devices import rounds_quickly
from openmm_fab.tools.memory import keep_freed_memory
from openmm_fab.train.settings import Budget, TrainSettings
from openmm_fab.train.trainer import Trainer

from .records import FIGURES
from .runner import Skip

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
        matmul_dtype="float32",
        ais=AISSettings(intermediate=8, leapfrogs=4),
    ),
)
FLAME = FIGURES / "outer_step.svg"
LITTLE = (
    FlowSettings(layers=2, hidden=32, bins=8),
    TrainSettings(batch=64, updates=2, buffer_min=2, buffer_max=8, ais=AISSettings(intermediate=2, leapfrogs=2)),
)
CLIP = 10.0  # of the adjustment of the peer's weights, as in its settings


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("part", nargs="?", choices=("ours", "peer"), default="ours")
    parser.add_argument("--repeats", type=int, help="steps, by default 5, beside the peer 3; the peer makes one less")
    parser.add_argument("--flame", type=Path, help="ours: draw a flame graph there; with --record one is in figures/")
    parser.add_argument(
        "--batch", type=int, default=1024, help="of the peer; seconds of smaller ones are scaled up to ours"
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """A small step, nothing compiled, if quick."""
    return {"part": options.part, **(ours if options.part == "ours" else beside_peer)(options)}


def section_name(figures: dict[str, Any]) -> str:
    return "outer_step" if figures["part"] == "ours" else "outer_step_peer"


def title(figures: dict[str, Any]) -> str:
    if figures["part"] == "peer":
        return "One outer step of FAB for alanine dipeptide: fab-torch's own code beside ours"
    return "One outer step of FAB: 12 layers, 256 hidden units, batch 1024, 8 x 4 leapfrog steps, 8 gradient steps"


def table(figures: dict[str, Any]) -> str:
    if figures["part"] == "peer":
        return by_side(figures["seconds"], figures["batch"], figures["batch_of_ours"])
    body = f"{by_part(figures['dipeptide'])}\n\n{by_size(figures['sizes'], figures['how'])}"
    if figures["flame"]:
        body += f"\n\nWhere the time of fused steps goes: [flame graph](figures/{figures['flame']})."
    return body


def ours(options: argparse.Namespace) -> dict[str, Any]:
    keep_freed_memory()
    fused = not options.quick
    shape, repeats = (PAPER, options.repeats or 5) if fused else (LITTLE, 2)
    how = "fused" if fused else "eager"
    sizes = {name: timed(name, shape, repeats, fused) for name in SIZES}  # small ones first
    parts = {how: sizes[SIZES[0]]}
    parts[SELDOM.format(how)] = timed(SIZES[0], seldom(shape), repeats, fused)
    if fused:
        parts["eager"] = timed(SIZES[0], shape, repeats, fused=False)
    figures = {"how": how, "dipeptide": parts, "sizes": sizes, "flame": None}
    if (path := options.flame or (FLAME if options.record else None)) and flame(path, shape, fused):
        figures["flame"] = path.name
    return figures


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
    trainer = Trainer(generator.flow, generator.target, Budget(iterations=10**6), settings=shape[1])
    with torch.no_grad():  # a buffer's content does not shape the cost of a step: filled without annealing
        for _ in range(shape[1].buffer_min):
            z, log_q = trainer.learner.flow.sample(shape[1].batch, trainer.rng)
            trainer.experience.buffer.add(z, torch.zeros(len(z), dtype=torch.float64), log_q, torch.zeros_like(z))
    trainer.step()  # compiles what is left
    return generator, trainer, time.perf_counter() - started


def timed(name: str, shape: tuple[FlowSettings, TrainSettings], repeats: int, fused: bool) -> dict[str, Any]:
    """Medians over outer steps of one molecule: seconds of each part and of all, and evaluations."""
    generator, trainer, first = prepared(name, shape, fused)
    watch = Stopwatch()
    learner, experience = trainer.learner, trainer.experience
    learner.counted.flow = TimedFlow(learner.flow, watch)  # type: ignore[assignment]
    experience.target.log_prob_and_gradient = watch.timed(  # type: ignore[method-assign]
        "energy and coordinates", experience.target.log_prob_and_gradient
    )
    experience.fill = watch.timed("rest of the pass", experience.fill)  # type: ignore[method-assign]
    rows = []
    for _ in range(repeats):
        watch.seconds.clear()
        before = generator.target.evaluations, learner.counted.evaluations
        with watch.part("updates"):
            trainer.step()
        spent = generator.target.evaluations - before[0], learner.counted.evaluations - before[1]
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


# --- the peer ---


def beside_peer(options: argparse.Namespace) -> dict[str, Any]:
    try:
        config = peer_config()
    except ImportError as error:
        raise Skip(f"the peer is not importable ({error}); put fab-torch and boltzgen on PYTHONPATH.") from error
    keep_freed_memory()
    shape, repeats = (LITTLE, 2) if options.quick else (PAPER, options.repeats or 3)
    batch = shape[1].batch if options.quick else options.batch
    config["flow"] |= {"blocks": shape[0].layers, "hidden_units": shape[0].hidden}
    config["fab"] |= {"n_int_dist": shape[1].ais.intermediate, "n_inner": shape[1].ais.leapfrogs}

    columns = {}
    flow, train = shape
    variants = {"ours": shape, "ours, flow once a trajectory": seldom(shape)}
    if rounds_quickly(torch.device("cpu")):
        variants["ours, products in bfloat16"] = (flow, replace(train, matmul_dtype="bfloat16"))
    for name, asked in variants.items():
        found = timed(SIZES[0], asked, repeats, fused=not options.quick)
        columns[name] = {**found["seconds"], "all": found["total"]}
    for name, dtype in (("fab-torch, single", torch.float32), ("fab-torch, double", torch.float64)):
        with default_dtype(dtype):
            peer = timed_peer(config, shape[1], batch, max(repeats - 1, 1))
        columns[name] = {part: seconds * shape[1].batch / batch for part, seconds in peer.items()}
    figures: dict[str, Any] = {"batch": batch, "batch_of_ours": shape[1].batch, "seconds": columns}
    single, double = (columns[f"fab-torch, {precision}"]["all"] for precision in ("single", "double"))
    for name, ending in zip(variants, ("", "_seldom", "_bfloat16"), strict=False):
        whole = columns[name]["all"]
        figures |= {f"ratio_fab_torch{ending}": double / whole, f"ratio_fab_torch_single{ending}": single / whole}
    return figures


def peer_config() -> dict[str, Any]:
    """The peer's settings of alanine dipeptide, for one process; ImportError where a part of it is missing."""
    for name in ("wandb", "larsflow"):  # imported by modules that are needed, used by none of what runs here
        sys.modules.setdefault(name, types.ModuleType(name))
    vars(np).setdefault("int", int)  # left NumPy in 1.24
    import boltzgen  # noqa: F401
    import experiments.make_flow.make_aldp_model  # noqa: F401
    import fab
    import yaml

    folder = Path(fab.__file__).parents[1] / "experiments" / "aldp"
    config = yaml.safe_load((folder / "config" / "fab_buff.yaml").read_text())
    for key in ("energy_cut", "energy_max"):
        config["system"][key] = float(config["system"][key])
    config["system"]["n_threads"] = 1
    config["data"]["transform"] = str(folder / "data" / "position_min_energy.pt")
    return config


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Of new tensors, and of those loaded from files: the peer's coordinates keep the precision of its file."""
    before, load = torch.get_default_dtype(), torch.load
    torch.set_default_dtype(dtype)
    torch.load = lambda *args, **kwargs: load(*args, **kwargs).to(dtype)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        torch.load = load


def timed_peer(config: dict[str, Any], settings: Any, batch: int, repeats: int) -> dict[str, float]:
    """Median seconds of the peer's outer step, by the same parts as ours."""
    from experiments.make_flow.make_aldp_model import make_aldp_model
    from fab.sampling_methods import base
    from fab.utils.aldp import filter_chirality
    from fab.utils.prioritised_replay_buffer import PrioritisedReplayBuffer

    model = make_aldp_model(config, torch.device("cpu"))
    model.set_ais_target(min_is_target=True)
    sampler, flow = model.annealed_importance_sampler, model.flow
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, weight_decay=1e-5)
    buffer = PrioritisedReplayBuffer(
        60, settings.buffer_max * batch, settings.buffer_min * batch, lambda: None, fill_buffer_during_init=False
    )
    with torch.no_grad():  # as with ours, a buffer's content does not shape the cost of a step
        for _ in range(settings.buffer_min):
            z, log_q = flow.sample_and_log_prob((batch,))
            buffer.add(z, torch.zeros(batch), log_q)

    watch = Stopwatch()
    flow.sample_and_log_prob = watch.timed("flow, sample", flow.sample_and_log_prob)
    gradient, target = base.grad_and_value, model.target_distribution

    def timed_gradient(x: torch.Tensor, function: Any) -> Any:
        with watch.part("energy and coordinates" if function.__self__ is target else "flow, gradient"):
            return gradient(x, function)

    def step() -> None:
        with watch.part("rest of the pass"):
            point, log_w = sampler.sample_and_log_weights(batch, logging=False)
            left = filter_chirality(point.x)
            if left.double().mean() > 0.1:
                point, log_w = point[left], log_w[left]
        buffer.add(point.x, log_w.detach(), point.log_q)
        for z, _, log_q_old, index in buffer.sample_n_batches(batch, settings.updates):
            log_q = flow.log_prob(z)
            change = (1 - config["fab"]["alpha"]) * (log_q.detach() - log_q_old)
            loss = -(change.exp().clip(max=CLIP) * log_q).mean()
            buffer.adjust(change, log_q.detach(), index)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config["training"]["max_grad_norm"])
            optimizer.step()
            optimizer.zero_grad()

    base.grad_and_value = timed_gradient
    rows = []
    try:
        for _ in range(repeats):
            watch.seconds.clear()
            with watch.part("updates"):
                step()
            rows.append(dict(watch.seconds))
    finally:
        base.grad_and_value = gradient
    seconds = {part: statistics.median(row[part] for row in rows) for part in PARTS}
    return {**seconds, "all": statistics.median(sum(row.values()) for row in rows)}


def by_side(columns: dict[str, dict[str, float]], batch: int, whole: int) -> str:
    rows = ["| one outer step, s | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for part in (*PARTS, "all"):
        rows.append(f"| {part} | " + " | ".join(f"{column[part]:.3f}" for column in columns.values()) + " |")
    text = (
        "\n".join(rows) + "\n\nMedians, each part on its own. fab-torch's default is double precision; ours is single."
    )
    totals = {name: column["all"] for name, column in columns.items()}
    peers = [name for name in totals if name.startswith("fab-torch")]
    for name in [name for name in totals if name not in peers]:
        ratios = ", ".join(f"{peer} {totals[peer] / totals[name]:.1f}" for peer in peers)
        text += f"\n\nTimes as long as {name}: {ratios}."
    if batch != whole:
        text += f"\n\nfab-torch ran a batch of {batch}: its seconds are scaled to {whole}."
    return text
