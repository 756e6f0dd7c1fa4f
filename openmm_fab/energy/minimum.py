"""The minimum of an energy that OpenMM does not have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

STEEPEST, STEPS = 0.5, 2000  # 1/nm; gradients
LENGTH = 0.01  # nm, of the first step


def minimise(value_and_gradient: Callable[[Tensor], tuple[Tensor, Tensor]], positions: np.ndarray) -> np.ndarray:
    """(n_atoms, 3) float64, nm: the local minimum below positions (n_atoms, 3), nm, by L-BFGS.

    Parameters
    ----------
    value_and_gradient : callable
        x (batch, n_atoms, 3), nm -> u (batch,) and du/dx (batch, n_atoms, 3).

    Raises
    ------
    ValueError
        u of the positions is not finite.
    """

    start = np.asarray(positions, dtype=np.float64)

    def function(moved: np.ndarray) -> tuple[float, np.ndarray]:
        x = start + LENGTH * moved.reshape(start.shape)
        u, gradient = value_and_gradient(torch.from_numpy(x)[None])
        return float(u[0]), LENGTH * gradient[0].double().numpy().ravel()

    if not np.isfinite(function(np.zeros(start.size))[0]):
        raise ValueError("Expected a finite energy of the structure given; got an infinite one, or nan.")
    options = {"gtol": LENGTH * STEEPEST, "ftol": 1e-14, "maxiter": STEPS}
    found = minimize(function, np.zeros(start.size), jac=True, method="L-BFGS-B", options=options)
    return start + LENGTH * np.asarray(found.x).reshape(start.shape)
