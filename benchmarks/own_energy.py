"""Energies that are no force field: a network of ANI's shape in batches and through PythonForce, and GFN2-xTB.

Energy and gradient, microseconds of processor time a structure, median of repeats. The network has random weights:
eight members of ANI-2x's depth over radial and angular functions of all atoms, in its single precision. Through OpenMM
it is the same network, one structure a call, in this process or in others, whose processor time is read from /proc: as
many idle cores do so many times as many a second. GFN2-xTB is tblite's by ASE, GFN1-xTB that of dxtb in batches, where
they are installed. Beside them the force field: translated to C, by PyTorch alone, and by OpenMM. What a training costs
with each is extrapolated: the evaluations of ten minutes of alanine dipeptide by the preset `laptop` (3.7e6, a raw ESS
near 75 %), each with its energy and the share of everything else, which a short training with the force field measures;
a short one with the network shows how far that holds.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import torch
from torch import Tensor, nn

from openmm_fab.energy.bridge import OpenMMEnergy
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.energy.given import from_ase, from_torch
from openmm_fab.energy.protocol import Energy
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.molecule.inputs import without_forces
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.train.settings import Budget

RADIAL, ANGULAR, MEMBERS = 16, 4, 8
HIDDEN = (160, 128, 96)  # ANI-2x's, of its smallest elements
SECONDS = 2.0
SLOW = {"python": 64, "processes": 64, "openmm": 64, "gfn2": 64, "gfn1": 16}  # structures, of fewer than a batch
PROCESSES = 2
BOHR = 0.0529177210903  # nm
TRAINING = 3.7e6  # evaluations of ten minutes, see main_job_alanine_dipeptide_laptop_*_10min
SHORT = {"force field": 60_000, "batched": 4_000}  # evaluations of the short trainings
ROWS = {
    "batched": "network, batched",
    "python": "network, PythonForce",
    "processes": f"network, PythonForce in {PROCESSES} processes, each core",
    "gfn1": "GFN1-xTB, dxtb, batched",
    "gfn2": "GFN2-xTB, tblite by ASE",
    "force field": "force field, translated, in C",
    "eager": "force field, translated, by PyTorch",
    "openmm": "force field, by OpenMM",
}


class Network(nn.Module):
    """Energies (n,), kJ/mol, of x (n, atoms, 3), nm: each atom's surroundings into networks of its element."""

    def __init__(self, elements: list[str]) -> None:
        super().__init__()
        torch.manual_seed(0)
        kinds = sorted(set(elements))
        self.kind = torch.tensor([kinds.index(e) for e in elements])
        self.other = nn.functional.one_hot(self.kind, len(kinds)).float()
        self.centres = torch.linspace(0.08, 0.5, RADIAL)
        width = (RADIAL + ANGULAR) * len(kinds)
        sizes = (width, *HIDDEN, 1)
        self.networks = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(*(layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.CELU(0.1))))
                for _ in range(MEMBERS)
            )
            for _ in kinds
        )
        self.apart = ~torch.eye(len(elements), dtype=torch.bool)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        vectors = (x[:, None] - x[:, :, None])[:, self.apart].view(len(x), n, n - 1, 3)
        r = vectors.norm(dim=-1)
        reach = 0.5 + 0.5 * torch.cos((r / 0.52).clamp(max=1.0) * torch.pi)
        other = self.other.expand(n, -1, -1)[self.apart].view(n, n - 1, -1)
        near = torch.exp(-1600.0 * (r[..., None] - self.centres) ** 2) * reach[..., None]
        radial = torch.einsum("bijf,ijk->bikf", near, other).flatten(2)
        units = vectors / r[..., None]
        square = (0.5 + 0.475 * torch.einsum("bijc,bikc->bijk", units, units)).square()
        pairs, angular = reach[..., None] * reach[:, :, None], []
        for _ in range(ANGULAR):  # even powers
            pairs = pairs * square
            angular.append(torch.einsum("bijk,ijs->bis", pairs, other))
        features = torch.cat([radial, *angular], -1)
        energy = x.new_zeros(len(x))
        for k, members in enumerate(self.networks):
            own = features[:, self.kind == k]
            energy = energy + sum(member(own) for member in members)[..., 0].sum(1) / MEMBERS
        return energy


