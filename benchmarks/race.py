"""What does a free energy to 0.1 kT cost, from nothing, by a flow and by molecular dynamics?

CPU seconds on one core, energy evaluations and wall time until the standard error of the rarest basin above 0.1 % is
0.1 kT, and 0.05; each result is held against a long reference. A cell is a molecule and a method. Cells that are there
are not measured again, a run that was stopped goes on in --folder, and `--molecule butane --method langevin --anew`
measures one alone. Methods: `flow`, generator.run(error=...), training included; `walkers-exchange` and `metadynamics`
of openmm_fab.md on the translated energy; and on OpenMM's fastest CPU platform `replica-exchange` (openmmtools),
`app.Metadynamics`, `opes` (openmm-opes, if it is there) and `langevin`.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
from openmm import app, unit

import openmm_fab as fab
from openmm_fab.md.bias import chosen_torsions
from openmm_fab.weights import Estimate

from . import calibration
from .pieces import Pieces

TARGETS = (0.1, 0.05)  # kT
OFF = 3.0  # standard errors of the result and the reference, beyond which a result is wrong
FIRST_PS = {"langevin": 2000.0, "replica-exchange": 200.0, "opes": 1000.0, "app.Metadynamics": 500.0}
WALKERS_PS = 4.0
SHARED = 2.5  # load of the machine, by which others are at work; where it is not known, too
WARMER = 30.0  # K, of the second question


@dataclass(frozen=True)
class Molecule:
    """A molecule of the race.

    Parameters
    ----------
    system : str
        Shipped.
    basin : callable or None
        Frames in the rarest basin above 0.1 %, of an mdtraj.Trajectory; None: it waits for its reference.
    truth : callable or None
        () -> F(basin) - F(rest), kT, its standard error, where it is from.
    """

    system: str
    basin: Callable[[mdtraj.Trajectory], np.ndarray] | None = None
    truth: Callable[[], tuple[float, float, str]] | None = None


def gauche_plus(trajectory: mdtraj.Trajectory) -> np.ndarray:
    """Frames of butane with a torsion between 0 and 120 degrees."""
    torsion = chosen_torsions(trajectory.topology, None)[:1]
    angle = mdtraj.compute_dihedrals(trajectory, torsion, periodic=False)[:, 0]
    return (angle > 0.0) & (angle < calibration.GAUCHE)


def _gauche_plus_truth() -> tuple[float, float, str]:
    """Half of what is gauche, by symmetry."""
    value, error, source = calibration.truth("butane")
    both = 1.0 / (1.0 + math.exp(value))
    half = both / 2.0
    return math.log((1.0 - half) / half), error * (1.0 - both) / (1.0 - half), f"half of gauche; {source}"


MOLECULES = {
    "butane": Molecule("butane", gauche_plus, _gauche_plus_truth),
    "alanine_dipeptide": Molecule(
        "alanine_dipeptide", calibration.phi_positive, lambda: calibration.truth("alanine_dipeptide")
    ),
    "proline_dipeptide": Molecule("proline_dipeptide"),
    "alanine_tetrapeptide": Molecule("alanine_tetrapeptide"),
    "ibuprofen": Molecule("ibuprofen"),
    "elil": Molecule("elil"),
}


@dataclass
class Spent:
    """CPU and wall time since it was made, with what was spent before."""

    cpu: float = 0.0
    wall: float = 0.0

    def __post_init__(self) -> None:
        self._cpu, self._wall = time.process_time() - self.cpu, time.perf_counter() - self.wall

    def now(self) -> tuple[float, float]:
        return time.process_time() - self._cpu, time.perf_counter() - self._wall


# --- methods: each a series of estimates that cost more and more ---

Step = tuple[Estimate, int]  # an estimate, and energy evaluations so far


def flow(molecule: Molecule, folder: Path, seed: int, error: float, cap: float) -> dict[str, Any]:
    """A run until an error; its cell has what the second question costs, too."""
    system = fab.MolecularSystem.load(molecule.system)
    spent = Spent()
    generator = fab.BoltzmannGenerator(system, seed=seed)
    of = {"basin": molecule.basin}
    outcome = generator.run(error=error, of=of, at_most=10.0 * cap / 60.0, progress=False)
    cpu, wall = spent.now()
    (row,) = outcome.rows
    cell = _step(cpu, wall, Estimate(row.value, row.error), generator.target.evaluations + outcome.n)
    cell |= {"believed": outcome.believed, "verdict": outcome.finding.head}
    again = Spent()
    assert outcome.ensemble is not None
    warmer = fab.reweight_temperature(outcome.ensemble, system.temperature + WARMER)
    found = warmer.basin_difference(molecule.basin)
    sampling = outcome.seconds["sampling"] * cpu / wall
    second = {"value": found.value, "error": found.error, "khat": warmer.khat}
    second["cpu"] = again.now()[0] + sampling * max(0.0, (found.error / error) ** 2 - 1.0)
    return cell | {"second": second}


def by_reference(
    method: str, **settings: Any
) -> Callable[[fab.MolecularSystem, Path, int, Any, float], Iterator[Step]]:
    """A method of `run_reference`, resumed with twice the time again and again."""

    def run(system: fab.MolecularSystem, folder: Path, seed: int, basin: Any, scale: float) -> Iterator[Step]:
        about = dict(settings)
        if method in ("langevin", "replica-exchange", "opes"):
            about |= fastest(system)
        copies = about.get("walkers", about.get("temperatures", 6) if method == "replica-exchange" else 1)
        before = about.get("equilibration_ps", 50.0) + about.get("build_ps", 0.0)
        ps = scale * FIRST_PS.get(method, WALKERS_PS)
        while True:
            found = fab.run_reference(
                system, method, folder=folder, resume=True, seed=seed, progress=False, time_ps=ps, **about
            )
            yield found.basin_difference(basin), int(copies * (ps + before) * 1000.0 / about.get("step_fs", 1.0))
            ps *= 2.0

    return run


def app_metadynamics(system: fab.MolecularSystem, folder: Path, seed: int, basin: Any, scale: float) -> Iterator[Step]:
    """OpenMM's own: the bias is built on the first torsions, then stays as it is, and frames are weighted by it."""
    build, frame, hill, step = 500.0 * scale, 1.0, 0.5, 0.001  # ps
    torsions = chosen_torsions(system.md_topology, None)
    copied = openmm.XmlSerializer.clone(system.system)
    variables = []
    for atoms in torsions:
        force = openmm.CustomTorsionForce("theta")
        force.addTorsion(*atoms, [])
        variables.append(app.BiasVariable(force, -np.pi, np.pi, 0.35, True, 101))
    kelvin = system.temperature * unit.kelvin
    meta = app.Metadynamics(copied, variables, kelvin, 8.0, 1.2 * unit.kilojoule_per_mole, round(hill / step))
    integrator = openmm.LangevinMiddleIntegrator(kelvin, 1.0 / unit.picosecond, step * unit.picoseconds)
    integrator.setRandomNumberSeed(seed + 1)
    where = fastest(system)
    platform = openmm.Platform.getPlatformByName(where["platform"])
    simulation = app.Simulation(system.topology, copied, integrator, platform, where.get("properties") or {})
    simulation.context.setPositions(system.minimum)
    simulation.context.setVelocitiesToTemperature(kelvin, seed + 1)
    meta.step(simulation, round(build / step))
    group = {copied.getForce(copied.getNumForces() - 1).getForceGroup()}
    kept, bias, ps = [], [], scale * FIRST_PS["app.Metadynamics"]
    while True:
        while len(kept) * frame < ps:
            integrator.step(round(frame / step))
            state = simulation.context.getState(getPositions=True)
            kept.append(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer).astype(np.float32))
            energy = simulation.context.getState(getEnergy=True, groups=group).getPotentialEnergy()
            bias.append(energy.value_in_unit(unit.kilojoule_per_mole) / system.kT)
        trajectory = mdtraj.Trajectory(np.array(kept), system.md_topology)
        log_w = np.array(bias)
        found = fab.Ensemble.from_mdtraj(trajectory, system, log_weights=log_w - log_w.max(), energies=False)
        yield found.basin_difference(basin), round((build + ps) / step)
        ps *= 2.0


