"""Langevin MD by OpenMM: one trajectory in a DCD file, with a checkpoint."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
from numpy.typing import ArrayLike
from openmm import app, unit

from ..energy.dynamics import UnstableDynamicsError
from ..ensemble.ensemble import Ensemble
from ..molecule.system import MolecularSystem
from ..tools.files import DamagedFileError, latest, load_npz, previous, write_atomically
from ..tools.progress import bar, dynamics_bar
from ..tools.warn import warn
from .convergence import ReferenceEnsemble, assess_convergence, reported
from .settings import LangevinSettings
from .start import starting_structures
from .walkers import SAVE_EVERY, stopped_message


def langevin(
    system: MolecularSystem,
    settings: LangevinSettings,
    folder: Path | None,
    seed: int,
    progress: bool,
    start: ArrayLike | None,
    basin: Any,
) -> ReferenceEnsemble:
    """Sample an ensemble with OpenMM's Langevin integrator; the arguments are those of `run_reference`.

    Leaves trajectory.dcd and checkpoint.npz in the folder, and goes on from them if they are there.
    """
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            kept = False
        else:
            kept = True
        u = _run(system, settings, folder, seed, progress, start, kept)
        trajectory = mdtraj.load(str(folder / "trajectory.dcd"), top=system.md_topology)[: len(u)]
    ensemble = Ensemble.from_mdtraj(trajectory, system, u=u, name="Langevin MD")
    return reported(ensemble, assess_convergence(ensemble, 1, frame_ps=settings.frame_ps, basin=basin))


def context_of(system: MolecularSystem, settings: LangevinSettings, seed: int) -> openmm.Context:
    """Create a Context with the integrator, on the platform of the settings."""
    system.require_unchanged()
    return openmm.Context(system.system, integrator_of(system, settings, seed), *platform_of(settings))


def integrator_of(system: MolecularSystem, settings: LangevinSettings, seed: int) -> openmm.Integrator:
    """Create the integrator of the settings."""
    step = settings.step_ps(system.system.getNumConstraints() > 0)
    integrator = openmm.LangevinMiddleIntegrator(system.temperature, settings.friction, step)
    integrator.setRandomNumberSeed(seed + 1)  # 0 is "any" to OpenMM
    integrator.setConstraintTolerance(1e-6)
    return integrator


def platform_of(settings: LangevinSettings) -> tuple[Any, ...]:
    """Platform and its properties, as further arguments of a Context; empty for the fastest."""
    if settings.platform is None:
        return ()
    return openmm.Platform.getPlatformByName(settings.platform), settings.properties or {}


def _run(
    system: MolecularSystem,
    settings: LangevinSettings,
    folder: Path,
    seed: int,
    progress: bool,
    start: ArrayLike | None,
    kept: bool,
) -> np.ndarray:
    """Run the trajectory to its end or to Ctrl-C; returns the reduced energies (n,) of the frames in the file."""
    context = context_of(system, settings, seed)
    integrator = context.getIntegrator()
    step = integrator.getStepSize().value_in_unit(unit.picosecond)
    steps = max(1, round(settings.frame_ps / step))
    total = max(1, round(settings.time_ps / settings.frame_ps))
    checkpoint, dcd = folder / "checkpoint.npz", folder / "trajectory.dcd"
    u: list[float] = []
    if checkpoint.exists() or previous(checkpoint).exists():
        found = latest(checkpoint, _load)
        u = found["u"].tolist()
        load_checkpoint(context, found["context"].tobytes(), str(checkpoint))
        _truncate(dcd, system, len(u))
    else:
        context.setPositions(starting_structures(system, start)[0])
        context.applyConstraints(1e-6)
        context.setVelocitiesToTemperature(system.temperature, seed + 1)
        _steps(integrator, round(settings.equilibration_ps / step), progress)
    saved, stopped = time.monotonic(), False
    held = (context.createCheckpoint(), len(u))  # of the last whole frame: Ctrl-C comes in between
    with open(dcd, "r+b" if u else "w+b") as file:
        out = app.DCDFile(file, _without_box(system.topology), step, steps, steps, append=bool(u))
        file.flush()
        try:
            for _ in dynamics_bar(range(len(u), total), settings.name, settings.frame_ps, show=progress):
                integrator.step(steps)
                state = context.getState(positions=True, energy=True)
                x = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
                energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) / system.kT
                if not (np.isfinite(x).all() and np.isfinite(energy)):
                    raise UnstableDynamicsError(
                        f"Expected finite positions and energies; got others after a step of {1000 * step:g} fs. "
                        "Use a smaller step_fs, or check the starting structure."
                    )
                out.writeModel(x - x.mean(axis=0))
                u.append(energy)
                held = (context.createCheckpoint(), len(u))
                if time.monotonic() - saved > SAVE_EVERY:
                    _save(checkpoint, held[0], u, file)
                    saved = time.monotonic()
        except KeyboardInterrupt:
            stopped = True
        del u[held[1] :]
        if u:
            _save(checkpoint, held[0], u, file)
    if stopped:
        if not u:
            raise KeyboardInterrupt("Stopped before the first frame of production.")
        warn(stopped_message(len(u) / total, kept))
    return np.array(u)


def _steps(integrator: openmm.Integrator, steps: int, progress: bool) -> None:
    """Integrate some steps in up to 100 pieces, so that Ctrl-C is heard and the progress bar moves."""
    edges = np.linspace(0, steps, min(steps, 100) + 1).astype(int)
    for piece in bar(np.diff(edges).tolist(), "equilibration", progress, unit="parts"):
        integrator.step(piece)


def _save(path: Path, context: bytes, u: list[float], trajectory: Any) -> None:
    # The frames reach the disk before the checkpoint that counts on them.
    trajectory.flush()
    os.fsync(trajectory.fileno())
    data = np.frombuffer(context, dtype=np.uint8)
    write_atomically(path, lambda file: np.savez(file, context=data, u=np.array(u)), keep_previous=True)


def _load(path: Path) -> dict[str, np.ndarray]:
    found = load_npz(path, "a checkpoint of Langevin MD")
    if found.keys() != {"context", "u"} or found["u"].dtype != np.float64 or found["context"].dtype != np.uint8:
        raise DamagedFileError(f"Expected a checkpoint of Langevin MD at {path}; got arrays {sorted(found)}.")
    return found


def load_checkpoint(context: openmm.Context, data: bytes, where: str) -> None:
    """Put a Context where it was; ValueError if another machine, platform or version of OpenMM wrote it."""
    try:
        context.loadCheckpoint(data)
    except openmm.OpenMMException as error:
        raise ValueError(
            f"Expected a checkpoint of this machine, platform and version of OpenMM in {where}; OpenMM says: {error}. "
            "Resume where it was made, or start again in another folder."
        ) from error


def _truncate(dcd: Path, system: MolecularSystem, frames: int) -> None:
    """Cut off frames written after the checkpoint.

    Raises
    ------
    ValueError
        The file has fewer frames than the checkpoint counts.
    """
    header = io.BytesIO()
    app.DCDFile(header, _without_box(system.topology), 0.001)
    size = len(header.getvalue()) + frames * 3 * (8 + 4 * system.n_atoms)
    if not dcd.exists() or dcd.stat().st_size < size:
        raise ValueError(f"Expected {frames} frames in {dcd}; it has fewer. Start again in another folder.")
    with open(dcd, "r+b") as file:
        file.truncate(size)
        file.seek(8)
        file.write(struct.pack("<i", frames))


def _without_box(topology: app.Topology) -> app.Topology:
    """Atoms only: a PDB's CRYST1 record is no box of the System."""
    bare = app.Topology()
    residue = bare.addResidue("MOL", bare.addChain())
    for atom in topology.atoms():
        bare.addAtom(atom.name, atom.element, residue)
    return bare
