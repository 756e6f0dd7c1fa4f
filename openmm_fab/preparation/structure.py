"""What is wrong with a structure as OpenMM reads it: bonds, molecules, atoms and residues that a force field misses."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from openmm import app, unit
from scipy.spatial import cKDTree

from ..molecule.graph import molecules_of, topology_bonds
from ..molecule.names import residue_label, residue_run
from ..molecule.openmm_private import residue_templates, residues_with_hydrogens
from .problems import AMINO, BUILT, NUCLEIC, PROTONATED, Problem, fixable, unfixable
from .records import standard_atoms

# nm: closer atoms are in one place, closer sulfurs bonded, closer residues joined; bonds beyond the last are none.
OVERLAP, DISULFIDE, LINK, TORN = 0.05, 0.25, 0.2, 0.25
WATER = ("HOH", "DOD")  # OpenMM reads the other names as HOH
BEFORE_N, AFTER_C = AMINO | {"ACE", "FOR"}, AMINO | {"NME", "NH2"}

Pair = tuple[int, int]


def structure_problems(model: app.Modeller, field: app.ForceField, files: Sequence[str]) -> list[Problem]:
    """Problems of the structure that OpenMM reads: bonds, molecules, missing atoms, shape. Changes nothing."""
    alone, _ = solute_of(model, field)
    atom_problems = _atom_problems(alone.topology, field, files)
    return molecule_problems(model, field) + atom_problems + _shape_problems(model, alone)


def molecule_problems(model: app.Modeller, field: app.ForceField) -> list[Problem]:
    """Missing bonds, and what is not of the solute."""
    bonds, pieces = missing_bonds(model, field)
    atoms = list(model.topology.atoms())
    problems = fixable("missing bonds", [f"{_atom(atoms[i])} - {_atom(atoms[j])}" for i, j in bonds])
    problems += unfixable("missing bonds", pieces, "CONECT records (PDB) or chem_comp_bond (PDBx/mmCIF) are needed")
    solute, *others = molecules(model.topology, bonds)
    for kind in ("solvent and ions", "other molecules"):
        counts = Counter(residue_run(residues) for residues in others if kind_of(residues) == kind)
        places = [f"{n} x {name}" if n > 1 else name for name, n in counts.items()]
        problems += fixable(kind, places, f"; the solute is {residue_run(solute)}")
    return problems


def _atom_problems(solute: app.Topology, field: app.ForceField, files: Sequence[str]) -> list[Problem]:
    found = missing_atoms(solute, field)
    residues = list(solute.residues())
    advice = f"{', '.join(files)} has none that fits; name one that has, or take MolecularSystem.from_openmm (ligands)"
    problems = unfixable("unknown residues", found.unknown, advice)
    heavy = {k: " ".join(names) for k, names in found.heavy.items()}
    bare = {k: str(count) for k, count in found.hydrogens.items()}
    for kind, lacking, known, tool in (
        ("missing heavy atoms", heavy, BUILT, "PDBFixer"),
        ("missing hydrogens", bare, residues_with_hydrogens(), "Modeller"),
    ):
        places = [(residues[k].name in known, f"{residue_label(residues[k])} ({what})") for k, what in lacking.items()]
        problems += fixable(kind, [place for built, place in places if built])
        beyond = f"{tool} has no such residue; add them with a program of chemistry"
        problems += unfixable(kind, [place for built, place in places if not built], beyond)
    return problems


def _shape_problems(model: app.Modeller, solute: app.Modeller) -> list[Problem]:
    atoms, x = list(model.topology.atoms()), in_nanometers(model)
    finite = np.isfinite(x).all(axis=1)
    somewhere = np.flatnonzero(finite)
    pairs = sorted(cKDTree(x[somewhere]).query_pairs(OVERLAP))
    overlaps = [f"{_atom(atoms[somewhere[i]])} and {_atom(atoms[somewhere[j]])}" for i, j in pairs]
    overlaps += [f"{_atom(atoms[i])} (not finite)" for i in np.flatnonzero(~finite)]
    torn = "OpenMM bonds the ends; build what is missing, or take a shorter chain"
    hand = "only to know: every sample keeps the hand of this structure"
    return [
        *unfixable("overlapping atoms", overlaps, "less than 0.05 nm apart; mend or delete them in the file"),
        *unfixable("missing residues", _gaps(solute), torn),
        *unfixable("D-amino acids", _d_amino_acids(solute), hand),
    ]


def in_nanometers(model: app.Modeller) -> np.ndarray:
    """(n_atoms, 3) float64."""
    return np.array(model.positions.value_in_unit(unit.nanometer), dtype=np.float64).reshape(-1, 3)


# --- bonds ---


def missing_bonds(model: app.Modeller, field: app.ForceField) -> tuple[list[Pair], list[str]]:
    """Bonds that the structure should have, as pairs of atoms, and residues in pieces whose bonds nobody knows."""
    x, there = in_nanometers(model), set(map(tuple, topology_bonds(model.topology).tolist()))
    sulfurs = [a.index for a in model.topology.atoms() if a.residue.name == "CYS" and a.name == "SG"]
    near = [pair for pair in itertools.combinations(sulfurs, 2) if _distance(x, pair) < DISULFIDE]
    for chain in model.topology.chains():
        residues = list(chain.residues())
        around = [(residues[-1], residues[0])] if len(residues) > 2 else []  # of a chain that is a ring
        for before, after in [*itertools.pairwise(residues), *around]:
            for joint in (("C", "N"), ("O3'", "P")):
                pair = _named(before, after, joint)
                near += [pair] if pair and _distance(x, pair) < LINK else []
    bonds, pieces = [pair for i, j in near if (pair := (min(i, j), max(i, j))) not in there], []
    for residue in model.topology.residues():
        parts = len(_parts(residue))
        if parts > 1 and not standard_atoms(residue.name):
            index = {atom.name: atom.index for atom in residue.atoms()}
            template = residue_templates(field).get(residue.name)
            if template is not None and set(index) <= {atom.name for atom in template.atoms}:
                names = [[template.atoms[k].name for k in bond] for bond in template.bonds]
                ends = [sorted(index[name] for name in bond) for bond in names if set(bond) <= set(index)]
                bonds += [(i, j) for i, j in ends if (i, j) not in there]
            else:
                pieces.append(f"{residue_label(residue)} is in {parts} pieces")
    return bonds, pieces


def add_bonds(model: app.Modeller, pairs: Sequence[Pair]) -> app.Modeller:
    """A copy with these bonds and without the hydrogens of the sulfurs among them."""
    copy = app.Modeller(model.topology, model.positions)
    copy.delete([])
    atoms = list(copy.topology.atoms())
    for i, j in pairs:
        copy.topology.addBond(atoms[i], atoms[j])
    sulfurs = {k for pair in pairs for k in pair if atoms[k].element == app.element.sulfur}
    ends = [end for a, b in copy.topology.bonds() for end in ((a, b), (b, a))]
    copy.delete([atom for atom, other in ends if is_hydrogen(atom) and other.index in sulfurs])
    return copy


def _named(before: Any, after: Any, names: tuple[str, str]) -> Pair | None:
    first = [atom.index for atom in before.atoms() if atom.name == names[0]]
    second = [atom.index for atom in after.atoms() if atom.name == names[1]]
    return (first[0], second[0]) if first and second else None


def _parts(residue: Any) -> list[list[int]]:
    first = next(residue.atoms()).index
    pairs = [(a.index - first, b.index - first) for a, b in residue.internal_bonds()]
    return molecules_of(len(residue), np.array(pairs, dtype=np.int64).reshape(-1, 2))


def _distance(x: np.ndarray, pair: Pair) -> float:
    return float(np.linalg.norm(x[pair[0]] - x[pair[1]]))


def is_hydrogen(atom: Any) -> bool:
    return atom.element == app.element.hydrogen


# --- molecules ---


def molecules(topology: app.Topology, bonds: Sequence[Pair] = ()) -> list[list[Any]]:
    """Residues of each molecule, the solute first: that with the most heavy atoms. `bonds` count as if there.

    A chain stays one molecule where the atoms are missing that would join its residues.
    """
    residues, atoms = list(topology.residues()), list(topology.atoms())
    pairs = [(a.residue.index, b.residue.index) for a, b in topology.bonds()]
    pairs += [(atoms[i].residue.index, atoms[j].residue.index) for i, j in bonds]
    for chain in topology.chains():
        pairs += [(a.index, b.index) for a, b in itertools.pairwise(chain.residues()) if _joint(a, b)]
    joined = np.array(sorted({(min(i, j), max(i, j)) for i, j in pairs if i != j}), dtype=np.int64).reshape(-1, 2)
    found = [[residues[k] for k in part] for part in molecules_of(len(residues), joined)]
    found.sort(key=lambda part: -sum(_heavy(residue.atoms()).total() for residue in part))  # of equals the first
    return found


def kind_of(residues: Sequence[Any]) -> str:
    small = len(residues) == 1 and (residues[0].name in WATER or len(residues[0]) == 1)
    return "solvent and ions" if small else "other molecules"


def solute_of(model: app.Modeller, field: app.ForceField) -> tuple[app.Modeller, list[int]]:
    """The solute alone, with all its bonds, and which residues of `model` its residues are."""
    whole = add_bonds(model, missing_bonds(model, field)[0])
    solute, *others = molecules(whole.topology)
    whole.delete([residue for residues in others for residue in residues])
    return whole, sorted(residue.index for residue in solute)


def _joint(before: Any, after: Any) -> tuple[str, str] | None:
    """Names of the atoms by which a chain joins two residues that follow each other."""
    if before.name in BEFORE_N and after.name in AFTER_C:
        return "C", "N"
    return ("O3'", "P") if before.name in NUCLEIC and after.name in NUCLEIC else None


# --- what a force field misses ---


@dataclass(frozen=True)
class MissingAtoms:
    """By index of the residue the names of missing heavy atoms and the number of missing hydrogens; other residues."""

    heavy: dict[int, list[str]]
    hydrogens: dict[int, int]
    unknown: list[str]


def missing_atoms(topology: app.Topology, field: app.ForceField) -> MissingAtoms:
    """Compare residues with the force field's templates, by elements: they may call the atoms otherwise."""
    found = MissingAtoms({}, {}, [])
    try:
        field.createSystem(topology)
    except ValueError as error:
        if "No template found" in str(error):
            for residue in field.getUnmatchedResidues(topology):
                _compare(residue, field, found)
        if not (found.heavy or found.hydrogens or found.unknown):
            found.unknown.append(str(error).split("  For more information")[0])
    return found


