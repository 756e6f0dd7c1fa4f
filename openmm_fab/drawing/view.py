"""3-D views of structures in a notebook with nglview, with a picture for pages without widgets."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import mdtraj
import numpy as np

from ..tools.install import install
from .sticks import structure_picture
from .structures import elements_and_bonds, superposed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Colour = list[float]  # red, green, blue between 0 and 1
Mark = tuple[tuple[int, ...], Colour, str]  # a pair of atoms or a single one, its colour, what it is


def view(x: np.ndarray, topology: mdtraj.Topology, marks: Sequence[Mark] = (), **style: float) -> Any:
    """nglview widget of structures, superposed on the first by their heavy atoms.

    Where widgets cannot run, a page shows a picture of the same structures.

    Parameters
    ----------
    x : (n, atoms, 3), nm
    topology : mdtraj.Topology
    marks : sequence of Mark
        Bonds shown as cylinders and atoms shown as spheres, in the first structure, each named where the mouse is.
    style
        Parameters of nglview's balls and sticks, such as aspectRatio.

    Raises
    ------
    ImportError
        Without nglview; the message has the install command.
    """
    trajectory = superposed(mdtraj.Trajectory(x, topology))
    widget = structure_widget(trajectory, [(atoms, colour) for atoms, colour, _ in marks], **style)
    angstrom = 10 * trajectory.xyz[0]
    for atoms, colour, name in marks:
        ends = angstrom[list(atoms)].tolist()
        if len(atoms) == 2:
            widget.shape.add_cylinder(*ends, colour, 0.22, name)
        else:
            widget.shape.add_sphere(*ends, colour, 0.45, name)
    if marks:
        widget.center()
    return widget


def structure_widget(
    trajectory: mdtraj.Trajectory, marks: Sequence[tuple[tuple[int, ...], Colour]] = (), **kwargs: float
) -> Any:
    """nglview widget of a trajectory as balls and sticks, which becomes a picture on pages without widgets, such as
    GitHub's."""
    nglview = _nglview()

    class Pictured(nglview.NGLWidget):  # type: ignore[name-defined]
        def _ipython_display_(self, **_: Any) -> None:
            from IPython.display import display

            picture = structure_picture(trajectory.xyz, *elements_and_bonds(trajectory.topology), marks=marks)
            number = f"{trajectory.n_frames} structure{'' if trajectory.n_frames == 1 else 's'}"
            words = f"{number} of {trajectory.n_atoms} atoms, in nglview"
            display(with_picture(self, picture, words), raw=True)

    widget = Pictured(nglview.MDTrajTrajectory(trajectory))
    widget.clear_representations()
    # Balls and sticks show any molecule; nglview's cartoon shows nothing of a short peptide.
    widget.add_representation("ball+stick", **kwargs)
    widget.center()
    return widget


def with_picture(widget: Any, figure: Figure, words: str) -> dict[str, Any]:
    """Notebook representation of a widget, with a picture and a text for pages without widgets."""
    picture = base64.b64encode(png(figure)).decode("ascii")
    return {**widget._repr_mimebundle_(), "image/png": picture, "text/plain": words}


def png(figure: Figure, dpi: int = 80) -> bytes:
    """PNG file of a figure, as bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def _nglview() -> Any:
    """Import nglview; the ImportError names what to install."""
    try:
        import nglview
    except ImportError as error:
        raise ImportError(f"Viewing structures needs nglview: {install('notebook')}.") from error
    return nglview
