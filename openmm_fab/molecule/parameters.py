"""Force-field parameters and charges of a small molecule by OpenFF or GAFF, as an OpenMM force-field file.

The packages are optional; each is loaded when it is used, and a missing one is told with the command that installs it.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..tools.install import install
from .chemistry import rdkit_chem, silent

if TYPE_CHECKING:
    from rdkit.Chem import Mol

FORCEFIELD, TEMPLATE = "openff-2.2.1", "ligand.xml"
FAMILIES = ("openff-", "smirnoff99Frosst-", "gaff-")
CHARGES = ("nagl", "am1bcc", "gasteiger")
NAGL_MODEL = "openff-gnn-am1bcc-1.0.0.pt"
SOLVENTS = {name: f"implicit/{name}.xml" for name in ("gbn2", "gbn", "obc2", "obc1", "hct")} | {"none": None}


def solvent_files(solvent: str) -> list[str]:
    """OpenMM's force-field file of an implicit solvent, as a list; empty for "none"."""
    if solvent not in SOLVENTS:
        raise ValueError(f"Expected a solvent out of {', '.join(SOLVENTS)}; got {solvent!r}.")
    file = SOLVENTS[solvent]
    return [] if file is None else [file]


def check_names(forcefield: str, charges: str | ArrayLike) -> None:
    """ValueError for a force field or charges of no known kind, before anything is loaded."""
    if not forcefield.startswith(FAMILIES):
        raise ValueError(
            f"Expected a force field for small molecules, such as {FORCEFIELD} or gaff-2.2.20, or OpenMM's force-field "
            f"files (.xml) that describe the molecule; got {forcefield!r}."
        )
    if isinstance(charges, str) and charges not in CHARGES:
        raise ValueError(f"Expected charges out of {', '.join(CHARGES)}, or a number for each atom; got {charges!r}.")


def forcefield_files(molecule: Mol, forcefield: str = FORCEFIELD, charges: str | ArrayLike = "nagl") -> dict[str, str]:
    """Name and text of OpenMM force-field files: the molecule as a residue template, after GAFF's own file for GAFF.

    Parameters
    ----------
    molecule : RDKit's, with hydrogens and a 3-D structure
    forcefield : "openff-2.2.1", "gaff-2.2.20", ...
        A name that openmmforcefields knows.
    charges : "nagl", "am1bcc", "gasteiger", or (atoms,), elementary charges
        By OpenFF's graph network, by sqm of AmberTools, by RDKit, or as given.

    Raises
    ------
    ImportError
        A package that is missing, with the command that installs it.
    ValueError
        Names that are not known; a molecule without parameters.
    """
    check_names(forcefield, charges)
    generators = _imported("openmmforcefields.generators", "openmmforcefields")
    openff = _imported("openff.toolkit", "openff-toolkit")
    with silent():
        described = openff.Molecule.from_rdkit(molecule, allow_undefined_stereo=True, hydrogens_are_explicit=True)
    described.name = "LIG"
    described.partial_charges = openff.unit.Quantity(
        charges_of(molecule, charges, described), openff.unit.elementary_charge
    )
    gaff = forcefield.startswith("gaff-")
    kind = generators.GAFFTemplateGenerator if gaff else generators.SMIRNOFFTemplateGenerator
    if gaff:
        _check_program("antechamber", f"The force field {forcefield}")
    known = [name for name in kind.INSTALLED_FORCEFIELDS]
    if forcefield not in known:
        near = [name for name in known if name.startswith(forcefield.split("-")[0])]
        raise ValueError(f"Expected a force field that is installed, {', '.join(near[-8:])}; got {forcefield!r}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of preset charges, and of each other
            generator = kind(molecules=[described], forcefield=forcefield)
            text = str(generator.generate_residue_template(described))
    except Exception as error:  # OpenFF has many kinds of its own
        if isinstance(error, ImportError | OSError):
            raise
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"Expected a molecule that {forcefield} has parameters for; it says: {said}") from error
    # The names of OpenFF's types begin with a digest of the molecule.
    files = {TEMPLATE: re.sub(r"\b[0-9a-f]{64}#", "LIG-", text)}
    if gaff:
        base = Path(generator.gaff_xml_filename)
        files = {base.name: base.read_text(encoding="utf-8"), **files}
    return files


