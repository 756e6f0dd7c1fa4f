"""The molecule: OpenMM's topology, System, positions and temperature in one checked object.

Quantities with `openmm.unit` units are accepted here and nowhere further in: positions become nm, the
temperature K.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import re
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import openmm
from numpy.typing import ArrayLike
from openmm import app, unit

from . import inputs
from .bias import biases
from .checks import UnsupportedSystemError, check_supported, repeat_warnings
from .chemistry import positions_of, topology_of
from .distances import distance_bonds
from .graph import BondGraph, bonds_of, constraints_of, repeated_bonds, tells_bonds
from .ligand import prepared, read_sdf, read_smiles
from .ligand_folder import ligand_files, write_ligand
from .openmm_private import drop_repeated_bonds
from .parameters import FORCEFIELD as SMALL_MOLECULES
from .solvent import default_parameters, solvent_of

GAS_CONSTANT = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin)  # kJ / (mol K)
PAPER_FORCEFIELD = ("amber96.xml", "implicit/obc1.xml")  # of alanine dipeptide in the paper on FAB
LARGE = 60  # atoms


@dataclass(frozen=True, eq=False, repr=False)
class MolecularSystem:
    """One molecule at one temperature: topology, System and positions, checked at construction.

    Parameters
    ----------
    topology : openmm.app.Topology
    system : openmm.System
        Without periodic box or virtual sites; constraints only of bonds. Copied: what is done to the one that was given
        changes no energy here, and must not be done to this one, see `require_unchanged`.
    positions : (n_atoms, 3) array, nm, or Quantity
    temperature : float, K, or Quantity
    name : str
    folder : Path or None
        The folder it was loaded from; reference data lives beside it.
    settings : dict
        The parsed `system.toml`; empty if there was none.
    forcefield : str
        In words, what the System was made from: names of files, or what else is known of it.

    Warns
    -----
    UserWarning
        See `default_parameters` of implicit solvent, and `biases`.

    Raises
    ------
    UnsupportedSystemError
        See `check_supported`; a force that cannot be copied.
    """

    topology: app.Topology
    system: openmm.System
    positions: np.ndarray
    temperature: float
    _: KW_ONLY
    name: str = "molecule"
    folder: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    forcefield: str = "a System made with OpenMM"
    _contents: bytes = field(init=False)

    def __post_init__(self) -> None:
        # The edge of the package: after this, no Quantity.
        object.__setattr__(self, "positions", _in_nanometers(self.positions))
        object.__setattr__(self, "temperature", in_kelvin(self.temperature))
        object.__setattr__(self, "topology", _bonded(self.topology, self.system, self.positions))
        check_supported(self.topology, self.system, self.positions, self.name)
        if len(repeated_bonds(self.topology)):
            object.__setattr__(self, "topology", copy.deepcopy(self.topology))
            drop_repeated_bonds(self.topology)
        object.__setattr__(self, "system", _copied(self.system, self.name))
        object.__setattr__(self, "_contents", _digest(self.system))
        told = repeat_warnings(self.topology, self.system), default_parameters(self.topology, self.system)
        for text in itertools.chain(*told, biases(self.system)):
            warnings.warn(f"{self.name}: {text}", stacklevel=4)

    def __repr__(self) -> str:
        return f"MolecularSystem({self.name!r}, {self.n_atoms} atoms, {self.temperature:g} K; {self.physics})"

    @property
    def physics(self) -> str:
        """Force field, implicit solvent and constraints, in words."""
        fixed = len(self.constraints[0])
        found = [self.forcefield, solvent_of(self.system), *([f"{fixed} bonds constrained"] if fixed else [])]
        return "; ".join(found)

    # --- ways in ---

    @classmethod
    def from_pdb(
        cls,
        path: str | Path,
        forcefield: inputs.Forcefield | None = None,
        *,
        temperature: float | unit.Quantity = 300.0,
        constraints: Any = None,
        name: str | None = None,
        **create_system_kwargs: Any,
    ) -> MolecularSystem:
        """Read a PDB or PDBx/mmCIF file and build a System with an OpenMM force field; atoms are neither removed nor
        added.

        Parameters
        ----------
        path : path of the file, hydrogens included; PDBx/mmCIF if it ends in .cif, .mmcif or .pdbx
        forcefield : names of OpenMM force-field files, or an app.ForceField
            There is no default: the error without one lists what could be meant.
        temperature : float, K, a text such as "300 K", or Quantity
        constraints : None, app.HBonds or app.AllBonds
            As in OpenMM's `createSystem`.
        name : str or None
            The file's name unless given.
        **create_system_kwargs
            Handed to `ForceField.createSystem`; `nonbondedMethod` is NoCutoff unless given. `residueTemplates` names
            templates by residue, {"ALA 2": "ALA"}, or by the names of all residues, {"ACE-ALA-NME": "ALAD"}.

        Raises
        ------
        FileNotFoundError
        ValueError
            No force field; one that cannot be read.
        UnsupportedSystemError
            Including atoms that no template of the force field explains (missing atoms, missing hydrogens).
        """
        read = inputs.read_pdb(path, forcefield, constraints=constraints, **create_system_kwargs)
        return cls(*read, temperature, name=_name(name, path), forcefield=inputs.forcefield_in_words(forcefield))

    @classmethod
    def from_amber(
        cls,
        prmtop: str | Path,
        coordinates: str | Path,
        *,
        temperature: float | unit.Quantity = 300.0,
        constraints: Any = None,
        name: str | None = None,
        **create_system_kwargs: Any,
    ) -> MolecularSystem:
        """Read an Amber topology with coordinates; unnamed parameters are those of `from_pdb`.

        Parameters
        ----------
        coordinates : path of an inpcrd, rst7 or NetCDF restart file, or of a PDB or PDBx/mmCIF file
        **create_system_kwargs
            Handed to `AmberPrmtopFile.createSystem`: `implicitSolvent=app.OBC2`, `implicitSolventSaltConc`, ...
            Salt screens at `temperature`. OpenMM adds the surface term ACE, which sander does not: `sasaMethod=None`.

        Raises
        ------
        FileNotFoundError, UnsupportedSystemError
        ValueError
            Coordinates of another number of atoms.
        """
        options = {"constraints": constraints, "temperature": in_kelvin(temperature), **create_system_kwargs}
        read = inputs.read_amber(prmtop, coordinates, **options)
        return cls(*read, temperature, name=_name(name, prmtop), forcefield=Path(prmtop).name)

    @classmethod
    def from_charmm(
        cls,
        psf: str | Path,
        coordinates: str | Path,
        parameters: str | Path | Sequence[str | Path],
        *,
        temperature: float | unit.Quantity = 300.0,
        constraints: Any = None,
        name: str | None = None,
        **create_system_kwargs: Any,
    ) -> MolecularSystem:
        """Read a CHARMM structure file with coordinates and parameters; errors are those of `from_amber`.

        Parameters
        ----------
        psf : path of the psf, in CHARMM's, XPLOR's or NAMD's format
        coordinates : path of a crd or rst file, or of a PDB or PDBx/mmCIF file
        parameters : paths of all rtf, prm, par, top, inp and str files that are needed
        **create_system_kwargs
            Handed to `CharmmPsfFile.createSystem`: `implicitSolvent=app.GBn2`, ... Salt screens at `temperature`.
            OpenMM adds no surface term, as it does for Amber, unless told `sasaMethod="ACE"`. Constrained bonds have no
            energy unless told `flexibleConstraints=True`.
        """
        options = {"constraints": constraints, "temperature": in_kelvin(temperature), **create_system_kwargs}
        read = inputs.read_charmm(psf, coordinates, parameters, **options)
        return cls(*read, temperature, name=_name(name, psf), forcefield=inputs.forcefield_in_words(parameters))

    @classmethod
    def from_gromacs(
        cls,
        top: str | Path,
        coordinates: str | Path,
        *,
        temperature: float | unit.Quantity = 300.0,
        constraints: Any = None,
        name: str | None = None,
        include_dir: str | Path | None = None,
        defines: dict[str, str] | None = None,
        **create_system_kwargs: Any,
    ) -> MolecularSystem:
        """Read a GROMACS topology with coordinates; errors are those of `from_amber`.

        Parameters
        ----------
        coordinates : path of a gro file, or of a PDB or PDBx/mmCIF file
        include_dir : folder of included force fields, GROMACS' share/gromacs/top
            Looked for in the usual places unless given.
        defines : preprocessor definitions, {"POSRES": ""}
        **create_system_kwargs
            Handed to `GromacsTopFile.createSystem`.

        Raises
        ------
        UnsupportedSystemError
            Also for sections that OpenMM passes over (restraints, [ pairs_nb ], ...), and for nrexcl other than 3.
        """
        options = {"constraints": constraints, **create_system_kwargs}
        read = inputs.read_gromacs(top, coordinates, include_dir, defines, **options)
        return cls(*read, temperature, name=_name(name, top), forcefield=Path(top).name)

    @classmethod
    def from_xml(
        cls,
        system_xml: str | Path,
        structure: str | Path,
        *,
        temperature: float | unit.Quantity = 300.0,
        name: str | None = None,
    ) -> MolecularSystem:
        """Read a System written by `openmm.XmlSerializer`, constraints included; errors are those of `from_amber`.

        Nothing in the file can run: a PythonForce, whose function is a pickle, and forces of plugins are a ValueError.

        Parameters
        ----------
        structure : path of a PDB or PDBx/mmCIF file with the System's atoms in the System's order
        """
        read = inputs.read_xml(system_xml, structure)
        return cls(*read, temperature, name=_name(name, system_xml), forcefield=Path(system_xml).name)

    @classmethod
    def from_structure(
        cls, path: str | Path, *, temperature: float | unit.Quantity = 300.0, name: str | None = None
    ) -> MolecularSystem:
        """Read the atoms and bonds of a PDB or PDBx/mmCIF file, without a force field: for an energy of your own.

        Such an energy, of `energy.from_torch`, `energy.from_function` or `energy.from_ase`, is given to
        `BoltzmannGenerator`.
        """
        return cls(*inputs.read_atoms(path), temperature, name=_name(name, path))

    @classmethod
    def from_openmm(
        cls,
        topology: app.Topology,
        system: openmm.System,
        positions: np.ndarray | unit.Quantity,
        *,
        temperature: float | unit.Quantity = 300.0,
        name: str = "molecule",
    ) -> MolecularSystem:
        """Make a molecule from OpenMM objects (of openmmtools, openmmforcefields, your own script, ...), unchanged."""
        return cls(topology, system, positions, temperature, name=name)

    @classmethod
    def from_smiles(cls, smiles: str, name: str | None = None, **options: Any) -> MolecularSystem:
        """Make a small molecule of a SMILES string, atoms in its order and hydrogens behind them.

        Its structure is the one of lowest MMFF94s energy of 20 that RDKit embeds (ETKDG, seed 0).

        Parameters
        ----------
        **options
            See `from_rdkit`.
        """
        return cls.from_rdkit(read_smiles(smiles), smiles if name is None else name, **options)

    @classmethod
    def from_sdf(
        cls, path: str | Path, entry: int | str | None = None, *, name: str | None = None, **options: Any
    ) -> MolecularSystem:
        """Make a small molecule of an SDF or MOL file, atoms in its order.

        A 3-D structure is kept; a drawing gets one as in `from_smiles`. Hydrogens that are missing are added, with a
        warning where the rest is 3-D.

        Parameters
        ----------
        entry : int or str, optional
            Of a file with several molecules: which one, by number from 0 or by title.
        name : str, optional
            The title in the file unless given, or the file's name.
        **options
            See `from_rdkit`.

        Raises
        ------
        FileNotFoundError
        """
        molecule, title = read_sdf(path, entry)
        return cls.from_rdkit(molecule, title or Path(path).stem if name is None else name, **options)

    @classmethod
    def from_rdkit(
        cls,
        molecule: Any,
        name: str = "molecule",
        *,
        forcefield: str | Sequence[str] | None = SMALL_MOLECULES,
        charges: str | ArrayLike | None = None,
        solvent: str | None = None,
        temperature: float | unit.Quantity = 300.0,
        folder: str | Path | None = None,
    ) -> MolecularSystem:
        """Make a small molecule of an rdkit.Chem.Mol, atoms in its order and missing hydrogens behind them.

        Protonation, tautomer and stereo are as drawn. Every bond is flexible. Needs `pip install openmm_fab[ligand]`.

        Parameters
        ----------
        molecule : rdkit.Chem.Mol
            Its conformer, if it is 3-D, is the structure.
        forcefield : str, sequence of str, or None
            OpenFF's by name, "openff-2.2.1" (Sage), or GAFF's, "gaff-2.2.20", which needs AmberTools; or OpenMM's
            force-field files (.xml) that have a template with these atoms and bonds. None: atoms and bonds alone, for
            an energy of your own, see `from_structure`.
        charges : "nagl", "am1bcc", "gasteiger", or (atoms,), optional
            AM1-BCC by OpenFF's graph network (the default) or by AmberTools' sqm; RDKit's Gasteiger charges, which are
            for trying only; or numbers, elementary charges. A file has its own.
        solvent : "gbn2", "obc2", "gbn", "obc1", "hct" or "none", optional
            Implicit solvent; GBn2 unless given, with files none but theirs.
        folder : path, optional
            Keep the molecule there, with its parameters: `load` reads it, and needs RDKit alone.

        Raises
        ------
        ImportError
            A package that is missing, with the command that installs it.
        ValueError
            Undefined stereo, with the isomers to choose from; several molecules; impossible valences; names that are
            not known; a molecule without parameters.
        UnsupportedSystemError
        """
        kelvin = in_kelvin(temperature)
        if forcefield is None:
            if charges is not None or solvent is not None or folder is not None:
                raise ValueError("Expected no charges, solvent or folder without a force field; got one of them.")
            whole = prepared(molecule)
            topology = topology_of(whole)
            return cls(topology, inputs.without_forces(topology), positions_of(whole), kelvin, name=name)
        texts = ligand_files(prepared(molecule), name, forcefield, charges, solvent, kelvin)
        if folder is not None:
            return cls.load(write_ligand(folder, texts))
        with tempfile.TemporaryDirectory() as place:
            return cls._load(write_ligand(place, texts), stays=False)

    @classmethod
    def from_openff(cls, molecule: Any, name: str | None = None, **options: Any) -> MolecularSystem:
        """Make a small molecule of an openff.toolkit.Molecule; its first conformer and its charges are taken if it has
        any. Options: see `from_rdkit`."""
        if molecule.partial_charges is not None:
            options.setdefault("charges", molecule.partial_charges.m)
        return cls.from_rdkit(molecule.to_rdkit(), name or molecule.name or "molecule", **options)

    @classmethod
    def load(cls, folder_or_name: str | Path) -> MolecularSystem:
        """Load a folder with a `system.toml`, or a shipped molecule by its name (see `available_systems`).

        Raises
        ------
        FileNotFoundError
            No such folder or name; the message lists the shipped names.
        ValueError
            Unknown or missing keys in `system.toml`.
        """
        return cls._load(find_folder(folder_or_name))

    @classmethod
    def _load(cls, folder: Path, stays: bool = True) -> MolecularSystem:
        """`load` from a folder that has a system.toml; one that does not stay is not remembered."""
        settings = inputs.read_settings(folder / "system.toml")
        files = settings["forcefield"]
        files = [files] if isinstance(files, str) else files
        # A force-field file beside system.toml goes before one of OpenMM's of the same name.
        files = [str(folder / f) if (folder / f).is_file() else f for f in files]
        read = inputs.read_pdb(
            folder / str(settings.get("pdb", settings.get("sdf"))),
            forcefield=files,
            constraints=inputs.CONSTRAINTS[settings.get("constraints", "none")],
            residueTemplates=settings.get("residue_templates"),
        )
        about: dict[str, Any] = {"name": settings.get("name", folder.name)}
        about |= {"forcefield": inputs.forcefield_in_words(files)}
        about |= {"folder": folder, "settings": settings} if stays else {}
        return cls(*read, settings.get("temperature", 300.0), **about)

    # --- what the rest of the package asks ---

    @property
    def n_atoms(self) -> int:
        return self.system.getNumParticles()

    @property
    def has_forces(self) -> bool:
        """Whether anything in the System adds energy."""
        return any(not isinstance(force, openmm.CMMotionRemover) for force in self.system.getForces())

    @property
    def kT(self) -> float:
        """Thermal energy, kJ/mol, with OpenMM's gas constant."""
        return GAS_CONSTANT * self.temperature

    @property
    def elements(self) -> list[str]:
        return [atom.element.symbol for atom in self.topology.atoms()]

    @property
    def masses(self) -> np.ndarray:
        """Masses (n_atoms,) float64, dalton, of the System (hydrogen masses may be repartitioned)."""
        return np.array([self.system.getParticleMass(i).value_in_unit(unit.dalton) for i in range(self.n_atoms)])

    @property
    def element_masses(self) -> np.ndarray:
        """Masses (n_atoms,) float64, dalton, of the elements, which do not depend on repartitioning."""
        return np.array([atom.element.mass.value_in_unit(unit.dalton) for atom in self.topology.atoms()])

    @cached_property
    def bonds(self) -> np.ndarray:
        """Bonds (n_bonds, 2) int, i < j, sorted: of the topology or, where it lists none, of the System's springs and
        constraints; where there are none either, by elements and distances in `positions`."""
        return bonds_of(self.topology, self.system)

    @cached_property
    def graph(self) -> BondGraph:
        """Bond graph of the molecule."""
        return BondGraph(self.elements, self.bonds)

    @property
    def constraints(self) -> tuple[np.ndarray, np.ndarray]:
        """Bonds of fixed length: pairs (m, 2) int, i < j, sorted, and lengths (m,) float64, nm."""
        found = constraints_of(self.system)
        pairs = np.array([(i, j) for i, j, _ in found], dtype=np.int64).reshape(-1, 2)
        return pairs, np.array([length for _, _, length in found], dtype=np.float64)

    @cached_property
    def md_topology(self) -> mdtraj.Topology:
        topology = mdtraj.Topology.from_openmm(self.topology)
        if topology.n_bonds == 0:
            for i, j in self.bonds:
                topology.add_bond(topology.atom(i), topology.atom(j))
        return topology

    @cached_property
    def minimum(self) -> np.ndarray:
        """Local energy minimum (n_atoms, 3) float64, nm, below `positions` (deterministic).

        Constrained bonds have their lengths.
        """
        return self.minimise(self.positions)

    def minimise(self, positions: np.ndarray) -> np.ndarray:
        """Local energy minimum (n_atoms, 3) float64, nm, below the given positions; see `minimum`."""
        # Reference: double precision and one thread, so two calls give the same numbers. CPU, faster for large
        # molecules and as repeatable with one thread, goes most of the way; their soft ends need not be followed.
        self.require_unchanged()
        large = self.n_atoms > LARGE
        for platform in ("CPU", "Reference") if large else ("Reference",):
            positions = _minimised(self.system, positions, platform, 1.0 if large else 0.01, 100 if large else 0)
        return positions

    def require_unchanged(self) -> None:
        """Raise a ValueError if the System was changed after construction, so that its energies are those of another
        one.

        `app.Metadynamics` and its like add their force to the System that they are given.
        """
        if _digest(self.system) == self._contents:
            return
        last = self.system.getForce(self.system.getNumForces() - 1) if self.system.getNumForces() else None
        raise ValueError(
            f"Expected the System of {self.name} as it was given; it was changed since (its last force is "
            f"{'none' if last is None else last.getName()}). app.Metadynamics and others add a bias to the System that "
            "they get: hand them copy.deepcopy(system.system), and load the molecule again."
        )

    @property
    def fingerprint(self) -> str:
        """sha256 of elements, bonds, System and temperature, which identifies the molecule that a saved model belongs
        to.

        Raises what `require_unchanged` raises.
        """
        self.require_unchanged()
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        # The XML names the OpenMM version that wrote it, which does not change the molecule.
        xml = re.sub(r' openmmVersion="[^"]*"', "", openmm.XmlSerializer.serialize(_kinds_in_order(self.system)))
        parts = [",".join(self.elements), str(self.bonds.tolist()), xml, repr(self.temperature)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


# --- small helpers ---


def _bonded(topology: app.Topology, system: openmm.System, positions: np.ndarray) -> app.Topology:
    """The topology, with bonds by distance where neither it nor the System, as of a neural network, names any."""
    atoms = list(topology.atoms())
    known = topology.getNumBonds() > 0 or tells_bonds(system)
    if known or positions.shape != (len(atoms), 3) or any(atom.element is None for atom in atoms):
        return topology
    topology = copy.deepcopy(topology)
    atoms = list(topology.atoms())
    for i, j in distance_bonds([atom.element.symbol for atom in atoms], positions):
        topology.addBond(atoms[i], atoms[j])
    return topology


def _copied(system: openmm.System, name: str) -> openmm.System:
    try:
        return openmm.XmlSerializer.clone(system)
    except openmm.OpenMMException as error:
        raise UnsupportedSystemError(
            [
                f"Expected forces that can be copied; OpenMM says: {error} A PythonForce needs a function that is "
                "defined at the top level of a module: no lambda, and none inside another function."
            ],
            name,
        ) from error


def _digest(system: openmm.System) -> bytes:
    # Two pickles of one function may differ.
    xml = re.sub(r' function="[0-9A-Fa-f]*"', "", openmm.XmlSerializer.serialize(system))
    return hashlib.sha256(xml.encode()).digest()


def _kinds_in_order(system: openmm.System) -> openmm.System:
    """Copy of a System in which kinds of atoms in tables of pairs are numbered as they first appear among the atoms.

    OpenMM's ForceField numbers them by the order of a set of text, which differs from process to process.
    """
    system = openmm.XmlSerializer.clone(system)
    for force in system.getForces():
        if not isinstance(force, openmm.CustomNonbondedForce) or force.getNumPerParticleParameters() != 1:
            continue
        tables = [force.getTabulatedFunction(k) for k in range(force.getNumTabulatedFunctions())]
        if not tables or not all(isinstance(table, openmm.Discrete2DFunction) for table in tables):
            continue
        kinds = [force.getParticleParameters(i)[0] for i in range(force.getNumParticles())]
        order = list(dict.fromkeys(kinds))
        shapes = {tuple(table.getFunctionParameters()[:2]) for table in tables}
        if shapes != {(len(order), len(order))} or sorted(order) != list(range(len(order))):
            continue
        for i, kind in enumerate(kinds):
            force.setParticleParameters(i, [order.index(kind)])
        index = np.array(order, dtype=int)
        for table in tables:
            rows, columns, values = table.getFunctionParameters()
            square = np.array(values).reshape(columns, rows)[np.ix_(index, index)]
            table.setFunctionParameters(rows, columns, square.flatten().tolist())
    return system


def _minimised(
    system: openmm.System, positions: np.ndarray, platform: str, tolerance: float, polish: int
) -> np.ndarray:
    """Tolerance in kJ/mol/nm, root mean square; `polish`: most iterations on Reference, 0 for as many as it takes."""
    properties = {"Threads": "1", "DeterministicForces": "true"} if platform == "CPU" else {}
    integrator = openmm.VerletIntegrator(0.001)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform), properties)
    context.setPositions(positions)
    # The minimizer itself leaves constraints with a relative error of up to 1e-4.
    context.applyConstraints(1e-10 if platform == "Reference" else 1e-6)
    openmm.LocalEnergyMinimizer.minimize(context, tolerance, 0 if platform == "CPU" else polish)
    context.applyConstraints(1e-10 if platform == "Reference" else 1e-6)
    return context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)