def _compare(residue: Any, field: app.ForceField, found: MissingAtoms) -> None:
    """Enter into `found` what makes the residue differ from the nearest of its templates."""
    ends, whole = _external(residue)
    templates = _templates(residue.name, field)
    fitting = [t for t in templates if Counter(t.atoms[k].name for k in t.externalBonds) == ends]
    # Force fields with patches (CHARMM) have no templates of the ends of chains; the last residue has one O more.
    last = not fitting and residue.name in AMINO and "C" not in ends
    got, hydrogens = _heavy(residue.atoms()), sum(map(is_hydrogen, residue.atoms()))

    def missing(template: Any) -> tuple[Counter[str], Counter[str], int]:
        wanted = _heavy(template.atoms) + Counter({"O": int(last)})
        return wanted - got, got - wanted, sum(map(is_hydrogen, template.atoms)) - hydrogens

    def difference(template: Any) -> tuple[int, bool, int]:
        less, more, bare = missing(template)
        return less.total() + more.total(), template.name[-3:] in PROTONATED, bare

    if not templates:
        found.unknown.append(residue_label(residue))
        return
    nearest = min(fitting or templates, key=difference)
    less, more, bare = missing(nearest)
    if more or (fitting and whole and not less and bare <= 0):
        found.unknown.append(f"{residue_label(residue)} differs from {nearest.name}")
    elif less:
        found.heavy[residue.index] = _missing_names(residue, nearest, less, "C" not in ends)
    elif bare > 0:
        found.hydrogens[residue.index] = bare