def charges_of(molecule: Mol, charges: str | ArrayLike, described: Any = None) -> np.ndarray:
    """(atoms,) float64, elementary charges, that sum to the molecule's charge.

    Parameters
    ----------
    described : openff.toolkit.Molecule
        The same molecule; not needed for "gasteiger" and numbers.

    Raises
    ------
    ValueError
        Numbers of another length, not finite, or of another sum; an element that RDKit has no Gasteiger charge for.
    """
    total = rdkit_chem().GetFormalCharge(molecule)
    if not isinstance(charges, str):
        given = np.asarray(charges, dtype=np.float64)
        if given.shape != (molecule.GetNumAtoms(),) or not np.isfinite(given).all():
            raise ValueError(
                f"Expected {molecule.GetNumAtoms()} finite charges, one for each atom, hydrogens included; got shape "
                f"{given.shape}."
            )
        if not given.any():
            raise ValueError("Expected charges; all are zero, which OpenFF takes for none at all.")
        if abs(given.sum() - total) > 0.01:
            raise ValueError(f"Expected charges that sum to {total}, as the molecule is drawn; got {given.sum():.4f}.")
        found = given
    elif charges == "gasteiger":
        found = _gasteiger(molecule)
    else:
        found = _by_openff(described, charges)
    # A thousandth of a charge that is missing is one in the potential at every distance.
    return found + (total - found.sum()) / len(found)


def _gasteiger(molecule: Mol) -> np.ndarray:
    rdkit_chem()
    from rdkit.Chem import rdPartialCharges

    copy = type(molecule)(molecule)
    rdPartialCharges.ComputeGasteigerCharges(copy)
    found = np.array([atom.GetDoubleProp("_GasteigerCharge") for atom in copy.GetAtoms()])
    without = [atom.GetSymbol() for atom, q in zip(copy.GetAtoms(), found, strict=True) if not math.isfinite(q)]
    if without:
        raise ValueError(f"Expected elements that Gasteiger's charges know; got {', '.join(sorted(set(without)))}.")
    return found


def _by_openff(described: Any, charges: str) -> np.ndarray:
    registry = _imported("openff.toolkit.utils.toolkits", "openff-toolkit")
    if charges == "nagl":
        wrapper, method = registry.NAGLToolkitWrapper, NAGL_MODEL
        if not wrapper.is_available():
            raise ImportError(f"Charges by 'nagl' need openff-nagl and its models: {install('ligand')}.")
    else:
        wrapper, method = registry.AmberToolsToolkitWrapper, "am1bcc"
        _check_program("sqm", 'Charges by "am1bcc"')
    described.assign_partial_charges(method, toolkit_registry=wrapper())
    return np.array(described.partial_charges.m, dtype=np.float64)


def _imported(module: str, package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"Parameters of a small molecule need {package}: {install('ligand')} ({error}).") from error


def _check_program(program: str, what: str) -> None:
    import shutil

    if shutil.which(program) is None:
        raise ImportError(f"{what} needs {program} of AmberTools on the PATH: {install('ligand-ambertools')}.")


def given_files(forcefield: str | Sequence[str]) -> list[str] | None:
    """The force-field files (.xml) that are named; None for the name of a force field for small molecules."""
    files = [forcefield] if isinstance(forcefield, str) else list(forcefield)
    if all(str(file).lower().endswith(".xml") for file in files):
        return [str(file) for file in files]
    if len(files) > 1:
        raise ValueError(f"Expected one force field by name, or OpenMM's files (.xml); got {', '.join(files)}.")
    return None
