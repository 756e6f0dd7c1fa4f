"""Structures in a notebook, through nglview."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .ensemble import Ensemble


def view(ensemble: Ensemble, n: int = 20, seed: int = 0) -> Any:
    """nglview widget of n structures drawn by weight, superposed on the first by their heavy atoms.

    Raises
    ------
    ImportError
        Without nglview; the message has the install command.
    """
    try:
        import nglview
    except ImportError as error:
        raise ImportError("Viewing structures needs nglview: pip install openmm_fab[notebook].") from error
    trajectory = ensemble.resample(n, seed).to_mdtraj()
    heavy = [a.index for a in trajectory.topology.atoms if a.element.symbol not in ("H", "VS")]
    trajectory.superpose(trajectory, 0, atom_indices=np.array(heavy))
    widget = nglview.show_mdtraj(trajectory)
    widget.clear_representations()
    # Balls and sticks show any molecule; nglview's cartoon shows nothing of a short peptide.
    widget.add_representation("ball+stick")
    widget.center()
    return widget
