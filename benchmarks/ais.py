"""What annealing is worth: effective samples of FAB's goal p^2 / q by the second and by the energy, kernel by kernel.

Of a flow of alanine dipeptide in the middle of its training (so many iterations, then held), and of the one that ships
with the project, near its end. For each kernel and ladder: passes in which step sizes are adapted, then passes that
count.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import openmm_fab as fab
from openmm_fab.ais.annealing import AISSettings, run_ais
from openmm_fab.ais.kernels import adapted, widths
from openmm_fab.flow.base import Counted
from openmm_fab.tools.memory import keep_freed_memory
from openmm_fab.train.settings import Budget
from openmm_fab.weights import effective_sample_size

BATCH, PILOTS = 256, 60
DEFAULT = AISSettings()
ROWS: dict[str, AISSettings] = {
    "none": replace(DEFAULT, intermediate=0),
    "HMC, 1 x 1": replace(DEFAULT, leapfrogs=1),
    "HMC, 1 x 3 (default)": DEFAULT,
    "HMC, 1 x 3, steps by widths": replace(DEFAULT, widths=True),
    "HMC, 1 x 6": replace(DEFAULT, leapfrogs=6),
    "HMC, 1 x 12": replace(DEFAULT, leapfrogs=12),
    "HMC, 3 x 3": replace(DEFAULT, intermediate=3),
    "HMC, 3 x 3, at most, adaptive": replace(DEFAULT, intermediate=3, spacing="adaptive", ess_drop=0.3),
    "HMC, 8 x 4 (the FAB paper)": replace(DEFAULT, intermediate=8, leapfrogs=4),
    "HMC, 8 x 4, flow at every 2nd": replace(DEFAULT, intermediate=8, leapfrogs=4, flow_every=2),
    "HMC, 8 x 4, flow at every 4th": replace(DEFAULT, intermediate=8, leapfrogs=4, flow_every=4),
    "HMC, 8 x 4, resampled below half": replace(DEFAULT, intermediate=8, leapfrogs=4, resample=0.5),
    "MALA, 1 x 3": replace(DEFAULT, kernel="mala"),
    "random walk, 1 x 3": replace(DEFAULT, kernel="metropolis", acceptance=0.3),
    "HMC in the base, 1 x 1": replace(DEFAULT, kernel="latent", leapfrogs=1),
    "HMC in the base, 1 x 3": replace(DEFAULT, kernel="latent"),
    "HMC in the base, 1 x 6": replace(DEFAULT, kernel="latent", leapfrogs=6),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=15.0, help="of passes that count, a row and flow")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    keep_freed_memory()
    seconds, iterations = (0.5, 3) if options.quick else (options.seconds, options.iterations)
    batch, pilots = (32, 3) if options.quick else (BATCH, PILOTS)
    system = fab.MolecularSystem.load("alanine_dipeptide")
    middle = fab.BoltzmannGenerator(system, seed=0)
    middle.train(Budget(iterations=iterations), compile=not options.quick, progress=False, evaluate_every=np.inf)
    flows = {"in training": middle, "shipped": fab.load_pretrained(system)}
    figures = {}
    for name, generator in flows.items():
        if not options.quick:
            generator.compile()
        ess = generator.sample(2000 if options.quick else 50_000, seed=7).ess_fraction
        rows = {row: passes(generator, s, seconds, pilots, batch) for row, s in ROWS.items()}
        figures[name] = {"ess": ess, "batch": batch, "rows": rows}
    return figures


def title(figures: dict[str, Any]) -> str:
    return "Annealing: effective samples by second and by energy"


def table(figures: dict[str, Any]) -> str:
    tables = [_of_flow(name, found) for name, found in figures.items()]
    tables.append("Effective sample sizes of a few per cent rest on few samples: one heavy weight moves them by half.")
    return "\n\n".join(tables)


def passes(
    generator: fab.BoltzmannGenerator, s: AISSettings, seconds: float, pilots: int, batch: int
) -> dict[str, Any]:
    """Effective samples towards p^2 / q of passes that take so many seconds, after pilots that adapt step sizes."""
    flow, target = Counted(generator.flow), generator.target
    random, steps, scale = torch.Generator().manual_seed(3), [s.step_size] * s.intermediate, None
    if s.widths:
        passes = [run_ais(flow, target, batch, replace(s, widths=False), steps, rng=random) for _ in range(20)]
        z, log_w = (torch.cat(parts) for parts in zip(*((p.points.z, p.log_w) for p in passes), strict=True))
        scale = widths(z, log_w, target.periodic).to(z)
    for k in range(pilots):
        factor = 1.3 if k < pilots // 2 else 1.05
        steps = adapted(
            steps,
            run_ais(flow, target, batch, s, steps, rng=random, widths=scale).acceptance,
            s.acceptance,
            factor,
        )
    energies, asked = target.evaluations, flow.evaluations
    started, log_w, taken = time.perf_counter(), [], []
    while time.perf_counter() - started < seconds:
        result = run_ais(flow, target, batch, s, steps, rng=random, widths=scale)
        log_w.append(result.log_w)
        taken += result.acceptance
    spent = time.perf_counter() - started
    every = torch.cat(log_w).numpy()
    ess = effective_sample_size(every)
    return {
        "ess": ess / len(every),
        "per_second": ess / spent,
        "per_1000_energies": 1000 * ess / (target.evaluations - energies),
        "per_1000_flow": 1000 * ess / (flow.evaluations - asked),
        "ms_a_pass": 1000 * spent / len(log_w),
        "acceptance": float(np.mean(taken)) if taken else None,
    }


def _of_flow(name: str, found: dict[str, Any]) -> str:
    lines = [
        f"Flow: {name}, ESS {found['ess']:.1%} towards p. Batches of {found['batch']}; densities x steps.",
        "",
        "| annealing | ESS towards p²/q | a second | a 1,000 energies | a 1,000 flow passes | ms a pass | acceptance |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join(
        lines
        + [
            f"| {row} | {100 * r['ess']:.1f} % | {r['per_second']:.0f} | {r['per_1000_energies']:.0f} | "
            f"{r['per_1000_flow']:.0f} | {r['ms_a_pass']:.0f} | "
            f"{'' if r['acceptance'] is None else format(r['acceptance'], '.0%')} |"
            for row, r in found["rows"].items()
        ]
    )