def available_systems() -> list[str]:
    """Names of the shipped molecules, for `MolecularSystem.load`."""
    return sorted({path.parent.name for root in _shipped_folders() for path in root.glob("*/system.toml")})


def _shipped_folders() -> list[Path]:
    # In a wheel they lie inside the package, in a checkout beside it.
    package = Path(__file__).resolve().parents[1]
    return [root for root in (package / "systems", package.parent / "systems") if root.is_dir()]


def find_folder(folder_or_name: str | Path) -> Path:
    """The folder with a system.toml, of a path or of a shipped molecule's name."""
    for folder in (Path(folder_or_name), *(root / folder_or_name for root in _shipped_folders())):
        if (folder / "system.toml").is_file():
            return folder.resolve()
    raise FileNotFoundError(
        f"Expected a folder with a system.toml, or one of {available_systems()}; got {str(folder_or_name)!r}."
    )


def _name(name: str | None, path: str | Path) -> str:
    return Path(path).stem if name is None else name


def _in_nanometers(positions: Any) -> np.ndarray:
    value = positions.value_in_unit(unit.nanometer) if unit.is_quantity(positions) else positions
    return np.array(value, dtype=np.float64)


def in_kelvin(temperature: Any) -> float:
    """A temperature in K: a number, a text such as "300 K", or a Quantity.

    Raises
    ------
    ValueError
        Another text, or no positive, finite number.
    """
    if isinstance(temperature, str):
        match = re.fullmatch(r"\s*([\d.]+)\s*(K|kelvin)?\s*", temperature)
        if match is None:
            raise ValueError(f'Expected a temperature in K, such as 300 or "300 K"; got {temperature!r}.')
        temperature = match[1]
    value = float(temperature.value_in_unit(unit.kelvin) if unit.is_quantity(temperature) else temperature)
    if not 0.0 < value < np.inf:
        raise ValueError(f"Expected a positive, finite temperature in K; got {value}.")
    return value
