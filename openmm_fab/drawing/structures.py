"""Selected structures of an ensemble, superposed, with their shares and torsions, as arrays, PDB text and JSON."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import mdtraj


STRUCTURES = 40
MOST_ATOMS = 4000  # of all structures together


@dataclass(frozen=True)
class Structures:
    """Distinct frames drawn by weight, superposed on the first by their heavy atoms, the most frequent first.

    Attributes
    ----------
    x : (n, atoms, 3), nm
    frame : (n,) int
        Which frame of the ensemble each is.
    share : (n,)
        Of the draws; they sum to one.
    axes : tuple of str
        Two torsions to place them by: phi and psi, the first two others, or none.
    angles : (n, len(axes)), rad
    pdb : str
        One model each.
    """

    x: np.ndarray
    frame: np.ndarray
    share: np.ndarray
    axes: tuple[str, ...]
    angles: np.ndarray
    pdb: str

    def to_json(self) -> str:
        """Everything but x as JSON that may stand inside a script element of a page."""
        about: dict[str, Any] = {
            "pdb": self.pdb,
            "frame": self.frame.tolist(),
            "share": np.round(self.share, 4).tolist(),
            "axes": list(self.axes),
            "angles": np.round(self.angles, 3).tolist(),
        }
        return json.dumps(about).replace("</", "<\\/")


def superposed(trajectory: mdtraj.Trajectory) -> mdtraj.Trajectory:
    """Superpose all frames of a trajectory on the first one by heavy atoms, in place, and return it."""
    heavy = [a.index for a in trajectory.topology.atoms if a.element.symbol not in ("H", "VS")]
    return trajectory.superpose(trajectory, 0, atom_indices=np.array(heavy))


def elements_and_bonds(topology: mdtraj.Topology) -> tuple[list[str], np.ndarray]:
    """Element symbols of the atoms, and their bonds (n, 2)."""
    bonds = [(a.index, b.index) for a, b in topology.bonds]
    return [atom.element.symbol for atom in topology.atoms], np.array(bonds, dtype=int).reshape(-1, 2)


def pdb_models(trajectory: mdtraj.Trajectory) -> str:
    """Text of a PDB file with one model for each frame."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "structures.pdb"
        trajectory.save_pdb(str(path))
        return path.read_text(encoding="utf-8")
