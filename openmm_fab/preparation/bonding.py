"""Bonds of a structure from distances, where names and records of the file are wrong or missing."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from openmm import app, unit

from ..molecule.distances import ONE_ATOM, distance_bonds, is_apart, near_pairs
from ..molecule.graph import molecules_of, topology_bonds
from ..molecule.names import residue_label
from ..molecule.openmm_private import standard_bonds
from .problems import FIXES
from .records import standard_atoms

LINK = 0.2  # nm; ends of residues that follow each other are joined if they are nearer
WATER = ("HOH", "DOD")  # OpenMM reads the other names as HOH
MOST = {"C": 4, "N": 4, "O": 2, "F": 1}  # bonds of an atom

Pair = tuple[int, int]


@dataclass(frozen=True)
class Bonding:
    """Differences between a topology's bonds and those that distances imply.

    Parameters
    ----------
    missing, wrong : list of pairs of atoms
        To add; to take away: bonds of hydrogens that names make, across more than a bond's length.
    crowded : list of pairs of atoms
        As near as bonded atoms, but one has all its bonds.
    names : dict
        Atom -> its new name, for hydrogens that OpenMM would bond wrongly, or to nothing, by their names.
    pieces : list of str
        Residues that are in pieces all the same.
    """

    missing: list[Pair]
    wrong: list[Pair]
    crowded: list[Pair]
    names: dict[int, str]
    pieces: list[str]


def bonding_of(model: app.Modeller) -> Bonding:
    """Compare the bonds of a topology, which come from names and records, with the distances of its atoms."""
    atoms, x = list(model.topology.atoms()), in_nanometers(model)
    symbols = [atom.element.symbol if atom.element else "" for atom in atoms]
    there = set(map(tuple, topology_bonds(model.topology).tolist()))
    near = [pair for pair in distance_bonds(symbols, x) if pair not in there]
    missing, wrong = _of_hydrogens(atoms, near, there, lambda i, j: is_apart(symbols, x, i, j))
    overlapping = {_residues(atoms, pair) for pair in near_pairs(symbols, x, ONE_ATOM)}
    bearing = {k for pair in there if not any(is_hydrogen(atoms[i]) for i in pair) for k in pair}
    joints = _joints(model, x)
    beside: dict[int, set[int]] = defaultdict(set)
    for i, j in {*there, *joints}:
        beside[i].add(j)
        beside[j].add(i)
    for i, j in sorted({*near, *joints} - there):
        if is_hydrogen(atoms[i]) or is_hydrogen(atoms[j]):
            continue
        one, other = atoms[i].residue, atoms[j].residue
        if one is other:
            known = standard_atoms(one.name) and i in bearing and j in bearing
        else:  # residues make no ring of three; lone atoms are ions
            known = any(len(r) == 1 or r.name in WATER for r in (one, other)) or bool(beside[i] & beside[j])
            known = known or _residues(atoms, (i, j)) in overlapping
        missing += [] if known else [(i, j)]
    after = sorted({*there, *missing} - set(wrong))
    count = Counter(k for pair in after for k in pair)
    full = {k for k in count if count[k] > MOST.get(symbols[k], 99)}
    crowded = [pair for pair in missing if full & set(pair) and not any(is_hydrogen(atoms[k]) for k in pair)]
    missing = sorted(set(missing) - set(crowded))
    pieces = []
    for residue in model.topology.residues():
        parts = len(_parts(residue, missing)) if not standard_atoms(residue.name) else 1
        pieces += [f"{residue_label(residue)} is in {parts} pieces"] if parts > 1 else []
    return Bonding(missing, wrong, crowded, _hydrogen_names(model, after, {*missing, *wrong}), pieces)


def _of_hydrogens(
    atoms: Sequence[Any], near: Sequence[Pair], there: Collection[Pair], apart: Callable[[int, int], bool]
) -> tuple[list[Pair], list[Pair]]:
    """Bonds to add and to take away: a hydrogen belongs to the nearest heavy atom of its residue."""
    bonded: dict[int, set[int]] = defaultdict(set)
    for i, j in there:
        bonded[i].add(j)
        bonded[j].add(i)
    parent = {k: i + j - k for i, j in near for k in (i, j) if is_hydrogen(atoms[k])}
    missing, wrong = [], []
    for atom in atoms:
        if not is_hydrogen(atom):
            continue
        far = {other for other in bonded[atom.index] if apart(atom.index, other)}
        new = parent.get(atom.index)
        if new is not None and (atoms[new].residue is not atom.residue or bonded[atom.index] - far):
            new = None
        missing += [] if new is None else [_pair(atom.index, new)]
        if new is not None or bonded[atom.index] - far:
            wrong += [_pair(atom.index, other) for other in far]
    return missing, wrong


def _joints(model: app.Modeller, x: np.ndarray) -> list[Pair]:
    """Ends of residues that follow each other in a chain, near enough to be bonded, if stretched."""
    pairs = []
    for chain in model.topology.chains():
        for before, after in itertools.pairwise(chain.residues()):
            named = [named_pair(before, after, joint) for joint in (("C", "N"), ("O3'", "P"))]
            pairs += [_pair(*pair) for pair in named if pair and distance(x, pair) < LINK]
    return pairs


def _hydrogen_names(model: app.Modeller, bonds: Sequence[Pair], changed: Collection[Pair]) -> dict[int, str]:
    """New names for the hydrogens of changed bonds in standard residues, whose bonds OpenMM makes by names."""
    atoms = list(model.topology.atoms())
    parent = {k: i + j - k for i, j in bonds for k in (i, j) if is_hydrogen(atoms[k])}
    touched = {k for pair in changed for k in pair if is_hydrogen(atoms[k])}
    new: dict[int, str] = {}
    for residue in model.topology.residues():
        standard = [bond[:2] for bond in standard_bonds(residue.name)]
        ours, seen = [], set[str]()
        for atom in residue.atoms() if standard else ():
            partners = {name for bond in standard if atom.name in bond for name in bond} - {atom.name}
            right = atom.index in parent and atoms[parent[atom.index]].name in partners
            if atom.name in seen or (atom.index in touched and not right):
                ours += [atom] if is_hydrogen(atom) else []
            else:
                seen.add(atom.name)
        known = {name for bond in standard for name in bond}
        for atom in ours:
            heavy = atoms[parent[atom.index]].name if atom.index in parent else ""
            free = [name for bond in standard if heavy in bond for name in bond if name[0] == "H" and name not in seen]
            spare = (f"HX{k}" for k in range(1, 100) if f"HX{k}" not in known | seen)
            new[atom.index] = free[0] if free else next(spare)
            seen.add(new[atom.index])
    return new


def as_bonded(model: app.Modeller, found: Bonding, kinds: Collection[str] = FIXES) -> app.Modeller:
    """Copy of a model with missing bonds added, wrong ones removed, and without the hydrogens of sulfurs that form
    disulfides."""
    copy = app.Modeller(model.topology, model.positions)
    copy.delete([])
    atoms = list(copy.topology.atoms())
    missing = found.missing if "missing bonds" in kinds else []
    for i, j in missing:
        copy.topology.addBond(atoms[i], atoms[j])
    if "atom names" in kinds:
        for i, name in found.names.items():
            atoms[i].name = name
        wrong = set(found.wrong)
        copy.delete([bond for bond in copy.topology.bonds() if _pair(bond[0].index, bond[1].index) in wrong])
        atoms = list(copy.topology.atoms())
    heavy = [pair for pair in missing if not any(is_hydrogen(atoms[k]) for k in pair)]
    between = [pair for pair in heavy if atoms[pair[0]].residue is not atoms[pair[1]].residue]
    sulfurs = {k for pair in between for k in pair if atoms[k].element == app.element.sulfur}
    ends = [end for a, b in copy.topology.bonds() for end in ((a, b), (b, a))]
    copy.delete([atom for atom, other in ends if is_hydrogen(atom) and other.index in sulfurs])
    return copy


def _pair(i: int, j: int) -> Pair:
    return min(i, j), max(i, j)


def _residues(atoms: Sequence[Any], pair: Pair) -> frozenset[int]:
    return frozenset(atoms[k].residue.index for k in pair)


def bond_label(atoms: Sequence[Any], pair: Pair) -> str:
    return f"{atom_label(atoms[pair[0]])} - {atom_label(atoms[pair[1]])}"


def named_pair(before: Any, after: Any, names: tuple[str, str]) -> Pair | None:
    first = [atom.index for atom in before.atoms() if atom.name == names[0]]
    second = [atom.index for atom in after.atoms() if atom.name == names[1]]
    return (first[0], second[0]) if first and second else None


def _parts(residue: Any, missing: Sequence[Pair]) -> list[list[int]]:
    first = next(residue.atoms()).index
    pairs = [(a.index - first, b.index - first) for a, b in residue.internal_bonds()]
    inside = range(len(residue))
    pairs += [(i - first, j - first) for i, j in missing if i - first in inside and j - first in inside]
    return molecules_of(len(residue), np.array(pairs, dtype=np.int64).reshape(-1, 2))


def distance(x: np.ndarray, pair: Pair) -> float:
    return float(np.linalg.norm(x[pair[0]] - x[pair[1]]))


def is_hydrogen(atom: Any) -> bool:
    return atom.element in (app.element.hydrogen, app.element.deuterium)


def in_nanometers(model: app.Modeller) -> np.ndarray:
    """Positions of a model, (n_atoms, 3) float64, nm."""
    return np.array(model.positions.value_in_unit(unit.nanometer), dtype=np.float64).reshape(-1, 3)


def atom_label(atom: Any) -> str:
    return f"{residue_label(atom.residue)} {atom.name}"
