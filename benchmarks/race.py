"""What does a free energy to 0.1 kT cost, from nothing, by a flow and by molecular dynamics?

CPU seconds on one core, energy evaluations and wall time until the standard error of the rarest basin above 0.1 % is
0.1 kT, and 0.05; each result is held against a reference. A cell is a molecule and a method. MD goes on with twice the
time until the cap on CPU seconds; what it would take to get further is extrapolated, error^2 times CPU seconds being
constant, and marked ~. Cells that are there are not measured again, a run that was stopped goes on in --folder, and
`--molecule butane --method langevin --anew` measures one alone. Methods: `flow`, generator.run(error=...), training
included; `walkers-exchange` and `metadynamics` of openmm_fab.md on the translated energy; and on OpenMM's fastest CPU
platform, hydrogens of 4 dalton and steps of 2 fs, `replica-exchange` (openmmtools), `app.Metadynamics`, `opes`
(openmm-opes, if it is there) and `langevin`. Biases are on the torsions that the package would choose.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openmm

import openmm_fab as fab
from openmm_fab.free_energy.differences import reweight_energy
from openmm_fab.weights import KHAT_LIMIT, Estimate

from .budgets import on_processor_time, wall
from .contestants import METHODS, MOLECULES, Molecule, load
from .pieces import Pieces

FLOW = "flow"
TARGETS = (0.1, 0.05)  # kT
OFF = 3.0  # standard errors of the result and the reference, beyond which a result is wrong
WARMER, WEAKER = 30.0, 0.9  # K, and a factor on all charges, of the second questions


def weaker(system: fab.MolecularSystem) -> fab.MolecularSystem | None:
    """The molecule with all charges times `WEAKER`; None: it has none."""
    copied, charged = openmm.XmlSerializer.clone(system.system), False
    for force in copied.getForces():
        if isinstance(force, openmm.NonbondedForce):
            for k in range(force.getNumParticles()):
                q, *others = force.getParticleParameters(k)
                charged |= q._value != 0.0
                force.setParticleParameters(k, WEAKER * q, *others)
            for k in range(force.getNumExceptions()):
                i, j, q, *others = force.getExceptionParameters(k)
                force.setExceptionParameters(k, i, j, WEAKER**2 * q, *others)
        elif isinstance(force, openmm.GBSAOBCForce):
            for k in range(force.getNumParticles()):
                q, *others = force.getParticleParameters(k)
                force.setParticleParameters(k, WEAKER * q, *others)
        elif isinstance(force, openmm.CustomGBForce):
            names = [force.getPerParticleParameterName(k) for k in range(force.getNumPerParticleParameters())]
            at = names.index("charge" if "charge" in names else "q")
            for k in range(force.getNumParticles()):
                values = list(force.getParticleParameters(k))
                values[at] *= WEAKER
                force.setParticleParameters(k, values)
    if not charged:
        return None
    about = {"temperature": system.temperature, "name": system.name}
    return fab.MolecularSystem.from_openmm(system.topology, copied, system.positions, **about)


@dataclass
class Spent:
    """CPU and wall time since it was made, with what was spent before."""

    cpu: float = 0.0
    wall: float = 0.0

    def __post_init__(self) -> None:
        self._cpu, self._wall = time.process_time() - self.cpu, wall() - self.wall

    def now(self) -> tuple[float, float]:
        return time.process_time() - self._cpu, wall() - self._wall


def second(
    ensemble: fab.Ensemble, molecule: Molecule, system: fab.MolecularSystem, sampling: float, had: float
) -> dict[str, Any]:
    """What else the samples answer by their weights: another temperature, and weaker charges.

    Parameters
    ----------
    sampling : float
        CPU seconds that the samples took.
    had : float
        Of these, what the first question had needed for `TARGETS[0]`.
    """
    questions: dict[str, Callable[[], fab.Ensemble]] = {
        "warmer": lambda: fab.reweight_temperature(ensemble, system.temperature + WARMER)
    }
    other = weaker(system)
    if other is not None:
        questions["charges"] = lambda: reweight_energy(ensemble, other)
    answers = {}
    for name, ask in questions.items():
        spent = Spent()
        answer = ask()
        found, khat = answer.basin_difference(molecule.basin), answer.khat
        more = sampling * (found.error / TARGETS[0]) ** 2 - had
        cpu = spent.now()[0] + max(0.0, more) if khat <= KHAT_LIMIT and math.isfinite(more) else None
        numbers = {"value": found.value, "error": found.error, "khat": khat}
        answers[name] = {key: v if math.isfinite(v) else None for key, v in numbers.items()} | {"cpu": cpu}
    return answers


def flow(molecule: Molecule, seed: int, error: float, cap: float) -> dict[str, Any]:
    """A run until an error, of which everything counts processor time; with what the second questions cost."""
    spent, system = Spent(), load(molecule.system)
    with on_processor_time():
        generator = fab.BoltzmannGenerator(system, seed=seed)
        outcome = generator.run(error=error, of={"basin": molecule.basin}, at_most=cap / 60.0, progress=False)
    cell = _step(
        *spent.now(), Estimate(outcome.rows[0].value, outcome.rows[0].error), generator.target.evaluations + outcome.n
    )
    cell |= {"believed": outcome.believed, "verdict": outcome.finding.head, "seconds": outcome.seconds, "n": outcome.n}
    assert outcome.ensemble is not None
    sampling = outcome.seconds.get("sampling", 0.0)
    return cell | {"second": second(outcome.ensemble, molecule, system, sampling, sampling)}


# --- cells ---


def _step(cpu: float, wall: float, found: Estimate, evaluations: int) -> dict[str, Any]:
    value, error = (float(x) if math.isfinite(float(x)) else None for x in (found.value, found.error))
    return {"cpu": cpu, "wall": wall, "evaluations": evaluations, "value": value, "error": error}


def cell_of(
    name: str, method: str, folder: Path, seed: int, cap: float, scale: float = 1.0, errors: Sequence[float] = TARGETS
) -> dict[str, Any]:
    """A cell: of each error asked for what was spent until it was stated; or until the cap on CPU seconds.

    A flow has a run from nothing for each of `errors`."""
    molecule = MOLECULES[name]
    if method == FLOW:
        return {f"{error:g}": flow(molecule, seed, error, cap) for error in errors}
    system = load(molecule.system)
    reached: dict[str, Any] = {}
    spent, last = Spent(), {}
    for ensemble, evaluations in METHODS[method](system, folder, seed, molecule, scale):
        found = ensemble.basin_difference(molecule.basin)
        cpu, passed = spent.now()
        last = _step(cpu, passed, found, evaluations)
        print(name, method, last, flush=True)
        stated = last["error"] if last["error"] is not None else math.inf
        reached |= {f"{e:g}": last for e in TARGETS if stated <= e and f"{e:g}" not in reached}
        if len(reached) == len(TARGETS) or 2.0 * cpu > cap:  # the next takes as long again
            break
    had = min(last["cpu"] * ((last["error"] or math.inf) / TARGETS[0]) ** 2, math.inf)
    return reached | {"stopped": last, "second": second(ensemble, molecule, system, last["cpu"], had)}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--molecule", choices=MOLECULES, action="append", help="this one alone; repeatable")
    parser.add_argument("--method", choices=(FLOW, *METHODS), action="append", help="this one alone; repeatable")
    parser.add_argument("--folder", type=Path, help="of MD, kept: a cell that was stopped goes on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--error", type=float, choices=TARGETS, action="append", help="of a flow, this one alone")
    parser.add_argument("--cap", type=float, default=3600.0, help="CPU seconds of a cell")
    parser.add_argument("--anew", action="store_true", help="measure the chosen cells anew")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    molecules = ["butane"] if options.quick else options.molecule or list(MOLECULES)
    methods = ["langevin"] if options.quick else options.method or [FLOW, *METHODS]
    chosen = [f"{molecule} {method}" for molecule in molecules for method in methods]
    pieces = Pieces("race", tuple(chosen) if options.anew or options.quick else ())
    cells = {} if options.quick else pieces.cells
    with tempfile.TemporaryDirectory() as temporary:
        for key in chosen:
            name, method = key.split()
            if key in cells or MOLECULES[name].basin is None:
                continue
            place = (options.folder or Path(temporary)) / f"{name}-{method}-{options.seed}"
            try:
                quick = (1.0, 0.005) if options.quick else (options.cap, 1.0)
                cell = cell_of(name, method, place, options.seed, *quick, options.error or TARGETS)
            except ImportError as error:
                print(f"{key}: {error}", flush=True)
                continue
            cells[key] = cell
            if not options.quick:
                pieces.keep(key, cells[key])
    names = [name for name in MOLECULES if any(key.split()[0] == name for key in cells)]
    return {"cells": cells, "truths": {name: list(MOLECULES[name].truth()) for name in names}}  # type: ignore[misc]


def title(figures: dict[str, Any]) -> str:
    return "CPU seconds on one core, from nothing, until the free energy of a rare basin has a standard error"


def verdict(step: dict[str, Any], truth: tuple[float, float, str]) -> str:
    """How far a result is from the truth, and whether its error covers that."""
    if step["error"] is None:
        return "no error"
    off, error = step["value"] - truth[0], math.hypot(step["error"], truth[1])
    believed = "" if step.get("believed", True) else ", not believed"
    return f"{off:+.2f} ± {error:.2f}{believed}" + (
        "" if abs(off) < OFF * error else f", WRONG: {abs(off) / error:.0f} errors"
    )


def price(cell: dict[str, Any], error: float) -> tuple[float, float, bool] | None:
    """CPU seconds and evaluations until a standard error, and whether they are measured; None: nothing is known."""
    step = cell.get(f"{error:g}")
    if step is not None and step["error"] is not None and step["error"] <= error * 1.0001:
        return step["cpu"], step["evaluations"], True
    step = step or cell.get("stopped") or cell[f"{TARGETS[0]:g}"]
    if step["error"] is None:
        return None
    further = (step["error"] / error) ** 2 - 1.0  # of a flow: its sampling alone
    sampling = step["seconds"].get("sampling", 0.0) if "seconds" in step else step["cpu"]
    samples = step["n"] if "n" in step else step["evaluations"]
    return step["cpu"] + sampling * further, step["evaluations"] + samples * further, False


def energies(figures: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Energies of each method and molecule until `TARGETS[0]`, where its result is right; for `openmm-fab run`."""
    found: dict[str, dict[str, float]] = {}
    for key, cell in figures["cells"].items():
        name, method = key.split()
        known, last = price(cell, TARGETS[0]), cell.get("stopped") or cell.get(f"{TARGETS[0]:g}")
        if known is not None and "WRONG" not in verdict(last, figures["truths"][name]):
            found.setdefault(method, {})[name] = float(f"{known[1]:.3g}")
    return found


