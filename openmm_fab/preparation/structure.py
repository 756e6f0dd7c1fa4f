"""Problems of a structure as OpenMM reads it: bonds, molecules, and atoms or residues that a force field lacks."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from openmm import app
from scipy.spatial import cKDTree

from ..molecule.checks import AMBIGUOUS, ambiguous_template
from ..molecule.distances import TORN
from ..molecule.graph import molecules_of
from ..molecule.names import residue_label, residue_run
from ..molecule.openmm_private import residue_templates, residues_with_hydrogens
from .bonding import (
    WATER,
    Pair,
    as_bonded,
    atom_label,
    bond_label,
    bonding_of,
    distance,
    in_nanometers,
    is_hydrogen,
    named_pair,
)
from .problems import AMINO, BUILT, NUCLEIC, PROTONATED, Problem, fixable, unfixable
from .records import standard_atoms

OVERLAP = 0.05  # nm; closer atoms are in one place
BEFORE_N, AFTER_C = AMINO | {"ACE", "FOR"}, AMINO | {"NME", "NH2"}
BETWEEN = Counter(("N", "C", "O3'", "P", "SG"))  # atoms that bind residues to each other in every force field


def structure_problems(model: app.Modeller, field: app.ForceField, files: Sequence[str]) -> list[Problem]:
    """Problems of a structure that OpenMM has read (bonds, molecules, missing atoms, geometry); changes nothing."""
    alone, _ = solute_of(model)
    atom_problems = _atom_problems(alone.topology, field, files)
    return molecule_problems(model) + atom_problems + _shape_problems(model, alone)


def molecule_problems(model: app.Modeller) -> list[Problem]:
    """Problems of missing or wrong bonds, of names that would make wrong ones, and of molecules besides the solute."""
    found = bonding_of(model)
    atoms = list(model.topology.atoms())
    places = [f"{atom_label(atoms[i])} -> {name}" for i, name in found.names.items()]
    problems = fixable("atom names", places) + fixable(
        "missing bonds", [bond_label(atoms, pair) for pair in found.missing]
    )
    full = "they are as near as bonded atoms, and one of them has all its bonds: mend the file, a hydrogen too many"
    problems += unfixable("missing bonds", [bond_label(atoms, pair) for pair in found.crowded], full)
    problems += unfixable(
        "missing bonds", found.pieces, "CONECT records (PDB) or chem_comp_bond (PDBx/mmCIF) are needed"
    )
    solute, *others = molecules(model.topology, found.missing + found.crowded)
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
    if found.ambiguous:
        place, choice = ambiguous_template(solute, found.ambiguous)
        problems += unfixable("ambiguous templates", [place], choice)
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
    overlaps = [f"{atom_label(atoms[somewhere[i]])} and {atom_label(atoms[somewhere[j]])}" for i, j in pairs]
    overlaps += [f"{atom_label(atoms[i])} (not finite)" for i in np.flatnonzero(~finite)]
    torn = "OpenMM bonds the ends; build what is missing, or take a shorter chain"
    chirality = "only to know: every sample keeps the chirality of this structure"
    return [
        *unfixable("overlapping atoms", overlaps, "less than 0.05 nm apart; mend or delete them in the file"),
        *unfixable("missing residues", _gaps(solute), torn),
        *unfixable("D-amino acids", _d_amino_acids(solute), chirality),
    ]


# --- molecules ---


def molecules(topology: app.Topology, bonds: Sequence[Pair] = ()) -> list[list[Any]]:
    """Residues of each molecule, the solute (most heavy atoms) first; the given `bonds` are counted in.

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


def solute_of(model: app.Modeller) -> tuple[app.Modeller, list[int]]:
    """The solute with all its bonds, and the indices in `model` of its residues."""
    found = bonding_of(model)
    whole = as_bonded(model, found)
    solute, *others = molecules(whole.topology, _kept(whole, model, found.crowded))
    whole.delete([residue for residues in others for residue in residues])
    return whole, sorted(residue.index for residue in solute)


def _kept(whole: app.Modeller, model: app.Modeller, pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs of atoms of `model` as atoms of `whole`, which lacks some of its hydrogens."""
    atoms = list(model.topology.atoms())
    at = {(atom.residue.index, atom.name): atom.index for atom in whole.topology.atoms()}
    ends = [[(atoms[k].residue.index, atoms[k].name) for k in pair] for pair in pairs]
    return [(at[a], at[b]) for a, b in ends if a in at and b in at]


def _joint(before: Any, after: Any) -> tuple[str, str] | None:
    """Names of the atoms by which a chain joins two residues that follow each other."""
    if before.name in BEFORE_N and after.name in AFTER_C:
        return "C", "N"
    return ("O3'", "P") if before.name in NUCLEIC and after.name in NUCLEIC else None


# --- what a force field misses ---


@dataclass(frozen=True)
class MissingAtoms:
    """Missing atoms by residue index: names of heavy atoms and number of hydrogens; and residues of other kinds.

    `ambiguous` is OpenMM's complaint of several templates that fit; empty if there is none.
    """

    heavy: dict[int, list[str]]
    hydrogens: dict[int, int]
    unknown: list[str]
    ambiguous: str = ""


def missing_atoms(topology: app.Topology, field: app.ForceField) -> MissingAtoms:
    """Compare residues with the force field's templates by elements, since templates may use other atom names."""
    found = MissingAtoms({}, {}, [])
    try:
        field.createSystem(topology)
    except Exception as error:  # OpenMM raises what it stumbles over; whatever it is, it is told
        if AMBIGUOUS in str(error):
            return replace(found, ambiguous=str(error))
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

    if not templates or not got:
        found.unknown.append(residue_label(residue))
        return
    if not fitting and ends - BETWEEN:
        found.unknown.append(f"{residue_label(residue)} (bonded to another residue at {' '.join(ends - BETWEEN)})")
        return
    nearest = min(fitting or templates, key=difference)
    less, more, bare = missing(nearest)
    if more or (fitting and whole and not less and bare <= 0):
        why = f" by {-bare} hydrogens too many" if not more and bare < 0 else ""
        found.unknown.append(f"{residue_label(residue)} differs from {nearest.name}{why}")
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
        if residue in (before, after) and joint and named_pair(before, after, joint) is None:
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
    """Gaps in chains: residues that are too far apart, or missing numbers with missing atoms."""
    x, gaps = in_nanometers(model), []
    for chain in model.topology.chains():
        for before, after in itertools.pairwise(chain.residues()):
            joint = _joint(before, after)
            pair = named_pair(before, after, joint) if joint else None
            where = f"{residue_label(before)} to {residue_label(after)}"
            if pair and distance(x, pair) > TORN:
                gaps.append(f"{where} ({distance(x, pair):.2f} nm)")
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