class Single:
    """The network for OpenMM's PythonForce."""

    def __init__(self, elements: list[str]) -> None:
        self.network = Network(elements)

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        x = torch.from_numpy(state.getPositions(asNumpy=True)._value)[None].float().requires_grad_()
        energy = self.network(x)
        (gradient,) = torch.autograd.grad(energy.sum(), x)
        return energy.item(), -gradient[0].double().numpy()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system", default="alanine_dipeptide")
    parser.add_argument("--batch", type=int, default=256)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    system, batch = MolecularSystem.load(options.system), 16 if options.quick else options.batch
    noise = np.random.default_rng(0).normal(scale=0.003, size=(batch, system.n_atoms, 3))
    x = torch.from_numpy(system.positions + noise)
    added = without_forces(system.topology)
    added.addForce(openmm.PythonForce(Single(system.elements)))
    python = MolecularSystem.from_openmm(system.topology, added, system.positions, temperature=system.temperature)
    batched = from_torch(Network(system.elements), system, "kJ/mol")
    energies: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {"batched": batched.value_and_gradient}
    with OpenMMEnergy(python, platform="Reference", workers=1) as one:
        energies["python"] = one.value_and_gradient
        found, expected = batched.value_and_gradient(x), one.value_and_gradient(x)
        energies["force field"] = CompiledEnergy(system).value_and_gradient
        eager = CompiledEnergy(system)
        eager.native = False
        energies["eager"] = eager.value_and_gradient
        energies["openmm"] = OpenMMEnergy(system, workers=1).value_and_gradient
        try:
            from tblite.ase import TBLite

            energies["gfn2"] = from_ase(TBLite(method="GFN2-xTB", verbosity=0), system).value_and_gradient
        except ImportError:
            print("Without GFN2-xTB: pip install tblite ase.", file=sys.stderr)
        try:
            energies["gfn1"] = _dxtb(system)
        except ImportError:
            print("Without GFN1-xTB: pip install dxtb.", file=sys.stderr)
        seconds = 0.0 if options.quick else SECONDS
        microseconds = {name: _median(call, x[: SLOW.get(name, batch)], seconds) for name, call in energies.items()}
    if sys.platform == "linux":
        with OpenMMEnergy(python, platform="Reference", workers=PROCESSES, processes=True) as several:
            assert several._pool is not None
            pids = [process.pid for process in several._pool.processes]
            microseconds["processes"] = _median(several.value_and_gradient, x[: SLOW["processes"]], seconds, pids)
    return {
        "system": system.name,
        "batch": batch,
        "microseconds": microseconds,
        "ratio": round(microseconds["python"] / microseconds["batched"], 2),
        "training": _training(system, batched, microseconds, options.quick),
        "energies_apart": float((found[0] - expected[0]).abs().max()),
        "gradients_apart": float((found[1] - expected[1]).abs().max() / expected[1].abs().max()),
    }


def _training(system: MolecularSystem, network: Energy, microseconds: dict[str, float], quick: bool) -> dict[str, Any]:
    """Microseconds of everything else for each evaluation, by a short training; and a short one with the network, as
    it was predicted and measured, seconds."""
    found = {}
    for name, energy in (("force field", None), ("batched", network)):
        generator = BoltzmannGenerator(system, energy=energy)
        limit = 500 if quick else SHORT[name]
        begun = time.process_time()
        last = generator.train(Budget(evaluations=limit), progress=False, evaluate_every=1e9)[-1]
        found[name] = (time.process_time() - begun, last["evaluations"])
    seconds, evaluations = found["force field"]
    rest = max(0.0, seconds / evaluations * 1e6 - microseconds["force field"])
    seconds, evaluations = found["batched"]
    predicted = evaluations * (rest + microseconds["batched"]) / 1e6
    return {"rest": rest, "evaluations": evaluations, "seconds": seconds, "predicted": predicted}


def _dxtb(system: MolecularSystem) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """GFN1-xTB in PyTorch."""
    import dxtb

    numbers = torch.tensor([openmm.app.Element.getBySymbol(e).atomic_number for e in system.elements])

    def hartree(x: Tensor) -> Tensor:
        options = {"verbosity": 0, "batch_mode": 2}
        calculator = dxtb.Calculator(numbers.expand(len(x), -1), dxtb.GFN1_XTB, dtype=torch.float64, opts=options)
        return calculator.get_energy(x / BOHR, chrg=x.new_zeros(len(x), 1))

    return from_torch(hartree, system, "hartree").value_and_gradient


def _median(call: Callable[[Tensor], object], x: Tensor, least: float, pids: Sequence[int] = ()) -> float:
    """Microseconds a structure, of this process and others: the median of three repeats or more."""
    call(x[:2])
    times: list[float] = []
    while len(times) < 3 or sum(times) < least:
        begun = _spent(pids)
        call(x)
        times.append(_spent(pids) - begun)
    return round(float(np.median(times)) / len(x) * 1e6, 1)


def _spent(pids: Sequence[int]) -> float:
    """Processor time of this process and others, s."""
    fields = [(pid, *Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]) for pid in pids]
    ticks = sum(int(utime) + int(stime) for _, utime, stime in fields)
    return time.process_time() + (ticks / os.sysconf("SC_CLK_TCK") if pids else 0.0)


def section_name(figures: dict[str, Any]) -> str:
    return f"own_energy_{figures['system']}"


def title(figures: dict[str, Any]) -> str:
    return f"Energies that are no force field: {figures['system']}, batches of {figures['batch']}"


def table(figures: dict[str, Any]) -> str:
    training = figures["training"]
    rows = ["| energy and gradient | µs a structure | evaluations a second | a training, hours |", "|---|---|---|---|"]
    for name, value in figures["microseconds"].items():
        hours = TRAINING * (value + training["rest"]) / 3.6e9
        rows.append(f"| {ROWS[name]} | {value:,.1f} | {1e6 / value:,.0f} | {hours:.2g} |")
    return "\n".join(
        [
            *rows,
            "",
            f"Batched against PythonForce: {figures['ratio']} times as fast; energies at most "
            f"{figures['energies_apart']:.1e} kT apart, gradients {figures['gradients_apart']:.1e} of the largest "
            f"component. A training: {TRAINING:.2g} evaluations, {training['rest']:.0f} µs beside each energy, "
            f"extrapolated; {training['evaluations']:,.0f} with the network took {training['seconds']:.0f} s, "
            f"extrapolated {training['predicted']:.0f} s.",
        ]
    )
