"""Populations of puckers, nitrogen sides and rotamers: are they those of parallel tempering by OpenMM alone, or exact?

A short training each, and a reference that has nothing of this package but OpenMM's own System: replicas at several
temperatures, LangevinMiddleIntegrator, exchanges. Sage's parameters with Gasteiger charges, so that
`pip install ".[ligand]"` is all it takes. A molecule's reference and its row are kept in --folder and not made again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm

from openmm_fab.comparison.comparing import compare
from openmm_fab.comparison.verdicts import DISAGREE
from openmm_fab.coordinates.settings import CoordinateSettings
from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.presets import PRESETS
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.weights import rule_of_three

from .budgets import ProcessorTime
from .runner import Skip

KB = 0.00831446261815324  # kJ/mol/K
REPLICAS, SWAP, FRICTION = 5, 0.25, 5.0  # temperatures; ps between exchanges; 1/ps
STEP, HYDROGEN = 0.002, 4.0  # ps; dalton: masses do not matter to populations
EQUILIBRATION, BLOCKS = 0.1, 10  # share left out; blocks for the error
FAR = 2.0  # standard errors, above which a share is named apart
SAMPLES, AUDIT = 20_000, 10 / 60  # of the flow; minutes


@dataclass(frozen=True)
class Share:
    """Share of the structures whose torsion, of the first four atoms that a SMARTS pattern finds, lies between two
    angles in degrees; `exact` where symmetry says what it is."""

    pattern: str
    low: float
    high: float
    exact: float | None = None

    def inside(self, x: np.ndarray, smiles: str) -> np.ndarray:
        """Bool (n,) of structures x (n, n_atoms, 3)."""
        from rdkit import Chem

        molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
        atoms = molecule.GetSubstructMatches(Chem.MolFromSmarts(self.pattern), useChirality=False)[0]
        topology = mdtraj.Topology()
        residue = topology.add_residue("MOL", topology.add_chain())
        for atom in molecule.GetAtoms():
            topology.add_atom(atom.GetSymbol(), mdtraj.element.get_by_symbol(atom.GetSymbol()), residue)
        phi = mdtraj.compute_dihedrals(mdtraj.Trajectory(x, topology), [atoms], periodic=False)[:, 0]
        return (np.degrees(phi) - self.low) % 360 < self.high - self.low


@dataclass(frozen=True)
class Case:
    smiles: str
    shares: dict[str, Share]
    temperature: float = 300.0
    hottest: float = 900.0
    coordinates: dict[str, Any] = field(default_factory=dict)


AXIAL, FLAT = (-120.0, 120.0), (-90.0, 90.0)
SAMPLE = {"omega": "sample"}
CASES = {
    "2-hydroxytetrahydropyran": Case("O[C@@H]1CCCCO1", {"axial": Share("[O;!R][C;R][O;R][C;R]", *AXIAL)}),
    "2-methoxytetrahydropyran": Case("CO[C@@H]1CCCCO1", {"axial": Share("[O;!R][C;R][O;R][C;R]", *AXIAL)}),
    "cyclohexene": Case("C1CCC=CC1", {"half-chair": Share("[CH2][CH2][CH2][CH2]", 0, 180, 0.5)}),
    "piperidine": Case(
        "C1CCNCC1",
        {"chair": Share("[CH2][CH2][CH2][CH2]", 0, 180, 0.5), "axial N-H": Share("[H]N[CH2][CH2]", *AXIAL)},
    ),
    "2-dimethylaminoethanol": Case("CN(C)CCO", {"N-C-C-O gauche": Share("NCCO", *AXIAL)}),
    "methylcyclohexane": Case("CC1CCCCC1", {"axial": Share("[CH3][CH1][CH2][CH2]", *AXIAL)}),
    "tetrahydrofuran": Case(
        "C1CCOC1",
        {"C-C-C-C > 0": Share("[CH2][CH2][CH2][CH2]", 0, 180, 0.5), "< 30°": Share("[CH2][CH2][CH2][CH2]", -30, 30)},
    ),
    "tetrahydrofuran, 200 K": Case(
        "C1CCOC1",
        {"C-C-C-C > 0": Share("[CH2][CH2][CH2][CH2]", 0, 180, 0.5), "< 30°": Share("[CH2][CH2][CH2][CH2]", -30, 30)},
        temperature=200.0,
    ),
    "N-acetylproline methylamide": Case(
        "CC(=O)N1CCC[C@H]1C(=O)NC",
        {"chi1 > 0": Share("[N;R][CH1][CH2][CH2]", 0, 180), "psi": Share("[N;R][CH1]C[N;!R]", -90, 90)},
        coordinates=SAMPLE,  # hot replicas cross it
    ),
    "beta-glucose": Case(
        "OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O",
        {
            "C-C-O-C > 0": Share("[CH1;!$(C[CH2])][CH1;$(C(O)O)][O;R][CH1;$(C[CH2])]", 0, 180),
            "hydroxymethyl at -60°": Share("[O;R][C;R][CH2][OH]", -120, 0),
            "at 60°": Share("[O;R][C;R][CH2][OH]", 0, 120),
            "at 180°": Share("[O;R][C;R][CH2][OH]", 120, 240),
        },
    ),
    "N-acetylmorpholine": Case("CC(=O)N1CCOCC1", {"chair": Share("N[CH2][CH2]O", 0, 180, 0.5)}),
    "biphenyl": Case("c1ccccc1-c1ccccc1", {"ortho": Share("[cH]c-c[cH]", *FLAT, 0.5)}),
    "N-methylaniline": Case("CNc1ccccc1", {"ortho": Share("[CH3]Nc[cH]", *FLAT, 0.5)}),
    "N-methylurea": Case("CNC(N)=O", {"cis": Share("[CH3]NC[NH2]", *FLAT)}, hottest=1500.0, coordinates=SAMPLE),
    "N-methylacetamide": Case("CC(=O)NC", {"cis": Share("[CH3]NC[CH3]", *FLAT)}, hottest=1500.0, coordinates=SAMPLE),
    "N-methylmethanesulfonamide": Case(
        "CS(=O)(=O)NC",
        {"C-S-N-C > 0": Share("[CH3]SN[CH3]", 0, 180, 0.5), "anti": Share("[CH3]SN[CH3]", 120, 240)},
    ),
    "2,3-butadien-1-ol": Case("C=C=CCO", {"syn": Share("[C;$(C=C)]=[CH1][CH2][OH]", -60, 60)}),
    "tropane": Case("CN1[C@H]2CC[C@@H]1CCC2", {"axial methyl": Share("[CH3]N[CH1][CH2;r6]", *AXIAL)}),
    "1-methyl-4-phenylpiperazine": Case("CN1CCN(CC1)c1ccccc1", {"axial methyl": Share("[CH3]N[CH2][CH2]", *AXIAL)}),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--molecules", nargs="+", default=list(CASES), choices=list(CASES), metavar="NAME")
    parser.add_argument("--minutes", type=float, default=1.0, help="of training, each, of the processor")
    parser.add_argument("--picoseconds", type=float, default=1600.0, help="of each replica of the reference")
    parser.add_argument("--runs", type=int, default=1, help="independent ones of the reference, so long each")
    parser.add_argument("--folder", type=Path, default=Path("runs/populations"), help="of what is done already")
    parser.add_argument("--references", action="store_true", help="make the references only")
    parser.add_argument("--note", default="", help="a sentence on the machine, such as what else ran there")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One molecule, a few seconds each, if quick."""
    names, minutes, length = options.molecules, options.minutes, options.picoseconds
    if options.quick:
        names, minutes, length = ["cyclohexene"], 0.1, 5.0
    folder = options.folder / ("quick" if options.quick else "")
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name in names:
        case = CASES[name]
        try:
            about = {"charges": "gasteiger", "solvent": "none", "temperature": case.temperature}
            system = MolecularSystem.from_smiles(case.smiles, name=name, **about)
        except ImportError as error:
            raise Skip(f"{error}") from error
        row = folder / f"{name}.json"
        if not row.exists() or options.references:
            paths = [folder / (f"{name}, {k}.npz" if k else f"{name}.npz") for k in range(options.runs)]
            made = [reference(system, case, length, path, seed) for seed, path in enumerate(paths)]
            runs, seconds = [x for x, _ in made if x is not None], sum(each for _, each in made)
            if options.references:
                shares = {k: estimate([s.inside(x, case.smiles) for x in runs]) for k, s in case.shares.items() if runs}
                print(name, f"{seconds:.0f} s", shares, flush=True)
                continue
            figures = {"reference seconds": seconds, "runs": len(runs), **of(system, case, runs, minutes)}
            figures = {"molecule": name, "atoms": system.n_atoms, "minutes": minutes, **figures}
            row.write_text(json.dumps(figures), "utf-8")
        found.append(json.loads(row.read_text("utf-8")))
        print(found[-1], flush=True)
    if options.references:
        raise Skip(f"the references alone were asked for; they are in {folder}")
    return {"picoseconds": length, "note": options.note, "molecules": found}


