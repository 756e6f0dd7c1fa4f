"""Common style of figures: size, colours safe for the colour-blind, angle axes, free-energy surfaces."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's palette.
FLOW, REWEIGHTED, REFERENCE = "#E69F00", "#0072B2", "#333333"
CMAP = "viridis"
F_SHOWN = 8.0  # kT


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, laid out so that labels do not overlap; a notebook shows it as it is."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    class NotebookFigure(Figure):
        """A Figure that a notebook shows as a picture, with or without %matplotlib inline."""

        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png", dpi=100)  # half the size of a file's: notebooks are kept
            return file.getvalue()

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = NotebookFigure(figsize=(width, height), dpi=150, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def angle_axis(ax: Axes, which: str, label: str) -> None:
    """Ticks at multiples of pi / 2, limits of +-pi and a label, for the x or the y axis."""
    axis = getattr(ax, f"{which}axis")
    axis.set_ticks([-np.pi, -np.pi / 2, 0, np.pi / 2, np.pi], ["−π", "−π/2", "0", "π/2", "π"])
    getattr(ax, f"set_{which}lim")(-np.pi, np.pi)
    axis.set_label_text(label)


def torsion_label(name: str, unit: bool = True) -> str:
    """Axis label of a torsion ("phi ALA2", "C-C, 3-fold"), with its unit unless told otherwise."""
    kind, _, residue = name.partition(" ")
    label = rf"$\{kind}$ {residue}" if kind in ("phi", "psi") else name
    if folded := re.fullmatch(r"(.*), (\d)-fold", name):  # the value is fold times the torsion
        label = f"{folded[2]} × {folded[1]}"
    return label + " / rad" if unit else label


def draw_surface(ax: Axes, edges_x: np.ndarray, edges_y: np.ndarray, value: np.ndarray, alpha: float = 1.0) -> Any:
    """Draw F on a plane, cut at 8 kT; returns the image, for a colour bar.

    Parameters
    ----------
    edges_x, edges_y : (bins_x + 1,), (bins_y + 1,)
    value : (bins_x, bins_y), kT
        Above the minimum; inf or nan in bins that were never visited, which stay white.
    """
    shown = np.ma.masked_invalid(np.where(np.isinf(value), np.nan, value)).T
    return ax.pcolormesh(edges_x, edges_y, shown, cmap=CMAP, vmin=0.0, vmax=F_SHOWN, alpha=alpha, rasterized=True)
