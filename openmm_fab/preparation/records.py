"""Reading of a PDB or PDBx/mmCIF file line by line, for edits before OpenMM reads it."""

from __future__ import annotations

import io
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from openmm import app

from ..molecule.mmcif import connect
from ..molecule.openmm_private import drop_repeated_bonds, standard_bonds
from ..molecule.structures import MMCIF, check_pdb, naming
from .problems import AMINO, PROTONATED, VARIANTS

# Where the line of an atom has what: columns of PDB, names in PDBx/mmCIF (of several the first that is there).
PDB = {
    **{"atom": slice(12, 16), "place": slice(16, 17), "name": slice(17, 21), "chain": slice(21, 22)},
    **{"number": slice(22, 27), "occupancy": slice(54, 60), "element": slice(76, 78)},
    **{"x": slice(30, 38), "y": slice(38, 46), "z": slice(46, 54)},
}
FORM = {"atom": "{:<4}", "place": "{:1}", "name": "{:>3} ", "element": "{:>2}", "chain": "{:1}", "number": "{:>5}"}
CIF = {
    "atom": ("auth_atom_id", "label_atom_id"),
    "place": ("label_alt_id",),
    "name": ("auth_comp_id", "label_comp_id"),
    "chain": ("label_asym_id", "auth_asym_id"),
    "number": ("auth_seq_id", "label_seq_id"),
    "insertion": ("pdbx_PDB_ins_code",),
    "occupancy": ("occupancy",),
    "element": ("type_symbol",),
    "model": ("pdbx_PDB_model_num",),
    **{axis: (f"Cartn_{axis}",) for axis in "xyz"},
}
TOKEN = re.compile(r"'(?:[^']|'(?=\S))*'|\"(?:[^\"]|\"(?=\S))*\"|\S+")
TWO_LETTERS = frozenset("CL BR SE FE ZN MG MN SI LI".split())  # in names of atoms; CA is a carbon there

# Line -> its new values; None drops it. "behind" moves it behind another line, "then" writes a line after it.
Edits = dict[int, dict[str, str] | None]


@dataclass(frozen=True)
class Row:
    """One atom of a file; `residue` numbers the residues as OpenMM reads them."""

    line: int
    residue: int
    label: str
    values: dict[str, str]

    def __getitem__(self, key: str) -> str:
        return self.values.get(key, "")

    @property
    def occupancy(self) -> float:
        try:
            return float(self["occupancy"])
        except ValueError:
            return 1.0

    @property
    def symbol(self) -> str:
        """Element symbol; guessed from the name where the file has none; empty if neither tells."""
        return self["element"].capitalize() if is_element(self["element"]) else guessed_element(self, False)

    @property
    def position(self) -> np.ndarray:
        """Position (3,), nm; nan where the file has no number."""
        try:
            return np.array([float(self[axis]) for axis in "xyz"]) / 10
        except ValueError:
            return np.full(3, np.nan)


@dataclass(frozen=True)
class Records:
    """Lines and atoms of the first model of a file."""

    lines: list[str]
    rows: list[Row]
    models: int
    columns: dict[str, int] = field(default_factory=dict)  # of PDBx/mmCIF only

    def read(self, edits: Edits) -> app.Modeller:
        """Structure that OpenMM reads from the file after these edits."""
        lines = [self._edited(line, edits.get(k, {})) for k, line in enumerate(self.lines)]
        behind: dict[int, list[int]] = defaultdict(list)
        for k in sorted(edits):
            if "behind" in (edits[k] or {}):
                behind[int((edits[k] or {})["behind"])].append(k)
        moved = {k for several in behind.values() for k in several}
        order = [k for at in range(len(lines)) if at not in moved for k in (at, *behind[at])]
        kept = [line for k in order for line in (lines[k], (edits.get(k) or {}).get("then"))]
        text = io.StringIO("\n".join(line for line in kept if line is not None) + "\n")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what stands in the findings
            read = app.PDBxFile(text) if self.columns else app.PDBFile(text)
        drop_repeated_bonds(read.topology)
        if self.columns:
            connect(read.topology, text.getvalue().splitlines())
        return app.Modeller(read.topology, read.positions)

    def _edited(self, line: str, edit: dict[str, str] | None) -> str | None:
        if not edit:
            return line if edit is not None else None
        if self.columns:
            cells = TOKEN.findall(line)
            for key, value in edit.items():
                for name in CIF.get(key, ()):
                    if name in self.columns:
                        cells[self.columns[name]] = value or "."
            return " ".join(cells)
        line = line.ljust(80)
        for key, value in edit.items():
            if key in PDB:
                text = f" {value}" if key == "atom" and len(value) < 4 else value
                text = f"{value} " if key == "number" and value[-1:].isdigit() else text  # no insertion code
                line = line[: PDB[key].start] + FORM[key].format(text) + line[PDB[key].stop :]
        return line


def variants(records: Records, rows: Sequence[Row], model: app.Modeller) -> dict[tuple[str, str, str], str]:
    """Protonation states that a file names: key of a residue of `model`, read from `rows` -> Modeller's name."""
    given = {row.line: row["name"] for row in records.rows}
    names = {row.residue: given[row.line] for row in rows}
    residues = list(model.topology.residues())
    if len(names) != len(residues):
        return {}
    pairs = zip(residues, names.values(), strict=True)
    return {residue_key(r): VARIANTS[name] for r, name in pairs if PROTONATED.get(name) == r.name}


