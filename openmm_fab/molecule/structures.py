"""Atoms and positions out of PDB, PDBx/mmCIF and SDF files."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from openmm import app, unit

from ..tools.warn import warn
from .checks import UnsupportedSystemError, some
from .chemistry import positions_of, topology_of
from .ligand import SUFFIXES as SDF
from .ligand import read_sdf
from .mmcif import connect
from .openmm_private import drop_repeated_bonds, mmcif_blocks
from .options import OptionError

MMCIF = (".cif", ".mmcif", ".pdbx")  # suffixes; what has none of these is read as PDB


STRUCTURES = (".pdb", *MMCIF, *SDF)


FilePath = str | Path


def read_structure(path: FilePath) -> tuple[app.Topology, unit.Quantity]:
    """Topology and positions of a PDB or PDBx/mmCIF file: its first model, and the first alternate location of each
    atom; or of the one molecule of an SDF file, with bond orders and formal charges.

    Warns if there were several.
    """
    path = existing(path, "a PDB, PDBx/mmCIF or SDF file")
    if path.suffix.lower() in SDF:
        molecule, _ = read_sdf(path)
        return topology_of(molecule), positions_of(molecule) * unit.nanometer
    mmcif = path.suffix.lower() in MMCIF
    if not mmcif:
        check_pdb(path)
        if not _begins(path, ("ATOM", "HETATM")):
            raise ValueError(
                f"Expected a PDB, PDBx/mmCIF or SDF file, which names elements and bonds; got {path}, without a line "
                "that begins with ATOM or HETATM. Write the structure in one of these formats."
            )
    with warnings.catch_warnings(record=True) as said, naming(path, "a PDBx/mmCIF file" if mmcif else "a PDB file"):
        warnings.simplefilter("always")
        read = app.PDBxFile(str(path)) if mmcif else app.PDBFile(str(path))
    ignored = [str(warning.message) for warning in said if "duplicate atom" in str(warning.message)]
    for warning in said:
        if str(warning.message) not in ignored:
            warn(str(warning.message), warning.category)
    if ignored:
        raise ValueError(_same_names(path, ignored, read.topology.getNumAtoms()))
    drop_repeated_bonds(read.topology)
    if mmcif:
        with open(path, encoding="utf-8", errors="replace") as lines:
            connect(read.topology, lines)
    if read.topology.getNumAtoms() == 0:
        raise ValueError(f"Expected atoms in {path}; there are none. Is it a PDBx/mmCIF file?")
    if read.getNumFrames() > 1:
        warn(f"{path} holds {read.getNumFrames()} models; the first is used.")
    places = alternate_locations(path)
    if places:
        warn(
            f"{path} has alternate locations ({len(places)} lines); of each atom the first one is used.",
        )
    return read.topology, read.positions


def _begins(path: Path, words: tuple[str, ...]) -> bool:
    """Whether a line of the file begins with one of the words."""
    with open(path, encoding="utf-8", errors="replace") as lines:
        return any(line.startswith(words) for line in lines)


def _same_names(path: Path, ignored: Sequence[str], read: int) -> str:
    """OpenMM's warnings of atoms that it leaves out, each with the atom's line."""
    lines = [text.partition("(")[2] for text in ignored]
    atoms = Counter(f"{line[17:20].strip()} {line[22:27].strip()} {line[12:16].strip()}" for line in lines)
    places = [f"{name} ({count + 1} times)" for name, count in atoms.items()]
    return (
        f"Expected atoms of one name only once in a residue of {path}; got {some(places)}. OpenMM reads the first of "
        f"each, {read} of {read + len(ignored)} atoms. openmm_fab.find_problems, or openmm-fab prepare in a shell, "
        "tells atoms that stand there twice from those that need names of their own."
    )


def alternate_locations(path: Path) -> list[str]:
    """Residues, such as "ALA 2", of the atoms that a file marks as one of several places: one for each line."""
    with open(path, encoding="utf-8", errors="replace") as lines:
        if path.suffix.lower() not in MMCIF:
            return [
                f"{line[17:20].strip()} {line[22:27].strip()}"
                for line in lines
                if line.startswith(("ATOM", "HETATM")) and line[16:17].strip()
            ]
        table = mmcif_blocks(lines)[0].getObj("atom_site")
    mark, name, number = (table.getAttributeIndex(key) for key in ("label_alt_id", "label_comp_id", "label_seq_id"))
    return [f"{row[name]} {row[number]}" for row in table.getRowList() if mark >= 0 and row[mark] not in ".?"]


@contextlib.contextmanager
def naming(path: FilePath, what: str) -> Iterator[None]:
    """Re-raise any error of a file reader as a ValueError with the file's path in its message.

    UnsupportedSystemError, OptionError, OSError and ImportError pass as they are."""
    try:
        yield
    except (UnsupportedSystemError, OptionError, OSError, ImportError):
        raise
    except Exception as error:  # OpenMM's readers raise whatever they stumble over
        said = str(error).strip().rstrip(".") or "no details"
        raise ValueError(f"Expected {what} in {path}; OpenMM says: {type(error).__name__}: {said}.") from error


def check_pdb(path: Path, finite: bool = True) -> None:
    """Raise for atoms whose coordinates are not numbers, or not `finite`, with the line of the file, which OpenMM's
    errors lack."""
    with open(path, encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.startswith(("ATOM", "HETATM")):
                continue
            columns = [line[i : i + 8] for i in (30, 38, 46)]
            try:
                good = all(math.isfinite(float(column)) or not finite for column in columns)
            except ValueError:
                good = False
            if not good:
                raise ValueError(
                    f"Expected coordinates in columns 31 to 54 of line {number} of {path}; got "
                    f"{line[30:54].rstrip()!r}. Is it a PDB file, and the line whole?"
                )


def existing(path: FilePath, what: str) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected {what} at {path}; there is none (working directory {Path.cwd()}).")
    return Path(path)
