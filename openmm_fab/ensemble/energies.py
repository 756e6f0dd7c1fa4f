"""Reduced energies of many structures, evaluated in batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

BATCH = 1000


def energies_of(energy: Callable[[Tensor], Tensor], x: np.ndarray) -> np.ndarray:
    """u (n,) float64 of structures x (n, atoms, 3), nm, as the energy gives it, without gradients.

    Parameters
    ----------
    energy : callable
        x (batch, atoms, 3) -> u (batch,), such as `energy.reduced_energy(system)`.

    Raises
    ------
    ValueError
        If the energy returns another shape.
    """
    if not len(x):
        return np.zeros(0)
    with torch.no_grad():
        parts = [torch.as_tensor(energy(part)).cpu().double() for part in torch.as_tensor(x).split(BATCH)]
    u = torch.cat(parts).numpy()
    if u.shape != (len(x),):
        raise ValueError(f"Expected an energy that returns shape (batch,); got {u.shape} for {len(x)} frames.")
    return u
