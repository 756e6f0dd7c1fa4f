"""Angles on the circle [-pi, pi): wrapping, bins, smoothed densities, and the basins of a density."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

BINS = 72
SMOOTHING = 2.0  # bins
BARRIER = 1.5  # kT; a lower one does not part two basins


def wrap(angle: Tensor) -> Tensor:
    """Wrap an angle in rad into [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def wrap_periodic(z: Tensor, periodic: Tensor) -> Tensor:
    """Wrap those entries of z that are `periodic` (bool, broadcast to z) into [-pi, pi); the others are unchanged."""
    return torch.where(periodic, wrap(z), z)


def circular_bins(angles: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Bin number (n,) of each angle (n,), rad, among `bins` equal bins on the circle, the first beginning at -pi."""
    turns = np.mod((angles + np.pi) / (2.0 * np.pi), 1.0)
    return np.minimum(bins * turns, bins - 1).astype(np.int64)


def smooth(values: np.ndarray) -> np.ndarray:
    """Average values (bins,) on the circle with Gaussian weights of width `SMOOTHING` bins."""
    from scipy.ndimage import gaussian_filter1d  # not above: it takes a while to import

    return gaussian_filter1d(values, SMOOTHING, mode="wrap")


def circular_density(angles: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Smoothed, normalised histogram (BINS,) of angles (n,), rad, with weights (n,)."""
    counts = np.bincount(circular_bins(angles), weights, minlength=BINS)
    return smooth(counts / counts.sum())


def label_basins(density: np.ndarray) -> np.ndarray:
    """Label (bins,), 0, 1, ..., of the basin that each bin of a density on a circle belongs to.

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

    for place in order:  # from the deepest bin upwards
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
