"""From a force field to GFN2-xTB by `refine`: a basin's free energy, beside molecular dynamics on GFN2-xTB itself.

A flow learns the force field; `refine` carries its ensemble to GFN2-xTB. Of butane (OPLS-AA) and ethyl acetate (OpenFF
2.2.1, by `from_smiles("CCOC(C)=O", solvent="none")`), both without a solvent, dynamics on GFN2-xTB, by OpenMM and its
PythonForce with hydrogens of 4 dalton and steps of 2 fs, says what is right, and how many evaluations that takes: plain
Langevin, and OPES along the torsion. It is kept in the folder and gone on with. Of ibuprofen (OpenFF 2.2.1 and GBn2;
GFN2-xTB with water by ALPB) no dynamics that one core affords is long enough. The other way from the one energy to the
other is a ladder: annealed importance sampling over lambda, u + lambda (u' - u), with samples of the force field as
proposals, so that it needs energies alone, as many as `refine` has. tblite and ase are needed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
import torch

import openmm_fab as fab
from openmm_fab import free_energy as fe
from openmm_fab.energy import from_ase
from openmm_fab.molecule.inputs import without_forces

from .runner import Skip

BOHR, HARTREE = 0.0529177210903, 2625.4996394799  # nm, kJ/mol
STEP_FS, HEAVY, EQUILIBRATION = 2.0, 4.0, 5.0  # fs, dalton, ps
OPES = {"barrier": 8.0, "build_ps": 60.0, "kernel_ps": 0.1}
SAMPLES = 20_000
RUNGS = 8
MOLECULES = Path(__file__).resolve().parent / "molecules"


@dataclass(frozen=True)
class Case:
    """A molecule of `systems/` or `benchmarks/molecules/`, a basin by a torsion, and what GFN2-xTB is told."""

    torsion: tuple[int, int, int, int]
    basin: str
    beyond: bool  # the basin is where |torsion| is above 2 pi / 3, else below
    charge: int = 0
    solvent: str | None = None
    place: Path | None = None  # the molecule's folder, if it is none of `systems/`

    def inside(self, frames: mdtraj.Trajectory) -> np.ndarray:
        phi = np.abs(mdtraj.compute_dihedrals(frames, [self.torsion], periodic=False)[:, 0])
        return phi > 2 * np.pi / 3 if self.beyond else phi < 2 * np.pi / 3


CASES = {
    "butane": Case((0, 1, 2, 3), "gauche", beyond=False),
    "ethyl_acetate": Case((0, 1, 2, 3), "gauche", beyond=False, place=MOLECULES / "ethyl_acetate"),
    "ibuprofen": Case((4, 3, 1, 18), "isobutyl's H anti to phenyl", beyond=True, charge=-1, solvent="water"),
}


class Tblite:
    """GFN2-xTB for OpenMM's PythonForce; each call goes on from the charges of the last."""

    def __init__(self, elements: Sequence[str], charge: int = 0, solvent: str | None = None) -> None:
        self.numbers = [openmm.app.Element.getBySymbol(e).atomic_number for e in elements]
        self.charge, self.solvent = charge, solvent
        self._calculator = self._last = None

    def __getstate__(self) -> dict[str, Any]:
        own = {"numbers": self.numbers, "_calculator": None, "_last": None}
        return own if self.solvent is None else {**own, "charge": self.charge, "solvent": self.solvent}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"charge": 0, "solvent": None, **state})

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        from tblite.interface import Calculator

        x = state.getPositions(asNumpy=True)._value / BOHR
        if self._calculator is None:
            self._calculator = Calculator("GFN2-xTB", np.array(self.numbers), x, charge=self.charge)
            if self.solvent is not None:
                self._calculator.add("alpb-solvation", self.solvent)
            self._calculator.set("verbosity", 0)
        else:
            self._calculator.update(positions=x)
        self._last = self._calculator.singlepoint(self._last)
        return float(self._last["energy"]) * HARTREE, -self._last["gradient"] * (HARTREE / BOHR)