METHODS: dict[str, Callable[[fab.MolecularSystem, Path, int, Any, float], Iterator[Step]]] = {
    "walkers-exchange": by_reference(
        "walkers-exchange", walkers=256, temperatures=4, equilibration_ps=20.0, hydrogen_mass=3.0, step_fs=2.0
    ),
    "metadynamics": by_reference(
        "metadynamics", walkers=256, build_ps=20.0, equilibration_ps=10.0, hydrogen_mass=3.0, step_fs=2.0
    ),
    "replica-exchange": by_reference("replica-exchange", temperatures=6, max_temperature=600.0),
    "app.Metadynamics": app_metadynamics,
    "opes": by_reference("opes"),
    "langevin": by_reference("langevin"),
}
FLOW = "flow"


def fastest(system: fab.MolecularSystem) -> dict[str, Any]:
    """Platform of OpenMM and its properties that take the least CPU time for some thousand steps on one core."""
    times = {}
    for name, properties in (("Reference", {}), ("CPU", {"Threads": "1"})):
        integrator = openmm.VerletIntegrator(0.001)
        platform = openmm.Platform.getPlatformByName(name)
        context = openmm.Context(system.system, integrator, platform, properties)
        context.setPositions(system.minimum)
        integrator.step(100)
        started = time.process_time()
        integrator.step(2000)
        context.getState(getEnergy=True)
        times[time.process_time() - started] = {"platform": name, "properties": properties or None}
    return times[min(times)]


