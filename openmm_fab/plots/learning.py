"""Curves over the time of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .style import FLOW, REWEIGHTED, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curve(metrics: Sequence[Mapping[str, float]]) -> Figure:
    """ESS of flow and of AIS, and basin ΔF, over the energy evaluations spent.

    Parameters
    ----------
    metrics : list of dict
        One a logged step, with any of the keys evaluations, seconds, ess, ess_ais (fractions of 1), basin_df
        (kT), basin_df_error (kT). Missing keys are left out; without evaluations, seconds or the step number
        is the axis.
    """
    if not metrics:
        raise ValueError("Expected at least one row of metrics; got none.")
    x_key = next((k for k in ("evaluations", "seconds") if any(_has(m, k) for m in metrics)), None)
    label = {"evaluations": "energy evaluations", "seconds": "time / s", None: "logged step"}[x_key]
    with_basin = any(_has(m, "basin_df") for m in metrics)
    figure = new_figure(10.0 if with_basin else 5.5, 3.8)
    axes = figure.subplots(1, 2 if with_basin else 1, squeeze=False)[0]
    for key, name, colour in (("ess", "flow", FLOW), ("ess_ais", "AIS", REWEIGHTED)):
        x, y = _series(metrics, x_key, key)
        if len(x) > 100:  # one point an iteration: its spread, and the mean of its neighbours
            axes[0].plot(x, 100 * y, ".", color=colour, ms=2, alpha=0.25)
            span = len(y) // 40
            x, y, name = x[span:-span], _running_mean(y, span), f"{name}, running mean"
            axes[0].plot(x, 100 * y, color=colour, lw=1.5, label=name)
        elif len(x):
            axes[0].plot(x, 100 * y, color=colour, marker="o", ms=3, lw=1.5, label=name)
    axes[0].set(xlabel=label, ylabel="ESS / %", title="effective sample size", ylim=(0, None))
    if axes[0].lines:
        axes[0].legend(frameon=False)
    if with_basin:
        x, y = _series(metrics, x_key, "basin_df")
        axes[1].plot(x, y, color=REWEIGHTED, marker="o", ms=3, lw=1.5)
        x, error = _series([m for m in metrics if _has(m, "basin_df")], x_key, "basin_df_error")
        if len(error) == len(y):
            axes[1].fill_between(x, y - 2 * error, y + 2 * error, color=REWEIGHTED, alpha=0.25, lw=0)
        axes[1].set(xlabel=label, ylabel="ΔF / kT", title="basin ΔF")
    for ax in axes:
        if x_key == "evaluations":
            ax.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4), useMathText=True)
        ax.grid(alpha=0.2)
    seconds = [m["seconds"] for m in metrics if _has(m, "seconds")]
    if seconds and x_key == "evaluations":
        figure.suptitle(f"{_duration(seconds[-1])} of training", fontsize=10)
    return figure


def _has(row: Mapping[str, float], key: str) -> bool:
    value = row.get(key)
    return value is not None and np.isfinite(value)


def _series(metrics: Sequence[Mapping[str, float]], x_key: str | None, key: str) -> tuple[np.ndarray, np.ndarray]:
    rows = [
        (i if x_key is None else m[x_key], m[key])
        for i, m in enumerate(metrics)
        if _has(m, key) and (x_key is None or _has(m, x_key))
    ]
    data = np.array(rows, dtype=np.float64).reshape(-1, 2)
    return data[:, 0], data[:, 1]


def _running_mean(y: np.ndarray, span: int) -> np.ndarray:
    """Mean over each point and `span` neighbours on either side, where there are so many."""
    return np.convolve(y, np.full(2 * span + 1, 1 / (2 * span + 1)), mode="valid")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
