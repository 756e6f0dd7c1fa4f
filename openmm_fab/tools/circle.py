"""Internal coordinates: z, the numbers a flow works with, <-> x, a molecule in Cartesian space.

A Z-matrix gives n - 1 bond lengths, n - 2 angles and n - 3 torsions.  Torsions of rotatable bonds are periodic and
stay in radians.  The rest, (ln r, theta, narrow torsions), is stiff: it is centred on the energy minimum and
whitened by the covariance that the Hessian of the energy there predicts, so that every stiff z has about unit width
without any MD.  Constrained lengths are no coordinates.  The measure is that of Cartesian space without overall
translation and rotation.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor


def wrap(angle: Tensor) -> Tensor:
    """Angle in rad -> the same angle in [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


BINS = 72
SMOOTHING = 2.0  # bins; of the histogram, and of the bias where it steps from basin to basin
BARRIER = 1.5  # kT; a lower one does not part two basins


def basins(density: np.ndarray) -> np.ndarray:
    """Label (bins,) of the basin that each bin of a density on a circle lies in, 0, 1, ...

    Basins are what is left when the lowest barriers are taken away until all are higher than `BARRIER` above the
    shallower of their two sides.
    """
    energy = -np.log(np.maximum(density, 1e-300))
    order = np.argsort(energy, kind="stable")
    owner = np.full(len(energy), -1)
    parent: dict[int, int] = {}

    def root(label: int) -> int:
        while parent[label] != label:
            label = parent[label]
        return label

    for place in order:  # the water rises
        near = {root(owner[k]) for k in (place - 1, (place + 1) % len(energy)) if owner[k] >= 0}
        if not near:
            owner[place] = parent[place] = place
            continue
        deepest = min(near, key=lambda label: energy[label])
        owner[place] = deepest
        for other in near - {deepest}:
            if energy[place] - energy[other] < BARRIER:
                parent[other] = deepest
    return np.unique([root(label) for label in owner], return_inverse=True)[1]


def bin_of(angles: Tensor) -> Tensor:
    """Bin (n,) of BINS on the circle that each angle (n,) lies in, the first one from -pi on."""
    turns = torch.remainder(angles.double() + math.pi, 2 * math.pi) / (2 * math.pi)
    return (turns * BINS).long().clamp(max=BINS - 1)


def density(angles: Tensor, weights: Tensor) -> np.ndarray:
    """Smoothed, normalised histogram (BINS,) of angles (n,) with weights (n,)."""
    counts = torch.bincount(bin_of(angles), weights, minlength=BINS).cpu().numpy()
    return gaussian_filter1d(counts / counts.sum(), SMOOTHING, mode="wrap")


def wrapped(z: Tensor, periodic: Tensor) -> Tensor:
    """Angles in [-pi, pi), where periodic."""
    return torch.where(periodic, torch.remainder(z + math.pi, 2 * math.pi) - math.pi, z)


def circular_bins(angles: np.ndarray, bins: int) -> np.ndarray:
    """Bin (n,) of each angle on the circle, the first one from -pi on."""
    scaled = np.mod((angles + np.pi) / (2.0 * np.pi), 1.0)
    return np.minimum(bins * scaled, bins - 1).astype(np.int64)
