"""Free energy along one variable, as a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .style import REWEIGHTED, angle_axis, new_figure, torsion_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_profile(edges: np.ndarray, value: np.ndarray, error: np.ndarray, name: str, unit: str) -> Figure:
    """Figure of F (bins,) in a unit over bins between edges (bins + 1,), with a band of two standard errors."""
    figure = new_figure(4.5, 3.2)
    ax = figure.subplots()
    shown, centers = np.where(np.isfinite(value), value, np.nan), 0.5 * (edges[1:] + edges[:-1])
    ax.plot(centers, shown, color=REWEIGHTED, lw=1.5)
    ax.fill_between(centers, shown - 2 * error, shown + 2 * error, color=REWEIGHTED, alpha=0.25, lw=0)
    ax.set_ylabel(f"F / {unit}")
    ax.spines[["top", "right"]].set_visible(False)
    if np.allclose(edges[[0, -1]], [-np.pi, np.pi]):
        angle_axis(ax, "x", torsion_label(name))
    else:
        ax.set_xlabel(name)
    return figure
