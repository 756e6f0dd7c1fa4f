"""Readers of files of OpenMM, Amber, CHARMM and GROMACS and of `system.toml`: file -> topology, System and positions.

`MolecularSystem.from_...` calls these; atoms are neither removed nor added. No file can make them run code.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import math
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import openmm
from openmm import app, unit

from ..tools.errors import OpenMMFabError
from .charmm import check_nonbonded
from .checks import (
    AMBIGUOUS,
    UnsupportedSystemError,
    ambiguous_template,
    gap_problems,
    molecule_problems,
    residue_parts,
    some,
    template_problems,
)
from .chemistry import positions_of, topology_of
from .graph import topology_bonds
from .gromacs import check_sections, exclude_as_gromacs
from .ligand import SUFFIXES as SDF
from .ligand import read_sdf
from .mmcif import connect
from .names import residue_label, residue_run
from .openmm_private import GromacsTopology, drop_repeated_bonds, mmcif_blocks, residue_templates
from .safe_xml import check_forcefield, check_serialized

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KNOWN_KEYS = (
    *("name", "pdb", "sdf", "forcefield", "residue_templates", "temperature", "constraints"),
    *("reference", "pretrained"),
)
KNOWN_REFERENCE_KEYS = ("trajectory", "weights")
KNOWN_PRETRAINED_KEYS = ("model",)
CONSTRAINTS = {"none": None, "HBonds": app.HBonds, "AllBonds": app.AllBonds}

MMCIF = (".cif", ".mmcif", ".pdbx")  # suffixes; what has none of these is read as PDB
STRUCTURES = (".pdb", *MMCIF, *SDF)

FilePath = str | Path
Forcefield: TypeAlias = str | Path | Sequence[str | Path] | app.ForceField
Read = tuple[app.Topology, openmm.System, unit.Quantity]


def read_pdb(path: FilePath, forcefield: Forcefield | None, **options: Any) -> Read:
    """See `MolecularSystem.from_pdb`."""
    topology, positions = read_structure(path)
    x = positions.value_in_unit(unit.nanometer)
    gaps = gap_problems(topology, x)
    field, files = open_forcefield(forcefield)
    _choose_templates(field, files, topology, options.pop("residueTemplates", None) or {})
    with naming(path, f"a structure that {', '.join(files)} describes"):
        try:
            system = field.createSystem(topology, **_defaults(options))
        except Exception as error:
            said, unused = str(error), UNUSED_OPTION.search(str(error))
            if unused:
                raise OptionError(_unused_option(unused.group(1), files)) from error
            if PERIODIC in said:
                raise OptionError(
                    f"Expected a nonbondedMethod for a molecule without a periodic box; got "
                    f"{options.get('nonbondedMethod')}. Leave it out: nothing is cut off then."
                ) from error
            if AMBIGUOUS in said:
                place, choice = ambiguous_template(topology, said)
                problem = f"Expected one template of {', '.join(files)} for {place}; {choice}."
                raise UnsupportedSystemError([problem], str(path)) from error
            if "No template found" not in said:
                raise
            problems = [*molecule_problems(topology, topology_bonds(topology), x), *gaps]
            problems += template_problems(field, files, topology, said, several=bool(problems))
            raise UnsupportedSystemError(problems, str(path)) from error
    if gaps:
        raise UnsupportedSystemError(gaps, str(path))
    return topology, system, positions


NO_FORCEFIELD = (
    "Expected forcefield=..., which decides every energy and has no default. Of proteins and nucleic acids: "
    '["amber14-all.xml", "implicit/gbn2.xml"] or ["charmm36.xml", "implicit/gbn2.xml"]; openmm_fab.PAPER_FORCEFIELD, '
    "amber96 with OBC1, is that of the shipped alanine dipeptide. "
    "Of other molecules: files of your own, or an app.ForceField. Without a file of implicit/ there is no solvent."
)


def open_forcefield(forcefield: Forcefield | None) -> tuple[app.ForceField, list[str]]:
    """Force field, read from its files or as given, with its names, one for each file.

    Raises
    ------
    OptionError
        None is given: the message lists what could be meant.
    ValueError
        See `read_forcefield`.
    """
    if forcefield is None or (not isinstance(forcefield, app.ForceField) and not forcefield):
        raise OptionError(NO_FORCEFIELD)
    if isinstance(forcefield, app.ForceField):
        return forcefield, ["the ForceField given"]
    files = [str(forcefield)] if isinstance(forcefield, str | Path) else [str(file) for file in forcefield]
    return read_forcefield(files), files


def forcefield_in_words(forcefield: Forcefield | None) -> str:
    """The names of its files, without their folders but for OpenMM's own."""
    if forcefield is None or isinstance(forcefield, app.ForceField):
        return "an app.ForceField"
    files = [forcefield] if isinstance(forcefield, str | Path) else forcefield
    return ", ".join(Path(file).name if Path(file).is_file() else str(file) for file in files)


