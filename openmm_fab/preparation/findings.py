"""Finding what is wrong with a structure file, and the mended structure.

Finding changes nothing. Fixing moves no atom that stays; it says what it did and what is left to you.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from openmm import app, unit

from ..molecule.checks import some
from ..molecule.graph import topology_bonds
from ..molecule.inputs import MMCIF, naming, read_forcefield
from ..molecule.system import FORCEFIELD
from ..tools.files import write_atomically
from .fixing import add_heavy_atoms, add_hydrogens
from .problems import FIXES, Problem
from .records import merged, open_records, record_problems
from .structure import (
    add_bonds,
    in_nanometers,
    kind_of,
    missing_bonds,
    molecule_problems,
    molecules,
    structure_problems,
)


@dataclass(frozen=True, repr=False)
class Findings:
    """What a structure file lacks or has too much of for a force field; printed, a table."""

    path: Path
    forcefield: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def kinds(self) -> list[str]:
        """What `fix` can mend here."""
        return list(dict.fromkeys(problem.kind for problem in self.problems if problem.fixable))

    def __str__(self) -> str:
        title = f"{self.path.name}, for {', '.join(self.forcefield)}:"
        if not self.problems:
            return f"{title} nothing to mend."
        close = f"Mend with fix('all'), or some: fix({self.kinds})." if self.kinds else "fix mends none of these."
        return "\n".join([title, *map(_line, self.problems), close])

    __repr__ = __str__  # what a notebook shows

    def fix(self, accept: str | Collection[str], pH: float = 7.0) -> Prepared:
        """Read the file again and mend what is accepted, nothing else. The file itself stays as it is.

        Of several models, and of alternate locations that are not accepted, the first is read, as by `from_pdb`.

        Parameters
        ----------
        accept : "all", or kinds of problems out of `FIXES`
        pH : float
            Decides the protonation of residues that lack hydrogens, unless their name in the file does.

        Raises
        ------
        ValueError
            Unknown kinds; hydrogens accepted, but not the heavy atoms that are missing too.
        ImportError
            Missing heavy atoms accepted without PDBFixer.
        """
        kinds = set(FIXES) if accept == "all" else {accept} if isinstance(accept, str) else set(accept)
        if not kinds <= set(FIXES):
            raise ValueError(
                f"Expected 'all' or kinds out of {', '.join(FIXES)}; got {some(sorted(kinds - set(FIXES)))}."
            )
        return _fix(self, kinds, pH)


@dataclass(frozen=True, eq=False, repr=False)
class Prepared:
    """A mended structure.

    Parameters
    ----------
    topology : openmm.app.Topology
    positions : (n_atoms, 3) array, nm
    done : tuple of str
        What was changed.
    left : tuple of Problem
        What still stands: not accepted, or beyond `fix`.
    """

    topology: app.Topology
    positions: np.ndarray
    done: tuple[str, ...]
    left: tuple[Problem, ...]

    def __repr__(self) -> str:
        title = f"{self.topology.getNumAtoms()} atoms; done: {len(self.done)}, left: {len(self.left)}"
        return "\n".join([title, *(f"  done {text}" for text in self.done), *map(_line, self.left)])

    def write(self, path: str | Path) -> Path:
        """Write a file for `MolecularSystem.from_pdb`: PDBx/mmCIF if it ends in .cif, .mmcif or .pdbx, else PDB.

        Raises
        ------
        ValueError
            PDBx/mmCIF, where a bond between standard residues is none that OpenMM writes, such as that of a ring.
        """
        cif = Path(path).suffix.lower() in MMCIF
        form, text = app.PDBxFile if cif else app.PDBFile, io.StringIO()
        form.writeFile(self.topology, self.positions * unit.nanometer, text, keepIds=True)
        text.seek(0)
        read = set(map(tuple, topology_bonds(form(text).topology).tolist()))
        lost = sorted(set(map(tuple, topology_bonds(self.topology).tolist())) - read)
        if lost and cif:
            atoms = list(self.topology.atoms())
            places = [f"{atoms[i]} - {atoms[j]}" for i, j in lost]
            raise ValueError(f"Expected bonds that OpenMM writes to PDBx/mmCIF; {some(places)} are lost. Write a .pdb.")
        whole = _with_conect(text.getvalue(), lost) if lost else text.getvalue()
        return write_atomically(path, lambda file: file.write(whole), "w")


def find_problems(path: str | Path, forcefield: str | Sequence[str] = FORCEFIELD) -> Findings:
    """List what keeps `MolecularSystem.from_pdb` from reading a PDB or PDBx/mmCIF file, or spoils what it reads.

    Changes nothing: look at the list, then call its `fix`. Missing atoms are looked for in the solute, which is the
    molecule with the most heavy atoms.

    Parameters
    ----------
    path : path of the file; PDBx/mmCIF if it ends in .cif, .mmcif or .pdbx
    forcefield : names of OpenMM force-field files

    Raises
    ------
    FileNotFoundError
    ValueError
        No atoms in the file.
    """
    files = (forcefield,) if isinstance(forcefield, str) else tuple(forcefield)
    field = read_forcefield(files)
    records = open_records(Path(path))
    with naming(path, "a PDB or PDBx/mmCIF file"):
        found = record_problems(records, field)
        model = records.read(merged(edits for _, edits in found))
        problems = [problem for problem, _ in found] + structure_problems(model, field, files)
    return Findings(Path(path), files, tuple(problems))


def _with_conect(pdb: str, bonds: Sequence[tuple[int, int]]) -> str:
    """The text of a PDB file with CONECT records of bonds (pairs of its atoms) before its end."""
    lines = pdb.splitlines()
    serial = [line[6:11] for line in lines if line.startswith(("ATOM", "HETATM"))]
    end = next(k for k, line in enumerate(lines) if line.startswith("END"))
    records = [f"CONECT{serial[a]}{serial[b]}" for i, j in bonds for a, b in ((i, j), (j, i))]
    return "\n".join([*lines[:end], *records, *lines[end:]]) + "\n"


def _line(problem: Problem) -> str:
    mark = "fix" if problem.fixable else "note" if problem.kind == "D-amino acids" else "you"
    return f"  {mark:<4} {problem.kind:<20} {some(problem.places)}: {problem.advice}"


def _fix(findings: Findings, kinds: set[str], pH: float) -> Prepared:
    field, files = read_forcefield(findings.forcefield), findings.forcefield
    records = open_records(findings.path)
    found = [(problem, edits) for problem, edits in record_problems(records, field) if problem.kind in kinds]
    model = records.read(merged(edits for _, edits in found))
    variants = records.variants(model) if "residue names" in kinds else {}
    problems = [problem for problem, _ in found] + molecule_problems(model, field)
    done = [f"{p.kind}: {some(p.places)}" for p in problems if p.fixable and p.kind in kinds]
    bonds, _ = missing_bonds(model, field)
    _, *others = molecules(model.topology, bonds)
    unwanted = {residue.index for part in others if kind_of(part) in kinds for residue in part}
    model = add_bonds(model, bonds if "missing bonds" in kinds else [])
    model.delete([residue for residue in model.topology.residues() if residue.index in unwanted])
    if "missing heavy atoms" in kinds:
        done += add_heavy_atoms(model, field)
    if "missing hydrogens" in kinds:
        done += add_hydrogens(model, field, variants, pH)
    left = structure_problems(model, field, files)
    return Prepared(model.topology, in_nanometers(model), tuple(done), tuple(left))
