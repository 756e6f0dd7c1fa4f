"""How atoms and runs of residues are called in messages, tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openmm import app


def atom_names(topology: app.Topology) -> list[str]:
    """Residue, its number and the atom's name, "ALA2:CA", of each atom of a topology."""
    return [f"{atom.residue.name}{atom.residue.id}:{atom.name}" for atom in topology.atoms()]


def residue_run(residues: Sequence[Any]) -> str:
    """Names of residues (openmm.app's) in a row, "ACE-ALA-NME"; of more than five the first, the last and how many."""
    names = [residue.name for residue in residues]
    return "-".join(names) if len(names) <= 5 else f"{names[0]}-...-{names[-1]} ({len(names)} residues)"
