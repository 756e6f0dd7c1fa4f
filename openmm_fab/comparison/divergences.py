"""Distances between histograms of two ensembles, and the distances that noise alone would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ..weights import Estimate

if TYPE_CHECKING:
    from ..ensemble.ensemble import Ensemble


BINS = 60
F_MAX = 5.0  # kT
KL_FLOOR = 1e-10
SPLITS = 4
TAIL = 0.001  # share of the reference beyond either edge, before the edges are moved out by MARGIN of the width
MARGIN = 0.1


@dataclass(frozen=True)
class Divergence:
    """Distance of one histogram from another by three measures.

    Parameters
    ----------
    kl : float, nats
        KL(reference || ensemble), the ensemble's probabilities floored at 1e-10 a bin. A histogram of n
        samples over B occupied bins differs from the truth by about B / 2n nats: finite samples never reach
        0.
    tv : float
        Total variation, between 0 and 1.
    js : float, nats
        Jensen-Shannon divergence, between 0 and ln 2.
    """

    kl: float
    tv: float
    js: float


def divergence(reference: ArrayLike, ensemble: ArrayLike) -> Divergence:
    """Compute the divergence of two histograms over the same bins, of any one shape; they need not be normalised."""
    p, q = (np.ravel(h) / np.sum(h) for h in (reference, ensemble))
    half = 0.5 * (p + q)
    return Divergence(_kl(p, q), float(0.5 * np.abs(p - q).sum()), 0.5 * (_kl(p, half) + _kl(q, half)))


def _kl(p: np.ndarray, q: np.ndarray) -> float:
    occupied = p > 0.0
    return float((p[occupied] * np.log(p[occupied] / np.maximum(q[occupied], KL_FLOOR))).sum())


def open_bins(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Bin number (n,) of each value; the outermost bins include everything beyond them."""
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)


def edges_of(values: np.ndarray, weights: np.ndarray, bins: int) -> np.ndarray | None:
    """Bin edges (bins + 1,) around the range of a reference without far outliers; None where all values are equal."""
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    place = np.searchsorted(cumulative, [TAIL * cumulative[-1], (1.0 - TAIL) * cumulative[-1]])
    low, high = values[order][place]
    width = high - low
    if width <= 1e-6 * max(abs(low), abs(high)):
        return None
    return np.linspace(low - MARGIN * width, high + MARGIN * width, bins + 1)


def histograms(weights: np.ndarray, columns: Sequence[tuple[np.ndarray, int]]) -> np.ndarray:
    """Weighted histograms of several columns, one after the other, (sum of their bins,).

    A column is the bin (n,) of every frame, and the number of bins.
    """
    return np.concatenate([np.bincount(index, weights=weights, minlength=bins) for index, bins in columns])


def replicas(ensemble: Ensemble, columns: Sequence[tuple[np.ndarray, int]], n: int, seed: int) -> list[np.ndarray]:
    """Bootstrap replicas (n, bins) of every column's histogram, all from the same resamplings."""
    if not columns:
        return []
    found = ensemble.bootstrap(lambda weights: histograms(weights, columns), n, seed=seed)
    return np.split(found, np.cumsum([bins for _, bins in columns])[:-1], axis=1)


def noise(
    a: np.ndarray, replicas_a: np.ndarray, blocks_a: int, b: np.ndarray, replicas_b: np.ndarray, blocks_b: int
) -> Estimate:
    """Total variation that noise alone gives between two ensembles of the same distribution.

    Each side's histogram scatters about the truth as its bootstrap replicas scatter about it; so
    TV* = 1/2 sum |(a* - a) - (b* - b)| is distributed as TV would be if nothing but noise were between them.

    Parameters
    ----------
    a, b : (bins,)
    replicas_a, replicas_b : (n, bins)
    blocks_a, blocks_b : int
        Independent blocks of either side; with B of them a bootstrap's scatter is too small by sqrt((B - 1) / B).

    Returns
    -------
    Estimate
        Mean and standard deviation of TV*; nan with fewer than two blocks.
    """
    if min(blocks_a, blocks_b) < 2:
        return Estimate(np.nan, np.nan)
    scatter_a = (replicas_a - a) * np.sqrt(blocks_a / (blocks_a - 1))
    scatter_b = (replicas_b - b) * np.sqrt(blocks_b / (blocks_b - 1))
    tv = 0.5 * np.abs(scatter_a - scatter_b).sum(1)
    tv = tv[np.isfinite(tv)]
    if len(tv) < 2:
        return Estimate(np.nan, np.nan)
    return Estimate(float(tv.mean()), float(tv.std(ddof=1)))


def halves(ensemble: Ensemble, seed: int, splits: int = SPLITS) -> list[np.ndarray]:
    """Masks (n,) of random halves made of whole blocks; none for a single block."""
    label = np.arange(ensemble.n) if ensemble.block is None else np.unique(ensemble.block, return_inverse=True)[1]
    blocks, rng = int(label.max(initial=-1)) + 1, np.random.default_rng(seed)
    if blocks < 2:
        return []
    return [(rng.permutation(blocks) < blocks // 2)[label] for _ in range(splits)]


def own_noise(weights: np.ndarray, index: np.ndarray, bins: int, split: Sequence[np.ndarray]) -> Divergence:
    """An ensemble's own noise: the mean divergence of one half of its frames from the other, over several halvings.

    Halves are half as large: two whole ensembles of this size would come as near as about half of these KL and JS, and
    0.7 of this TV.

    Parameters
    ----------
    weights : (n,)
    index : (n,) int
        Bin of each frame.
    bins : int
        How many there are.
    split : sequence of (n,) bool
        Frames in one half, see `halves`; nan where there are none.
    """
    found = []
    for mask in split:
        a, b = (np.bincount(index, weights=weights * side, minlength=bins) for side in (mask, ~mask))
        if a.sum() > 0.0 and b.sum() > 0.0:
            found.append(divergence(a, b))
    if not found:
        return Divergence(np.nan, np.nan, np.nan)
    return Divergence(*(float(np.mean([getattr(d, key) for d in found])) for key in ("kl", "tv", "js")))
