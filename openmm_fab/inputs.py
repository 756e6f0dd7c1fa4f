"""Files of OpenMM, Amber, CHARMM and GROMACS -> topology, System and positions: one reader for each. `system.toml`.

`MolecularSystem.from_...` calls these; nothing is removed or added.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import openmm
from openmm import app, unit
from openmm.app.internal.pdbx.reader.PdbxReader import PdbxReader

from .checks import UnsupportedSystemError, molecule_problems, some, template_problems, topology_bonds

# Python 3.10 has it under its older name only.
tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

KNOWN_KEYS = ("name", "pdb", "forcefield", "temperature", "constraints", "reference", "pretrained")
KNOWN_REFERENCE_KEYS = ("trajectory", "weights")
KNOWN_PRETRAINED_KEYS = ("model",)
CONSTRAINTS = {"none": None, "HBonds": app.HBonds, "AllBonds": app.AllBonds}

MMCIF = (".cif", ".mmcif", ".pdbx")  # suffixes; what has none of these is read as PDB
STRUCTURES = (".pdb", *MMCIF)

FilePath = str | Path
Read = tuple[app.Topology, openmm.System, unit.Quantity]


def read_pdb(path: FilePath, forcefield: str | Sequence[str], **options: Any) -> Read:
    """See `MolecularSystem.from_pdb`."""
    topology, positions = read_structure(path)
    files = [forcefield] if isinstance(forcefield, str) else list(forcefield)
    field = app.ForceField(*files)
    try:
        system = field.createSystem(topology, **_defaults(options))
    except ValueError as error:
        if "No template found" not in str(error):
            raise
        problems = molecule_problems(topology, topology_bonds(topology))
        problems += template_problems(field, files, topology, str(error), several=bool(problems))
        raise UnsupportedSystemError(problems) from error
    return topology, system, positions


def read_amber(prmtop: FilePath, coordinates: FilePath, **options: Any) -> Read:
    """See `MolecularSystem.from_amber`."""
    read = app.AmberPrmtopFile(str(_existing(prmtop, "an Amber topology")))
    positions = _positions(coordinates, read.topology, prmtop, _amber_coordinates)
    return read.topology, read.createSystem(**_defaults(options)), positions


def read_charmm(
    psf: FilePath, coordinates: FilePath, parameters: FilePath | Sequence[FilePath], **options: Any
) -> Read:
    """See `MolecularSystem.from_charmm`."""
    read = app.CharmmPsfFile(str(_existing(psf, "a CHARMM structure file (psf)")))
    files = [parameters] if isinstance(parameters, str | Path) else list(parameters)
    field = app.CharmmParameterSet(*(str(_existing(file, "CHARMM parameters")) for file in files))
    system = read.createSystem(field, **_defaults(options))
    return read.topology, system, _positions(coordinates, read.topology, psf, _charmm_coordinates)


def read_gromacs(
    top: FilePath, coordinates: FilePath, include_dir: FilePath | None, defines: dict[str, str] | None, **options: Any
) -> Read:
    """See `MolecularSystem.from_gromacs`."""
    path = str(_existing(top, "a GROMACS topology"))
    read = app.GromacsTopFile(path, includeDir=None if include_dir is None else str(include_dir), defines=defines)
    positions = _positions(coordinates, read.topology, top, lambda path: app.GromacsGroFile(path).positions)
    return read.topology, read.createSystem(**_defaults(options)), positions


def read_xml(system_xml: FilePath, structure: FilePath) -> Read:
    """See `MolecularSystem.from_xml`."""
    path = _existing(system_xml, "a serialized openmm.System")
    topology, positions = read_structure(structure)
    try:
        system = openmm.XmlSerializer.deserialize(path.read_text(encoding="utf-8"))
    except (openmm.OpenMMException, ValueError) as error:
        system = error
    if not isinstance(system, openmm.System):
        raise ValueError(
            f"Expected a System in {path}; got {system!r}. Write one with openmm.XmlSerializer.serialize(system)."
        )
    if system.getNumParticles() != topology.getNumAtoms():
        raise ValueError(_miscount(structure, topology.getNumAtoms(), system_xml, system.getNumParticles()))
    return topology, system, positions


def read_structure(path: FilePath) -> tuple[app.Topology, unit.Quantity]:
    """Topology and positions of a PDB or PDBx/mmCIF file: the first model, of each atom its first place.

    Warns where there was something to choose from.
    """
    path = _existing(path, "a PDB or PDBx/mmCIF file")
    read = app.PDBxFile(str(path)) if path.suffix.lower() in MMCIF else app.PDBFile(str(path))
    if read.getNumFrames() > 1:
        warnings.warn(f"{path} holds {read.getNumFrames()} models; the first is used.", stacklevel=5)
    places = alternate_locations(path)
    if places:
        warnings.warn(
            f"{path} has alternate locations ({len(places)} lines); of each atom the first one is used.", stacklevel=5
        )
    return read.topology, read.positions


def read_settings(path: Path) -> dict[str, Any]:
    """A `system.toml`; unknown, missing and impossible entries are a ValueError."""
    settings = tomllib.loads(path.read_text(encoding="utf-8"))
    _refuse_unknown(path, settings, KNOWN_KEYS)
    _refuse_unknown(path, settings.get("reference", {}), KNOWN_REFERENCE_KEYS, " in [reference]")
    _refuse_unknown(path, settings.get("pretrained", {}), KNOWN_PRETRAINED_KEYS, " in [pretrained]")
    if "pdb" not in settings:
        raise ValueError(f"{path}: expected the key pdb (the structure's file name); it is missing.")
    if settings.get("constraints", "none") not in CONSTRAINTS:
        raise ValueError(
            f"{path}: expected constraints to be one of {list(CONSTRAINTS)}; got {settings['constraints']!r}."
        )
    return settings


def _refuse_unknown(path: Path, table: Iterable[str], known: Sequence[str], where: str = "") -> None:
    unknown = [key for key in table if key not in known]
    if unknown:
        raise ValueError(f"{path}: unknown {some(unknown)}{where}; the known keys are {', '.join(known)}.")


def alternate_locations(path: Path) -> list[str]:
    """Residues, such as "ALA 2", of the atoms that a file marks as one of several places: one for each line."""
    with open(path) as lines:
        if path.suffix.lower() not in MMCIF:
            return [
                f"{line[17:20].strip()} {line[22:27].strip()}"
                for line in lines
                if line.startswith(("ATOM", "HETATM")) and line[16:17].strip()
            ]
        blocks: list[Any] = []
        PdbxReader(lines).read(blocks)
    table = blocks[0].getObj("atom_site")
    mark, name, number = (table.getAttributeIndex(key) for key in ("label_alt_id", "label_comp_id", "label_seq_id"))
    return [f"{row[name]} {row[number]}" for row in table.getRowList() if mark >= 0 and row[mark] not in ".?"]


def _defaults(options: dict[str, Any]) -> dict[str, Any]:
    return {"nonbondedMethod": app.NoCutoff, "removeCMMotion": False, "rigidWater": False, **options}


def _existing(path: FilePath, what: str) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected {what} at {path}; there is none (working directory {Path.cwd()}).")
    return Path(path)


def _positions(
    path: FilePath, topology: app.Topology, belongs_to: FilePath, read: Callable[[str], unit.Quantity]
) -> unit.Quantity:
    """Positions for the atoms of `topology`, by `read` unless the file is a PDB or PDBx/mmCIF."""
    path = _existing(path, "coordinates")
    expected = [atom.element for atom in topology.atoms()]
    if path.suffix.lower() not in STRUCTURES:
        positions = read(str(path))
        if len(positions) != len(expected):
            raise ValueError(_miscount(path, len(positions), belongs_to, len(expected)))
        return positions
    other, positions = read_structure(path)
    got = list(other.atoms())
    if len(got) != len(expected):
        raise ValueError(_miscount(path, len(got), belongs_to, len(expected)))
    differing = [str(atom.index) for atom in got if atom.element != expected[atom.index]]
    if differing:
        raise ValueError(
            f"Expected the elements of {belongs_to} in {path}; atoms {some(differing)} (from 0) differ. "
            "Write both files from the same structure, with its atoms in the same order."
        )
    return positions


def _miscount(path: FilePath, got: int, belongs_to: FilePath, expected: int) -> str:
    return (
        f"Expected the {expected} atoms of {belongs_to}; got {got} in {path}. "
        "Use two files that were written for the same molecule."
    )


def _amber_coordinates(path: str) -> unit.Quantity:
    try:
        return app.AmberInpcrdFile(path).positions
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected Amber coordinates in {path} (inpcrd, rst7 or NetCDF restart); OpenMM says: {error}. "
            "Of a trajectory write one frame as restart file or PDB."
        ) from error


def _charmm_coordinates(path: str) -> unit.Quantity:
    reader = app.CharmmRstFile if path.lower().endswith(".rst") else app.CharmmCrdFile
    return reader(path).positions
