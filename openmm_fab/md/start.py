"""Starting structures of a run."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..molecule.system import MolecularSystem


def starting_structures(system: MolecularSystem, start: ArrayLike | None, walkers: int | None = None) -> np.ndarray:
    """Starting structures, given or the energy minimum, (n, atoms, 3), nm, float64.

    Parameters
    ----------
    start : (atoms, 3) or (n, atoms, 3), nm, or None
        None: the energy minimum.
    walkers : int, optional
        Take so many, the given ones in turn.

    Raises
    ------
    ValueError
        Structures of another shape, or none.
    """
    x = np.asarray(system.minimum if start is None else start, dtype=np.float64)
    x = x[None] if x.ndim == 2 else x
    if x.ndim != 3 or x.shape[1:] != (system.n_atoms, 3) or not len(x):
        raise ValueError(f"Expected start with shape (n, {system.n_atoms}, 3) in nm; got {x.shape}.")
    return x if walkers is None else x[np.arange(walkers) % len(x)]