def reference(
    system: MolecularSystem, case: Case, length: float, path: Path, seed: int = 0
) -> tuple[np.ndarray | None, float]:
    """Structures (n, n_atoms, 3), nm, at the temperature of the case, in order of time, and seconds of the processor;
    none where symmetry says it all."""
    if all(share.exact is not None for share in case.shares.values()):
        return None, 0.0
    if not path.exists():
        start = time.process_time()
        x = tempered(system.system, system.minimum, case.temperature, case.hottest, length, seed)
        np.savez(path, x=x, seconds=time.process_time() - start)
    with np.load(path) as file:
        return file["x"], float(file["seconds"])


def tempered(
    system: openmm.System, x: np.ndarray, kelvin: float, hottest: float, length: float, seed: int = 0
) -> np.ndarray:
    """Structures (n, n_atoms, 3), nm, of the coldest of `REPLICAS` replicas after every exchange, `length` ps each."""
    ladder = kelvin * (hottest / kelvin) ** (np.arange(REPLICAS) / (REPLICAS - 1))
    system = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    for k in range(system.getNumParticles()):
        system.setParticleMass(k, max(HYDROGEN, system.getParticleMass(k)._value))
    platform, random = openmm.Platform.getPlatformByName("Reference"), np.random.default_rng(seed)
    contexts = []
    for k, temperature in enumerate(ladder):
        integrator = openmm.LangevinMiddleIntegrator(temperature, FRICTION, STEP)
        integrator.setRandomNumberSeed(1 + k + REPLICAS * seed)
        contexts.append(openmm.Context(system, integrator, platform))
        contexts[-1].setPositions(x)
        contexts[-1].applyConstraints(1e-6)
        contexts[-1].setVelocitiesToTemperature(temperature, 1 + k)
    found = []
    for n in range(round(length / SWAP)):
        states = []
        for context in contexts:
            context.getIntegrator().step(round(SWAP / STEP))
            states.append(context.getState(positions=True, energy=True))
        u, order = np.array([s.getPotentialEnergy()._value for s in states]), list(range(REPLICAS))
        for k in range(n % 2, REPLICAS - 1, 2):
            gain = (1 / ladder[k] - 1 / ladder[k + 1]) / KB * (u[order[k]] - u[order[k + 1]])
            if math.log(random.random()) < gain:
                order[k], order[k + 1] = order[k + 1], order[k]
        for k, (context, other) in enumerate(zip(contexts, order, strict=True)):
            if other != k:
                context.setPositions(states[other].getPositions())
                context.setVelocitiesToTemperature(ladder[k], int(random.integers(1, 2**31)))
        found.append(states[order[0]].getPositions(asNumpy=True)._value.astype(np.float32))
    return np.array(found[int(EQUILIBRATION * len(found)) :])


