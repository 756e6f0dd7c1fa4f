"""Thirty drug-like molecules from SMILES: parametrised, trained for two minutes each, held against other methods.

Those of ligands.smi. Each goes through parts, whose figures are kept in FOLDER/NAME.json as soon as they are there; the
same command again makes what is missing, and what failed. `--only` and `--parts` choose: made (parameters and
coordinates), walkers (`run_reference(system, "walkers-exchange")`), replicas (OpenMM and openmmtools alone, by
systems/ibuprofen/reference/make_reference.py), trained, sampled (20,000 samples, and an audit), etkdg (RDKit's
conformers at minima of the same energy), compared (populations, against walkers and replicas).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np

import openmm_fab as fab
from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.ensemble.wells import TorsionWells
from openmm_fab.generator.presets import PRESETS
from openmm_fab.md.settings import WalkersExchangeSettings
from openmm_fab.molecule.chemistry import rdkit_chem
from openmm_fab.weights import clipped, log_sum_exp

from . import conformers
from .budgets import ProcessorTime
from .records import ROOT
from .runner import Skip

LIST = Path(__file__).with_suffix(".smi")
SMILES = {
    name: smiles
    for smiles, _, name in (line.partition(" ") for line in LIST.read_text("utf-8").splitlines())
    if smiles != "#"
}
SOLVENT = dict.fromkeys(("phosphoserine", "AMP", "cyclophosphamide"), "obc2")  # GBn2 lacks parameters for phosphorus
ETKDG = (
    *("aspirin", "glucose", "sulfadiazine", "captopril", "uridine", "zidovudine", "ibuprofen", "lidocaine"),
    *("cyclo-Ala4", "diphenhydramine"),
)
WALKERS = ("aspirin", "sulfadiazine", "ibuprofen")
REPLICAS = ("aspirin", "ibuprofen")
NEEDS = {  # of each part, those that come before
    "made": (),
    "walkers": ("made",),
    "replicas": ("made", "walkers"),
    "trained": ("made",),
    "sampled": ("trained",),
    "etkdg": ("sampled",),
    "compared": ("sampled", "walkers"),
}
PARTS = tuple(NEEDS)
ONLY = {"walkers": WALKERS, "replicas": REPLICAS, "etkdg": ETKDG, "compared": WALKERS}
SAMPLES, AUDIT, EMBEDDED = 20_000, 5.0, 200  # AUDIT: s of the processor
EXCHANGE = {"walkers": 96, "time_ps": 50.0, "equilibration_ps": 10.0, "hydrogen_mass": 3.0, "step_fs": 2.0}
ENOUGH, ONE_PERCENT = 10.0, 0.01  # effective samples; share of the weight
SCRIPT = ROOT / "systems" / "ibuprofen" / "reference" / "make_reference.py"
Figures = dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "benchmark-ligands", help="where all is kept")
    parser.add_argument("--only", nargs="+", choices=list(SMILES), default=list(SMILES), metavar="NAME")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=2.0, help="of training, of the processor; more go on")
    parser.add_argument("--preset", choices=list(PRESETS), default="smoke")
    parser.add_argument("--replica-minutes", type=float, default=30.0, help="of replica exchange by OpenMM")


def measure(options: argparse.Namespace) -> Figures:
    """One molecule, seconds of training and no other method if quick."""
    try:
        rdkit_chem()
    except ImportError as error:
        raise Skip(f"{error}") from error
    names, parts, minutes = (
        (["aspirin"], ["made", "trained", "sampled"], 0.1)
        if options.quick
        else (options.only, options.parts, options.minutes)
    )
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        bench = Bench(name, options.folder, minutes, options.preset, options.replica_minutes)
        for part in PARTS:
            if part in parts:
                bench.make(part)
    found = {name: Bench(name, options.folder).found for name in SMILES}
    return {
        **{"minutes": minutes, "preset": options.preset, "samples": SAMPLES, "embedded": EMBEDDED, "audit": AUDIT},
        **{"exchange": EXCHANGE, "molecules": {name: of for name, of in found.items() if of}},
    }


class Bench:
    """One molecule: what has been found of it, and its parts."""

    def __init__(
        self, name: str, folder: Path, minutes: float = 0.0, preset: str = "smoke", replica_minutes: float = 0.0
    ) -> None:
        self.name, self.minutes, self.preset, self.replica_minutes = name, minutes, preset, replica_minutes
        self.record, self.home = folder / f"{name}.json", folder / name
        self.found = self._read()

    def _read(self) -> Figures:
        return json.loads(self.record.read_text("utf-8")) if self.record.exists() else {}

    def make(self, part: str) -> None:
        """Make a part that is due, and keep its figures, or why there are none."""
        known = self.found.get(part, {"failure": "not yet"})
        longer = part == "trained" and known.get("minutes", 0.0) < self.minutes
        ready = all("failure" not in self.found.get(before, {"failure": "not yet"}) for before in NEEDS[part])
        if self.name not in ONLY.get(part, SMILES) or not ready or ("failure" not in known and not longer):
            return
        began, work = time.process_time(), PARTS_OF[part]
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)
            try:
                found = work(self)
            except Exception as error:  # what a user would see
                found = {"failure": f"{type(error).__name__}: {error}"[:500]}
        before = known.get("cpu_seconds", 0.0) if longer else 0.0
        found["cpu_seconds"] = round(before + time.process_time() - began, 1)
        if said := sorted({str(w.message)[:300] for w in told if issubclass(w.category, UserWarning)}):
            found["warnings"] = said
        self.found = self._read() | {part: found}  # another process may have made another part meanwhile
        for later in self._after(part):
            self.found.pop(later, None)
        self.record.write_text(json.dumps(self.found, indent=1, ensure_ascii=False) + "\n", "utf-8")
        print(self.name, part, json.dumps(found)[:400], flush=True)

    def _after(self, part: str) -> set[str]:
        """All parts that need this one."""
        direct = {later for later, needed in NEEDS.items() if part in needed}
        return direct.union(*map(self._after, direct))

    # --- parts ---

    def made(self) -> Figures:
        """Parameters, and the coordinates' search for minima."""
        began = time.process_time()
        folder = self.home / "ligand"
        if (folder / "system.toml").exists():
            system = self.system()
        else:
            solvent = SOLVENT.get(self.name, "gbn2")
            system = fab.MolecularSystem.from_smiles(SMILES[self.name], self.name, solvent=solvent, folder=folder)
        parametrised = time.process_time()
        generator = fab.BoltzmannGenerator(system, PRESETS[self.preset].settings)
        generator.save(self.home / "made.safetensors")
        coordinates = generator.coordinates
        return {
            "atoms": system.n_atoms,
            "torsions": coordinates.n_periodic,
            "minima": 1 if coordinates.minima is None else len(coordinates.minima.energies),
            "seconds, parameters": round(parametrised - began, 1),
            "seconds, coordinates": round(time.process_time() - parametrised, 1),
        }

    def trained(self) -> Figures:
        generator = self.generator("made")
        earlier = self.found.get("trained", {}).get("minutes", 0.0)  # that are in the folder's checkpoint
        budget = ProcessorTime(minutes=self.minutes, began=time.process_time() - 60.0 * earlier)
        folder = self.home / "run"
        history = generator.train(budget, folder, resume=earlier > 0, progress=False, evaluate_every=np.inf)
        generator.save(self.home / "trained.safetensors")
        return {
            "minutes": self.minutes,
            "iterations": len(history),
            "evaluations": int(history[-1]["evaluations"]),
        }

    def sampled(self) -> Figures:
        generator = self.generator("trained")
        ensemble = generator.sample(SAMPLES)
        audit = generator.audit(ProcessorTime(minutes=AUDIT / 60.0), ensemble)
        ensemble.save(self.home / "ensemble.npz")
        found = list(ensemble.conformers(1000))
        populated = [one for one in found if one.population.value >= ONE_PERCENT]
        return {
            "ess": ensemble.ess,
            "ess_clipped": ensemble.ess_clipped,
            "clipped": 1.0 - float(np.exp(log_sum_exp(clipped(ensemble.log_w)) - log_sum_exp(ensemble.log_w))),
            "khat": ensemble.khat,
            "invalid": ensemble.invalid,
            "basins": len(found),
            "enough": sum(one.effective >= ENOUGH for one in found),
            "weight_enough": float(sum(one.population.value for one in found if one.effective >= ENOUGH)),
            "populated": len(populated),
            "first": [float(found[0].population.value), float(found[0].population.error)] if found else [],
            "audit": audit.counts,
            "missing": len(audit.missing),
            "due": sum(state.due for state in audit.missing),
            "where": audit.missing_in_words,
            "exhausted": audit.exhausted,
        }

    def etkdg(self) -> Figures:
        """Which basins RDKit's conformers reach, and which the ensemble does."""
        system, ensemble = self.system(), self.ensemble()
        x, u = conformers.embedded(SMILES[self.name], system, EMBEDDED)
        x = conformers.relabelled(SMILES[self.name], x, system.minimum, system.graph)
        basins = TorsionWells.of(ensemble.topology, ensemble.x, ensemble.weights, heavy=True)
        w = ensemble.weights
        ours, share = _shares(basins.states(ensemble.x[w > 0.0]), w[w > 0.0])
        theirs, boltzmann = lowest(basins.states(x), u)
        mine, drawn = {tuple(s) for s in ours.tolist()}, {tuple(s) for s in theirs.tolist()}
        missed = np.array([tuple(s) not in drawn for s in ours.tolist()])
        never = np.array([tuple(s) not in mine for s in theirs.tolist()])
        return {
            "conformers": len(x),
            "torsions": [angle.name for angle in basins.telling],
            "ours": int((share > ONE_PERCENT).sum()),
            "RDKit misses": int((share[missed] > ONE_PERCENT).sum()),
            "weight RDKit misses": float(share[missed].sum()),
            "of RDKit": int((boltzmann > ONE_PERCENT).sum()),
            "ours misses": int((boltzmann[never] > ONE_PERCENT).sum()),
            "weight ours misses": float(boltzmann[never].sum()),
        }

    def walkers(self) -> Figures:
        """Parallel tempering on the compiled energy, from as many minima as RDKit's conformers lead to."""
        system, settings = self.system(), WalkersExchangeSettings(**EXCHANGE)
        x, _ = conformers.embedded(SMILES[self.name], system, settings.walkers)
        start = conformers.relabelled(SMILES[self.name], x, system.minimum, system.graph)
        folder = self.home / "walkers"
        found = fab.run_reference(system, settings, folder=folder, resume=True, progress=False, start=start)
        found.save(self.home / "walkers.npz")
        return {"frames": found.n, "ess": found.ess, "convergence": str(found.convergence)}

    def replicas(self) -> Figures:
        """Parallel tempering by OpenMM and openmmtools alone, and whether both agree."""
        out = self.home / "replicas"
        if not (out / "reference.json").exists():
            run = [sys.executable, str(SCRIPT), "run", "--minutes", str(self.replica_minutes)]
            where = ["--ligand", str(self.home / "ligand"), "--out", str(out)]
            subprocess.run([*run, *where], check=True)
            subprocess.run([sys.executable, str(SCRIPT), "write", *where], check=True)
        about = json.loads((out / "reference.json").read_text("utf-8"))
        return about | {"against walkers": agreement(self.exchanged(), self.exchanged_by_openmm())}

    def compared(self) -> Figures:
        """Populations of the ensemble against both."""
        found = {"walkers": agreement(self.ensemble(), self.exchanged())}
        if "frames" in self.found.get("replicas", {}):
            found["replicas"] = agreement(self.ensemble(), self.exchanged_by_openmm())
        return found

    # --- what is kept ---

    def system(self) -> fab.MolecularSystem:
        return fab.MolecularSystem.load(self.home / "ligand")

    def generator(self, state: str) -> fab.BoltzmannGenerator:
        return fab.BoltzmannGenerator.load(self.home / f"{state}.safetensors", self.system())

    def exchanged(self) -> Ensemble:
        return Ensemble.load(self.home / "walkers.npz")

    def exchanged_by_openmm(self) -> Ensemble:
        system, out = self.system(), self.home / "replicas"
        arrays = np.load(out / "reference_weights.npz")
        frames = mdtraj.load(out / "reference.dcd", top=system.md_topology)
        given = {"log_weights": arrays["log_w"], "block": arrays["block"], "u": arrays["u"]}
        return Ensemble.from_mdtraj(frames, system, **given)

    def ensemble(self) -> Ensemble:
        return Ensemble.load(self.home / "ensemble.npz")