# --- cells ---


def _step(cpu: float, wall: float, found: Estimate, evaluations: int) -> dict[str, Any]:
    value, error = (float(x) if math.isfinite(float(x)) else None for x in (found.value, found.error))
    return {"cpu": cpu, "wall": wall, "evaluations": evaluations, "value": value, "error": error}


def cell_of(name: str, method: str, folder: Path, seed: int, cap: float, scale: float = 1.0) -> dict[str, Any]:
    """A cell: of each error asked for what was spent until it was stated; or until the cap on CPU seconds."""
    molecule = MOLECULES[name]
    if method == FLOW:
        return {f"{error:g}": flow(molecule, folder, seed, error, cap) for error in TARGETS}
    system = fab.MolecularSystem.load(molecule.system)
    reached: dict[str, Any] = {}
    spent, last = Spent(), {}
    for found, evaluations in METHODS[method](system, folder, seed, molecule.basin, scale):
        cpu, wall = spent.now()
        last = _step(cpu, wall, found, evaluations)
        print(name, method, last, flush=True)
        stated = last["error"] if last["error"] is not None else math.inf
        reached |= {f"{e:g}": last for e in TARGETS if stated <= e and f"{e:g}" not in reached}
        if len(reached) == len(TARGETS) or 2.0 * cpu > cap:  # the next takes as long again
            break
    return reached | ({} if len(reached) == len(TARGETS) else {"stopped": last})


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--molecule", choices=MOLECULES, action="append", help="this one alone; repeatable")
    parser.add_argument("--method", choices=(FLOW, *METHODS), action="append", help="this one alone; repeatable")
    parser.add_argument("--folder", type=Path, help="of MD, kept: a cell that was stopped goes on")
    parser.add_argument("--seed", type=int, default=0)
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
                cell = cell_of(name, method, place, options.seed, *quick)
            except ImportError as error:
                print(f"{key}: {error}", flush=True)
                continue
            cells[key] = cell | {"load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None}
            if not options.quick:
                pieces.keep(key, cells[key])
    names = [name for name in MOLECULES if any(key.split()[0] == name for key in cells)]
    return {"cells": cells, "truths": {name: list(MOLECULES[name].truth()) for name in names}}  # type: ignore[misc]


def title(figures: dict[str, Any]) -> str:
    return "CPU seconds on one core, from nothing, until the free energy of a rare basin has a standard error"


def verdict(step: dict[str, Any], truth: tuple[float, float, str]) -> str:
    """How far a result is from the truth, and whether its error covers that."""
    off, error = step["value"] - truth[0], math.hypot(step["error"], truth[1])
    return f"{off:+.2f}" + ("" if abs(off) < OFF * error else f", WRONG: {abs(off) / error:.0f} errors")


def table(figures: dict[str, Any]) -> str:
    columns = ["molecule", "method", *(f"{e:g} kT: CPU s, wall s, evaluations, off the truth" for e in TARGETS)]
    rows = ["| " + " | ".join([*columns, f"at {WARMER:g} K more, CPU s"]) + " |", "|---" * (len(columns) + 1) + "|"]
    for key, cell in figures["cells"].items():
        name, method = key.split()
        texts = [_text(cell, f"{error:g}", figures["truths"][name]) for error in TARGETS]
        second = cell.get("0.1", {}).get("second")
        texts.append("as much" if second is None else f"{second['cpu']:.0f}")
        rows.append("| " + " | ".join([name, method, *texts]) + " |")
    lines = [f"Truth, {name}: {Estimate(*t[:2])} kT, {t[2]}." for name, t in figures["truths"].items()]
    shared = [key for key, cell in figures["cells"].items() if (cell.get("load") or math.inf) > SHARED]
    lines += [f"On a core that other processes shared, so that CPU seconds are too many: {', '.join(shared)}."] * bool(
        shared
    )
    waiting = [name for name in MOLECULES if name not in figures["truths"]]
    lines += [f"Not run yet: {', '.join(waiting)}."] if waiting else []
    return "\n".join([" ".join(lines), "", *rows])


def _text(cell: dict[str, Any], error: str, truth: tuple[float, float, str]) -> str:
    step = cell.get(error)
    if step is None:
        last = cell["stopped"]
        stated = "no error" if last["error"] is None else f"{last['error']:.2g} kT"
        return f"not in {last['cpu']:.0f} s: {stated}"
    believed = "" if step.get("believed", True) else "; not believed"
    if step["error"] is None or step["error"] > float(error) * 1.0001:
        stated = "no error" if step["error"] is None else f"{step['error']:.2g} kT"
        return f"not in {step['cpu']:.0f} s: {stated}"
    spent = f"{step['cpu']:.0f}, {step['wall']:.0f}, {step['evaluations']:.2g}"
    return f"{spent}, {verdict(step, truth)}{believed}"
