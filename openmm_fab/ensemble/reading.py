"""An ensemble out of a trajectory: its atoms and chirality checked, its frames weighed, labelled and evaluated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mdtraj
import numpy as np
from numpy.typing import ArrayLike

from ..energy.backends import reduced_energy
from ..energy.evaluate import Rounding, energies_of
from ..free_energy.frames import Frames
from ..molecule.stereo import check_chirality, stereocentres
from ..molecule.system import MolecularSystem
from ..tools.install import install
from ..tools.warn import warn
from .blocks import slowest_inefficiency, time_blocks
from .states import slow_angles
from .trajectories import check_same_atoms, coordinate_grid, load_trajectory, whole_structures

COARSE = 1e-3  # nm
KEEP = "Keep frames as DCD, TRR or NetCDF, or as XTC with more digits (in GROMACS compressed-x-precision = 100000)."


def read_frames(
    trajectory: mdtraj.Trajectory | str | Path,
    system: MolecularSystem,
    weights: ArrayLike | None,
    log_weights: ArrayLike | None,
    block: ArrayLike | None,
    energies: bool,
    u: ArrayLike | None,
    name: str,
    subsample: bool,
) -> tuple[Frames, Rounding | None]:
    """Frames of a trajectory of the system, and the rounding of their coordinates where u feels it.

    Parameters and errors are those of `Ensemble.from_mdtraj`.
    """
    if not hasattr(system, "md_topology"):
        raise ValueError(f"Expected a trajectory, then its MolecularSystem; got a {type(system).__name__} there.")
    if isinstance(trajectory, str | Path):
        trajectory = load_trajectory(trajectory, system.md_topology)
    check_same_atoms(trajectory.topology, system.md_topology)
    if weights is not None and log_weights is not None:
        raise ValueError("Expected weights or log_weights; got both.")
    if subsample and block is not None:
        raise ValueError("Expected subsample=True, for one run, or block, for several; got both.")
    x = whole_structures(trajectory, system.graph, system.positions)
    check_chirality(x, stereocentres(system.graph), system.positions, system.md_topology)
    n = trajectory.n_frames
    log_w = np.zeros(n) if log_weights is None else np.array(log_weights, dtype=np.float64)
    if weights is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            log_w = np.log(np.asarray(weights, dtype=np.float64))
    frames = Frames(x, np.full(n, np.nan), log_w, system.md_topology, float(system.temperature), name=name)
    if u is not None:
        frames = replace(frames, u=np.asarray(u, dtype=np.float64))
    if subsample:
        if (slowest := slowest_inefficiency(slow_angles(frames))) is None:
            raise ImportError(f"subsample=True needs pymbar: {install('md')}.")
        frames = frames[:: int(np.ceil(slowest))]
        block = np.arange(frames.n)
    block = time_blocks(slow_angles(frames)) if block is None else np.asarray(block)
    grid = coordinate_grid(trajectory.xyz)
    if u is not None or not energies:
        u = frames.u
        rounding = Rounding(grid) if grid >= COARSE else None
        spoilt = "The u given stands; energies of another force field, on these frames, do not fit it."
    else:
        energy = reduced_energy(system)
        u = energies_of(energy, frames.x)
        rounding = Rounding.of(energy, frames.x, grid) if grid else None
        rounding = rounding if rounding is not None and rounding.matters else None
        spoilt = "Torsions and populations stand; averages of u, its distribution and what is made from it do not."
    frames = replace(frames, block=block)
    if not energies:
        return frames, rounding
    if rounding is not None:
        warn(f"{name!r} has {rounding}. {spoilt} {KEEP}")
    log_w = np.where(np.isfinite(u), frames.log_w, -np.inf)
    return replace(frames, u=u, log_w=log_w, invalid=int((~np.isfinite(u)).sum())), rounding