PARTS_OF: dict[str, Callable[[Bench], Figures]] = {part: getattr(Bench, part) for part in PARTS}


def agreement(ours: Ensemble, reference: Ensemble) -> Figures:
    """Populations of both in the basins that they have in common, those that hold 1 % in either.

    rows: population and error of ours, of the reference, and their difference in standard errors. others: what is left.
    """
    both = [one.weights / 2 for one in (ours, reference)]
    x = np.concatenate([ours.x, reference.x])
    basins = TorsionWells.of(ours.topology, x, np.concatenate(both))
    states = basins.states(x)
    kinds, label = np.unique(states, axis=0, return_inverse=True)
    label = label.reshape(-1)
    labels = (label[: ours.n], label[ours.n :])
    p = np.array([np.bincount(k, one.weights, len(kinds)) for k, one in zip(labels, (ours, reference), strict=True)])
    rows = []
    for k in np.argsort(-p.max(0)):
        if p[:, k].max() < ONE_PERCENT:
            break
        a, b = (one.expectation(of == k) for of, one in zip(labels, (ours, reference), strict=True))
        z = (a.value - b.value) / np.hypot(a.error, b.error)
        rows.append([float(v) for v in (a.value, a.error, b.value, b.error, z)])
    return {
        "torsions": [angle.name for angle in basins.telling],
        "rows": rows,
        "within two errors": sum(abs(row[4]) < 2 for row in rows),
        "total variation": float(0.5 * np.abs(p[0] - p[1]).sum()),
        "frames": reference.n,
        "ess": reference.ess,
    }


