"""Chirality: stereocentres of a molecule, and whether structures agree with a reference structure."""

from __future__ import annotations

import mdtraj
import numpy as np

from ..tools.warn import warn
from .graph import BondGraph

ARMS = {"C": 4, "N": 4, "Si": 4, "P": 4, "S": 3}  # neighbours of a stereocentre; beside three there is a lone pair


def check_chirality(
    x: np.ndarray, centres: dict[int, list[int]], positions: np.ndarray, topology: mdtraj.Topology
) -> None:
    """Raise, or warn, where frames have another chirality than the system's structure.

    Parameters
    ----------
    x : (n, atoms, 3), nm
    centres : dict of int to list of int
        Stereocentres and their neighbours, see `stereocentres`.
    positions : (atoms, 3), nm
        The system's structure.

    Raises
    ------
    ValueError
        A centre has the other chirality in more than half of the frames; in fewer it is a warning.
    """
    if not len(x):
        return
    inverted = inverted_centres(x, centres, positions)
    atoms = list(topology.atoms)
    wrong = [f"{atoms[i]}" for i, share in inverted.items() if share > 0.5]
    if wrong:
        raise ValueError(
            f"Expected the chirality of the system's structure at {', '.join(wrong[:5])}; the trajectory has the "
            "opposite (a D-residue, or a mirrored structure). Build the system from the molecule that was simulated."
        )
    some = {i: share for i, share in inverted.items() if share > 0.0}
    if some:
        found = ", ".join(f"{atoms[i]} in {100 * share:.2g} %" for i, share in list(some.items())[:5])
        warn(
            f"Stereocentres have the opposite chirality to the system's structure: {found} of the frames. Such frames "
            "are another molecule; leave them out.",
        )


def inverted_centres(x: np.ndarray, centres: dict[int, list[int]], positions: np.ndarray) -> dict[int, float]:
    """Share of frames x (n, atoms, 3) in which a stereocentre has the opposite chirality of positions (atoms, 3)."""
    return {
        i: float((_chirality(x, i, near) * _chirality(positions[None], i, near) < 0).mean())
        for i, near in centres.items()
    }


def _chirality(x: np.ndarray, centre: int, near: list[int]) -> np.ndarray:
    """(n,): sign of the volume that three neighbours span with the centre."""
    a, b, c = (x[:, i] - x[:, centre] for i in near[:3])
    return np.sign(np.einsum("ni,ni->n", a, np.cross(b, c)))


def stereocentres(graph: BondGraph) -> dict[int, list[int]]:
    """Find stereocentres: atom number -> numbers of its neighbours.

    Atoms with four neighbours, or three and a lone pair (sulfoxides), that the bond graph tells apart.
    """
    near, kinds = graph.neighbours, graph.kinds
    return {
        i: near[i]
        for i, element in enumerate(graph.elements)
        if len(near[i]) == ARMS.get(element) and len({kinds[j] for j in near[i]}) == len(near[i])
    }
