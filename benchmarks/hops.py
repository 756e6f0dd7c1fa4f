"""Transitions of alanine dipeptide between phi < 0 and phi > 0: Langevin dynamics with and without a flow's proposals.

One molecule by openmmtools (`LangevinDynamicsMove` alone, and in a sequence with `FlowProposalMove`), and many walkers
at once (Langevin dynamics on the translated energy, and the chains of `reference(system, "hybrid")`). Each runs S
seconds on the wall N times; what is made once (Contexts, fusing, a step size) comes before the clock starts.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OPENMM_CPU_THREADS", "1")  # read when OpenMM is loaded; 22 atoms are too few for more

import mdtraj
import numpy as np
from openmm import unit

import openmm_fab as fab
from openmm_fab.free_energy.estimators import import_pymbar
from openmm_fab.md.hybrid import HybridWalkers
from openmm_fab.md.settings import HybridSettings, WalkersSettings
from openmm_fab.md.walkers import Walkers
from openmm_fab.molecule.torsions import named_torsions

from .runner import Skip

LEFT, RIGHT = (-2.6, -0.9), (0.5, 1.8)  # cores, rad: a flicker at the edge of one is no transition
PROPOSALS, STEPS = 20, 50  # of a round
ROUND_PS = 0.05
ENOUGH = 3.0  # none in t: below 3 / t, at 95 %

# Rounds without end: positions of phi's four atoms (walkers, 4, 3), energies evaluated so far, acceptance so far.
Rounds = Iterator[tuple[np.ndarray, int, float]]


@dataclass(frozen=True)
class Run:
    """What one repeat gave."""

    transitions: int
    seconds: float
    evaluations: int
    acceptance: float


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=40.0, help="on the wall, of each run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--walkers", type=int, default=256)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """2 s a run, few walkers and nothing fused if quick."""
    try:
        import_pymbar()  # before openmmtools does, which lets it greet
        import openmmtools  # noqa: F401
    except ImportError as error:
        raise Skip(f"openmmtools is not importable ({error}); pip install 'openmm_fab[md]'.") from error
    seconds, walkers = (2.0, 64) if options.quick else (options.seconds, options.walkers)
    generator = fab.load_pretrained("alanine_dipeptide")
    found = {}
    for name, rounds in _methods(generator, walkers, not options.quick).items():
        found[name] = summary([timed(rounds(seed), seconds) for seed in range(options.repeats)])
        print(_row(name, found[name]), flush=True)
    return {"seconds": seconds, "repeats": options.repeats, "methods": found}


def title(figures: dict[str, Any]) -> str:
    return "Transitions of alanine dipeptide"


def timed(rounds: Rounds, seconds: float) -> Run:
    """Transitions in so many seconds of a method; angles are computed after the clock has stopped."""
    x, before, _ = next(rounds)
    frames, start = [x], time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        x, evaluations, acceptance = next(rounds)
        frames.append(x)
    return Run(count_transitions(_angles(np.array(frames))), spent, evaluations - before, acceptance)


def count_transitions(phi: np.ndarray) -> int:
    """From core to core, of angles (time, walkers) in (-pi, pi]."""
    core = np.where((phi > LEFT[0]) & (phi < LEFT[1]), -1, np.where((phi > RIGHT[0]) & (phi < RIGHT[1]), 1, 0))
    last, count = core[0], 0
    for now in core[1:]:
        count += int((now * last == -1).sum())
        last = np.where(now == 0, last, now)
    return count


def summary(runs: list[Run]) -> dict[str, float | int | None]:
    """Medians of the repeats; of all together where one of them saw none, and bounds where none did."""
    seen, seconds = sum(r.transitions for r in runs), sum(r.seconds for r in runs)
    evaluations = sum(r.evaluations for r in runs)
    acceptance = float(np.median([r.acceptance for r in runs]))
    rates: dict[str, float | int | None] = {
        "transitions": seen,
        "evaluations_per_second": evaluations / seconds,
        "acceptance": None if np.isnan(acceptance) else acceptance,
    }
    if seen == 0:
        return rates | {"below_per_minute": 60 * ENOUGH / seconds, "below_per_million": 1e6 * ENOUGH / evaluations}
    per_minute = [60 * r.transitions / r.seconds for r in runs]
    per_million = [1e6 * r.transitions / r.evaluations for r in runs]
    if min(per_minute) == 0.0:  # a median of counts around 1 says little
        return rates | {"per_minute": 60 * seen / seconds, "per_million": 1e6 * seen / evaluations}
    return rates | {"per_minute": float(np.median(per_minute)), "per_million": float(np.median(per_million))}


# --- the methods ---


def _methods(generator: fab.BoltzmannGenerator, walkers: int, compile: bool) -> dict[str, Callable[[int], Rounds]]:
    return {
        "Langevin, openmmtools": lambda seed: _openmmtools(generator, False, seed),
        "Langevin and jumps, openmmtools": lambda seed: _openmmtools(generator, True, seed),
        f"Langevin, {walkers} walkers": lambda seed: _langevin_walkers(generator, walkers, compile, seed),
        f"hybrid, {walkers} walkers": lambda seed: _hybrid_walkers(generator, walkers, seed),
    }


def _openmmtools(generator: fab.BoltzmannGenerator, jumps: bool, seed: int) -> Rounds:
    from openmmtools.mcmc import LangevinDynamicsMove, MCMCSampler, SequenceMove
    from openmmtools.states import SamplerState, ThermodynamicState

    from openmm_fab.md.moves import FlowProposalMove

    system = generator.system
    steps = LangevinDynamicsMove(
        timestep=ROUND_PS / STEPS * unit.picosecond, collision_rate=1 / unit.picosecond, n_steps=STEPS
    )
    jump = FlowProposalMove(generator, n_proposals=PROPOSALS, seed=seed)
    move = SequenceMove([jump, steps]) if jumps else steps
    state = ThermodynamicState(system.system, system.temperature * unit.kelvin)
    sampler = MCMCSampler(state, SamplerState(system.minimum * unit.nanometer), move)
    atoms, evaluations = _phi(system), 0
    while True:
        sampler.run(1)
        evaluations += STEPS + (PROPOSALS + 1 if jumps else 0)
        x = sampler.sampler_state.positions.value_in_unit(unit.nanometer)[atoms]
        yield x[None], evaluations, jump.acceptance


def _langevin_walkers(generator: fab.BoltzmannGenerator, walkers: int, compile: bool, seed: int) -> Rounds:
    system = generator.system
    settings = WalkersSettings(walkers=walkers, frame_ps=ROUND_PS, equilibration_ps=0.0, compile=compile)
    start = generator.sample(20 * walkers, seed=seed).resample(walkers, seed).x
    method = Walkers(system, settings, seed, start)
    state, atoms, evaluations = method.first(), _phi(system), 0
    while True:
        state, frame = method.advance(state)
        assert frame is not None
        evaluations += walkers * method.steps * method.rounds
        yield frame["x"][:, atoms], evaluations, np.nan


def _hybrid_walkers(generator: fab.BoltzmannGenerator, walkers: int, seed: int) -> Rounds:
    method = HybridWalkers(generator, HybridSettings(walkers=walkers, burn_in=20, frame_every=1, walk_every=5), seed)
    state, atoms = method.first(), _phi(generator.system)
    while True:
        state, frame = method.advance(state)
        if frame is not None:
            yield frame["x"][:, atoms], method.target.evaluations, method.about(state)["proposals"]


def _phi(system: fab.MolecularSystem) -> list[int]:
    return list(next(iter(named_torsions(system.md_topology).values())))


def _angles(x: np.ndarray) -> np.ndarray:
    """phi (time, walkers) of positions (time, walkers, 4, 3)."""
    times, walkers = x.shape[:2]
    topology = mdtraj.Topology()
    residue = topology.add_residue("MOL", topology.add_chain())
    for k in range(4):
        topology.add_atom(f"C{k}", mdtraj.element.carbon, residue)
    trajectory = mdtraj.Trajectory(x.reshape(-1, 4, 3), topology)
    return mdtraj.compute_dihedrals(trajectory, [[0, 1, 2, 3]], periodic=False).reshape(times, walkers)


# --- the table ---


def _row(name: str, of: dict) -> str:
    accepted = "" if of["acceptance"] is None else f"{100 * of['acceptance']:.0f} %"
    rates = (
        f"{of['per_minute']:.3g} | {of['per_million']:.3g}"
        if of["transitions"]
        else f"< {of['below_per_minute']:.2g} | < {of['below_per_million']:.2g}"
    )
    return f"| {name} | {of['transitions']} | {rates} | {of['evaluations_per_second']:,.0f} | {accepted} |"


def table(figures: dict[str, Any]) -> str:
    rows = [
        "| method | transitions seen | a minute | per million energies | energies / s | proposals accepted |",
        "|---|---|---|---|---|---|",
    ]
    rows += [_row(name, of) for name, of in figures["methods"].items()]
    text = (
        f"Transitions between the cores {LEFT[0]} < φ < {LEFT[1]} and {RIGHT[0]} < φ < {RIGHT[1]}, in structures kept "
        f"every {ROUND_PS:g} ps or every sweep: those in between, undone before the next structure, do not count. "
        f"openmmtools: {STEPS} steps of 1 fs a round, with jumps after {PROPOSALS} proposals. All walkers together, "
        f"which start at reweighted flow samples. {figures['repeats']} runs of {figures['seconds']:g} s; transitions "
        "are their sum, rates their median (all of them together where one saw none; where none saw any, 3 / time of "
        "all, the bound at 95 %). Energies: "
        "of steps, proposals, and the structure that proposals are held against; the flow's own cost is in the time "
        "alone.\n\n"
    )
    return text + "\n".join(rows)
