"""Ensembles projected on the widest (PCA) or the slowest (TICA) collective coordinates of the reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CUT = 1e-8  # of the largest variance: directions below it are no freedom of the molecule


@dataclass(frozen=True, eq=False)
class Projection:
    """Linear projection (x - mean) vectors of features x.

    Parameters
    ----------
    kind : str
        "PC" or "TIC"; coordinates are named PC1, PC2, ...
    mean : (features,)
    vectors : (features, k)
    values : (k,)
        PCA: share of the variance. TICA: autocorrelation over the lag.
    """

    kind: str
    mean: np.ndarray
    vectors: np.ndarray
    values: np.ndarray

    @property
    def names(self) -> list[str]:
        return [f"{self.kind}{i + 1}" for i in range(len(self.values))]

    def of(self, features: np.ndarray) -> np.ndarray:
        """Project features (n, features): coordinates (n, k)."""
        return (features - self.mean) @ self.vectors


def circle_features(angles: np.ndarray) -> np.ndarray:
    """Cosines and sines (n, 2 torsions) of angles (n, torsions), rad."""
    return np.hstack([np.cos(angles), np.sin(angles)])


def principal_components(features: np.ndarray, weights: np.ndarray, k: int = 2) -> Projection:
    """The k directions of largest variance of features (n, features) with normalised weights (n,)."""
    mean = weights @ features
    centred = features - mean
    values, vectors = np.linalg.eigh((centred * weights[:, None]).T @ centred)
    values, vectors = values[::-1], vectors[:, ::-1]
    k = min(k, int((values > CUT * values[0]).sum()))
    return Projection("PC", mean, _signed(vectors[:, :k]), values[:k] / values.sum())


def slow_components(
    features: np.ndarray, weights: np.ndarray, lag: int, block: np.ndarray | None = None, k: int = 2
) -> Projection:
    """The k linear coordinates of largest autocorrelation, of unit variance.

    Time-lagged independent components in their reversible form, C(lag) v = lambda C(0) v: Perez-Hernandez, Paul,
    Giorgino, De Fabritiis and Noe, J. Chem. Phys. 139, 015102 (2013).

    Parameters
    ----------
    features : (n, features)
        In the order of time, equally spaced.
    weights : (n,)
    lag : int, frames
    block : (n,) int, optional
        Frames of different blocks are never paired.
    """
    n = len(features)
    paired = np.ones(max(0, n - lag), dtype=bool)
    if block is not None and 0 < lag < n:
        paired = block[lag:] == block[:-lag]
    if lag < 1 or paired.sum() < 2:
        raise ValueError(
            f"Expected a lag of 1 frame or more that joins frames of one block; got {lag} for {n} frames in "
            f"{1 if block is None else len(np.unique(block))} blocks. Take a shorter lag, or leave it out."
        )
    start = np.flatnonzero(paired)
    w = np.sqrt(weights[start] * weights[start + lag])
    w = w / w.sum()
    mean = 0.5 * (w @ features[start] + w @ features[start + lag])
    a, b = features[start] - mean, features[start + lag] - mean
    c0 = 0.5 * ((a * w[:, None]).T @ a + (b * w[:, None]).T @ b)
    ct = (a * w[:, None]).T @ b
    s, v = np.linalg.eigh(c0)
    keep = s > CUT * s[-1]
    whiten = v[:, keep] / np.sqrt(s[keep])
    values, vectors = np.linalg.eigh(whiten.T @ (0.5 * (ct + ct.T)) @ whiten)
    values, vectors = values[::-1][:k], vectors[:, ::-1][:, :k]
    return Projection("TIC", mean, _signed(whiten @ vectors), values)


def _signed(vectors: np.ndarray) -> np.ndarray:
    """The largest component of every vector is positive, so that a second run shows the same picture."""
    top = np.argmax(np.abs(vectors), axis=0)
    return vectors * np.where(vectors[top, np.arange(vectors.shape[1])] < 0.0, -1.0, 1.0)
