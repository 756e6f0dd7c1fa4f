"""What each default of the training is worth: alanine dipeptide, one setting changed at a time, equal processor time.

Every row leaves a JSON file in `--out`; finished ones are skipped, and all that are there are in the table. The budget,
and with it the learning rate, is of the process's own processor time, so that other jobs on the machine do not count.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openmm_fab as fab
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.tools.files import write_atomically
from openmm_fab.train.settings import Budget
from openmm_fab.train.trainer import Trainer

from .records import ROOT
from .runner import current_commit

OUT = ROOT / "runs"
SAMPLES = 50_000
ROWS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "defaults, again": {},  # what the state of the machine does
    "defaults, seed 1": {"seed": 1},
    "defaults, seed 2": {"seed": 2},
    "every pass annealed": {"train": {"anneal_below": 1.0}},
    "every pass annealed, seed 1": {"seed": 1, "train": {"anneal_below": 1.0}},
    "every pass annealed, seed 2": {"seed": 2, "train": {"anneal_below": 1.0}},
    "annealed below an ESS of 30 %": {"train": {"anneal_below": 0.3}},
    "annealed below an ESS of 15 %": {"train": {"anneal_below": 0.15}},
    "one pass in 16 annealed": {"train": {"anneal_below": 0.0}},
    "3 intermediate densities": {"ais": {"intermediate": 3}},
    "1 leapfrog step": {"ais": {"leapfrogs": 1}},
    "6 leapfrog steps": {"ais": {"leapfrogs": 6}},
    "HMC in the base, 1 step": {"ais": {"kernel": "latent", "leapfrogs": 1}},
    "steps by widths": {"ais": {"widths": True}},
    "2 updates a pass": {"train": {"updates": 2}},
    "2 updates a pass, learning rate 1.5e-4": {"train": {"updates": 2, "learning_rate": 1.5e-4}},
    "4 updates a pass": {"train": {"updates": 4}},
    "8 updates a pass": {"train": {"updates": 8}},
    "buffer of 64 batches": {"train": {"buffer_max": 64}},
    "buffer of 1,024 batches": {"train": {"buffer_max": 1024}},
    "batch 128": {"train": {"batch": 128}},
    "batch 512": {"train": {"batch": 512}},
    "learning rate 1.5e-4": {"train": {"learning_rate": 1.5e-4}},
    "learning rate 6e-4": {"train": {"learning_rate": 6e-4}},
    "path gradient": {"train": {"path_gradient": 0.7}},
    "path gradient above an ESS of 50 %": {"train": {"path_gradient": 0.7, "path_above": 0.5}},
    "path gradient from the start": {"train": {"path_gradient": 0.7, "path_above": 0.0}},
    "path gradient 1": {"train": {"path_gradient": 1.0}},
    "no control variate": {"train": {"control_variate": False}},
    "no averaging of weights": {"train": {"averaging": 0.0}},
    "products in float32": {"train": {"matmul_dtype": "float32"}},
    "rare basins not lifted": {"train": {"basin_share": 0.0}},
    "8 layers": {"flow": {"layers": 8}},
    "24 layers": {"flow": {"layers": 24}},
    "64 hidden units": {"flow": {"hidden": 64}},
    "256 hidden units": {"flow": {"hidden": 256}},
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rows", nargs="*", choices=ROWS, default=list(ROWS), metavar="NAME", help="to run; with no name, none"
    )
    parser.add_argument(
        "--seconds", type=float, default=180.0, help="of processor time, a row, compilation not counted"
    )
    parser.add_argument(
        "--shipped", action="store_true", help="go on from the generator that comes trained, at a third of the rate"
    )
    parser.add_argument("--out", type=Path, help="by default runs/ablations_SECONDS or runs/ablations_SECONDS_shipped")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    if options.quick:
        results = [run(options.rows[0], 0.0, options.shipped, quick=True)]
    else:
        out = options.out or OUT / section_name(vars(options))
        out.mkdir(parents=True, exist_ok=True)
        for name in options.rows:
            path = out / f"{re.sub('[^a-z0-9]+', '_', name.lower())}.json"
            if not path.exists():
                result = run(name, options.seconds, options.shipped)
                print(result, file=sys.stderr, flush=True)
                write_atomically(path, lambda file, r=result: file.write(json.dumps(r, indent=1).encode()))
        results = [json.loads(path.read_text()) for path in out.glob("*.json")]
        if not results:
            raise SystemExit(f"Expected files of rows in {out}; there are none. Name --rows to run.")
        results.sort(key=lambda result: list(ROWS).index(result["row"]))
    commits = ", ".join(sorted({r["commit"] for r in results}))
    return {"seconds": options.seconds, "shipped": options.shipped, "commit": commits, "rows": results}


def section_name(figures: dict[str, Any]) -> str:
    return f"ablations_{figures['seconds']:g}" + ("_shipped" if figures["shipped"] else "")


def title(figures: dict[str, Any]) -> str:
    heading = f"Ablations: one setting changed, {figures['seconds']:g} s of processor time"
    return f"{heading} more for the shipped flow" if figures["shipped"] else heading


class OwnTime(Trainer):
    """Its minutes are those of the process's own processor time."""

    def __iter__(self) -> Iterator[dict[str, float]]:
        started = time.process_time()
        while self.spent < 1:
            info = self.step()
            self.seconds = time.process_time() - started
            yield info