def read_atoms(path: FilePath) -> Read:
    """See `MolecularSystem.from_structure`."""
    topology, positions = read_structure(path)
    return topology, without_forces(topology), positions


def without_forces(topology: app.Topology) -> openmm.System:
    """A System of the topology's atoms with their elements' masses, and nothing that acts on them."""
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(0.0 if atom.element is None else atom.element.mass)
    return system


class OptionError(OpenMMFabError, ValueError):
    """Unknown or unused options of createSystem: the call is wrong, not the file."""


UNUSED_OPTION = re.compile(r"The argument '(\w+)' was specified to createSystem\(\) but was never used")
PERIODIC = "Requested periodic boundary conditions"
OPTION_HINTS = {
    "gbsaModel": "its name is sasaMethod today",
    **dict.fromkeys(
        ("implicitSolventSaltConc", "temperature"),
        "salt is implicitSolventKappa here, in 1/nm; from_amber and from_charmm take a concentration",
    ),
    **dict.fromkeys(
        ("implicitSolvent", "gbModel"), "the implicit solvent is a force-field file here, such as implicit/gbn2.xml"
    ),
    "flexibleConstraints": "it is used with constraints only: give constraints=app.HBonds, or leave it out",
    **dict.fromkeys(
        ("sasaMethod", "implicitSolventKappa", "soluteDielectric", "solventDielectric"),
        "it is of an implicit solvent: name its file too, such as implicit/gbn2.xml",
    ),
}


def _unused_option(name: str, files: Sequence[str]) -> str:
    hint = OPTION_HINTS.get(name, "mind the spelling, or leave it out")
    return f"Expected options of createSystem that {', '.join(files)} uses; got {name}, which nothing uses: {hint}."


def _check_options(create: Callable[..., Any], options: dict[str, Any]) -> None:
    """Refuse options that a createSystem with named parameters does not have."""
    known = inspect.signature(create).parameters
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}."
            raise OptionError(f"Expected options of {create.__qualname__}; got {name}, which it does not have: {hint}")


def _choose_templates(
    field: app.ForceField, files: Sequence[str], topology: app.Topology, chosen: Mapping[Any, str]
) -> None:
    """Have the force field take named templates for residues ("ALA 2") and for whole molecules ("ACE-ALA-NME")."""
    if not chosen:
        return
    templates, residues = residue_templates(field), list(topology.residues())
    named = {key if isinstance(key, str) else residue_label(key): name for key, name in chosen.items()}
    known = {residue_label(residue) for residue in residues} | {residue_run(part) for part in residue_parts(topology)}
    unknown = [name for name in named.values() if name not in templates]
    missing = [key for key in named if key not in known]
    if unknown:
        raise OptionError(f"Expected residueTemplates out of {', '.join(files)}; it has no template {some(unknown)}.")
    if missing:
        raise OptionError(
            f"Expected residueTemplates for residues of the structure, or for its molecule; got {some(missing)}. "
            f"There are {some(sorted(known))}."
        )

    def choose(_: app.ForceField, residue: Any, *__: Any) -> Any:
        parts = getattr(residue, "residues", None)  # of a molecule that OpenMM tries as a whole
        name = named.get(residue_run(sorted(parts, key=lambda r: r.index)) if parts else residue_label(residue))
        return None if name is None else templates[name]

    field.registerTemplateMatcher(choose)