def dynamics_system(system: fab.MolecularSystem, case: Case) -> fab.MolecularSystem:
    """GFN2-xTB for OpenMM, with heavy hydrogens: the distribution of x does not depend on masses."""
    made = without_forces(system.topology)
    for atom, element in enumerate(system.elements):
        if element == "H":
            made.setParticleMass(atom, HEAVY)
    made.addForce(openmm.PythonForce(Tblite(system.elements, case.charge, case.solvent)))
    return fab.MolecularSystem.from_openmm(system.topology, made, system.positions, temperature=system.temperature)


def dynamics(
    system: fab.MolecularSystem, case: Case, method: str, time_ps: float, folder: Path
) -> fab.ReferenceEnsemble:
    """Dynamics on GFN2-xTB by a method of `run_reference`, gone on with to `time_ps`."""
    folder.mkdir(parents=True, exist_ok=True)
    more: dict[str, Any] = {} if method == "langevin" else {"torsions": [case.torsion], **OPES}
    return fab.run_reference(
        dynamics_system(system, case), method, folder=folder, resume=True, start=system.positions, basin=case.inside,
        time_ps=time_ps, equilibration_ps=EQUILIBRATION, frame_ps=0.1, step_fs=STEP_FS, platform="Reference",
        progress=False, **more,
    )  # fmt: skip