def estimate(runs: Sequence[np.ndarray]) -> tuple[float, float]:
    """Share in runs of equal length, and its standard error: by the scatter of `BLOCKS` blocks of time of each, or of
    the runs, whichever is greater.

    A structure keeps its pucker from one temperature to another, so that blocks of one run are not independent.
    """
    blocks = np.array([[part.mean() for part in np.array_split(run.astype(float), BLOCKS)] for run in runs])
    of_blocks = float(blocks.std(1, ddof=1).mean() / math.sqrt(blocks.size))
    of_runs = float(blocks.mean(1).std(ddof=1) / math.sqrt(len(runs))) if len(runs) > 1 else 0.0
    return float(blocks.mean()), max(of_blocks, of_runs) or rule_of_three(blocks.size)


def weighted(inside: np.ndarray, weights: np.ndarray, effective: float) -> tuple[float, float]:
    """Share of the weight and its standard error."""
    p = float(weights @ inside)
    error = math.sqrt(float((weights**2) @ (inside - p) ** 2))
    return p, error or rule_of_three(effective)


def of(system: MolecularSystem, case: Case, runs: Sequence[np.ndarray], minutes: float) -> dict[str, Any]:
    """Shares by a generator trained for so long, and by the structures (n, n_atoms, 3) of each run of the
    reference, if any."""
    settings = replace(PRESETS["smoke"].settings, coordinates=CoordinateSettings(**case.coordinates))
    start = time.perf_counter()
    generator = BoltzmannGenerator(system, settings, seed=0)
    setup = time.perf_counter() - start
    generator.train(ProcessorTime(minutes=minutes), progress=False)
    ensemble = generator.sample(SAMPLES)
    shares = {}
    for name, share in case.shares.items():
        ours = weighted(share.inside(ensemble.x.astype(np.float32), case.smiles), ensemble.weights, ensemble.ess)
        theirs = estimate([share.inside(x, case.smiles) for x in runs]) if runs else (math.nan, math.nan)
        against, error = theirs if share.exact is None else (share.exact, 0.0)
        shares[name] = {
            "share": ours[0],
            "error": ours[1],
            "reference": theirs[0],
            "reference error": theirs[1],
            "exact": share.exact,
            "z": (ours[0] - against) / math.hypot(ours[1], error),
        }
    compared: list[Any] = []
    if runs:
        frames = mdtraj.Trajectory(np.concatenate(runs), system.md_topology)
        comparison = compare(ensemble, Ensemble.from_mdtraj(frames, system))
        compared = [*comparison.basins, *comparison.torsions]
    audit = generator.audit(ProcessorTime(minutes=AUDIT), ensemble)
    return {
        "setup": setup,
        "ess": ensemble.ess_fraction,
        "khat": ensemble.khat,
        "log_z": ensemble.log_z.value,
        "log_z error": ensemble.log_z.error,
        "shares": shares,
        "compared": len(compared),
        "disagree": [part.name for part in compared if part.verdict == DISAGREE],
        "audit": audit.counts,
        "missing": audit.missing_in_words,
    }


