"""Free energy along one variable or over two, as a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .style import REWEIGHTED, angle_axis, draw_surface, new_figure, torsion_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
    _label(ax, "x", edges, name)
    return figure


def draw_map(edges_a: np.ndarray, edges_b: np.ndarray, value: np.ndarray, names: tuple[str, str], unit: str) -> Figure:
    """Figure of F (bins_a, bins_b) in a unit over two variables, with a colour bar; F above 8 is one colour."""
    figure = new_figure(4.5, 3.8)
    ax = figure.subplots()
    figure.colorbar(draw_surface(ax, edges_a, edges_b, value), ax=ax, label=f"F / {unit}", extend="max")
    _label(ax, "x", edges_a, names[0])
    _label(ax, "y", edges_b, names[1])
    return figure


def _label(ax: Axes, which: str, edges: np.ndarray, name: str) -> None:
    """Label an axis; one from -pi to pi is that of an angle."""
    if np.allclose(edges[[0, -1]], [-np.pi, np.pi]):
        angle_axis(ax, which, torsion_label(name))
    else:
        getattr(ax, f"set_{which}label")(name)
