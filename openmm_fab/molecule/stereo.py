"""What an Ensemble asks of an mdtraj.Topology: names of torsions, the same atoms or not, arrays to put in a
file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import mdtraj
import numpy as np

from .graph import kinds_of, neighbours_of

if TYPE_CHECKING:
    from .system import MolecularSystem


def check_hands(x: np.ndarray, centres: dict[int, list[int]], positions: np.ndarray, topology: mdtraj.Topology) -> None:
    """Compare the hand of stereocentres with the system's.

    Parameters
    ----------
    x : (n, atoms, 3), nm
    centres : dict of int to list of int
        Stereocentres and their neighbours.
    positions : (atoms, 3), nm
        The system's structure.

    Raises
    ------
    ValueError
        A centre has the other hand in more than half of the frames; in fewer it is a warning.
    """
    if not len(x):
        return
    inverted = inverted_hands(x, centres, positions)
    atoms = list(topology.atoms)
    wrong = [f"{atoms[i]}" for i, share in inverted.items() if share > 0.5]
    if wrong:
        raise ValueError(
            f"Expected the hand of the system's structure at {', '.join(wrong[:5])}; the trajectory has the other (a "
            "D-residue, or a mirrored structure). Build the system from the molecule that was simulated."
        )
    some = {i: share for i, share in inverted.items() if share > 0.0}
    if some:
        found = ", ".join(f"{atoms[i]} in {100 * share:.2g} %" for i, share in list(some.items())[:5])
        warnings.warn(
            f"Stereocentres have the other hand than the system's structure: {found} of the frames. Such frames are "
            "another molecule; leave them out.",
            stacklevel=4,
        )


def inverted_hands(x: np.ndarray, centres: dict[int, list[int]], positions: np.ndarray) -> dict[int, float]:
    """Share of the frames x (n, atoms, 3) in which a stereocentre has the other hand than in positions (atoms, 3)."""
    return {i: float((_hand(x, i, near) * _hand(positions[None], i, near) < 0).mean()) for i, near in centres.items()}


def _hand(x: np.ndarray, centre: int, near: list[int]) -> np.ndarray:
    """(n,): sign of the volume that three neighbours span with the centre."""
    a, b, c = (x[:, i] - x[:, centre] for i in near[:3])
    return np.sign(np.einsum("ni,ni->n", a, np.cross(b, c)))


def centres_of(system: MolecularSystem) -> dict[int, list[int]]:
    """Atoms that have a hand, and their neighbours."""
    near = neighbours_of(system.bonds, system.n_atoms)
    return {i: [int(j) for j in near[i]] for i in stereocentres(near, system.elements)}


def stereocentres(near: Sequence[Sequence[int]], elements: Sequence[str]) -> list[int]:
    """Atoms with four neighbours, or three and a lone pair (sulfoxides), that no walk along the bond graph takes for
    each other."""
    kinds = kinds_of(near, elements)
    arms = {"C": 4, "N": 4, "Si": 4, "P": 4, "S": 3}
    return [i for i, b in enumerate(near) if len(b) == arms.get(elements[i]) and len({kinds[j] for j in b}) == len(b)]
