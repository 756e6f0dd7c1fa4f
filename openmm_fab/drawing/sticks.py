"""Stick drawings of structures with matplotlib, without a 3-D viewer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .style import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Radius in nm of a ball, and its colour.
ATOMS = {"H": (0.016, "#c8ccd2"), "C": (0.028, "#6b7280"), "N": (0.028, "#3b6fd4"), "O": (0.028, "#d43b3b")}
OTHER = (0.032, "#c9a227")


def structure_picture(
    x: np.ndarray,
    elements: Sequence[str],
    bonds: np.ndarray,
    edge: str = "#1f2430",
    marks: Sequence[tuple[tuple[int, ...], str | Sequence[float]]] = (),
) -> Figure:
    """Superposed structures (n, atoms, 3) in nm as sticks, the first one in full, along their thinnest direction.

    Parameters
    ----------
    elements : symbols of the atoms
    bonds : (n_bonds, 2) int
    edge : colour around the balls
    marks : pairs of atoms, or single atoms, each with a colour that it is to stand out in
    """
    figure = new_figure(4.8, 4.0)
    sticks(figure.subplots(), x, elements, bonds, edge, marks)
    return figure


def sticks(
    ax: Axes,
    x: np.ndarray,
    elements: Sequence[str],
    bonds: np.ndarray,
    edge: str = "#1f2430",
    marks: Sequence[tuple[tuple[int, ...], str | Sequence[float]]] = (),
) -> None:
    """Draw structures as `structure_picture` does, into given axes."""
    from matplotlib.collections import LineCollection

    centred = x - x[0].mean(0)
    seen = centred @ np.linalg.svd(centred[0], full_matrices=False)[2].T
    ax.set_axis_off()
    ax.set_aspect("equal")
    for k in range(len(seen) - 1, -1, -1):
        ends = seen[k][bonds]
        width, opacity = (3.0, 1.0) if k == 0 else (1.0, 0.15)
        for half in (0, 1):  # each half of a bond has the colour of its atom
            middle = ends.mean(1)
            lines = np.stack([ends[:, half, :2], middle[:, :2]], axis=1)
            colours = [ATOMS.get(elements[i], OTHER)[1] for i in bonds[:, half]]
            ax.add_collection(
                LineCollection(list(lines), colors=colours, linewidths=width, alpha=opacity, capstyle="round")
            )
    for atoms, colour in marks:
        place = seen[0][list(atoms), :2]
        if len(atoms) == 2:
            ax.plot(*place.T, "-", color=colour, lw=7.0, solid_capstyle="round", zorder=2.5)
        else:
            ax.plot(*place.T, "o", color=colour, ms=17.0, zorder=2.6)
    order = np.argsort(seen[0][:, 2])
    sizes = np.array([ATOMS.get(e, OTHER)[0] for e in elements])[order]
    colours = [ATOMS.get(elements[i], OTHER)[1] for i in order]
    across, up, _ = seen[0][order].T
    ax.scatter(across, up, s=(4000 * sizes) ** 2 / 60, c=colours, zorder=3, edgecolors=edge, linewidths=0.4)
    ax.autoscale_view()
