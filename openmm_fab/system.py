"""The molecule: OpenMM's topology, System, positions and temperature in one checked object.

Quantities with `openmm.unit` units are accepted here and nowhere further in: positions become nm, the
temperature K. What this package cannot sample (several molecules, periodic boxes, ...) is refused here,
with all findings at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
from openmm import app, unit

# Python 3.10 has it under its older name only.
tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

FORCEFIELD = ("amber96.xml", "implicit/obc1.xml")
KNOWN_KEYS = ("name", "pdb", "forcefield", "temperature", "constraints", "reference")
KNOWN_REFERENCE_KEYS = ("trajectory", "weights")
CONSTRAINTS = {"none": None, "HBonds": app.HBonds, "AllBonds": app.AllBonds}


class UnsupportedSystemError(ValueError):
    """A molecule or System that this package cannot sample; the message lists everything found."""

    def __init__(self, problems: Sequence[str]):
        self.problems = list(problems)
        super().__init__("\n".join(["This system is not supported:", *(f"  - {p}" for p in self.problems)]))


@dataclass(frozen=True, eq=False, repr=False)
class MolecularSystem:
    """One molecule at one temperature, as OpenMM sees it. Checked at construction.

    Parameters
    ----------
    topology : openmm.app.Topology
    system : openmm.System
        Without periodic box, constraints, virtual sites.
    positions : (n_atoms, 3) array, nm, or Quantity
    temperature : float, K, or Quantity
    name : str
    folder : Path or None
        The folder it was loaded from; reference data lives beside it.
    settings : dict
        The parsed `system.toml`; empty if there was none.

    Raises
    ------
    UnsupportedSystemError
        See `check_supported`.
    """

    topology: app.Topology
    system: openmm.System
    positions: np.ndarray
    temperature: float
    name: str = "molecule"
    folder: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The edge of the package: after this, no Quantity.
        object.__setattr__(self, "positions", _in_nanometers(self.positions))
        object.__setattr__(self, "temperature", _in_kelvin(self.temperature))
        check_supported(self.topology, self.system, self.positions)

    def __repr__(self) -> str:
        return f"MolecularSystem({self.name!r}, {self.n_atoms} atoms, {self.temperature:g} K)"

    # --- ways in ---

    @classmethod
    def from_pdb(
        cls,
        path: str | Path,
        forcefield: str | Sequence[str] = FORCEFIELD,
        temperature: float | unit.Quantity = 300.0,
        constraints: Any = None,
        name: str | None = None,
        **create_system_kwargs: Any,
    ) -> MolecularSystem:
        """Read a PDB file and describe it with an OpenMM force field. Nothing is removed or added.

        Parameters
        ----------
        path : path of the PDB file, hydrogens included
        forcefield : names of OpenMM force-field files
        temperature : float, K, or Quantity
        constraints : None
            As in OpenMM's `createSystem`; constrained bonds are refused for now.
        **create_system_kwargs
            Handed to `ForceField.createSystem`; `nonbondedMethod` is NoCutoff unless given.

        Raises
        ------
        FileNotFoundError
        UnsupportedSystemError
            Including atoms that no template of the force field explains (missing atoms, missing hydrogens).
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"Expected a PDB file at {path}; there is none (working directory {Path.cwd()}).")
        pdb = app.PDBFile(str(path))
        _warn_of_choices(path, pdb)
        files = [forcefield] if isinstance(forcefield, str) else list(forcefield)
        ff = app.ForceField(*files)
        options = {
            "nonbondedMethod": app.NoCutoff,
            "removeCMMotion": False,
            "rigidWater": False,
            **create_system_kwargs,
        }
        try:
            system = ff.createSystem(pdb.topology, constraints=constraints, **options)
        except ValueError as error:
            if "No template found" not in str(error):
                raise
            problems = _molecule_problems(pdb.topology, _topology_bonds(pdb.topology))
            problems += _template_problems(ff, files, pdb.topology, str(error), several=bool(problems))
            raise UnsupportedSystemError(problems) from error
        return cls(pdb.topology, system, pdb.positions, temperature, path.stem if name is None else name)

    @classmethod
    def from_openmm(
        cls,
        topology: app.Topology,
        system: openmm.System,
        positions: np.ndarray | unit.Quantity,
        temperature: float | unit.Quantity,
        name: str = "molecule",
    ) -> MolecularSystem:
        """Take objects made with OpenMM (from Amber, CHARMM, GROMACS files, openmmtools, ...) as they are."""
        return cls(topology, system, positions, temperature, name)

    @classmethod
    def load(cls, folder_or_name: str | Path) -> MolecularSystem:
        """Load a folder with a `system.toml`, or a shipped molecule by name (see `available_systems`).

        Raises
        ------
        FileNotFoundError
            No such folder or name; the message lists the shipped names.
        ValueError
            Unknown or missing keys in `system.toml`.
        """
        folder = _find_folder(folder_or_name)
        settings = _read_settings(folder / "system.toml")
        files = settings.get("forcefield", FORCEFIELD)
        files = [files] if isinstance(files, str) else files
        loaded = cls.from_pdb(
            folder / settings["pdb"],
            # A force-field file beside system.toml goes before one of OpenMM's of the same name.
            forcefield=[str(folder / f) if (folder / f).is_file() else f for f in files],
            temperature=settings.get("temperature", 300.0),
            constraints=CONSTRAINTS[settings.get("constraints", "none")],
            name=settings.get("name", folder.name),
        )
        return dataclasses.replace(loaded, folder=folder, settings=settings)

    # --- what the rest of the package asks ---

    @property
    def n_atoms(self) -> int:
        return self.system.getNumParticles()

    @property
    def kT(self) -> float:
        """float, kJ/mol, with OpenMM's own gas constant."""
        return unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin) * self.temperature

    @property
    def elements(self) -> list[str]:
        return [atom.element.symbol for atom in self.topology.atoms()]

    @property
    def masses(self) -> np.ndarray:
        """(n_atoms,) float64, dalton: the System's, not the elements' (hydrogens may be repartitioned)."""
        return np.array([self.system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(self.n_atoms)])

    @cached_property
    def bonds(self) -> np.ndarray:
        """(n_bonds, 2) int, i < j, sorted: the topology's bonds, or where it lists none, the System's."""
        return _bonds(self.topology, self.system)

    @cached_property
    def md_topology(self) -> mdtraj.Topology:
        topology = mdtraj.Topology.from_openmm(self.topology)
        if topology.n_bonds == 0:
            for i, j in self.bonds:
                topology.add_bond(topology.atom(i), topology.atom(j))
        return topology

    @cached_property
    def minimum(self) -> np.ndarray:
        """(n_atoms, 3) float64, nm: the local energy minimum below `positions` (deterministic)."""
        # Reference: double precision and one thread, so two calls give the same numbers.
        context = openmm.Context(
            self.system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
        )
        context.setPositions(self.positions)
        openmm.LocalEnergyMinimizer.minimize(context, tolerance=0.01)  # kJ/mol/nm, root mean square
        return context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over elements, bonds, System and temperature: does a saved model belong to this molecule?"""
        # The XML names the OpenMM version that wrote it, which does not change the molecule.
        xml = re.sub(r' openmmVersion="[^"]*"', "", openmm.XmlSerializer.serialize(self.system))
        parts = [",".join(self.elements), str(self.bonds.tolist()), xml, repr(self.temperature)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


# --- checks ---


def check_supported(topology: app.Topology, system: openmm.System, positions: np.ndarray) -> None:
    """Refuse what cannot be sampled in one molecule's internal coordinates.

    Raises
    ------
    UnsupportedSystemError
        Every problem found, each with what was expected and what to do.
    """
    problems = _count_problems(topology, system, positions) + _system_problems(system)
    if topology.getNumAtoms() == system.getNumParticles() > 0:
        nameless = [atom.name for atom in topology.atoms() if atom.element is None]
        if nameless and not any(system.isVirtualSite(i) for i in range(system.getNumParticles())):
            problems.append(
                f"Expected a chemical element for every atom; {_some(nameless)} have none. Set atom.element."
            )
        problems += _molecule_problems(topology, _bonds(topology, system))
    if problems:
        raise UnsupportedSystemError(problems)


def _count_problems(topology: app.Topology, system: openmm.System, positions: np.ndarray) -> list[str]:
    problems = []
    n_topology, n_system = topology.getNumAtoms(), system.getNumParticles()
    if n_topology != n_system or n_system == 0:
        problems.append(
            f"Expected the same number of atoms in topology and System; got {n_topology} in the topology and "
            f"{n_system} in the System. Build the System from this topology."
        )
    if positions.shape != (n_topology, 3):
        problems.append(f"Expected positions with shape ({n_topology}, 3) in nm; got {positions.shape}.")
    elif not np.isfinite(positions).all():
        bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
        problems.append(f"Expected finite positions; atoms {_some(bad.tolist())} (from 0) have NaN or infinite ones.")
    return problems


def _system_problems(system: openmm.System) -> list[str]:
    problems = []
    forces = [force.getName() if type(force) is openmm.Force else type(force).__name__ for force in system.getForces()]
    particles = range(system.getNumParticles())
    if system.usesPeriodicBoundaryConditions():
        problems.append(
            "Expected a molecule without periodic boundary conditions; this System has a periodic box. "
            "Keep the solute only and use nonbondedMethod=NoCutoff with an implicit-solvent force field."
        )
    virtual = [i for i in particles if system.isVirtualSite(i)]
    if virtual:
        problems.append(
            f"Expected real atoms only; {len(virtual)} particles are virtual sites "
            f"({_some(virtual)}, from 0). Use a force field without them (no TIP4P, TIP5P or lone pairs)."
        )
    massless = [i for i in particles if system.getParticleMass(i)._value == 0 and not system.isVirtualSite(i)]
    if massless:
        problems.append(
            f"Expected a mass for every atom; particles {_some(massless)} (from 0) are massless, which "
            "OpenMM takes as fixed in space. Give them their mass back."
        )
    if "DrudeForce" in forces:
        problems.append(
            "Expected a fixed-charge force field; this System has Drude particles (DrudeForce). Use another."
        )
    couplings = [name for name in forces if name.endswith(("Barostat", "Thermostat"))]
    if couplings:
        problems.append(
            f"Expected forces only; this System has {_some(couplings)}. Remove them: the temperature is "
            "given to MolecularSystem, and there is no volume to couple to."
        )
    if "CustomExternalForce" in forces:
        problems.append(
            "Expected an energy that does not change when the molecule is moved; this System has a "
            "CustomExternalForce, which depends on absolute positions. Remove it, or restrain distances "
            "or torsions."
        )
    if system.getNumConstraints() > 0:
        problems.append(
            f"Expected flexible bonds; this System has {system.getNumConstraints()} constraints, and "
            "constrained bonds are not supported yet. Use constraints=None (and rigidWater=False)."
        )
    return problems


def _molecule_problems(topology: app.Topology, bonds: np.ndarray) -> list[str]:
    molecules = _molecules(topology.getNumAtoms(), bonds)
    if len(molecules) <= 1:
        return []
    atoms = list(topology.atoms())
    residues = [list(dict.fromkeys(atoms[i].residue for i in molecule)) for molecule in molecules]
    kinds = Counter(_residue_names(names) for names in residues)
    found = ", ".join(f"{count} x {names}" for names, count in kinds.most_common())
    problem = (
        f"Expected one molecule; got {len(molecules)} that no bond connects: {found}. Keep the solute only "
        "and use an implicit-solvent force field."
    )
    pieces = Counter(residue for molecule in residues for residue in molecule)
    torn = [f"{r.name} {r.id}" for r, count in pieces.items() if count > 1]
    if torn:
        problem += f" Atoms of residue {_some(torn)} are not bonded to each other: add CONECT records to the PDB."
    return [problem]


def _template_problems(
    ff: app.ForceField, files: Sequence[str], topology: app.Topology, error: str, several: bool
) -> list[str]:
    unmatched = ff.getUnmatchedResidues(topology)
    if several:
        # Solvent without parameters is explained by "several molecules" already; keep what concerns the
        # solute.
        largest = max(_molecules(topology.getNumAtoms(), _topology_bonds(topology)), key=len)
        solute = {atom.residue for atom in topology.atoms() if atom.index in set(largest)}
        unmatched = [residue for residue in unmatched if residue in solute]
        if not unmatched:
            return []
    names = _some([f"{residue.name} {residue.id}" for residue in unmatched])
    return [
        f"Expected residues that {', '.join(files)} knows; it has no template for {names}. "
        f"OpenMM says: {error.split('  For more information')[0]} "
        "Missing hydrogens: add them with openmm.app.Modeller.addHydrogens(forcefield). Missing heavy atoms: "
        "complete the structure with PDBFixer. Another molecule: name a force field that has it."
    ]


def _warn_of_choices(path: Path, pdb: app.PDBFile) -> None:
    if pdb.getNumFrames() > 1:
        warnings.warn(f"{path} holds {pdb.getNumFrames()} models; the first is used.", stacklevel=3)
    with open(path) as lines:
        places = sum(line.startswith(("ATOM", "HETATM")) and line[16:17].strip() != "" for line in lines)
    if places:
        warnings.warn(
            f"{path} has alternate locations ({places} lines); of each atom the first one is used.",
            stacklevel=3,
        )


# --- small helpers ---


def available_systems() -> list[str]:
    """Names of the shipped molecules, for `MolecularSystem.load`."""
    return sorted({path.parent.name for root in _shipped_folders() for path in root.glob("*/system.toml")})


def _shipped_folders() -> list[Path]:
    # In a wheel they lie inside the package, in a checkout beside it.
    package = Path(__file__).resolve().parent
    return [root for root in (package / "systems", package.parent / "systems") if root.is_dir()]


def _find_folder(folder_or_name: str | Path) -> Path:
    for folder in (Path(folder_or_name), *(root / folder_or_name for root in _shipped_folders())):
        if (folder / "system.toml").is_file():
            return folder.resolve()
    raise FileNotFoundError(
        f"Expected a folder with a system.toml, or one of {available_systems()}; got {str(folder_or_name)!r}."
    )


def _read_settings(path: Path) -> dict[str, Any]:
    settings = tomllib.loads(path.read_text(encoding="utf-8"))
    _refuse_unknown(path, settings, KNOWN_KEYS)
    _refuse_unknown(path, settings.get("reference", {}), KNOWN_REFERENCE_KEYS, " in [reference]")
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
        raise ValueError(f"{path}: unknown {_some(unknown)}{where}; the known keys are {', '.join(known)}.")


def _in_nanometers(positions: Any) -> np.ndarray:
    value = positions.value_in_unit(unit.nanometer) if unit.is_quantity(positions) else positions
    return np.array(value, dtype=np.float64)


def _in_kelvin(temperature: Any) -> float:
    value = float(temperature.value_in_unit(unit.kelvin) if unit.is_quantity(temperature) else temperature)
    if not 0.0 < value < np.inf:
        raise ValueError(f"Expected a positive, finite temperature in K; got {value}.")
    return value


def _topology_bonds(topology: app.Topology) -> np.ndarray:
    return _pairs((a.index, b.index) for a, b in topology.bonds())


def _bonds(topology: app.Topology, system: openmm.System) -> np.ndarray:
    if topology.getNumBonds() > 0:
        return _topology_bonds(topology)
    pairs = [tuple(system.getConstraintParameters(i)[:2]) for i in range(system.getNumConstraints())]
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            pairs += [tuple(force.getBondParameters(i)[:2]) for i in range(force.getNumBonds())]
    return _pairs(pairs)


def _pairs(pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    ordered = sorted({(min(i, j), max(i, j)) for i, j in pairs})
    return np.array(ordered, dtype=np.int64).reshape(-1, 2)


def _molecules(n_atoms: int, bonds: np.ndarray) -> list[list[int]]:
    """Connected components of the bond graph, each a sorted list of atoms."""
    neighbours: list[list[int]] = [[] for _ in range(n_atoms)]
    for i, j in bonds.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    seen: set[int] = set()
    molecules = []
    for start in range(n_atoms):
        if start in seen:
            continue
        seen.add(start)
        molecule = [start]
        for atom in molecule:  # grows while it is walked
            new = [other for other in neighbours[atom] if other not in seen]
            seen.update(new)
            molecule += new
        molecules.append(sorted(molecule))
    return molecules


def _residue_names(residues: Sequence[Any]) -> str:
    names = [residue.name for residue in residues]
    return "-".join(names) if len(names) <= 5 else f"{names[0]}-...-{names[-1]} ({len(names)} residues)"


def _some(items: Sequence[Any], limit: int = 5) -> str:
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown}, ... ({len(items)} in all)"
