"""Reference of a ligand by plain OpenMM and openmmtools: parallel tempering, which shares no code with `openmm_fab`.

`python make_reference.py run --minutes 60` samples, and goes on where it was stopped; `python make_reference.py write`
makes reference.dcd, reference_weights.npz and reference.json of what there is. `--ligand FOLDER` takes another
molecule, a folder with input.sdf and ligand.xml. Frames of all temperatures are kept, with weights by MBAR towards
300 K.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OPENMM_CPU_THREADS", "1")

import mdtraj
import numpy as np
import openmm
from openmm import app, unit
from openmmtools import cache, mcmc, multistate, states
from pymbar import MBAR
from rdkit import Chem

HERE = Path(__file__).resolve().parent
TEMPERATURE, HOTTEST, LEVELS = 300.0, 500.0, 6  # K
HYDROGEN_MASS, STEP_FS, FRICTION = 3.0, 2.0, 1.0  # amu; fs; 1/ps. Masses leave the equilibrium alone
EXCHANGE_PS, SETTLE_PS = 1.0, 100.0
SOLVENT = "implicit/gbn2.xml"
FRAMES = 4000  # that are shipped, at most
BLOCKS = 20
EVERY = 20  # iterations; it can go on from each such one


def storage(out: Path) -> Path:
    """What openmmtools keeps; not shipped."""
    return out / "raw" / "replicas.nc"


def molecule(folder: Path) -> tuple[app.Topology, np.ndarray]:
    """Topology and positions (atoms, 3), nm, of input.sdf."""
    drawn = next(Chem.SDMolSupplier(str(folder / "input.sdf"), removeHs=False))
    topology = app.Topology()
    residue = topology.addResidue("LIG", topology.addChain())
    atoms = [
        topology.addAtom(f"{a.GetSymbol()}{a.GetIdx() + 1}", app.element.get_by_symbol(a.GetSymbol()), residue)
        for a in drawn.GetAtoms()
    ]
    for bond in drawn.GetBonds():
        topology.addBond(atoms[bond.GetBeginAtomIdx()], atoms[bond.GetEndAtomIdx()])
    return topology, 0.1 * drawn.GetConformer().GetPositions()


def load(folder: Path, hydrogen_mass: float | None = None) -> tuple[app.Topology, np.ndarray, openmm.System]:
    """And the System: every bond flexible, no cutoff."""
    topology, x = molecule(folder)
    options = {} if hydrogen_mass is None else {"hydrogenMass": hydrogen_mass * unit.amu}
    field = app.ForceField(str(folder / "ligand.xml"), SOLVENT)
    system = field.createSystem(topology, nonbondedMethod=app.NoCutoff, constraints=None, **options)
    return topology, x, system


def sampler(folder: Path, out: Path) -> multistate.ParallelTemperingSampler:
    """The one that was begun in this folder, or a new one."""
    _, x, system = load(folder, HYDROGEN_MASS)
    reporter = multistate.MultiStateReporter(
        str(storage(out)), checkpoint_interval=EVERY, analysis_particle_indices=tuple(range(len(x)))
    )
    if storage(out).exists():
        found = multistate.ParallelTemperingSampler.from_storage(reporter)
    else:
        move = mcmc.LangevinDynamicsMove(
            timestep=STEP_FS * unit.femtosecond,
            collision_rate=FRICTION / unit.picosecond,
            n_steps=round(1000 * EXCHANGE_PS / STEP_FS),
            reassign_velocities=True,
        )
        found = multistate.ParallelTemperingSampler(mcmc_moves=move, number_of_iterations=0)
        found.create(
            thermodynamic_state=states.ThermodynamicState(system, TEMPERATURE * unit.kelvin),
            sampler_states=[states.SamplerState(x * unit.nanometer)],
            storage=reporter,
            temperatures=[t * unit.kelvin for t in np.geomspace(TEMPERATURE, HOTTEST, LEVELS)],
            n_temperatures=LEVELS,
        )
        found.minimize(max_iterations=500)
    platform = openmm.Platform.getPlatformByName("CPU")
    found.sampler_context_cache, found.energy_context_cache = (
        cache.ContextCache(capacity=None, platform=platform, platform_properties={"Threads": "1"}) for _ in range(2)
    )
    return found


def run(folder: Path, out: Path, minutes: float) -> None:
    storage(out).parent.mkdir(parents=True, exist_ok=True)
    found, end = sampler(folder, out), time.monotonic() + 60 * minutes
    began, first, done = time.process_time(), found.iteration, found.iteration
    while time.monotonic() < end:
        found.extend(EVERY)
        done = found.iteration
    seconds = time.process_time() - began
    with open(out / "raw" / "spent.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"iterations": done - first, "cpu_seconds": round(seconds)}) + "\n")
    print(f"{done} ps a replica, {seconds:.0f} CPU s")


def write(folder: Path, out: Path) -> None:
    topology, _ = molecule(folder)
    reporter = multistate.MultiStateReporter(str(storage(out)), open_mode="r", checkpoint_interval=EVERY)
    count = reporter.read_last_iteration(last_checkpoint=False) + 1
    level = np.array(reporter.read_replica_thermodynamic_states())[:count]
    u = np.ma.filled(reporter.read_energies()[0], np.nan)[:count]  # (iterations, replicas, states)
    first = round(SETTLE_PS / EXCHANGE_PS) + 1
    x = [[s.positions / unit.nanometer for s in reporter.read_sampler_states(k, True)] for k in range(first, count)]
    reporter.close()
    holder = np.argsort(level, axis=1)
    rows = np.arange(count)[:, None]
    u = u[rows, holder][first:]  # by state, as the structures
    x = np.array(x, dtype=np.float32)[rows[: count - first], holder[first:]]
    k = np.arange(LEVELS - 1)
    gain = u[:, k, k] + u[:, k + 1, k + 1] - u[:, k, k + 1] - u[:, k + 1, k]
    # MBAR numbers its frames state by state.
    mbar = MBAR(np.moveaxis(u, 1, 0).reshape(-1, LEVELS).T, np.full(LEVELS, len(u)), solver_protocol="robust")
    with np.errstate(divide="ignore"):
        log_w = np.log(mbar.weights()[:, 0]).reshape(LEVELS, -1).T
    kept = slice(None, None, -(-x.shape[0] * LEVELS // FRAMES))
    frames = (x - x.mean(2, keepdims=True))[kept].reshape(-1, *x.shape[2:])
    mdtraj.Trajectory(frames, mdtraj.Topology.from_openmm(topology)).save_dcd(str(out / "reference.dcd"))
    block = np.repeat(np.arange(len(u)) * BLOCKS // len(u), LEVELS).reshape(-1, LEVELS)
    arrays = {"log_w": log_w, "u": u[..., 0], "block": block}
    np.savez_compressed(out / "reference_weights.npz", **{key: a[kept].ravel() for key, a in arrays.items()})
    spent = [json.loads(line) for line in (out / "raw" / "spent.jsonl").read_text("utf-8").splitlines()]
    about = {
        "temperatures": np.geomspace(TEMPERATURE, HOTTEST, LEVELS).round(2).tolist(),
        "picoseconds_of_each_replica": len(u) * EXCHANGE_PS,
        "dropped_ps": SETTLE_PS,
        "exchange_ps": EXCHANGE_PS,
        "step_fs": STEP_FS,
        "hydrogen_mass": HYDROGEN_MASS,
        "acceptance": np.exp(np.minimum(gain, 0.0)).mean(0).round(3).tolist(),
        "round_trips": round_trips(level),
        "frames": len(frames),
        "cpu_seconds": sum(one["cpu_seconds"] for one in spent),
        "versions": {name: version(name) for name in ("openmm", "openmmtools", "pymbar", "rdkit")},
    }
    (out / "reference.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")
    print(json.dumps(about, indent=1))


def round_trips(level: np.ndarray) -> int:
    """From the lowest temperature to the highest and back, of all replicas."""
    count = 0
    for one in level.T:
        ends = one[(one == 0) | (one == LEVELS - 1)]
        changes = int((np.diff(ends) != 0).sum())
        count += (changes - (len(ends) > 0 and ends[0] != 0)) // 2
    return int(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "write"))
    parser.add_argument("--ligand", type=Path, default=HERE.parent)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--minutes", type=float, default=60.0)
    options = parser.parse_args()
    if options.what == "run":
        run(options.ligand, options.out, options.minutes)
    else:
        write(options.ligand, options.out)


if __name__ == "__main__":
    main()
