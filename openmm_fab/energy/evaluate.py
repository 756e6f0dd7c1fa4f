"""Reduced energies of many structures, evaluated in batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BATCH = 1000
PROBED = 200  # frames
MATTERS = 0.02  # kT: of this size the mean energy of some 10^4 frames knows shifts


@dataclass(frozen=True)
class Rounding:
    """Effect of coordinates that a file has rounded.

    Parameters
    ----------
    grid : float, nm
        All of them are multiples of it.
    shift, spread : float, kT
        By how much that moves u of a frame: mean and standard deviation; nan where u was not evaluated on them.
    """

    grid: float
    shift: float = np.nan
    spread: float = np.nan

    @classmethod
    def of(cls, energy: Callable[[Tensor], Tensor], x: np.ndarray, grid: float) -> Rounding:
        """Measure the effect with rounding errors of the same size on up to 200 of the frames x (n, atoms, 3), nm."""
        x = np.asarray(x[:: max(1, len(x) // PROBED)], dtype=np.float64)
        error = np.random.default_rng(0).uniform(-grid / 2, grid / 2, x.shape)
        below, middle, above = (energies_of(energy, x + sign * error) for sign in (-1, 0, 1))
        with np.errstate(invalid="ignore"):
            odd, even = (above - below) / 2, (above + below) / 2 - middle
        known = np.isfinite(odd) & np.isfinite(even)
        if not known.any():
            return cls(grid)
        return cls(grid, float(even[known].mean()), float(np.hypot(odd[known].std(), even[known].std())))

    @property
    def matters(self) -> bool:
        """Whether rounding shifts u on average by more than a comparison can resolve."""
        return not abs(self.shift) <= MATTERS

    def __str__(self) -> str:
        moved = "" if np.isnan(self.shift) else f", which moves u by {self.shift:+.2g} ± {self.spread:.2g} kT a frame"
        return f"coordinates rounded to {self.grid:g} nm{moved}"


def energies_of(energy: Callable[[Tensor], Tensor], x: np.ndarray) -> np.ndarray:
    """Evaluate reduced energies u (n,) float64 of structures x (n, atoms, 3), nm, in batches and without gradients.

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
