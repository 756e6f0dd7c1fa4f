"""Bonds that PDBx/mmCIF files name between residues, where OpenMM's reader misses or confuses them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from openmm import app

from .openmm_private import mmcif_blocks, set_bonds, standard_bonds

COVALENT = ("covale", "disulf", "modres")  # as conn_type_id begins
CHAINS = [frozenset(pair) for pair in (("C", "N"), ("O3'", "P"), ("SG",))]  # these OpenMM makes without a table
Pair = frozenset[int]


def connect(topology: app.Topology, lines: Iterable[str]) -> None:
    """Set the covalent bonds of a PDBx/mmCIF file's struct_conn by the author's residue numbers, in place.

    OpenMM goes by label_seq_id, which ligands and sugars do not have: of a chain of sugars it takes each for the last,
    and bonds the wrong atoms. Files without auth_seq_id stay as OpenMM reads them.
    """
    block = mmcif_blocks(lines)[0]
    table = block.getObj("struct_conn")
    if table is None or table.getAttributeIndex("ptnr1_auth_seq_id") < 0:
        return
    atoms = {(a.residue.chain.id, a.residue.id, a.residue.insertionCode.strip(), a.name): a for a in topology.atoms()}
    found: dict[Pair, tuple[Any, Any]] = {}
    for row in table.getRowList():
        first, second = (_partner(table, row, k, atoms) for k in (1, 2))
        joined = _value(table, row, "conn_type_id").startswith(COVALENT) and first and second and first is not second
        # A bond to a copy of the molecule in the crystal is none of one molecule.
        if joined and _value(table, row, "ptnr1_symmetry") == _value(table, row, "ptnr2_symmetry"):
            found[frozenset((first.index, second.index))] = (first, second)
    confused = _confused(topology, found, _bonds_in_residues(block))
    kept = {frozenset((a.index, b.index)): bond for bond in topology.bonds() for a, b in [bond]}
    set_bonds(topology, [bond for pair, bond in kept.items() if pair not in confused])
    for pair, (a, b) in found.items():
        if pair not in kept:
            topology.addBond(a, b)


def _confused(topology: app.Topology, found: dict[Pair, Any], known: dict[str, set[frozenset[str]]]) -> set[Pair]:
    """Bonds whose atoms are called as those of a bond between residues, and that no table names."""
    named = {frozenset((a.name, b.name)) for a, b in found.values() if a.residue is not b.residue}
    confused = set()
    for a, b in topology.bonds():
        pair, called = frozenset((a.index, b.index)), frozenset((a.name, b.name))
        if pair in found or called not in named:
            continue
        if a.residue is b.residue:
            standard = {frozenset(bond[:2]) for bond in standard_bonds(a.residue.name)}
            if called not in known.get(a.residue.name, set()) | standard:
                confused.add(pair)
        elif called not in CHAINS:
            confused.add(pair)
    return confused


def _bonds_in_residues(block: Any) -> dict[str, set[frozenset[str]]]:
    """Names of bonded atoms by the name of their residue: chem_comp_bond."""
    table, found = block.getObj("chem_comp_bond"), dict[str, set[frozenset[str]]]()
    for row in table.getRowList() if table is not None else ():
        names = frozenset(_value(table, row, key) for key in ("atom_id_1", "atom_id_2"))
        found.setdefault(_value(table, row, "comp_id"), set()).add(names)
    return found


def _partner(table: Any, row: list[str], k: int, atoms: dict[tuple[str, str, str, str], Any]) -> Any:
    """The first or second atom of a row of struct_conn; None if the file does not have it."""
    number, name = (_value(table, row, f"ptnr{k}_{key}") for key in ("auth_seq_id", "label_atom_id"))
    insertion = _value(table, row, f"pdbx_ptnr{k}_PDB_ins_code").strip(".?")
    chains = (_value(table, row, f"ptnr{k}_{key}") for key in ("auth_asym_id", "label_asym_id"))
    return next((atom for chain in chains if (atom := atoms.get((chain, number, insertion, name)))), None)


def _value(table: Any, row: list[str], key: str) -> str:
    column = table.getAttributeIndex(key)
    return row[column] if column >= 0 else ""
