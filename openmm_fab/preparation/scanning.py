"""Problems in the lines of a structure file, kind by kind, and the edits that correct them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import numpy as np
from openmm import app

from ..molecule.distances import BONDED, HYDROGENS, ONE_ATOM, RADII, TORN, distance_bonds
from ..molecule.openmm_private import residue_replacements, residue_templates
from .problems import MODIFIED, PROTONATED, Problem, fixable, unfixable
from .records import Edits, Records, Row, guessed_element, is_element, merged, standard_atoms

Found = tuple[str, str, Edits]  # a kind of problem, its place, and what mends it; nothing if that is beyond us
BEYOND = {
    "missing elements": "their names do not tell; write them into the file",
    "atom names": "there are more atoms than names; write the residue as several",
}


@dataclass(frozen=True)
class Reading:
    """Problems of a file's records, edits that correct the accepted kinds, and the atoms after these edits."""

    problems: list[Problem]
    edits: Edits
    rows: list[Row]

    @property
    def elements(self) -> Counter[str]:
        """Number of atoms of each element."""
        return Counter(row.symbol for row in self.rows)


def record_problems(records: Records, field: app.ForceField, kinds: Collection[str]) -> Reading:
    """Find problems of all kinds, each after the corrections of the accepted `kinds` before it."""
    rows, edits = records.rows, Edits()
    found: list[Found] = [("models", f"{records.models} models", {-1: None})] if records.models > 1 else []
    finders: tuple[Callable[[list[list[Row]]], list[Found]], ...] = (
        _split_residues,
        *([] if records.columns else [_run_together]),
        _each(_alternate_locations),
        _each(_elements),
        _each(_deuterium),
        _each(_same_names),
        _each(lambda rows: _names(rows, field)),
    )
    for find in finders:
        residues = [list(several) for _, several in groupby(rows, key=lambda row: row.residue)]
        places = find(residues)
        found += places
        changes = merged(edit for kind, _, edit in places if kind in kinds)
        rows, edits = _applied(rows, changes), merged([edits, changes])
    problems = []
    for kind in dict.fromkeys(kind for kind, _, _ in found):
        problems += fixable(kind, [place for k, place, edit in found if k == kind and edit])
        problems += unfixable(kind, [place for k, place, edit in found if k == kind and not edit], BEYOND.get(kind, ""))
    return Reading(problems, edits, rows)


def _each(find: Callable[[list[Row]], list[Found]]) -> Callable[[list[list[Row]]], list[Found]]:
    return lambda residues: [found for rows in residues for found in find(rows)]


def _applied(rows: list[Row], edits: Edits) -> list[Row]:
    """The atoms after these edits, those of a residue in a row."""
    at = {row.line: row for row in rows}
    kept = []
    for row in rows:
        edit = edits.get(row.line, {})
        if edit is not None:
            home = at[int(edit["behind"])] if "behind" in edit else row
            kept.append(replace(row, residue=home.residue, label=home.label, values=row.values | edit))
    return sorted(kept, key=lambda row: row.residue)


def _split_residues(residues: list[list[Row]]) -> list[Found]:
    """Residues whose atoms stand in several places, as far as the distances of their atoms show it."""
    pieces: dict[tuple[str, ...], list[list[Row]]] = defaultdict(list)
    for rows in residues:
        if rows[0]["number"].strip("*"):
            pieces[rows[0]["chain"], rows[0]["number"], rows[0]["name"]].append(rows)
    found: list[Found] = []
    for several in pieces.values():
        if len(several) == 1:
            continue
        homes: list[list[Row]] = []
        ends: list[Row] = []  # the last of each home's first atoms: what belongs to it comes behind
        for rows in several:
            if all(row.symbol in HYDROGENS for row in rows):
                continue
            names = {(row["atom"], row["place"]) for row in rows}
            for home in homes:
                if not names & {(row["atom"], row["place"]) for row in home} and _bonded(home, rows):
                    home += rows
                    break
            else:
                homes.append(list(rows))
                ends.append(rows[-1])
        lost = [row for rows in several if all(row.symbol in HYDROGENS for row in rows) for row in rows]
        for row in lost:
            reach = [min((_ratio(row, other) for other in home), default=np.inf) for home in homes]
            if reach and min(reach) < BONDED:
                homes[int(np.argmin(reach))].append(row)
        for home, end in zip(homes, ends, strict=True):
            moved = [row for row in home if row.residue != end.residue]
            if moved:
                edits: Edits = {row.line: {"behind": str(end.line)} for row in moved}
                found.append(("split residues", f"{end.label} ({len(moved)} of {len(home)} atoms)", edits))
    placed = {line for _, _, edits in found for line in edits}
    return found + _hydrogens_of_their_own(residues, placed)