def _shares(states: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kinds, label = np.unique(states, axis=0, return_inverse=True)
    return kinds, np.bincount(label.reshape(-1), weights, len(kinds))


def lowest(states: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct states, and their Boltzmann shares by the lowest energy u, kT, of each."""
    kinds, label = np.unique(states, axis=0, return_inverse=True)
    lowest = np.full(len(kinds), np.inf)
    np.minimum.at(lowest, label.reshape(-1), u)
    share = np.exp(lowest.min() - lowest)
    return kinds, share / share.sum()


# --- the table ---


def title(figures: Figures) -> str:
    return f"{len(SMILES)} ligands, {figures['minutes']:g} minutes each"


def failure(figures: Figures) -> str | None:
    told = [
        f"{name}, {part}"
        for name, of in figures["molecules"].items()
        for part in PARTS
        if "failure" in of.get(part, {})
    ]
    return f"Failed: {'; '.join(told)}." if told else None


def table(figures: Figures) -> str:
    """Two molecules a row, then beside other methods."""
    found = figures["molecules"]
    return "\n\n".join(text for text in (_about(figures), _thirty(figures), _beside(found)) if text)


def _about(figures: Figures) -> str:
    found = figures["molecules"]
    made = [of["made"] for of in found.values() if "atoms" in of["made"]]
    seconds = [of["cpu_seconds"] for of in made]
    untrained = [name for name, of in found.items() if "trained" not in of and "atoms" in of["made"]]
    spans = f"{min(seconds):.0f} to {max(seconds):.0f} s of the processor" if made else "-"
    return (
        f"{len(made)} of {len(found)} were parametrised and have coordinates, in {spans} each. Not trained yet: "
        f"{', '.join(untrained) or 'none'}. Sage, NAGL's charges, GBn2 (OBC2 with phosphorus), "
        f"300 K; preset {figures['preset']}, "
        f"{figures['minutes']:g} minutes of one core for training, {figures['samples']:,} samples. t: torsions that "
        f"turn. All of it took {_span(found)} s of the processor. Basins: of the torsions, with ten effective "
        "samples and more, then all that "
        f"were seen. Missing: minima that an audit of {figures['audit']:g} s says have too little weight, and what is "
        f"due there. RDKit: {figures['embedded']} ETKDG conformers at minima of the same energy; torsions of heavy "
        "atoms; its shares are exp(-u) of the minima alone, other isomers of amides included. "
        "Populations: in the torsional basins with 1 % in either, "
        "how many differ by less than two standard errors, and half the sum of all differences; of the samples "
        "against exchanging walkers, against openmmtools, and of these two against each other."
    )


def _span(found: dict[str, Figures]) -> str:
    """Least and most seconds of the processor for parameters, coordinates, training, samples and audit."""
    parts = ("made", "trained", "sampled")
    all_of = [sum(of[part].get("cpu_seconds", 0.0) for part in parts) for of in found.values() if "sampled" in of]
    return f"{min(all_of):.0f} to {max(all_of):.0f}" if all_of else "-"


def _thirty(figures: Figures) -> str:
    """Those that were trained, and what failed."""
    begun = {name: of for name, of in figures["molecules"].items() if "trained" in of or "failure" in of["made"]}
    cells = [_row(_named(name, of, figures["minutes"]), of) for name, of in begun.items()]
    return _beside_each_other("| molecule, atoms, t | ESS | k-hat | basins | missing, % ", cells, 4)


def _beside_each_other(head: str, cells: Sequence[str], across: int) -> str:
    """A table of rows, each with `head`, so many side by side, in columns from top to bottom."""
    columns, high = head.count("|"), -(-len(cells) // across)
    cells = [*cells, *[" | " * (columns - 1)] * (high * across - len(cells))]
    rows = [f"| {' | '.join(cells[k::high])} |" for k in range(high)]
    return "\n".join([f"{head * across}|", "|" + "---|" * (columns * across), *rows])


def _named(name: str, of: Figures, minutes: float) -> str:
    """With its own minutes of training, where they are others."""
    own = of.get("trained", {}).get("minutes", minutes)
    return name if own == minutes else f"{name} ({own:g} min)"


def _row(name: str, of: Figures) -> str:
    made, trained, sampled = (of.get(part, {}) for part in ("made", "trained", "sampled"))
    size = f", {made['atoms']}, {made['torsions']}" if "atoms" in made else ""
    why = next((part["failure"] for part in (made, trained, sampled) if "failure" in part), None)
    if why or "ess" not in sampled:
        return f"{name}{size} | {(why or '').partition('. ')[0][:60]} | | | "
    audit = f"{sampled['missing']}, {100 * sampled['due']:.0f}" if sampled["missing"] else "0"
    basins = f"{sampled['enough']} of {sampled['basins']}"
    return f"{name}{size} | {sampled['ess']:.0f} | {sampled['khat']:.2f} | {basins} | {audit}"


def _beside(found: dict[str, Figures]) -> str:
    """What RDKit's conformers miss and what the samples do, and populations against dynamics."""
    rows = []
    for name, of in found.items():
        e, compared = of.get("etkdg", {}), of.get("compared", {})
        rdkit = [""] * 6
        if "ours" in e:
            rdkit = [str(e["ours"]), str(e["RDKit misses"]), f"{100 * e['weight RDKit misses']:.1f}"]
            rdkit += [str(e["of RDKit"]), str(e["ours misses"]), f"{100 * e['weight ours misses']:.1f}"]
        alone = of.get("replicas", {}).get("against walkers", {})
        pairs = [_agree(one) for one in (compared.get("walkers", {}), compared.get("replicas", {}), alone)]
        if any(rdkit + pairs):
            rows.append(" | ".join([name, *rdkit, *pairs]))
    head = "| | ours above 1 % | RDKit misses | weight, % | RDKit's above 1 % | ours misses | weight, % "
    head += "| populations: walkers | openmmtools | both "
    return _beside_each_other(head, rows, 2) if rows else ""


def _agree(of: Figures) -> str:
    return f"{of['within two errors']} of {len(of['rows'])}, {of['total variation']:.2f}" if "rows" in of else ""