def ladder(
    samples: fab.Ensemble, energy: Callable[[torch.Tensor], torch.Tensor], case: Case, budget: int, seed: int = 0
) -> fab.Ensemble:
    """Annealed importance sampling from samples of the cheap energy to another: chains' ends, with their weights.

    At each of RUNGS - 1 values of lambda a chain is offered another sample, which is taken with the probability
    min(1, exp(lambda (d' - d))), d = u - u' (Metropolis). An expensive energy for each start and each offer.
    """
    chains = budget // RUNGS
    drawn = samples.resample(chains * RUNGS, seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(drawn.n).reshape(RUNGS, chains)
    d = (drawn.u - energy(torch.from_numpy(drawn.x).double()).numpy())[order]
    at, log_w = np.zeros(chains, dtype=int), np.zeros(chains)
    for rung in range(1, RUNGS + 1):
        here = d[at, np.arange(chains)]
        log_w += here / RUNGS
        if rung < RUNGS:
            taken = np.log(rng.random(chains)) < rung / RUNGS * (d[rung] - here)
            at = np.where(taken, rung, at)
    ends = drawn[order[at, np.arange(chains)]]
    return replace(ends, log_w=log_w)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system", choices=CASES, default="butane")
    parser.add_argument("--train", default="2 min", help="budget of the flow's training")
    parser.add_argument("--budget", type=int, default=600, help="evaluations of GFN2-xTB")
    parser.add_argument("--langevin-ps", type=float, default=0.0, help="dynamics on GFN2-xTB; 0: none")
    parser.add_argument("--opes-ps", type=float, default=0.0, help="the same under a bias of openmm-opes; 0: none")
    parser.add_argument("--folder", type=Path, help="where the dynamics is, or will be; by default none is kept")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    try:
        from tblite.ase import TBLite
    except ImportError as error:
        raise Skip("GFN2-xTB needs tblite and ase: pip install tblite ase.") from error
    case = CASES[options.system]
    system = fab.MolecularSystem.load(case.place or options.system)
    budget = 60 if options.quick else options.budget
    lengths = {"langevin": 0.2 if options.quick else options.langevin_ps, "opes": options.opes_ps}
    begun = time.process_time()
    generator = fab.BoltzmannGenerator(system, fab.PRESETS["smoke"].settings if options.quick else None)
    generator.train(0.05 if options.quick else options.train, progress=False)
    trained = time.process_time() - begun
    cheap = fe.basin_difference(flow := generator.sample(SAMPLES), case.inside)
    solvation = None if case.solvent is None else ("alpb", case.solvent)
    calculator = TBLite(method="GFN2-xTB", charge=case.charge, solvation=solvation, verbosity=0)
    asked, seconds = 0, 0.0
    energy = from_ase(calculator, system)

    def expensive(x: torch.Tensor) -> torch.Tensor:
        nonlocal asked, seconds
        start = time.process_time()
        u = energy(x)
        asked, seconds = asked + len(x), seconds + time.process_time() - start
        return u

    begun = time.process_time()
    refined = fab.refine(generator, expensive, budget=budget)
    took = time.process_time() - begun
    assert asked == refined.evaluations
    dear = refined.basin_difference(case.inside)
    ends = ladder(flow, energy, case, refined.evaluations)
    figures = {
        "system": system.name,
        "basin": case.basin,
        "training_seconds": round(trained),
        "flow_ess": round(flow.ess_fraction, 3),
        "cheap": _pair(cheap),
        "refined": _pair(dear),
        "ladder": _pair(fe.basin_difference(ends, case.inside)),
        "ladder_ess": round(ends.ess, 1),
        "correction": [dear.value - cheap.value, float(np.hypot(dear.error, cheap.error))],
        "evaluations": refined.evaluations,
        "milliseconds": round(1000 * seconds / asked, 2),
        "refine_seconds": round(took, 1),
        "ess": round(refined.ensemble.ess, 1),
        "ess_fraction": round(refined.ensemble.ess_fraction, 3),
        "overlap": round(refined.overlap, 4),
        "khat": round(refined.difference.khat, 2),
    }
    figures["dynamics"] = {}
    for method, length in lengths.items():
        if not length:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            md = dynamics(system, case, method, length, (options.folder or Path(temporary)) / method)
        before = EQUILIBRATION + (OPES["build_ps"] if method == "opes" else 0.0)
        steps = round((length + before) * 1000 / STEP_FS)
        known = fe.basin_difference(md, case.inside)
        figures["dynamics"][method] = {
            "ps": length,
            "evaluations": steps,
            "basin": _pair(known),
            "z": (dear.value - known.value) / float(np.hypot(dear.error, known.error)),
            "same_error": steps * (known.error / dear.error) ** 2,
            "number": known.number,
            "note": known.note,
        }
    return figures


def _pair(of: fab.Estimate) -> list[float]:
    return [float(of.value), float(of.error)]


def section_name(figures: dict[str, Any]) -> str:
    return f"refine_{figures['system']}"


def title(figures: dict[str, Any]) -> str:
    return f"From a force field to GFN2-xTB: {figures['system']}, dF({figures['basin']})"


def table(figures: dict[str, Any]) -> str:
    def shown(pair: list[float]) -> str:
        return f"{pair[0]:.2f} ± {pair[1]:.2f}"

    notes = (
        f"Of processor time training took {figures['training_seconds']} s, `refine` {figures['refine_seconds']} s, an "
        f"energy of GFN2-xTB {figures['milliseconds']} ms. Of the last round {100 * figures['ess_fraction']:.0f} % are "
        f"effective, by reweighting alone {100 * figures['overlap']:.2g} %; k-hat {figures['khat']}. "
        f"Of the ladder's chains {figures['ladder_ess']} are effective."
    )
    known = []
    for method, md in figures["dynamics"].items():
        label = {"langevin": "Langevin", "opes": "OPES"}[method]
        known.append(f"{md['number']}; {label}, {md['ps']:g} ps, {md['evaluations']:,}")
        if np.isfinite(md["z"]):
            notes += (
                f" {label} is {abs(md['z']):.1f} standard errors away; extrapolated as 1 / error^2 it would take "
                f"{md['same_error']:.2g} evaluations for the error of `refine`, "
                f"{md['same_error'] / figures['evaluations']:,.0f} times as many."
            )
        notes += f" {label}: {md['note']}." if md["note"] else ""
    if not figures["dynamics"]:
        hours = figures["milliseconds"] * 1e6 / STEP_FS / 3.6e6
        notes += f" A nanosecond of dynamics would take {1e6 / STEP_FS:,.0f} evaluations, {hours:.1f} hours."
    columns = {
        "dF / kT": f"{figures['system']}, {figures['basin']}",
        "force field, a flow": shown(figures["cheap"]),
        "GFN2-xTB, `refine`; evaluations": f"{shown(figures['refined'])}; {figures['evaluations']:,}",
        "the correction": shown(figures["correction"]),
        f"a ladder of {RUNGS} lambdas, as many": shown(figures["ladder"]),
        "dynamics on GFN2-xTB; evaluations": " / ".join(known) or "none",
    }
    lines = [columns, ["---"] * len(columns), columns.values()]
    return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), "", notes])