def _hydrogens_of_their_own(residues: list[list[Row]], moved: Collection[int]) -> list[Found]:
    """Hydrogens in a residue without heavy atoms (UNL, of RDKit): they go to the atoms that they are bonded to."""
    rows = [row for several in residues for row in several if "after" in row.values]  # of PDB files
    bare = {several[0].residue for several in residues if all(row.symbol in HYDROGENS for row in several)}
    last = {row.residue: row.line for row in rows}
    homes: dict[int, Edits] = defaultdict(dict)
    labels = {row.residue: row.label for row in rows}
    for pair in distance_bonds([row.symbol for row in rows], np.array([r.position for r in rows]).reshape(-1, 3)):
        hydrogen, bearer = sorted((rows[k] for k in pair), key=lambda row: row.residue not in bare)
        if hydrogen.residue in bare and bearer.residue not in bare and hydrogen.line not in moved:
            its = {key: bearer[key] for key in ("name", "chain", "number")}
            homes[bearer.residue][hydrogen.line] = {"behind": str(last[bearer.residue]), **its}
    return [("split residues", f"{labels[k]} ({len(edits)} hydrogens)", edits) for k, edits in sorted(homes.items())]


def _ratio(a: Row, b: Row) -> float:
    """Distance by the sum of covalent radii, of a hydrogen and a heavy atom or of two heavy ones."""
    if a.symbol in HYDROGENS and b.symbol in HYDROGENS:
        return np.inf
    ratio = np.linalg.norm(a.position - b.position) / (RADII.get(a.symbol, 0.0) + RADII.get(b.symbol, 0.0) or np.nan)
    return float(ratio) if np.isfinite(ratio) else np.inf


def _bonded(home: list[Row], rows: list[Row]) -> bool:
    return any(_ratio(a, b) < BONDED for a in home for b in rows)


def _run_together(residues: list[list[Row]]) -> list[Found]:
    """Ends that OpenMM would bond, as nothing marks them, though they are far from each other.

    The numbers begin anew, or an end has all its bonds, or one to another residue. Other gaps are missing residues.
    """
    rows = [row for several in residues for row in several]
    bonds = distance_bonds([row.symbol for row in rows], np.array([row.position for row in rows]).reshape(-1, 3))
    joined = {rows[k].line for i, j in bonds for k in (i, j) if rows[i].residue != rows[j].residue}
    found: list[Found] = []
    for before, after in pairwise(residues):
        first, second = before[-1], after[0]
        ends = [row for row in before if row["atom"] == "C"], [row for row in after if row["atom"] == "N"]
        if any(first[key] != second[key] for key in ("chain", "after")) or not all(ends):
            continue
        far = np.linalg.norm(ends[0][0].position - ends[1][0].position) > TORN
        whole = sum(_ratio(ends[0][0], row) < BONDED for row in before if row.symbol not in HYDROGENS) > 3  # and itself
        if far and (whole or _number(second) <= _number(first) or any(end[0].line in joined for end in ends)):
            found.append(("missing TER", f"between {first.label} and {second.label}", {first.line: {"then": "TER"}}))
    return found


def _number(row: Row) -> int:
    digits = re.match(r"-?\d+", row["number"])
    return int(digits.group()) if digits else 0


def _alternate_locations(rows: list[Row]) -> list[Found]:
    occupancies = defaultdict(list)
    names: dict[str, str] = {}
    for row in rows:
        if row["place"]:
            occupancies[row["place"]].append(row.occupancy)
            names[row["place"]] = row["name"]
    mean = {place: sum(values) / len(values) for place, values in sorted(occupancies.items())}
    if len(mean) < 2:
        return []
    best = max(mean, key=lambda place: mean[place])  # of equals the first
    several = len(set(names.values())) > 1
    called = {place: f"{names[place]} {place}" if several else place for place in mean}
    others = ", ".join(f"{called[place]} ({value:.2f})" for place, value in mean.items() if place != best)
    beyond = [] if several else _without_place(rows, best)
    also = f"; {', '.join(row['atom'] + ' ' + row['place'] for row in beyond)} too" if beyond else ""
    kept = {row.line for row in rows if row["place"] == best} | {row.line for row in beyond}
    edits: Edits = {row.line: {"place": ""} if row.line in kept else None for row in rows if row["place"]}
    return [("alternate locations", f"{rows[0].label}: {called[best]} ({mean[best]:.2f}), not {others}{also}", edits)]


