"""Conformers that RDKit embeds, and dynamics from them: are they within reach of a molecule's flow?

Puckers of rings and sides of nitrogens are what coordinates made from one minimum miss. Sage's parameters with
Gasteiger charges, so that `pip install ".[ligand]"` is all it takes. Dynamics is Cartesian, of many walkers on the
translated energy. A molecule's row is kept in --folder and not made again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import torch

from openmm_fab.coordinates.internal import InternalCoordinates
from openmm_fab.coordinates.settings import CoordinateSettings
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.energy.dynamics import LangevinMiddle, Motion, repartitioned
from openmm_fab.flow.coupling import CouplingFlow
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.molecule.graph import BondGraph
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.tools.vectors import torsion

from .runner import Skip

SMILES = {
    "cyclohexene": "C1CCC=CC1",
    "piperidine": "C1CCNCC1",
    "2-hydroxytetrahydropyran": "O[C@@H]1CCCCO1",
    "2-dimethylaminoethanol": "CN(C)CCO",
    "methylcyclohexane": "CC1CCCCC1",
    "tetrahydrofuran": "C1CCOC1",
    "cyclopentylamine": "NC1CCCC1",
    "cycloheptane": "C1CCCCCC1",
    "N-acetylmorpholine": "CC(=O)N1CCOCC1",
    "N-methylaniline": "CNc1ccccc1",
    "N-methylmethanesulfonamide": "CS(=O)(=O)NC",
    "beta-glucose": "OC[C@H]1O[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O",
    "methyl galactoside": "CO[C@@H]1O[C@H](CO)[C@H](O)[C@H](O)[C@H]1O",
    "uridine": "O=c1ccn([C@@H]2O[C@H](CO)[C@@H](O)[C@H]2O)c(=O)[nH]1",
    "quinolizidine": "C1CCN2CCCC[C@@H]2C1",
    "tropane": "CN1[C@H]2CC[C@@H]1CCC2",
    "spiro[4.5]decane": "C1CCC2(C1)CCCCC2",
    "nicotine": "CN1CCC[C@H]1c1cccnc1",
    "1-methyl-4-phenylpiperazine": "CN1CCN(CC1)c1ccccc1",
    "diazepam": "CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc21",
    "cocaine": "CN1[C@H]2CC[C@@H]1[C@H]([C@H](C2)OC(=O)c3ccccc3)C(=O)OC",
    "fentanyl": "CCC(=O)N(C1CCN(CC1)CCc1ccccc1)c1ccccc1",
    "morphine": "CN1CC[C@]23c4c5ccc(O)c4O[C@H]2[C@@H](O)C=C[C@H]3[C@H]1C5",
    "testosterone": "C[C@]12CC[C@H]3[C@@H](CCC4=CC(=O)CC[C@]34C)[C@@H]1CC[C@@H]2O",
    "imatinib": "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(n1)-c1cccnc1",
    "cimetidine": "C/N=C(/NC#N)NCCSCc1nc[nH]c1C",
    "tofacitinib": "C[C@@H]1CCN(C[C@@H]1N(C)c1ncnc2[nH]ccc12)C(=O)CC#N",
    "sucrose": "OC[C@H]1O[C@@](CO)(O[C@H]2O[C@H](CO)[C@@H](O)[C@H](O)[C@H]2O)[C@@H](O)[C@@H]1O",
    "adenosine": "Nc1ncnc2n(cnc12)[C@@H]1O[C@H](CO)[C@@H](O)[C@H]1O",
    "thymidine": "Cc1cn([C@H]2C[C@H](O)[C@@H](CO)O2)c(=O)[nH]c1=O",
    "penicillin G": "CC1(C)S[C@@H]2[C@H](NC(=O)Cc3ccccc3)C(=O)N2[C@H]1C(=O)[O-]",
    "captopril": "C[C@H](CS)C(=O)N1CCC[C@H]1C(=O)[O-]",
    "lidocaine": "CCN(CC)CC(=O)Nc1c(C)cccc1C",
    "ketamine": "CN[C@]1(CCCCC1=O)c1ccccc1Cl",
    "haloperidol": "OC1(CCN(CCCC(=O)c2ccc(F)cc2)CC1)c1ccc(Cl)cc1",
    "cyclooctane": "C1CCCCCCC1",
    "12-crown-4": "C1COCCOCCOCCO1",
    "oxacyclododecan-2-one": "O=C1CCCCCCCCCCO1",
    "AMP": "Nc1ncnc2c1ncn2[C@@H]1O[C@H](COP(=O)([O-])[O-])[C@@H](O)[C@H]1O",
    "alanine dipeptide": "CC(=O)N[C@@H](C)C(=O)NC",
    "N-acetylproline methylamide": "CC(=O)N1CCC[C@H]1C(=O)NC",
    "Ala-Phe-Gly": "C[C@H]([NH3+])C(=O)N[C@@H](Cc1ccccc1)C(=O)NCC(=O)[O-]",
    "2,3-butadien-1-ol": "C=C=CCO",
    "cyclo-pentaglycine": "O=C1CNC(=O)CNC(=O)CNC(=O)CNC(=O)CN1",
    "cyclo-penta-L-alanine": "C[C@@H]1NC(=O)[C@H](C)NC(=O)[C@H](C)NC(=O)[C@H](C)NC(=O)[C@H](C)NC1=O",
}
HIGH = 6.0  # kT above the lowest conformer; what is higher holds little
KELVIN = (300.0, 600.0)
WALKERS, SAVED, STEP, HYDROGEN = 64, 0.5, 0.002, 3.0  # ps between frames and of a step; dalton
WORST = 3  # coordinates that are named


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--conformers", type=int, default=50, help="of each molecule that RDKit embeds")
    parser.add_argument("--picoseconds", type=float, default=5.0, help="of dynamics of each of 64 walkers")
    parser.add_argument("--molecules", nargs="+", default=list(SMILES), choices=list(SMILES), metavar="NAME")
    parser.add_argument("--folder", type=Path, default=Path("runs/conformers"), help="of what is done already")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One molecule and few conformers if quick."""
    names = options.molecules[:1] if options.quick else options.molecules
    n, length = (8, 1.0) if options.quick else (options.conformers, options.picoseconds)
    folder = options.folder / ("quick" if options.quick else "")
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name in names:
        kept = folder / f"{name}.json"
        if not kept.exists():
            try:
                system = MolecularSystem.from_smiles(SMILES[name], name=name, charges="gasteiger")
            except ImportError as error:
                raise Skip(f"{error}") from error
            row = {"molecule": name, **of(SMILES[name], system, minimised(SMILES[name], system, n), length)}
            kept.write_text(json.dumps(row), "utf-8")
        found.append(json.loads(kept.read_text("utf-8")))
        print(found[-1], flush=True)
    return {"conformers": options.conformers, "picoseconds": options.picoseconds, "molecules": found}


