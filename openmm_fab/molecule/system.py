"""`MolecularSystem`: a molecule, and every way to make one, from files, OpenMM objects, SMILES or a folder."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from numpy.typing import ArrayLike
from openmm import app, unit

from . import inputs
from .chemistry import positions_of, topology_of
from .folders import CONSTRAINTS, find_folder, read_settings
from .forcefields import Forcefield, forcefield_in_words
from .ligand import prepared, read_sdf, read_smiles
from .ligand_folder import ligand_files, write_ligand
from .molecule import Molecule
from .parameters import FORCEFIELD as SMALL_MOLECULES
from .units import in_kelvin

PAPER_FORCEFIELD = ("amber96.xml", "implicit/obc1.xml")  # of alanine dipeptide in the paper on FAB


@dataclass(frozen=True, eq=False, repr=False)
class MolecularSystem(Molecule):
    """One molecule at one temperature: topology, System and positions, checked at construction.

    Parameters
    ----------
    topology : openmm.app.Topology
    system : openmm.System
        Without periodic box or virtual sites; constraints only of bonds. Copied: what is done to the one that was given
        changes no energy here, and must not be done to this one, see `MolecularSystem.require_unchanged`.
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
        See `molecule.solvent.default_parameters`, and `molecule.bias.biases`.

    Raises
    ------
    UnsupportedSystemError
        See `molecule.checks.check_supported`; a force that cannot be copied.
    """

    @classmethod
    def from_pdb(
        cls,
        path: str | Path,
        forcefield: Forcefield | None = None,
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
        return cls(*read, temperature, name=_name(name, path), forcefield=forcefield_in_words(forcefield))

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
        coordinates : path of an inpcrd, rst7 or NetCDF restart file, or of a gro, PDB or PDBx/mmCIF file
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
        coordinates : path of a crd or rst file, or of an inpcrd, gro, PDB or PDBx/mmCIF file
        parameters : paths of all rtf, prm, par, top, inp and str files that are needed
        **create_system_kwargs
            Handed to `CharmmPsfFile.createSystem`: `implicitSolvent=app.GBn2`, ... Salt screens at `temperature`.
            OpenMM adds no surface term, as it does for Amber, unless told `sasaMethod="ACE"`. Constrained bonds have no
            energy unless told `flexibleConstraints=True`.
        """
        options = {"constraints": constraints, "temperature": in_kelvin(temperature), **create_system_kwargs}
        read = inputs.read_charmm(psf, coordinates, parameters, **options)
        return cls(*read, temperature, name=_name(name, psf), forcefield=forcefield_in_words(parameters))

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
        coordinates : path of a gro file, or of an inpcrd, PDB or PDBx/mmCIF file
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
        structure : path of a PDB, PDBx/mmCIF or SDF file with the System's atoms in the System's order, and their bonds
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

        Protonation, tautomer and stereo are as drawn. Every bond is flexible. Needs the extra `ligand`.

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
        settings = read_settings(folder / "system.toml")
        files = settings["forcefield"]
        files = [files] if isinstance(files, str) else files
        # A force-field file beside system.toml goes before one of OpenMM's of the same name.
        files = [str(folder / f) if (folder / f).is_file() else f for f in files]
        read = inputs.read_pdb(
            folder / str(settings.get("pdb", settings.get("sdf"))),
            forcefield=files,
            constraints=CONSTRAINTS[settings.get("constraints", "none")],
            residueTemplates=settings.get("residue_templates"),
        )
        about: dict[str, Any] = {"name": settings.get("name", folder.name)}
        about |= {"forcefield": settings.get("parameters", forcefield_in_words(files))}
        about |= {"folder": folder, "settings": settings} if stays else {}
        return cls(*read, settings.get("temperature", 300.0), **about)


def _name(name: str | None, path: str | Path) -> str:
    return Path(path).stem if name is None else name
