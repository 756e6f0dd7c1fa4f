"""The reference ensembles that come with shipped molecules."""

from __future__ import annotations

import numpy as np

from ..molecule.molecule import refuse_name
from ..molecule.system import MolecularSystem
from ..tools.files import load_npz
from .ensemble import Ensemble
from .trajectories import load_trajectory


def load_reference(system: MolecularSystem) -> Ensemble | None:
    """Reference ensemble beside a system's PDB file, as its system.toml names it; None if there is none.

    ``[reference]`` names a `trajectory` that mdtraj reads and, where it was biased or made of several walkers,
    `weights`: an .npz file with log_w (natural log weights), block (labels of independent blocks), u (reduced
    energies), each optional and of shape (n_frames,).

    Raises
    ------
    ValueError
        If the files do not fit the system or each other.
    """
    refuse_name(system)
    table = system.settings.get("reference")
    if not table or system.folder is None:
        return None
    trajectory = load_trajectory(system.folder / table["trajectory"], system.md_topology)
    arrays: dict[str, np.ndarray] = {}
    if "weights" in table:
        given = load_npz(system.folder / table["weights"], "the reference's weights")
        arrays = {key: given[key] for key in ("log_w", "block", "u") if key in given}
    for key, values in arrays.items():
        if values.shape != (trajectory.n_frames,):
            raise ValueError(
                f"Expected {key} of {table['weights']} with shape ({trajectory.n_frames},), one a frame of "
                f"{table['trajectory']}; got {values.shape}."
            )
    return Ensemble.from_mdtraj(
        trajectory,
        system,
        log_weights=arrays.get("log_w"),
        block=arrays.get("block"),
        energies=True,
        u=arrays.get("u"),
        name="reference",
    )