def _templates(name: str, field: app.ForceField) -> list[Any]:
    """Templates of a residue: Amber's NALA, CHIE, DA5 and RAN, CHARMM's HSD, ..."""
    stems = [name, *(other for other, standard in PROTONATED.items() if standard == name)]
    stems += [f"R{name}"] if name in NUCLEIC else []
    names = {before + stem + after for stem in stems for before in ("", "N", "C") for after in ("", "3", "5", "N")}
    return [template for key, template in residue_templates(field).items() if key in names]


def _external(residue: Any) -> tuple[Counter[str], bool]:
    """Names of the atoms that are bonded to other residues, or would be if no atom were missing; is none missing?"""
    ends = Counter(a.name if a.residue is residue else b.name for a, b in residue.external_bonds())
    whole = True
    for before, after in itertools.pairwise(residue.chain.residues()):
        joint = _joint(before, after)
        if residue in (before, after) and joint and _named(before, after, joint) is None:
            ends[joint[before is not residue]] += 1
            whole = False
    return ends, whole


def _missing_names(residue: Any, template: Any, missing: Counter[str], last: bool) -> list[str]:
    """In the names of OpenMM's standard residues if they are of the missing elements, else in the template's."""
    there = {atom.name for atom in residue.atoms()}
    standard = [(name, name[0]) for name in standard_atoms(residue.name) if name[0] != "H" and (last or name != "OXT")]
    other = [(atom.name, atom.element.symbol) for atom in template.atoms if atom.element and not is_hydrogen(atom)]
    for names in (standard, other):
        absent = [(name, symbol) for name, symbol in names if name not in there]
        if Counter(symbol for _, symbol in absent) == missing:
            return [name for name, _ in absent]
    return [f"{count} x {symbol}" for symbol, count in missing.items()]