def standard_atoms(name: str) -> list[str]:
    """Names of the atoms that OpenMM gives bonds in a standard residue; empty for any other."""
    return list(dict.fromkeys(atom for bond in standard_bonds(name) for atom in bond[:2] if atom[0] not in "+-"))


def residue_key(residue: Any) -> tuple[str, str, str]:
    return residue.chain.id, residue.id, residue.insertionCode


def open_records(path: Path) -> Records:
    """Read the records of a file; raises FileNotFoundError, and ValueError for a file without atoms."""
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a PDB or PDBx/mmCIF file at {path}; there is none (working directory {Path.cwd()})."
        )
    mmcif = path.suffix.lower() in MMCIF
    if not mmcif:
        check_pdb(path, finite=False)  # those that are not are a finding
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    with naming(path, "a PDB or PDBx/mmCIF file"):
        records = _cif(lines) if mmcif else _pdb(lines)
    if not records.rows:
        raise ValueError(f"Expected atoms in {path}; got none. Give a structure in PDB or PDBx/mmCIF format.")
    return records


def _pdb(lines: list[str]) -> Records:
    kept: list[str] = []
    atoms = []
    models = ends = 0
    later = False
    for line in lines:
        models += line.startswith("MODEL")
        later = models > 1 and (later or line.startswith("MODEL"))
        if not later:
            ends += line.startswith("TER")
            if line[:6] in ("ATOM  ", "HETATM"):
                values = {key: line.ljust(80)[columns].strip() for key, columns in PDB.items()}
                atoms.append((len(kept), {**values, "after": str(ends)}))
            kept.append(line)
        later = later and not line.startswith("ENDMDL")
    return Records(kept, _rows(atoms), max(models, 1))


def _cif(lines: list[str]) -> Records:
    head = [k for k, line in enumerate(lines) if line.startswith("_atom_site.")]
    columns = {lines[k].split(".")[1].strip(): place for place, k in enumerate(head)}
    places = {key: next((columns[name] for name in names if name in columns), None) for key, names in CIF.items()}
    atoms: list[tuple[int, dict[str, str]]] = []
    models: list[str] = []
    later: set[int] = set()
    for k in range(head[-1] + 1 if head else len(lines), len(lines)):
        cells = TOKEN.findall(lines[k])
        if not cells or cells[0] in ("#", "loop_") or cells[0].startswith(("_", "data_")):
            break
        if len(cells) != len(columns):
            raise ValueError(
                f"Expected one line for each atom, with {len(columns)} values; got {lines[k]!r}. Write the file anew, "
                "with gemmi or OpenMM's PDBxFile."
            )
        values = {key: _unquoted(cells[at]) for key, at in places.items() if at is not None and cells[at] not in ".?"}
        model = values.get("model", "1")
        models += [model] if model not in models else []
        if model == models[0]:
            atoms.append((k - len(later), {**values, "number": values.get("number", "") + values.get("insertion", "")}))
        else:
            later.add(k)
    kept = [line for k, line in enumerate(lines) if k not in later]
    return Records(kept, _rows(atoms), len(models), columns)


def _unquoted(cell: str) -> str:
    return cell[1:-1] if cell[0] in "\"'" and len(cell) > 1 and cell[-1] == cell[0] else cell


def _rows(atoms: list[tuple[int, dict[str, str]]]) -> list[Row]:
    rows: list[Row] = []
    seen: set[str] = set()
    count, label = -1, ""
    last: dict[str, str] = {}
    several = len({values.get("chain", "") for _, values in atoms}) > 1
    for line, values in atoms:
        same = all(values.get(key) == last.get(key) for key in ("chain", "number", "after"))
        same = same and (values.get("name") == last.get("name") or bool(values.get("place")))
        if not values.get("number", "").strip("*"):  # not numbered: as many residues as there are atoms of a name
            same = same and values.get("atom", "") not in seen
        if not same or not rows:
            count, seen = count + 1, set()
            label = f"{values.get('name', '?')} {values.get('number', '')}".strip()
            label += f" (chain {values['chain']})" if several and values.get("chain") else ""
        seen.add(values.get("atom", ""))
        rows.append(Row(line, count, label, values))
        last = values
    return rows


def is_element(symbol: str) -> bool:
    """Whether OpenMM knows an element of this symbol."""
    try:
        app.element.get_by_symbol(symbol)
    except KeyError:
        return False
    return True


def guessed_element(row: Row, lone: bool) -> str:
    """Element symbol guessed from an atom's name (ions are alone in their residue); empty if the name does not tell."""
    letters = re.match("[A-Z]*", row["atom"].lstrip("0123456789").upper())
    name = letters.group() if letters else ""
    two = name[:2] if lone or (row["name"] not in AMINO and name[:2] in TWO_LETTERS) else ""
    return next((s.capitalize() for s in (two, name[:1]) if is_element(s)), "")


def merged(several: Iterable[Edits]) -> Edits:
    """Combine several sets of edits by line; a line that any of them drops is dropped."""
    together: Edits = {}
    for edits in several:
        for line, edit in edits.items():
            before = together.get(line, {})
            together[line] = None if edit is None or before is None else before | edit
    return together