def read_forcefield(files: Sequence[str]) -> app.ForceField:
    """Read OpenMM force-field files; files that are not OpenMM's own may hold numbers and expressions, but no scripts.

    Raises
    ------
    ValueError
        A file that does not exist, is no force field, or holds a script or a document type.
    """
    for file in files:
        if Path(file).is_file():
            check_forcefield(Path(file))
    with naming(", ".join(map(str, files)), "force-field files"):
        try:
            return app.ForceField(*map(str, files))
        except ValueError as error:
            if "Could not locate file" in str(error):
                raise ValueError(f"{error}. {_nearest(files)}") from error
            raise


def _nearest(files: Sequence[str]) -> str:
    """Suggestions, from OpenMM's own force-field files, for names that do not exist."""
    folder = Path(app.__file__).parent / "data"
    shipped = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.xml"))
    unknown = [str(file) for file in files if not Path(file).is_file() and str(file) not in shipped]
    near = [name for file in unknown for name in difflib.get_close_matches(file, shipped, 3, 0.6)]
    common = [name for name in ("amber14-all.xml", "amber19-all.xml", "charmm36.xml") if name in shipped]
    return f"Of OpenMM's own there {'is' if len(near or common) == 1 else 'are'} {', '.join(near or common)}"


def read_amber(prmtop: FilePath, coordinates: FilePath, **options: Any) -> Read:
    """See `MolecularSystem.from_amber`."""
    path = _existing(prmtop, "an Amber topology")
    with naming(path, "an Amber topology"):
        read = app.AmberPrmtopFile(str(path))
    positions = _positions(coordinates, read.topology, prmtop, _amber_coordinates)
    _check_options(read.createSystem, options)
    with naming(path, "an Amber topology"):
        return read.topology, read.createSystem(**_defaults(options)), positions


def read_charmm(
    psf: FilePath, coordinates: FilePath, parameters: FilePath | Sequence[FilePath], **options: Any
) -> Read:
    """See `MolecularSystem.from_charmm`."""
    path = _existing(psf, "a CHARMM structure file (psf)")
    with naming(path, "a CHARMM structure file (psf)"):
        read = app.CharmmPsfFile(str(path))
    _check_options(read.createSystem, options)
    files = [parameters] if isinstance(parameters, str | Path) else list(parameters)
    found = [str(_existing(file, "CHARMM parameters")) for file in files]
    check_nonbonded(found)
    with naming(", ".join(found), "CHARMM parameters"):
        field = app.CharmmParameterSet(*found)
        # As for all other files: what is constrained has no energy.
        system = read.createSystem(field, **{"flexibleConstraints": False, **_defaults(options)})
    return read.topology, system, _positions(coordinates, read.topology, psf, _charmm_coordinates)


def read_gromacs(
    top: FilePath, coordinates: FilePath, include_dir: FilePath | None, defines: dict[str, str] | None, **options: Any
) -> Read:
    """See `MolecularSystem.from_gromacs`."""
    path = str(_existing(top, "a GROMACS topology"))
    with naming(path, "a GROMACS topology"):
        read = GromacsTopology(path, includeDir=None if include_dir is None else str(include_dir), defines=defines)
    check_sections(read, path)
    positions = _positions(coordinates, read.topology, top, _gromacs_coordinates)
    _check_options(read.createSystem, options)
    with naming(path, "a GROMACS topology"):
        system = read.createSystem(**_defaults(options))
        exclude_as_gromacs(read, system, path)
    return read.topology, system, positions