def run(name: str, seconds: float, shipped: bool, quick: bool = False) -> dict[str, Any]:
    change = dict(ROWS[name])
    seed, s = change.get("seed", 0), GeneratorSettings()
    train = replace(s.train, ais=replace(s.train.ais, **change.get("ais", {})), **change.get("train", {}))
    settings = replace(s, flow=replace(s.flow, **change.get("flow", {})), train=train)
    if shipped:
        start_from = fab.load_pretrained("alanine_dipeptide")
        train = replace(train, learning_rate=train.learning_rate / 3)
        settings = replace(settings, flow=start_from.settings.flow, train=train)
    generator = fab.BoltzmannGenerator(fab.MolecularSystem.load("alanine_dipeptide"), settings, seed=seed)
    if shipped:
        generator.flow.load_state_dict(start_from.flow.state_dict())
    if not quick:
        generator.compile()
        # A trainer of its own, whose flow is thrown away: everything is compiled then.
        for _ in Trainer(copy.deepcopy(generator.flow), generator.target, Budget(iterations=3), settings=train):
            pass
    budget = Budget(iterations=2) if quick else Budget(minutes=seconds / 60)
    trainer = OwnTime(generator.flow, generator.target, budget, settings=train, rng=generator._rng)
    start = generator.sample(500 if quick else SAMPLES, seed=10).ess_fraction
    before, started = generator.target.evaluations, time.process_time()
    for _ in trainer:
        pass
    spent, made = time.process_time() - started, generator.target.evaluations - before
    ensemble = generator.sample(500 if quick else SAMPLES, seed=11)
    found = fab.basin_difference(ensemble)
    return {
        "row": name,
        "commit": current_commit(),
        "seconds": seconds,
        "iterations": trainer.iteration,
        "cpu_seconds": spent,
        "evaluations": made,
        "start": start,
        "ess": ensemble.ess_fraction,
        "ess_clipped": ensemble.ess_clipped / ensemble.n,
        "basin_df": float(found.value),
        "basin_df_error": float(found.error),
    }


def table(figures: dict[str, Any]) -> str:
    lines = [
        f"{figures['seconds']:g} s of processor time each on one thread, {SAMPLES:,} samples; ΔF of 0 < φ < 2.5.",
        "",
        "| changed | iterations | target evaluations | ms an iteration | ESS %, start | ESS % | clipped "
        "| ΔF(φ > 0) / kT |",
        "|---" * 8 + "|",
    ]
    for r in figures["rows"]:
        shares = " | ".join(f"{100 * r[key]:.1f}" for key in ("start", "ess", "ess_clipped"))
        lines.append(
            f"| {r['row']} | {r['iterations']:,} | {r['evaluations']:.2e} | "
            f"{1000 * r['cpu_seconds'] / r['iterations']:.0f} | {shares} "
            f"| {r['basin_df']:.2f} ± {r['basin_df_error']:.2f} |"
        )
    return "\n".join(lines)
