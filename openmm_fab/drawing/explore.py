"""Notebook widget that shows structures beside a map of two torsions; a click on the map selects a structure."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import mdtraj
import numpy as np

from ..tools.install import install
from .sticks import sticks
from .structures import Structures, elements_and_bonds
from .style import REWEIGHTED, angle_axis, draw_surface, new_figure, torsion_label
from .view import png, structure_widget, with_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Explorer:
    """Structures with a slider, beside the free energy F on their two torsions; the last line of a notebook's cell.

    The size of a dot is its structure's share of the draws, the colour its energy. The slider moves a ring on the map.
    Clicks on the map need ipympl, of which nothing else is asked; in a script, the figure may be put on any of
    matplotlib's interactive backends. A page without widgets shows map and structures as a picture.

    Parameters
    ----------
    structures : Structures
        With two torsions to place them by.
    topology : mdtraj.Topology
    u : (structures,)
        Reduced energies; nan where they are not known.
    free_energy : (bins, bins), kT
        F on the two torsions, in equal bins from -pi to pi; inf where nothing was seen.

    Attributes
    ----------
    structures : Structures
    chosen : int
        Number of the structure shown.
    figure : matplotlib Figure
        The map.
    """

    def __init__(
        self, structures: Structures, topology: mdtraj.Topology, u: np.ndarray, free_energy: np.ndarray
    ) -> None:
        self.structures, self.chosen = structures, 0
        self._topology, self._free_energy = topology, free_energy
        self._u = u - u.min()
        self.figure = new_figure(4.8, 4.0)
        self.figure.set_dpi(100)
        self._ring = self._map(self.figure.subplots())
        self.connect()
        self.show(0)

    def show(self, number: int) -> None:
        """Show a structure by its number, 0 is the one drawn most often."""
        if not 0 <= number < len(self.structures.frame):
            raise ValueError(f"Expected a number from 0 to {len(self.structures.frame) - 1}; got {number}.")
        self.chosen = int(number)
        self._ring.set_data(*self.structures.angles[[self.chosen]].T)
        self.figure.canvas.draw_idle()
        if "box" in self.__dict__:
            self._update_box()

    def words(self) -> str:
        """Description of the structure shown."""
        s, k = self.structures, self.chosen
        places = ", ".join(f"{name} {np.degrees(a):.0f}°" for name, a in zip(s.axes, s.angles[k], strict=True))
        energy = f"; u {self._u[k]:.1f} above the lowest of these" if np.isfinite(self._u[k]) else ""
        return f"Structure {k + 1} of {len(s.frame)}: {places}; {100 * s.share[k]:.2g} % of the draws{energy}"

    def connect(self) -> None:
        """Listen to clicks on the figure's canvas; to be called again after the figure was moved to another canvas."""
        self.figure.canvas.mpl_connect("button_press_event", self._clicked)

    def _clicked(self, event: Any) -> None:
        """The structure nearest to the click, in periods of the circle."""
        if event.inaxes is not self._ring.axes:
            return
        off = self.structures.angles - np.array([event.xdata, event.ydata])
        self.show(int(np.linalg.norm(np.angle(np.exp(1j * off)), axis=1).argmin()))

    def _map(self, ax: Axes) -> Any:
        """Draw F with a dot for each structure, and return the ring that goes around the chosen one."""
        axes = self.structures.axes
        edges = np.linspace(-np.pi, np.pi, len(self._free_energy) + 1)
        draw_surface(ax, edges, edges, self._free_energy, alpha=0.35)
        size = 20 + 600 * self.structures.share
        # Those drawn less often lie on top, so that each can be hit.
        x, y = self.structures.angles.T
        known = np.isfinite(self._u).all()
        colour = {"c": self._u, "cmap": "plasma"} if known else {"color": REWEIGHTED}
        dots = ax.scatter(x, y, s=size, edgecolors="white", linewidths=0.5, **colour)
        if known:
            ax.figure.colorbar(dots, ax=ax, label="u above the lowest of these", shrink=0.9)
        angle_axis(ax, "x", torsion_label(axes[0]))
        angle_axis(ax, "y", torsion_label(axes[1]))
        ax.set_aspect("equal")
        ax.set_title("structures drawn by weight", fontsize=10)
        return ax.plot([], [], "o", ms=13, mfc="none", mec="black", mew=2)[0]

    @cached_property
    def box(self) -> Any:
        """ipywidget of viewer, map and description, made at first use.

        Raises
        ------
        ImportError
            Without nglview; the message has the install command.
        """
        self.viewer = structure_widget(mdtraj.Trajectory(self.structures.x, self._topology))
        import ipywidgets  # comes with nglview

        self.viewer.observe(lambda change: self.show(change["new"]), "frame")
        self._label = ipywidgets.HTML()
        try:
            from ipympl.backend_nbagg import Canvas, FigureManager
        except ImportError:
            self._picture = ipywidgets.Image(format="png", width=480)
            side, hint = self._picture, f"For clicks on the map: {install('notebook')}."
        else:
            side, hint = Canvas(self.figure), "Click a dot."
            FigureManager(side, 0)
            self._picture = None
            self.connect()
        self._update_box()
        return ipywidgets.VBox([ipywidgets.HBox([self.viewer, side]), self._label, ipywidgets.Label(hint)])

    def _update_box(self) -> None:
        self.viewer.frame = self.chosen
        self._label.value = self.words()
        if self._picture is not None:
            self._picture.value = png(self.figure)

    def still(self) -> Figure:
        """One picture of map and structures, for pages without widgets."""
        figure = new_figure(9.6, 4.0)
        left, right = figure.subplots(1, 2)
        self._map(left)
        sticks(right, self.structures.x, *elements_and_bonds(self._topology))
        right.set_title("the one drawn most often, the others behind it", fontsize=10)
        return figure

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return with_picture(self.box, self.still(), self.words())