def read_xml(system_xml: FilePath, structure: FilePath) -> Read:
    """See `MolecularSystem.from_xml`."""
    path = _existing(system_xml, "a serialized openmm.System")
    topology, positions = read_structure(structure)
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise ValueError(f"Expected XML in {path}; {error}.") from error
    check_serialized(text, str(path))
    try:
        system = openmm.XmlSerializer.deserialize(text)
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
    """Topology and positions of a PDB or PDBx/mmCIF file: its first model, and the first alternate location of each
    atom; or of the one molecule of an SDF file, with bond orders and formal charges.

    Warns if there were several.
    """
    path = _existing(path, "a PDB, PDBx/mmCIF or SDF file")
    if path.suffix.lower() in SDF:
        molecule, _ = read_sdf(path)
        return topology_of(molecule), positions_of(molecule) * unit.nanometer
    mmcif = path.suffix.lower() in MMCIF
    if not mmcif:
        check_pdb(path)
    with warnings.catch_warnings(record=True) as said, naming(path, "a PDBx/mmCIF file" if mmcif else "a PDB file"):
        warnings.simplefilter("always")
        read = app.PDBxFile(str(path)) if mmcif else app.PDBFile(str(path))
    ignored = [str(warning.message) for warning in said if "duplicate atom" in str(warning.message)]
    for warning in said:
        if str(warning.message) not in ignored:
            warnings.warn(str(warning.message), warning.category, stacklevel=5)
    if ignored:
        raise ValueError(_same_names(path, ignored, read.topology.getNumAtoms()))
    drop_repeated_bonds(read.topology)
    if mmcif:
        with open(path, encoding="utf-8", errors="replace") as lines:
            connect(read.topology, lines)
    if read.topology.getNumAtoms() == 0:
        raise ValueError(f"Expected atoms in {path}; there are none. Is it a {'PDBx/mmCIF' if mmcif else 'PDB'} file?")
    if read.getNumFrames() > 1:
        warnings.warn(f"{path} holds {read.getNumFrames()} models; the first is used.", stacklevel=5)
    places = alternate_locations(path)
    if places:
        warnings.warn(
            f"{path} has alternate locations ({len(places)} lines); of each atom the first one is used.", stacklevel=5
        )
    return read.topology, read.positions


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


def read_settings(path: Path) -> dict[str, Any]:
    """Read a `system.toml`; raises ValueError for unknown, missing and impossible entries."""
    try:
        settings: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8
        raise ValueError(f"{path}: expected a TOML file; {error}.") from error
    _refuse_unknown(path, settings, KNOWN_KEYS)
    if ("pdb" in settings) == ("sdf" in settings):
        got = "both" if "pdb" in settings else "it is missing"
        raise ValueError(f"{path}: expected the key pdb, or sdf (the structure's file name); {got}.")
    for key, value in settings.items():
        kind, fits = KINDS[key]
        if not fits(value):
            raise ValueError(f"{path}: expected {key} to be {kind}; got {value!r}.")
    for key, known in (("reference", KNOWN_REFERENCE_KEYS), ("pretrained", KNOWN_PRETRAINED_KEYS)):
        table = settings.get(key, {})
        _refuse_unknown(path, table, known, f" in [{key}]")
        for name, value in table.items():
            if not isinstance(value, str):
                raise ValueError(f"{path}: expected {name} in [{key}] to be a file name; got {value!r}.")
    if settings.get("constraints", "none") not in CONSTRAINTS:
        raise ValueError(
            f"{path}: expected constraints to be one of {list(CONSTRAINTS)}; got {settings['constraints']!r}."
        )
    if "forcefield" not in settings:
        raise ValueError(f"{path}: expected the key forcefield (OpenMM's force-field files); it is missing.")
    return settings


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


def _is_temperature(value: object) -> bool:
    return type(value) in (int, float) and 0.0 < value < math.inf  # type: ignore[operator]


KINDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    **dict.fromkeys(("name", "pdb", "sdf", "constraints"), ("text", _is_text)),
    "forcefield": (
        "a file name, or a list of them",
        lambda value: _is_text(value) or (isinstance(value, list) and bool(value) and all(map(_is_text, value))),
    ),
    "temperature": ("a positive, finite number of K", _is_temperature),
    "residue_templates": (
        "a table of residues and templates",
        lambda value: isinstance(value, dict) and all(map(_is_text, value.values())),
    ),
    **dict.fromkeys(("reference", "pretrained"), ("a table", lambda value: isinstance(value, dict))),
}


def _refuse_unknown(path: Path, table: Iterable[str], known: Sequence[str], where: str = "") -> None:
    unknown = [key for key in table if key not in known]
    if unknown:
        raise ValueError(f"{path}: unknown {some(unknown)}{where}; the known keys are {', '.join(known)}.")


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


def _defaults(options: dict[str, Any]) -> dict[str, Any]:
    return {"nonbondedMethod": app.NoCutoff, "removeCMMotion": False, "rigidWater": False, **options}


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
    with naming(path, "CHARMM coordinates"):
        return reader(path).positions


def _gromacs_coordinates(path: str) -> unit.Quantity:
    with naming(path, "GROMACS coordinates"):
        return app.GromacsGroFile(path).positions
