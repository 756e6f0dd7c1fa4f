"""Readers of files of OpenMM, Amber, CHARMM and GROMACS: files -> topology, System and positions.

`MolecularSystem.from_...` calls these; atoms are neither removed nor added. No file can make them run code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import openmm
from openmm import app, unit

from .charmm import check_nonbonded
from .checks import (
    AMBIGUOUS,
    UnsupportedSystemError,
    ambiguous_template,
    gap_problems,
    molecule_problems,
    some,
    template_problems,
)
from .forcefields import Forcefield, choose_templates, open_forcefield
from .graph import topology_bonds
from .gromacs import check_sections, exclude_as_gromacs
from .openmm_private import GromacsTopology
from .options import PERIODIC, UNUSED_OPTION, OptionError, check_options, unused_option, with_defaults
from .safe_xml import check_serialized
from .structures import STRUCTURES, FilePath, existing, naming, read_structure

Read = tuple[app.Topology, openmm.System, unit.Quantity]


def read_pdb(path: FilePath, forcefield: Forcefield | None, **options: Any) -> Read:
    """Topology, System and positions of a PDB or PDBx/mmCIF file and a force field; see `MolecularSystem.from_pdb`."""
    topology, positions = read_structure(path)
    x = positions.value_in_unit(unit.nanometer)
    gaps = gap_problems(topology, x)
    field, files = open_forcefield(forcefield)
    choose_templates(field, files, topology, options.pop("residueTemplates", None) or {})
    with naming(path, f"a structure that {', '.join(files)} describes"):
        try:
            system = field.createSystem(topology, **with_defaults(options))
        except Exception as error:
            said, unused = str(error), UNUSED_OPTION.search(str(error))
            if unused:
                raise OptionError(unused_option(unused.group(1), files)) from error
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


def read_atoms(path: FilePath) -> Read:
    """Topology, System without forces, and positions of a file; see `MolecularSystem.from_structure`."""
    topology, positions = read_structure(path)
    return topology, without_forces(topology), positions


def without_forces(topology: app.Topology) -> openmm.System:
    """A System of the topology's atoms with their elements' masses, and nothing that acts on them."""
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(0.0 if atom.element is None else atom.element.mass)
    return system


def read_amber(prmtop: FilePath, coordinates: FilePath, **options: Any) -> Read:
    """Topology, System and positions of Amber files; see `MolecularSystem.from_amber`."""
    path = existing(prmtop, "an Amber topology")
    with naming(path, "an Amber topology"):
        read = app.AmberPrmtopFile(str(path))
    positions = _positions(coordinates, read.topology, prmtop, _amber_coordinates)
    check_options(read.createSystem, options)
    with naming(path, "an Amber topology"):
        return read.topology, read.createSystem(**with_defaults(options)), positions


def read_charmm(
    psf: FilePath, coordinates: FilePath, parameters: FilePath | Sequence[FilePath], **options: Any
) -> Read:
    """Topology, System and positions of CHARMM files; see `MolecularSystem.from_charmm`."""
    path = existing(psf, "a CHARMM structure file (psf)")
    with naming(path, "a CHARMM structure file (psf)"):
        read = app.CharmmPsfFile(str(path))
    check_options(read.createSystem, options)
    files = [parameters] if isinstance(parameters, str | Path) else list(parameters)
    found = [str(existing(file, "CHARMM parameters")) for file in files]
    check_nonbonded(found)
    with naming(", ".join(found), "CHARMM parameters"):
        field = app.CharmmParameterSet(*found)
        # As for all other files: what is constrained has no energy.
        system = read.createSystem(field, **{"flexibleConstraints": False, **with_defaults(options)})
    return read.topology, system, _positions(coordinates, read.topology, psf, _charmm_coordinates)


def read_gromacs(
    top: FilePath, coordinates: FilePath, include_dir: FilePath | None, defines: dict[str, str] | None, **options: Any
) -> Read:
    """Topology, System and positions of GROMACS files; see `MolecularSystem.from_gromacs`."""
    path = str(existing(top, "a GROMACS topology"))
    with naming(path, "a GROMACS topology"):
        read = GromacsTopology(path, includeDir=None if include_dir is None else str(include_dir), defines=defines)
    check_sections(read, path)
    positions = _positions(coordinates, read.topology, top, _gromacs_coordinates)
    check_options(read.createSystem, options)
    with naming(path, "a GROMACS topology"):
        system = read.createSystem(**with_defaults(options))
        exclude_as_gromacs(read, system, path)
    return read.topology, system, positions


def read_xml(system_xml: FilePath, structure: FilePath) -> Read:
    """Topology, System and positions of a serialized System and a structure file; see `MolecularSystem.from_xml`."""
    path = existing(system_xml, "a serialized openmm.System")
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


def _positions(
    path: FilePath, topology: app.Topology, belongs_to: FilePath, read: Callable[[str], unit.Quantity]
) -> unit.Quantity:
    """Positions for the atoms of `topology`, by the reader of the file's suffix, or else by `read`."""
    path = existing(path, "coordinates")
    expected = [atom.element for atom in topology.atoms()]
    if path.suffix.lower() not in STRUCTURES:
        positions = READERS.get(path.suffix.lower(), read)(str(path))
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
            f"Expected Amber coordinates in {path} (inpcrd, rst7 or NetCDF restart), a .gro, PDB or PDBx/mmCIF file; "
            f"OpenMM says: {error}. Of a trajectory write one frame as restart file or PDB."
        ) from error


def _charmm_coordinates(path: str) -> unit.Quantity:
    reader = app.CharmmRstFile if path.lower().endswith(".rst") else app.CharmmCrdFile
    with naming(path, "CHARMM coordinates"):
        return reader(path).positions


def _gromacs_coordinates(path: str) -> unit.Quantity:
    with naming(path, "GROMACS coordinates"):
        return app.GromacsGroFile(path).positions


# Of suffixes that mean the same beside any topology; .crd is CHARMM's or Amber's.
READERS = {".gro": _gromacs_coordinates, **dict.fromkeys((".inpcrd", ".rst7", ".ncrst"), _amber_coordinates)}
