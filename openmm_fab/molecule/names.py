"""Names of atoms, residues, residue ranges and formulas for messages, tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openmm import app


def atom_names(topology: app.Topology) -> list[str]:
    """Label of each atom of a topology, "ALA2:CA": residue, number and atom; "B:ALA2:CA" where there are several
    chains, by the letters that names of torsions have."""
    several = topology.getNumChains() > 1
    chains = {chain: f"{chain_letter(i)}:" if several else "" for i, chain in enumerate(topology.chains())}
    return [f"{chains[a.residue.chain]}{a.residue.name}{a.residue.id}:{a.name}" for a in topology.atoms()]


def chain_letter(index: int) -> str:
    """Letter of a chain by its place among the chains: A, B, ..., after Z A again."""
    return chr(ord("A") + index % 26)


def residue_run(residues: Sequence[Any]) -> str:
    """Name of a row of residues (openmm.app's), "ACE-ALA-NME"; longer than five, the first, the last and the count."""
    names = [residue.name for residue in residues]
    return "-".join(names) if len(names) <= 5 else f"{names[0]}-...-{names[-1]} ({len(names)} residues)"


def residue_label(residue: Any) -> str:
    """Label of a residue (openmm.app's), "ALA 2": name, number, insertion code, and the chain if there are several."""
    several = residue.chain.topology.getNumChains() > 1
    return f"{residue.name} {residue.id}{residue.insertionCode.strip()}" + (
        f" (chain {residue.chain.id})" if several else ""
    )


def formula(elements: Mapping[str, int]) -> str:
    """Hill formula, "C3H7NO2", of numbers of atoms by element: carbon and hydrogen first where there is carbon."""
    first = ("C", "H", "D") if elements.get("C") else ()
    order = [*first, *sorted(set(elements) - set(first))]
    return "".join(
        f"{symbol}{elements[symbol] if elements[symbol] > 1 else ''}" for symbol in order if elements.get(symbol)
    )
