"""What samples are worth to an estimate of free energies: weights, overlap of states, independent blocks, in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from .. import weights as _weights
from ..weights import FEW, log_ratio

OVERLAP_LIMIT = 0.06  # O_ij + O_ji; an overlap-matrix element of 0.03 for equal numbers: Klimovich et al. 2015


DISAGREEMENT = 5.0  # combined standard errors


NEGLIGIBLE = 1e-3  # kT: what round-off of energies in single precision adds up to, and no question depends on


UNSEEN = 0.05


FEW_BLOCKS = 10


def one_sided(log_w: np.ndarray, block: ArrayLike | None) -> tuple[str, bool, float, float]:
    """What log weights (n,) are worth, in words, whether they can be trusted, their effective number and k-hat."""
    ess, khat = _weights.effective_sample_size(log_w), _weights.pareto_khat(log_w)
    words, trusted = _weights.diagnosis(log_w), _weights.trusted(log_w)
    if block is not None:
        words = "; ".join([words, *about_blocks([block])])
        shares = _weights.block_sums(_weights.normalized_weights(log_w), block)
        if len(shares) >= FEW_BLOCKS and (carrying := _weights.kish(shares, total=1.0)) < 5.0:
            words, trusted = words + f"; only {carrying:.1f} of {len(shares)} blocks carry the weight", False
    return words, trusted, ess, khat


def two_sides(
    w_f: np.ndarray, w_r: np.ndarray, blocks: Sequence[ArrayLike | None], value: float, names: tuple[str, str]
) -> tuple[list[str], bool]:
    """Findings in words, and whether none speaks against BAR: do the two one-sided estimates agree, and does either
    side lie where the other never goes?"""
    forward, reverse = log_ratio(-w_f, np.zeros_like(w_f), blocks[0]), log_ratio(-w_r, np.zeros_like(w_r), blocks[1])
    # A stricter k-hat: an infinite variance would raise the alarm by itself.
    reliable = all(_weights.trusted(-w) and _weights.pareto_khat(-w) < _weights.KHAT_RELIABLE for w in (w_f, w_r))
    gap = -float(forward.value) - float(reverse.value)
    spread = float(np.hypot(forward.error, reverse.error))
    words, agree = [], True
    if reliable and abs(gap) > max(DISAGREEMENT * spread, NEGLIGIBLE):
        words.append(
            f"{names[0]} alone gives {-float(forward.value):.3f}, {names[1]} alone {float(reverse.value):.3f}: "
            "one of them misses a part of the other"
        )
        agree = False
    unseen = float((w_r > NEGLIGIBLE - w_f.min()).mean())
    if unseen > UNSEEN:
        words.append(f"{100 * unseen:.0f} % of {names[1]} lie where {names[0]} has no frames")
    unseen = float((w_f > NEGLIGIBLE - w_r.min()).mean())
    if unseen > UNSEEN:
        words.append(f"{100 * unseen:.0f} % of {names[0]} lie where {names[1]} has no frames")
    return words, agree


def about_states(overlap: np.ndarray, ess: np.ndarray, n_k: np.ndarray) -> tuple[list[str], bool]:
    """What the overlap matrix (K, K) and the effective samples (K,) of K states say, and whether all can be trusted."""
    from scipy.sparse.csgraph import connected_components  # not above: it takes a while to import

    _, group = connected_components(overlap + overlap.T >= OVERLAP_LIMIT, directed=False)
    words, trusted = [], True
    apart = np.flatnonzero(group != group[0]).tolist()
    if apart:
        words.append(f"states {apart} have too little overlap with state 0 and those joined to it")
        trusted = False
    few = [int(k) for k in np.flatnonzero(ess < FEW)]
    if few:
        words.append(f"states {few} rest on fewer than {FEW:.0f} effective samples")
        trusted = False
    if not words:
        sums = (overlap + overlap.T)[~np.eye(len(n_k), dtype=bool)]
        neighbours = (overlap + overlap.T - np.diag(np.diag(2 * overlap))).max(0).min() if sums.size else 1.0
        words = [f"all states overlap: {neighbours:.2f} or more with the nearest one"]
    return words, trusted


def about_blocks(blocks: Sequence[ArrayLike | None]) -> list[str]:
    """A sentence where there are few independent blocks; none otherwise."""
    counts = [_weights.count_blocks(0, block) for block in blocks]
    few = [count for count in counts if 0 < count < FEW_BLOCKS]
    return [f"only {min(few)} independent blocks: the error is itself uncertain"] if few else []