def title(figures: dict[str, Any]) -> str:
    return "Populations of puckers, sides and rotamers"


def table(figures: dict[str, Any]) -> str:
    beyond, within = [], []
    for row in figures["molecules"]:
        for name, s in row["shares"].items():
            exact = s["exact"] is not None
            told = f"{100 * s['exact']:g}, exact" if exact else _percent(s["reference"], s["reference error"])
            found = f"{row['molecule']}: {name} {_percent(s['share'], s['error'])} ({told}"
            if abs(s["z"]) > FAR:
                beyond.append(f"{found}, z {s['z']:.1f}, ESS {100 * row['ess']:.1f} %, k-hat {row['khat']:.2f})")
            else:
                within.append(f"{found})")
    z = np.array([s["z"] for row in figures["molecules"] for s in row["shares"].values()])
    wrong = {row["molecule"]: row["disagree"] for row in figures["molecules"] if row["disagree"]}
    missing = [row["molecule"] for row in figures["molecules"] if row["missing"]]
    named = "; ".join(f"{name} ({len(which)})" for name, which in wrong.items())
    minutes = sorted({row["minutes"] for row in figures["molecules"]})
    runs = [f"{row['molecule']} {row['runs']}" for row in figures["molecules"] if row.get("runs", 1) > 1]
    several = f"of the runs, where there are several ({', '.join(runs) or 'nowhere'})"
    lasted = " to ".join(f"{m:g}" for m in dict.fromkeys((minutes[0], minutes[-1])))
    return (
        f"{lasted} min of one core for training each, preset smoke, {SAMPLES:,} samples, no solvent. "
        f"{figures['note']} Reference: {REPLICAS} replicas of {figures['picoseconds']:g} ps by OpenMM alone, "
        f"error by {BLOCKS} blocks or {several}, or exact by symmetry. z: difference over its error, rms "
        f"{np.sqrt((z**2).mean()):.2f}, largest {np.abs(z).max():.1f}. "
        f"`compare` with the reference: {sum(row['compared'] for row in figures['molecules'])} basins and torsions, "
        f"disagree: {named or 'none'}. States missing, by an audit: {', '.join(missing) or 'none'}. Shares in %, the "
        f"reference's in parentheses. |z| above {FAR:g}: {'; '.join(beyond) or 'none'}. Others: {'; '.join(within)}."
    )


def _percent(share: float, error: float) -> str:
    digits = max(0, 1 - math.floor(math.log10(100 * error)))
    return f"{100 * share:.{digits}f} ± {100 * error:.{digits}f}"
