"""What can stand beside an ensemble in a comparison, as an ensemble: a file, or a trajectory of mdtraj."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mdtraj
import numpy as np

from ..molecule.graph import graph_of
from ..molecule.system import MolecularSystem
from .blocks import time_blocks
from .ensemble import Ensemble
from .netcdf import SUFFIX, WeightedTrajectory
from .trajectories import check_same_atoms, load_trajectory, whole_structures


def as_ensemble(
    given: Ensemble | mdtraj.Trajectory | str | Path, ensemble: Ensemble, *, system: MolecularSystem | None = None
) -> Ensemble:
    """Make an ensemble of one, of a file that `Ensemble.save` or `sample(out=...)` wrote, of a run's folder, or of
    frames of unbiased MD.

    Parameters
    ----------
    given : Ensemble, mdtraj.Trajectory, or path
        Of a path that mdtraj reads, and of a trajectory, the frames are taken as MD at the ensemble's temperature.
    ensemble : Ensemble
        Of the same molecule.
    system : MolecularSystem, optional
        For the energies of frames that come without; else they stay nan.

    Raises
    ------
    ValueError
        Another molecule, another kind of file; what `Ensemble.from_mdtraj` refuses.
    """
    if isinstance(given, Ensemble):
        return given
    name = "reference"
    if isinstance(given, str | Path):
        path = Path(given)
        if (
            path.is_dir()
            or path.suffix.lower() in ("", ".npz")
            or (path.suffix.lower() == SUFFIX and WeightedTrajectory.wrote(path))
        ):
            return Ensemble.load(path)
        name = path.stem
        given = load_trajectory(path, ensemble.topology)
    if not isinstance(given, mdtraj.Trajectory):
        raise ValueError(
            f"Expected an Ensemble, an mdtraj.Trajectory, or the path of either; got {type(given).__name__}."
        )
    if system is not None:
        return Ensemble.from_mdtraj(given, system, name=name)
    check_same_atoms(given.topology, ensemble.topology)
    known = ensemble.x[int(np.argmax(ensemble.log_w))]
    x, n = whole_structures(given, graph_of(ensemble.topology), known), given.n_frames
    found = Ensemble(x, np.full(n, np.nan), np.zeros(n), ensemble.topology, ensemble.temperature, name=name)
    return replace(found, block=time_blocks(found.slow_angles()))