def table(figures: dict[str, Any]) -> str:
    cells, truths = figures["cells"], figures["truths"]
    methods = [method for method in (FLOW, *METHODS) if any(key.split()[1] == method for key in cells)]
    rows, others = [], []
    for name, truth in truths.items():
        row, other = [name], [name]
        for method in methods:
            cell = cells.get(f"{name} {method}")
            row.append("" if cell is None else _priced(cell, tuple(truth)))
            other.append("" if cell is None else _second(cell))
        rows.append(row)
        others.append(other)
    lines = [f"Truth, {name}: {Estimate(*t[:2])} kT, {t[2]}." for name, t in truths.items()]
    lines.append(
        f"CPU s to {TARGETS[0]:g} / {TARGETS[1]:g} kT; evaluations to {TARGETS[0]:g}; found - truth. ~: extrapolated "
        "from what ran, as 1 / error^2. The record has wall times, of a shared core."
    )
    waiting = [name for name in MOLECULES if name not in truths]
    lines += [f"Not run yet: {', '.join(waiting)}."] if waiting else []
    asked = f"Then, by weights, and by more samples: CPU s at {WARMER:g} K more / charges x {WEAKER:g}"
    tables = [_rows(["molecule", *methods], rows)]
    if known := [row for row in others if any(row[1:])]:
        tables.append(_rows([asked, *methods], known))
    return "\n\n".join([" ".join(lines), *tables])


def _rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows))


def _priced(cell: dict[str, Any], truth: tuple[float, float, str]) -> str:
    """CPU seconds to both errors, evaluations, and how far from the truth what was found is."""
    prices = [price(cell, error) for error in TARGETS]
    last = cell.get("stopped") or cell[f"{TARGETS[0]:g}"]
    cpu = " / ".join("?" if p is None else f"{'' if p[2] else '~'}{p[0]:,.0f}" for p in prices)
    first = prices[0]
    evaluations = "?" if first is None else f"{'' if first[2] else '~'}{first[1]:.2g}"
    return f"{cpu}; {evaluations}; {verdict(last, truth)}"


def _second(cell: dict[str, Any]) -> str:
    """CPU seconds of the second questions; "anew" where the weights cannot answer."""
    answers = cell.get("second") or cell.get(f"{TARGETS[0]:g}", {}).get("second") or {}
    known = [answers[q] for q in ("warmer", "charges") if q in answers]
    return " / ".join("anew" if answer["cpu"] is None else f"{answer['cpu']:,.0f}" for answer in known)