def _heavy(atoms: Iterable[Any]) -> Counter[str]:
    return Counter(atom.element.symbol for atom in atoms if atom.element and not is_hydrogen(atom))


# --- shape ---


def _gaps(model: app.Modeller) -> list[str]:
    """Where a chain is torn: its residues are too far from each other, or numbers and atoms are missing."""
    x, gaps = in_nanometers(model), []
    for chain in model.topology.chains():
        for before, after in itertools.pairwise(chain.residues()):
            joint = _joint(before, after)
            pair = _named(before, after, joint) if joint else None
            where = f"{residue_label(before)} to {residue_label(after)}"
            if pair and _distance(x, pair) > TORN:
                gaps.append(f"{where} ({_distance(x, pair):.2f} nm)")
            elif joint and not pair and _number(after) - _number(before) > 1:
                gaps.append(where)
    return gaps


def _d_amino_acids(model: app.Modeller) -> list[str]:
    x, found = in_nanometers(model), []
    for residue in model.topology.residues():
        at = {atom.name: x[atom.index] for atom in residue.atoms()}
        if {"N", "CA", "C", "CB"} <= set(at):
            n, c, b = (at[name] - at["CA"] for name in ("N", "C", "CB"))
            found += [residue_label(residue)] if np.dot(n, np.cross(c, b)) < 0 else []
    return found


def _number(residue: Any) -> int:
    return int(residue.id) if residue.id.lstrip("-").isdigit() else 0


# --- how they are called ---


def _atom(atom: Any) -> str:
    return f"{residue_label(atom.residue)} {atom.name}"
