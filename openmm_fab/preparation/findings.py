"""Problems of a structure file, and the corrected structure.

Finding changes nothing. Fixing moves no atom that it keeps, and reports what was done and what remains.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from dataclasses import field as attribute
from html import escape
from pathlib import Path

import numpy as np
from openmm import app, unit

from ..molecule.checks import some
from ..molecule.distances import HYDROGENS
from ..molecule.forcefields import Forcefield, open_forcefield
from ..molecule.graph import topology_bonds
from ..molecule.names import formula
from ..molecule.structures import MMCIF, naming
from ..tools.files import write_atomically
from .bonding import as_bonded, bonding_of, in_nanometers
from .fixing import add_heavy_atoms, add_hydrogens
from .problems import ASKED, FIXES, ONCE, SAFE, Problem
from .records import open_records, variants
from .scanning import Reading, record_problems
from .structure import kind_of, molecule_problems, molecules, structure_problems

SAFELY = "safe"  # in what fix accepts: all kinds of SAFE


@dataclass(frozen=True, repr=False)
class Findings:
    """Problems of a structure file with a force field; prints as a table.

    Parameters
    ----------
    path : Path
    forcefield : tuple of str
    problems : tuple of Problem
    elements : Counter of str
        Atoms in the file by element, those counted once that stand there twice.
    field : openmm.app.ForceField
        `forcefield`, read: that of CHARMM takes seconds.
    """

    path: Path
    forcefield: tuple[str, ...]
    problems: tuple[Problem, ...]
    elements: Counter[str]
    field: app.ForceField = attribute(compare=False)

    @property
    def kinds(self) -> list[str]:
        """Kinds of problems that `fix` can correct here."""
        return list(dict.fromkeys(problem.kind for problem in self.problems if problem.fixable))

    @property
    def asked(self) -> list[str]:
        """Kinds of problems whose correction adds or removes more than hydrogens; `fix` corrects only those named."""
        return [kind for kind in self.kinds if kind in ASKED]

    def __str__(self) -> str:
        title = f"{self.path.name} ({_composition(self.elements)}), for {', '.join(self.forcefield)}:"
        if not self.problems:
            return f"{title} nothing to mend."
        return "\n".join([title, *map(_line, self.problems), *self._closing()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{_mark(p)}</td><td>{escape(p.kind)}</td><td>{escape(some(p.places))}</td>"
            f"<td>{escape(p.advice)}</td></tr>"
            for p in self.problems
        )
        title, *lines = str(self).splitlines()
        closing = "".join(f"<p>{escape(line)}</p>" for line in lines[len(self.problems) :])
        return f"<p>{escape(title)}</p>" + (f"<table>{rows}</table>" if rows else "") + closing

    def _closing(self) -> list[str]:
        safe = [kind for kind in self.kinds if kind not in ASKED]
        if not self.kinds:
            return ["fix mends none of these."]
        lines = [f"Correct what leaves the molecule as it is with fix(), or some: fix({safe})."] if safe else []
        if self.asked:
            named = [*([SAFELY] if safe else []), *self.asked]
            lines += [f"Another formula, so look first: {', '.join(self.asked)}. To have it: fix({named})."]
        return lines

    def fix(self, accept: str | Collection[str] = SAFELY, pH: float = 7.0) -> Prepared:
        """Read the file again and correct the accepted kinds of problems; the file itself is not changed.

        Of several models, and of alternate locations that are not accepted, the first is read, as by `from_pdb`.

        Parameters
        ----------
        accept : "safe", or kinds of problems out of `FIXES`, or both in a list
            "safe" are all kinds that leave the formula as it is, hydrogens aside. Modified residues, solvent and ions,
            other molecules and missing heavy atoms are corrected only if they are named.
        pH : float
            Decides the protonation of residues that lack hydrogens, unless their name in the file does.

        Raises
        ------
        ValueError
            Unknown kinds; hydrogens named, but not the heavy atoms that are missing too; atoms that would be lost.
        ImportError
            Missing heavy atoms accepted without PDBFixer.
        """
        kinds = {accept} if isinstance(accept, str) else set(accept)
        unknown = sorted(kinds - set(FIXES) - {SAFELY})
        if unknown:
            raise ValueError(f"Expected 'safe' or kinds out of {', '.join(FIXES)}; got {some(unknown)}.")
        return _fix(self, kinds, pH)


@dataclass(frozen=True, eq=False, repr=False)
class Prepared:
    """A corrected structure.

    Parameters
    ----------
    topology : openmm.app.Topology
    positions : (n_atoms, 3) array, nm
    done : tuple of str
        What was changed.
    left : tuple of Problem
        What still stands: not accepted, or beyond `fix`.
    before : Counter of str
        `Findings.elements`.
    """

    topology: app.Topology
    positions: np.ndarray
    done: tuple[str, ...]
    left: tuple[Problem, ...]
    before: Counter[str]

    @property
    def elements(self) -> Counter[str]:
        """Number of atoms of each element."""
        return _elements(self.topology)

    def __repr__(self) -> str:
        title = f"{self.topology.getNumAtoms()} atoms; done: {len(self.done)}, left: {len(self.left)}"
        formulas = [f"  before {_composition(self.before)}", f"  after  {_composition(self.elements)}"]
        return "\n".join([title, *formulas, *(f"  done {text}" for text in self.done), *map(_line, self.left)])

    def write(self, path: str | Path) -> Path:
        """Write a file that `MolecularSystem.from_pdb` reads: PDBx/mmCIF if the path ends in .cif, .mmcif or .pdbx,
        else PDB.

        Raises
        ------
        ValueError
            PDBx/mmCIF, where a bond between standard residues is none that OpenMM writes, such as that of a ring.
        """
        cif = Path(path).suffix.lower() in MMCIF
        form, text = app.PDBxFile if cif else app.PDBFile, io.StringIO()
        form.writeFile(self.topology, self.positions * unit.nanometer, text, keepIds=True)
        text.seek(0)
        read = form(text).topology
        if read.getNumAtoms() != self.topology.getNumAtoms():
            raise ValueError(
                f"Expected a file that OpenMM reads {self.topology.getNumAtoms()} atoms from; it reads "
                f"{read.getNumAtoms()}: names of atoms are not unique. Accept 'atom names' too."
            )
        there = set(map(tuple, topology_bonds(read).tolist()))
        lost = sorted(set(map(tuple, topology_bonds(self.topology).tolist())) - there)
        if lost and cif:
            atoms = list(self.topology.atoms())
            places = [f"{atoms[i]} - {atoms[j]}" for i, j in lost]
            raise ValueError(f"Expected bonds that OpenMM writes to PDBx/mmCIF; {some(places)} are lost. Write a .pdb.")
        whole = _with_conect(text.getvalue(), lost) if lost else text.getvalue()
        return write_atomically(path, lambda file: file.write(whole), "w")


def find_problems(path: str | Path, forcefield: Forcefield | None = None) -> Findings:
    """List what keeps `MolecularSystem.from_pdb` from reading a PDB or PDBx/mmCIF file, or spoils what it reads.

    Changes nothing: look at the list, then call its `fix`. Missing atoms are looked for in the solute, which is the
    molecule with the most heavy atoms.

    Parameters
    ----------
    path : path of the file; PDBx/mmCIF if it ends in .cif, .mmcif or .pdbx
    forcefield : names of OpenMM force-field files, or an app.ForceField
        It decides what a residue lacks; there is no default.

    Raises
    ------
    FileNotFoundError
    ValueError
        No force field; no atoms in the file.
    """
    field, files = open_forcefield(forcefield)
    records = open_records(Path(path))
    with naming(path, "a PDB or PDBx/mmCIF file"):
        elements = record_problems(records, field, ONCE).elements
        reading = record_problems(records, field, SAFE)
        model = records.read(reading.edits)
        problems = reading.problems + structure_problems(model, field, files)
    return Findings(Path(path), tuple(files), tuple(problems), elements, field)


def _with_conect(pdb: str, bonds: Sequence[tuple[int, int]]) -> str:
    """The text of a PDB file with CONECT records of bonds (pairs of its atoms) before its end."""
    lines = pdb.splitlines()
    serial = [line[6:11] for line in lines if line.startswith(("ATOM", "HETATM"))]
    end = next(k for k, line in enumerate(lines) if line.startswith("END"))
    records = [f"CONECT{serial[a]}{serial[b]}" for i, j in bonds for a, b in ((i, j), (j, i))]
    return "\n".join([*lines[:end], *records, *lines[end:]]) + "\n"


def _mark(problem: Problem) -> str:
    """Who corrects it: fix, ask, you; or note."""
    if problem.fixable:
        return "ask" if problem.kind in ASKED else "fix"
    return "note" if problem.kind == "D-amino acids" else "you"


def _line(problem: Problem) -> str:
    return f"  {_mark(problem):<4} {problem.kind:<20} {some(problem.places)}: {problem.advice}"


def _composition(elements: Counter[str]) -> str:
    heavy = sum(count for symbol, count in elements.items() if symbol not in HYDROGENS)
    return f"{formula(elements)}, {elements.total()} atoms, {heavy} heavy"


def _elements(topology: app.Topology) -> Counter[str]:
    return Counter(atom.element.symbol if atom.element else "" for atom in topology.atoms())


def _fix(findings: Findings, accepted: set[str], pH: float) -> Prepared:
    kinds = accepted | SAFE if SAFELY in accepted else accepted
    field, files = findings.field, findings.forcefield
    records = open_records(findings.path)
    reading = record_problems(records, field, kinds)
    model = records.read(reading.edits)
    _check_read(reading, model)
    known = variants(records, reading.rows, model) if "residue names" in kinds else {}
    found = bonding_of(model)
    problems = reading.problems + molecule_problems(model)
    done = [f"{p.kind}: {some(p.places)}" for p in problems if p.fixable and p.kind in kinds]
    _, *others = molecules(model.topology, found.missing + found.crowded)
    unwanted = {residue.index for part in others if kind_of(part) in kinds for residue in part}
    model = as_bonded(model, found, kinds)
    model.delete([residue for residue in model.topology.residues() if residue.index in unwanted])
    if "missing heavy atoms" in kinds:
        done += add_heavy_atoms(model, field)
    if "missing hydrogens" in kinds:
        done += add_hydrogens(model, field, known, pH, insist="missing hydrogens" in accepted)
    if not kinds & ASKED:
        _check_same(findings.elements, _elements(model.topology))
    left = structure_problems(model, field, files)
    return Prepared(model.topology, in_nanometers(model), tuple(done), tuple(left), findings.elements)


def _check_read(reading: Reading, model: app.Modeller) -> None:
    """Whether OpenMM has read every atom; of alternate locations one."""
    names = {(row.residue, row["atom"]) for row in reading.rows}
    if model.topology.getNumAtoms() < len(names) or (len(names) < len(reading.rows) and not _places(reading)):
        raise ValueError(
            f"Expected OpenMM to read the {len(reading.rows)} atoms of the file; it reads "
            f"{model.topology.getNumAtoms()}. Accept 'duplicate atoms', 'atom names' and 'alternate locations' too."
        )


def _places(reading: Reading) -> bool:
    return any(row["place"] for row in reading.rows)


def _check_same(before: Counter[str], after: Counter[str]) -> None:
    """Whether the heavy atoms have stayed; one without an element may be any."""
    heavy = [Counter({s: n for s, n in e.items() if s not in HYDROGENS}) for e in (before, after)]
    unknown = heavy[1].pop("", 0)
    if heavy[1] - heavy[0] or (heavy[0] - heavy[1]).total() != unknown:
        raise ValueError(
            f"Expected the heavy atoms of the file, {formula(heavy[0])}; mending would make {formula(heavy[1])} of "
            "them. Nothing is mended. Name single kinds to see which does it, and report it."
        )
