"""How atoms, residues, runs of residues and formulas are called in messages, tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openmm import app


def atom_names(topology: app.Topology) -> list[str]:
    """Residue, its number and the atom's name, "ALA2:CA", of each atom of a topology."""
    return [f"{atom.residue.name}{atom.residue.id}:{atom.name}" for atom in topology.atoms()]


def residue_run(residues: Sequence[Any]) -> str:
    """Names of residues (openmm.app's) in a row, "ACE-ALA-NME"; of more than five the first, the last and how many."""
    names = [residue.name for residue in residues]
    return "-".join(names) if len(names) <= 5 else f"{names[0]}-...-{names[-1]} ({len(names)} residues)"


def residue_label(residue: Any) -> str:
    """Name, number and insertion code of a residue (openmm.app's), "ALA 2"; with the chain where there are several."""
    several = residue.chain.topology.getNumChains() > 1
    return f"{residue.name} {residue.id}{residue.insertionCode.strip()}" + (
        f" (chain {residue.chain.id})" if several else ""
    )


def formula(elements: Mapping[str, int]) -> str:
    """Hill's formula of numbers of atoms by element, "C3H7NO2": carbon and hydrogen first where there is carbon."""
    first = ("C", "H", "D") if elements.get("C") else ()
    order = [*first, *sorted(set(elements) - set(first))]
    return "".join(
        f"{symbol}{elements[symbol] if elements[symbol] > 1 else ''}" for symbol in order if elements.get(symbol)
    )