def embedded(smiles: str, system: MolecularSystem, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Minima of OpenMM's energy, (k, n_atoms, 3), nm, below n conformers that RDKit embeds, and u of each, kT."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    context = openmm.Context(
        system.system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("CPU"), {"Threads": "1"}
    )
    x, u = [], []
    for k in AllChem.EmbedMultipleConfs(molecule, n, randomSeed=1):
        context.setPositions(0.1 * molecule.GetConformer(k).GetPositions())
        openmm.LocalEnergyMinimizer.minimize(context, 1.0, 2000)
        state = context.getState(positions=True, energy=True)
        x.append(state.getPositions(asNumpy=True)._value)
        u.append(state.getPotentialEnergy()._value / system.kT)
    return np.array(x), np.array(u)


def minimised(smiles: str, system: MolecularSystem, n: int) -> np.ndarray:
    """Those of `embedded` up to `HIGH` above the lowest."""
    x, u = embedded(smiles, system, n)
    return x[u < u.min() + HIGH]


def frames(system: MolecularSystem, energy: CompiledEnergy, x: np.ndarray, kelvin: float, length: float) -> np.ndarray:
    """Structures (k, n_atoms, 3), nm, of `length` ps of Langevin dynamics of `WALKERS` walkers that begin in x, without
    the first fifth."""
    rng = torch.Generator().manual_seed(1)
    start = torch.as_tensor(x)[torch.arange(WALKERS) % len(x)]
    masses = torch.as_tensor(repartitioned(system, HYDROGEN))
    dynamics = LangevinMiddle(STEP, 5.0, system.kT, masses)
    temperature = torch.full((WALKERS,), kelvin / system.temperature, dtype=torch.float64)
    v = dynamics.thermal(temperature) * torch.randn(start.shape, generator=rng, dtype=torch.float64)
    motion, found = Motion(start, v, *energy.value_and_gradient(start)), []
    for _ in range(round(length / SAVED)):
        motion = dynamics(motion, energy.value_and_gradient, round(SAVED / STEP), temperature, rng)
        found.append(motion.x)
    return torch.cat(found[len(found) // 5 :]).numpy()


def of(smiles: str, system: MolecularSystem, x: np.ndarray, length: float) -> dict[str, Any]:
    """Shares of the conformers x (n, n_atoms, 3), and of dynamics from them, that are out of reach, with the search for
    minima and without; and the coordinates that most are out of reach by."""
    x = relabelled(smiles, x, system.minimum, system.graph)
    energy = CompiledEnergy(system)
    found: dict[str, Any] = {"atoms": system.n_atoms, "conformers": len(x)}
    start = time.process_time()
    moving = {f"beyond at {kelvin:g} K": frames(system, energy, x, kelvin, length) for kelvin in KELVIN}
    found |= {"seconds of dynamics": time.process_time() - start, "frames": len(moving[f"beyond at {KELVIN[0]:g} K"])}
    for label, settings in (
        ("search", CoordinateSettings(omega="sample")),
        ("one minimum", CoordinateSettings(omega="sample", puckers=0.0, nitrogens="as_given")),
    ):
        start = time.process_time()
        c = InternalCoordinates.from_system(system, settings, energy=energy)
        seconds = time.process_time() - start
        modes = [m.of_flow() for m in c.modes]
        flow = CouplingFlow(c.periodic, FlowSettings(layers=2, hidden=4, torsion_layers=2), modes=modes)
        for what, structures in {"beyond": x, **moving}.items():
            beyond = c.to_internal(torch.as_tensor(structures))[0].abs() > flow.reach
            found[f"{what}, {label}"] = float(beyond.any(1).double().mean())
            worst = Counter(dict(enumerate(beyond.double().mean(0).tolist()))).most_common(WORST)
            found[f"{what}, by, {label}"] = {c.named(k): share for k, share in worst if share > 0}
        found[f"seconds, {label}"] = seconds
        found[f"minima, {label}"] = 1 if c.minima is None else len(c.minima.energies)
    return found


def relabelled(smiles: str, x: np.ndarray, like: np.ndarray, graph: BondGraph) -> np.ndarray:
    """Structures x (n, n_atoms, 3) under labels of equal atoms and arms by which all hands are those of `like`.

    RDKit's labels are free; one for which there are none, which would be another stereoisomer, stays as it is.
    """
    from rdkit import Chem

    heavy = Chem.MolFromSmiles(smiles)
    for atom in heavy.GetAtoms():
        atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    exchanges = heavy.GetSubstructMatches(heavy, uniquify=False, useChirality=False, maxMatches=500)
    hydrogens = [[k for k in around if graph.elements[k] == "H"] for around in graph.neighbours]
    centres = [around for around in graph.neighbours if len(around) == 4]
    expected = _sides(like[None], centres)[0]
    found = []
    for one in x:
        best = one
        for exchange in exchanges:
            order = np.arange(len(one))
            for here, there in enumerate(exchange):
                order[[here, *hydrogens[here]]] = [there, *hydrogens[there]]
            trial = _ends_as(one[order][None], like, graph)
            if (_sides(trial, centres)[0] == expected).all():
                best = trial[0]
                break
        found.append(best)
    return np.array(found)


def _sides(x: np.ndarray, centres: list[list[int]]) -> np.ndarray:
    """On which side the four neighbours of each centre lie, (n, centres)."""
    a, b, c, d = (x[:, [around[k] for around in centres]] for k in range(4))
    return np.einsum("nck,nck->nc", np.cross(b - a, c - a), d - a) > 0


def _ends_as(x: np.ndarray, like: np.ndarray, graph: BondGraph) -> np.ndarray:
    """x (n, n_atoms, 3) with equal atoms at CH2, CH3 or SO2, at flat NH2 and =CH2, on the sides that they have in
    `like`."""
    x = x.copy()
    for k, around in enumerate(graph.neighbours):
        ends = [i for i in around if len(graph.neighbours[i]) == 1]
        equal = [[i, j] for i in ends for j in ends if i < j and graph.elements[i] == graph.elements[j]]
        if len(around) == 4 and equal:
            wrong = _sides(x, [around])[:, 0] != _sides(like[None], [around])[:, 0]
        elif len(around) == 3 and equal and (rest := set(around) - set(equal[0])):
            four = [equal[0][0], k, *_onwards(graph, k, rest.pop())]
            wrong = _cis(x, four) != _cis(like[None], four) if len(four) == 4 else np.zeros(len(x), dtype=bool)
        else:
            continue
        x[np.ix_(wrong, equal[0])] = x[np.ix_(wrong, equal[0][::-1])]
    return x


def _onwards(graph: BondGraph, last: int, atom: int) -> list[int]:
    """The next atoms after `last`, along the chain by `atom`, between which a torsion is defined."""
    while len(graph.neighbours[atom]) == 2:  # of an allene; a bent one is as good
        last, atom = atom, next(i for i in graph.neighbours[atom] if i != last)
    others = [i for i in graph.neighbours[atom] if i != last]
    return [atom, others[0]] if others else []


def _cis(x: np.ndarray, four: list[int]) -> np.ndarray:
    """Bool (n,): torsions of less than 90 degrees."""
    return torsion(*torch.as_tensor(x[:, four]).unbind(1)).abs().numpy() < np.pi / 2


def title(figures: dict[str, Any]) -> str:
    return "Conformers within reach"


def table(figures: dict[str, Any]) -> str:
    rows = figures["molecules"]
    what = ["beyond", *(f"beyond at {kelvin:g} K" for kelvin in KELVIN)]

    def percent(row: dict[str, Any], which: str) -> str:
        return " / ".join(f"{100 * row[f'{w}, {which}']:.1f}".removesuffix(".0") for w in what)

    def worst(row: dict[str, Any], w: str) -> str:
        return "; ".join(f"{name.replace('LIG1:', '')}" for name in list(row[f"{w}, by, search"])[:1])

    left = {
        w: [f"{r['molecule']} {100 * r[f'{w}, search']:.1f} ({worst(r, w)})" for r in rows if r[f"{w}, search"] > 0]
        for w in what[:2]
    }
    hot = sorted((r[f"{what[2]}, search"], r["molecule"]) for r in rows)
    middle = 100 * hot[len(hot) // 2][0]
    each = [
        f"{r['molecule']} {percent(r, 'search')} ({percent(r, 'one minimum')}; {r['minima, search']}; "
        f"{r['seconds, search']:.1f} s)"
        for r in rows
    ]
    return (
        f"{len(rows)} molecules. Conformers: up to {figures['conformers']} that RDKit embeds, at minima of OpenMM's "
        f"energy no more than {HIGH:g} kT above the lowest. Frames: of {WALKERS} walkers that begin there, "
        f"{figures['picoseconds']:g} ps each, at {KELVIN[0]:g} K and at {KELVIN[1]:g} K. Beyond: a coordinate outside "
        "of the splines' range, where the flow's density falls as that of its base. Amides are sampled.\n\n"
        f"Conformers beyond, %: {', '.join(left[what[0]]) or 'none'}. Frames at {KELVIN[0]:g} K beyond, %: "
        f"{', '.join(left[what[1]]) or 'none'}. At {KELVIN[1]:g} K, where puckers that are left out for being higher "
        f"are reached: {middle:.1f} % in the middle of the molecules, most of {hot[-1][1]}, {100 * hot[-1][0]:.1f} %."
        f"\n\nEach, in % of conformers / frames at {KELVIN[0]:g} K / at {KELVIN[1]:g} K (without the search for "
        "puckers and sides; minima of rings and nitrogens; seconds of the processor to make coordinates): "
        f"{', '.join(each)}."
    )
