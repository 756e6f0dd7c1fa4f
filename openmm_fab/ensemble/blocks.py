"""Division of a run in time order into independent blocks, by the correlation time of its slowest torsion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..tools.quiet import quiet
from ..tools.warn import warn


def time_blocks(angles: np.ndarray, blocks: int = 50) -> np.ndarray:
    """Labels (n,) of contiguous equal time blocks, each longer than twice the slowest torsion's statistical
    inefficiency.

    Without pymbar there is no estimate of it, and 20 blocks are made.

    Parameters
    ----------
    angles : (n, torsions), rad
        Of frames in time order.
    blocks : int
        No more than so many.
    """
    n, slowest = len(angles), slowest_inefficiency(angles)
    if slowest is None:
        return np.arange(n) * min(20, n) // n
    count = min(blocks, int(n / (2.0 * slowest)))
    if count < 10:
        warn(
            f"The slowest torsion stays correlated over {slowest:.0f} of {n} frames, which leaves "
            f"{max(count, 0)} independent time blocks: error bars are rough. Sample longer, or use replica "
            "exchange.",
        )
    return np.arange(n) * min(max(count, 2), n) // n


def slowest_inefficiency(angles: np.ndarray) -> float | None:
    """Statistical inefficiency, in frames, of the slowest of the torsions (n, torsions), rad, of a run in time
    order: the number of frames worth one independent frame. At least 1; None without pymbar."""
    # The half circle catches rare jumps that motion within one basin hides in cos and sin.
    series = np.hstack([np.cos(angles), np.sin(angles), (angles > 0) & (angles < 2.5)]).T
    found = [1.0, *(inefficiency([one]) for one in series)]
    return None if None in found else float(np.nanmax(np.array(found, dtype=np.float64)))


def inefficiency(runs: Sequence[np.ndarray]) -> float | None:
    """Statistical inefficiency (>= 1, in frames) of runs of equal length; nan for constants, None without pymbar."""
    try:
        with quiet("pymbar"):
            from pymbar.timeseries import ParameterError, statistical_inefficiency_multiple
    except ImportError:
        return None

    def estimate(parts: list[np.ndarray]) -> float:
        if len(parts[0]) <= 10 or np.std(parts) <= 1e-6:  # pymbar divides by the variance
            return np.nan
        try:
            return max(1.0, float(statistical_inefficiency_multiple(parts)))
        except ParameterError:
            return np.nan

    # A few thousand points tell a slow time, or the first few thousand a fast one; the estimator's cost grows faster
    # than linearly.
    stride = max(1, len(runs[0]) // 5000)
    found = stride * estimate([run[::stride] for run in runs])
    if stride > 1 and not found >= 3 * stride:  # nan where a run moves between the points only
        first = estimate([run[:5000] for run in runs])
        found = found if np.isnan(first) else first
    return found
