"""One outer step of FAB by fab-torch, the FAB paper's own code, beside ours: same molecule, shape, machine, threads.

`python benchmarks/outer_step_peer.py [--batch 1024] [--repeats 3] [--quick] [--record]`, with fab-torch and boltzgen
(VincentStimper/boltzmann-generators) on PYTHONPATH, and normflows installed; without them it says so and ends.

fab-torch's settings are those of its experiments/aldp/config/fab_buff.yaml: 12 layers of 256 hidden units and 8 bins,
batch 1024, 8 intermediate densities of 4 leapfrog steps, 8 gradient steps on its prioritised buffer. Energies by its
own layers over OpenMM's Reference platform, in this process (n_threads = 1: its pool serves more cores). It is timed in
double precision, which is its default, and in single, which is ours. Ours is timed with the same gradients, with the
flow's gradients taken at every 4th leapfrog step only (AISSettings.flow_every), and, on processors that multiply
bfloat16 quickly, with the flow's matrix products in that (TrainSettings.products). fab-torch's flow, target, annealing,
buffer and optimiser run as they are, composed as its experiments/aldp/train.py does; a name that left NumPy since, and
packages that this step does not use, are filled in. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from outer_step import LITTLE, PAPER, PARTS, SIZES, Stopwatch, measure, seldom
from record import record

from openmm_fab.tools.devices import rounds_quickly
from openmm_fab.tools.memory import keep_freed_memory

CLIP = 10.0  # of the weights' adjustment, as in its settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1024, help="of the peer; smaller ones are scaled up to ours")
    parser.add_argument("--repeats", type=int, default=3, help="steps of ours; of the peer, whose are long, one less")
    parser.add_argument("--quick", action="store_true", help="a small step of both, nothing compiled")
    parser.add_argument("--record", action="store_true", help="write the table to RESULTS.md")
    options = parser.parse_args()
    if options.quick and options.record:
        raise SystemExit("--quick measures nothing worth keeping: leave out --record.")
    try:
        config = peer_config()
    except ImportError as error:
        print(f"Skipped: the peer is not importable ({error}). Put fab-torch and boltzgen on PYTHONPATH.")
        print(json.dumps({"benchmark": "outer_step_peer", "skipped": str(error)}))
        return
    keep_freed_memory()
    shape, repeats = (LITTLE, 2) if options.quick else (PAPER, options.repeats)
    batch = shape[1].batch if options.quick else options.batch
    config["flow"] |= {"blocks": shape[0].layers, "hidden_units": shape[0].hidden}
    config["fab"] |= {"n_int_dist": shape[1].ais.intermediate, "n_inner": shape[1].ais.leapfrogs}

    columns = {}
    flow, train = shape
    variants = {"ours": shape, "ours, flow once a trajectory": seldom(shape)}
    if rounds_quickly(torch.device("cpu")):
        variants["ours, products in bfloat16"] = (flow, replace(train, products="bfloat16"))
    for name, asked in variants.items():
        found = measure(SIZES[0], asked, repeats, fused=not options.quick)
        columns[name] = {**found["seconds"], "all": found["total"]}
    for name, dtype in (("fab-torch, single", torch.float32), ("fab-torch, double", torch.float64)):
        with default_dtype(dtype):
            peer = measure_peer(config, shape[1], batch, max(repeats - 1, 1))
        columns[name] = {part: seconds * shape[1].batch / batch for part, seconds in peer.items()}
    body = table(columns, batch, shape[1].batch)
    print(body)
    if options.record:
        title = "One outer step of FAB for alanine dipeptide: fab-torch's own code beside ours"
        command = f"python benchmarks/outer_step_peer.py --batch {batch} --repeats {repeats} --record"
        record("outer_step_peer", title, command, body)
    figures = {"benchmark": "outer_step_peer", "quick": options.quick, "batch": batch, "seconds": columns}
    single, double = (columns[f"fab-torch, {precision}"]["all"] for precision in ("single", "double"))
    for name, ending in zip(variants, ("", "_seldom", "_bfloat16"), strict=False):
        ours = columns[name]["all"]
        figures |= {f"ratio_fab_torch{ending}": double / ours, f"ratio_fab_torch_single{ending}": single / ours}
    print(json.dumps(figures))


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


def measure_peer(config: dict[str, Any], settings: Any, batch: int, repeats: int) -> dict[str, float]:
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


def table(columns: dict[str, dict[str, float]], batch: int, whole: int) -> str:
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


if __name__ == "__main__":
    main()
