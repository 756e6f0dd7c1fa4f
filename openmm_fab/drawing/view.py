"""Structures in a notebook, through nglview."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .sticks import structure_picture
from .structures import elements_and_bonds, superposed

if TYPE_CHECKING:
    import mdtraj
    from matplotlib.figure import Figure

    from ..coordinates.internal import InternalCoordinates
    from ..ensemble.ensemble import Ensemble


Colour = list[float]
TURNS: Colour = [0.15, 0.65, 0.25]  # rotatable bonds
SECTOR: Colour = [0.95, 0.6, 0.1]  # rotors restricted to a sector
CLOSES: Colour = [0.55, 0.25, 0.75]  # bonds that close rings
FIXED: Colour = [0.5, 0.5, 0.5]  # constrained bonds
HAND: Colour = [0.85, 0.15, 0.2]  # stereocentres


def view(ensemble: Ensemble, n: int = 20, seed: int = 0) -> Any:
    """nglview widget of n structures drawn by weight, superposed on the first by their heavy atoms.

    Where widgets cannot run, a page shows a picture of the same structures.

    Raises
    ------
    ImportError
        Without nglview; the message has the install command.
    """
    return structure_widget(superposed(ensemble.resample(n, seed).to_mdtraj()))


def view_coordinates(coordinates: InternalCoordinates) -> Any:
    """nglview widget of the molecule: what turns, what is fixed, where rings are closed, which centres keep their hand.

    Raises
    ------
    ImportError
        Without nglview; the message has the install command.
    ValueError
        Coordinates that were not made from a system.
    """
    import mdtraj
    import torch

    system = coordinates.system
    if system is None:
        raise ValueError("Expected coordinates made with InternalCoordinates.from_system; these know no system.")
    x, _ = coordinates.to_cartesian(torch.zeros(1, coordinates.dim, dtype=torch.float64))
    bonds, atoms = marked_bonds(coordinates), marked_atoms(coordinates)
    marks: list[tuple[tuple[int, ...], Colour]] = [(pair, colour) for pair, colour, _ in bonds]
    marks += [((i,), HAND) for i, _ in atoms]
    widget = structure_widget(mdtraj.Trajectory(x.numpy(), system.md_topology), marks, aspectRatio=1.5)
    angstrom = 10 * x[0].numpy()
    for (i, j), colour, name in bonds:
        widget.shape.add_cylinder(angstrom[i].tolist(), angstrom[j].tolist(), colour, 0.22, name)
    for i, name in atoms:
        widget.shape.add_sphere(angstrom[i].tolist(), HAND, 0.45, name)
    widget.center()
    return widget


def structure_widget(
    trajectory: mdtraj.Trajectory, marks: Sequence[tuple[tuple[int, ...], Colour]] = (), **kwargs: float
) -> Any:
    """nglview's widget of balls and sticks; where a page has no widgets, as on GitHub, it shows a picture instead."""
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
    """What a notebook shows of a widget, with picture and words for pages without widgets."""
    picture = base64.b64encode(png(figure)).decode("ascii")
    return {**widget._repr_mimebundle_(), "image/png": picture, "text/plain": words}


def png(figure: Figure, dpi: int = 80) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def marked_bonds(coordinates: InternalCoordinates) -> list[tuple[tuple[int, int], Colour, str]]:
    """Bonds that stand out, each with its colour and what it is."""
    z, names = coordinates.zmatrix, coordinates.atom_names
    rotors = {rotor.rows[0] for rotor in coordinates.rotors}
    found = []
    for k, (atom, bond, angle, _) in enumerate(z.rows.tolist()):
        if z.periodic[k]:
            kind = "one sector of " if k in rotors else ""
            found.append(
                ((bond, angle), SECTOR if k in rotors else TURNS, f"turns: {kind}{names[bond]}-{names[angle]}")
            )
        if z.closes[k]:
            found.append(((atom, angle), CLOSES, f"closes a ring: {names[atom]}-{names[angle]}"))
        if k >= 1 and not np.isnan(coordinates.lengths[k - 1]):
            found.append(((atom, bond), FIXED, f"fixed: {names[atom]}-{names[bond]}"))
    return found


def marked_atoms(coordinates: InternalCoordinates) -> list[tuple[int, str]]:
    """Stereocentres by name."""
    from ..molecule.stereo import stereocentres

    system, names = coordinates.system, coordinates.atom_names
    assert system is not None
    return [(i, f"keeps its hand: {names[i]}") for i in stereocentres(system.graph)]


def _nglview() -> Any:
    try:
        import nglview
    except ImportError as error:
        raise ImportError("Viewing structures needs nglview: pip install openmm_fab[notebook].") from error
    return nglview