def _without_place(rows: list[Row], best: str) -> list[Row]:
    """Heavy atoms that the kept place lacks, each at its place of highest occupancy, and their hydrogens there."""
    there = {row["atom"] for row in rows if row["place"] in ("", best)}
    found: dict[str, Row] = {}
    for row in rows:
        if row["atom"] not in there and row.symbol not in HYDROGENS:
            found[row["atom"]] = max(found.get(row["atom"], row), row, key=lambda each: each.occupancy)
    hydrogens = []
    for row in rows:
        if row["atom"] not in there and row.symbol in HYDROGENS:
            heavy = [other for other in rows if other["place"] in ("", row["place"])]
            bearer = min(heavy, key=lambda other: _ratio(row, other))
            hydrogens += [row] if found.get(bearer["atom"]) is bearer else []
    return [*found.values(), *hydrogens]


def _deuterium(rows: list[Row]) -> list[Found]:
    found: list[Found] = []
    taken = {(row["atom"], row["place"]) for row in rows}
    for row in rows:
        if row.symbol == "D":
            new = f"H{row['atom'][1:]}" if row["atom"].startswith("D") else row["atom"]
            new = row["atom"] if (new, row["place"]) in taken else new
            found.append(("deuterium", f"{row.label} {row['atom']}", {row.line: {"atom": new, "element": "H"}}))
    return found


def _same_names(rows: list[Row]) -> list[Found]:
    """Atoms of one name: one atom written twice where they are nearer than bonded ones, else several."""
    found: list[Found] = []
    apart: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        several = apart[row["atom"], row["place"]]
        if any(row.symbol == other.symbol and _in_one_place(row, other) for other in several):
            found.append(("duplicate atoms", f"{row.label} {row['atom']}", {row.line: None}))
        else:
            several.append(row)
    taken = {name for name, _ in apart}
    new: dict[str, list[str]] = {}
    for (name, _), several in apart.items():
        if len(several) > 1:
            stem = several[0].symbol.upper() or name[:1]
            if len(new.get(name, ())) < len(several):
                free = [f"{stem}{k}" for k in range(1, 1000) if f"{stem}{k}" not in taken and len(f"{stem}{k}") < 5]
                new[name] = free[: len(several)]
                taken |= set(new[name])
            place = f"{several[0].label}: {len(several)} {name}"
            enough = len(new[name]) >= len(several)
            edits: Edits = {row.line: {"atom": new[name][k]} for k, row in enumerate(several)} if enough else {}
            found.append(("atom names", f"{place} -> {new[name][0]} to {new[name][-1]}" if edits else place, edits))
    return found


def _in_one_place(a: Row, b: Row) -> bool:
    return float(np.linalg.norm(a.position - b.position)) < 2 * ONE_ATOM * RADII.get(a.symbol, np.inf)


def _elements(rows: list[Row]) -> list[Found]:
    found: list[Found] = []
    for row in rows:
        if not is_element(row["element"]) and row["element"] != "EP":  # OpenMM's mark of a particle without one
            guess = guessed_element(row, len(rows) == 1)
            edits: Edits = {row.line: {"element": guess}} if guess else {}
            found.append(("missing elements", f"{row.label} {row['atom']} ({guess or '?'})", edits))
    return found


def _names(rows: list[Row], field: app.ForceField) -> list[Found]:
    standard = _standard_name(rows, field)
    if standard is None:
        return []
    label, edits = rows[0].label, Edits({row.line: {"name": standard} for row in rows})
    if rows[0]["name"] not in MODIFIED:
        return [("residue names", f"{label} -> {standard}", edits)]
    heavy = [row for row in rows if row.symbol not in HYDROGENS]
    dropped = []
    for row in rows:
        if row["name"] == "MSE" and row["atom"] == "SE":
            edits[row.line] = {"name": standard, "atom": "SD", "element": "S"}
            continue
        bearer = min(heavy, key=lambda other: _ratio(row, other), default=row) if row not in heavy else row
        if bearer in heavy and bearer["atom"] not in standard_atoms(standard) and bearer["atom"] != "SE":
            edits[row.line] = None
            dropped.append(row["atom"])
    changed = dropped or any("element" in (edit or {}) for edit in edits.values())
    without = f" without {', '.join(dropped)}" if dropped else ""
    return [("modified residues" if changed else "residue names", f"{label} -> {standard}{without}", edits)]


def _standard_name(rows: list[Row], field: app.ForceField) -> str | None:
    """None for a residue that is as it should be: OpenMM and the force field know its name."""
    name = rows[0]["name"]
    if name in PROTONATED:
        hydrogens = any(row["atom"].lstrip("0123456789").startswith("H") for row in rows)
        read = residue_replacements().get(name) == PROTONATED[name]
        return None if read and hydrogens else PROTONATED[name]  # else its hydrogens tell
    template = residue_templates(field).get(name)
    # Other residues have such names too: DGN is a nucleoside of Amber.
    if name not in MODIFIED or (template is not None and any(atom.name == "CA" for atom in template.atoms)):
        return None
    return MODIFIED[name]
