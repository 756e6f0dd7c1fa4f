"""Do runs until an error tell the truth: of many seeds, is the known answer within the errors that they state?

`generator.run(error=...)` from nothing, with each seed anew; the choice of when to stop is part of what is tried.
Targets: two_wells, in closed form, with a clock of its own (the loop, its stopping and its checks, without a molecule);
united_butane, gauche, and united_pentane, g+g- and g-g+, of united atoms, by quadrature; butane, gauche against trans;
alanine_dipeptide, phi > 0. Time is that of the processor: other jobs change nothing. A run is a cell: what is there is
not measured again, and the benchmark can be stopped at any time. `--target butane --seeds 5` makes a piece.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import Any

import mdtraj
import numpy as np

import openmm_fab as fab
from openmm_fab.free_energy.profiles import in_phi_positive
from openmm_fab.generator.outcome import Outcome
from openmm_fab.generator.seeking import Seeking
from openmm_fab.molecule.torsions import named_torsions

from . import beads
from .budgets import on_processor_time
from .double_well import DoubleWell
from .pieces import Pieces
from .records import RESULTS, ROOT

GAUCHE = 2.0 * math.pi / 3.0  # |torsion| below it
SEEDS = 20


def two_wells(seed: int, error: float, at_most: float) -> Outcome:
    work = DoubleWell(0.005, loss=8.0, each=1e-3)
    return Seeking(work, error, 60.0 * at_most, seed=7919 * seed, clock=work.clock).run()


def united_butane(seed: int, error: float, at_most: float) -> Outcome:
    return _run(beads.chain(4), {"gauche": beads.inside}, seed, error, at_most)


def united_pentane(seed: int, error: float, at_most: float) -> Outcome:
    return _run(beads.chain(5), {"g+g-": beads.inside}, seed, error, at_most)


def butane(seed: int, error: float, at_most: float) -> Outcome:
    return _run(fab.MolecularSystem.load("butane"), {"gauche": gauche}, seed, error, at_most)


def alanine_dipeptide(seed: int, error: float, at_most: float) -> Outcome:
    system = fab.MolecularSystem.load("alanine_dipeptide")
    return _run(system, {"phi > 0": phi_positive}, seed, error, at_most)


def gauche(trajectory: mdtraj.Trajectory) -> np.ndarray:
    """Frames of butane that are not trans."""
    torsion = next(iter(named_torsions(trajectory.topology).values()))
    return np.abs(mdtraj.compute_dihedrals(trajectory, [torsion], periodic=False)[:, 0]) < GAUCHE


def phi_positive(trajectory: mdtraj.Trajectory) -> np.ndarray:
    """Frames with 0 < phi < 2.5 rad."""
    return in_phi_positive(mdtraj.compute_phi(trajectory, periodic=False)[1][:, 0])


def _run(system: fab.MolecularSystem, of: dict[str, Any], seed: int, error: float, at_most: float) -> Outcome:
    with on_processor_time():
        generator = fab.BoltzmannGenerator(system, seed=seed)
        return generator.run(error=error, of=of, at_most=at_most, progress=False)


TARGETS: dict[str, Callable[[int, float, float], Outcome]] = {
    f.__name__: f for f in (two_wells, united_butane, united_pentane, butane, alanine_dipeptide)
}


def truth(target: str) -> tuple[float, float, str]:
    """The known answer of a target, kT, its standard error, and where it is from."""
    if target == "two_wells":
        return math.log(0.995 / 0.005), 0.0, "closed form"
    if target.startswith("united_"):
        return beads.truth({"united_butane": 4, "united_pentane": 5}[target]), 0.001, "quadrature"
    if target == "alanine_dipeptide":
        path = ROOT / "systems" / target / "reference" / "reference.json"
        basin = json.loads(path.read_text("utf-8"))["basin"]
        return basin["dF"], basin["dF_se"], "reference of 13 million states"
    record = json.loads((RESULTS / "free_energies_butane.json").read_text("utf-8"))
    flow, *dynamics = [[float(x) for x in row[1].split(" ± ")] for row in record["tables"][0]["rows"]]
    weights = [error**-2 for _, error in dynamics]
    mean = sum(w * value for w, (value, _) in zip(weights, dynamics, strict=True)) / sum(weights)
    without = fab.Estimate(mean, sum(weights) ** -0.5)
    return flow[0], flow[1], f"flow of 2026-11-25, 200,000 samples; replica exchange, two runs together: {without}"


# --- the benchmark ---


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", choices=TARGETS, action="append", help="this one alone; repeat it for several")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"0 to this, {SEEDS} unless given")
    parser.add_argument("--error", type=float, default=0.1, help="kT")
    parser.add_argument("--at-most", type=float, default=60.0, help="minutes of the processor for a run")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no run begins after so many; 0: what is there")
    parser.add_argument("--anew", action="store_true", help="measure the chosen targets anew")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    targets = options.target or list(TARGETS)
    if options.quick:
        runs = {f"two_wells {seed}": _cell("two_wells", seed, options) for seed in range(3)}
        return {"cells": runs, "truths": {"two_wells": list(truth("two_wells"))}}
    pieces = Pieces("calibration", tuple(f"{t} " for t in targets) if options.anew else ())
    started = time.perf_counter()
    for target in targets:
        for seed in range(options.seeds):
            key = f"{target} {seed}"
            if key in pieces or time.perf_counter() - started > 60.0 * options.minutes:
                continue
            pieces.keep(key, _cell(target, seed, options))
            print(key, pieces.cells[key], flush=True)
    of = sorted({key.split()[0] for key in pieces.cells}, key=list(TARGETS).index)
    return {"cells": pieces.cells, "truths": {target: list(truth(target)) for target in of}}


def _cell(target: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    cpu = time.process_time()
    outcome = TARGETS[target](seed, options.error, options.at_most)
    (row,) = outcome.rows
    return {
        "asked": options.error,
        "value": row.value,
        "error": row.error if math.isfinite(row.error) else None,
        "believed": outcome.believed,
        "verdict": outcome.finding.head,
        "khat": row.khat,
        "ess": outcome.points[-1].ess,
        "trained": outcome.points[-1].seconds,
        "looks": len(outcome.points),
        "n": outcome.n,
        "evaluations": outcome.evaluations,
        "seconds": sum(outcome.seconds.values()),
        "cpu": time.process_time() - cpu,
    }


def summary(figures: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Of each target: runs, those believed, and of these coverage of 2 errors, mean and deviation of z."""
    found = {}
    for target, (value, error, _) in figures["truths"].items():
        cells = [cell for key, cell in figures["cells"].items() if key.split()[0] == target]
        believed = [cell for cell in cells if cell["believed"]]
        z = np.array([(c["value"] - value) / math.hypot(c["error"], error) for c in believed])
        off = np.array([abs(c["value"] - value) for c in believed])
        found[target] = {
            "runs": len(cells),
            "believed": len(believed),
            "within": int((np.abs(z) < 2.0).sum()),
            "mean": float(z.mean()) if len(z) else math.nan,
            "sd": float(z.std(ddof=1)) if len(z) > 1 else math.nan,
            "largest": float(off.max()) if len(off) else math.nan,
            "seconds": float(np.median([c["seconds"] for c in cells])),
        }
    return found


def title(figures: dict[str, Any]) -> str:
    return "Runs until an error, 0.1 kT unless said: the truth against the errors that they state"


def table(figures: dict[str, Any]) -> str:
    columns = "| target | truth / kT | runs | believed | within 2 errors | mean of z | deviation of z | median s |"
    rows = [columns, "|---" * 8 + "|"]
    for target, s in summary(figures).items():
        value, error, source = figures["truths"][target]
        cells = [
            *(target, f"{fab.Estimate(value, error)}, {source}", f"{s['runs']}", f"{s['believed']}"),
            *(f"{s['within']} of {s['believed']}", f"{s['mean']:+.2f}", f"{s['sd']:.2f}", f"{s['seconds']:.0f}"),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    left = [target for target in TARGETS if target not in figures["truths"]]
    notes = [f"Not run yet: {', '.join(left)}.", ""] if left else []
    return "\n".join([*notes, *rows])
