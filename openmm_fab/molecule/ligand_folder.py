"""A small molecule with its parameters as a folder that `MolecularSystem.load` reads: SDF, force field, system.toml."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from ..tools.files import write_atomically
from .chemistry import rdkit_chem, without_hydrogens
from .parameters import FORCEFIELD, check_names, forcefield_files, given_files, solvent_files

if TYPE_CHECKING:
    from rdkit.Chem import Mol

STRUCTURE = "input.sdf"
CHARGES, SOLVENT = "nagl", "gbn2"  # of a force field by name


def ligand_files(
    molecule: Mol,
    name: str,
    forcefield: str | Sequence[str] = FORCEFIELD,
    charges: str | ArrayLike | None = None,
    solvent: str | None = None,
    temperature: float = 300.0,
) -> dict[str, str]:
    """Name and text of the files that make the folder of a molecule; see `MolecularSystem.from_rdkit`."""
    files = given_files(forcefield)
    texts = {STRUCTURE: sdf_text(molecule, name)}
    if files is None:
        chosen, solvent = CHARGES if charges is None else charges, SOLVENT if solvent is None else solvent
        (field,) = [forcefield] if isinstance(forcefield, str) else forcefield
        check_names(field, chosen)
        solvents = solvent_files(solvent)
        parameters = forcefield_files(molecule, field, chosen)
        texts |= parameters
        used = [*parameters, *solvents]
        about = f"{field}, charges {chosen if isinstance(chosen, str) else 'as given'}"
        named = f"parameters = {json.dumps(about)}      # what made the files\n"
    else:
        if charges is not None:
            raise ValueError("Expected charges with a force field by name; a file (.xml) has charges of its own.")
        texts |= {Path(file).name: Path(file).read_text(encoding="utf-8") for file in files if Path(file).is_file()}
        used = [Path(file).name if Path(file).is_file() else file for file in files]
        used += [] if solvent is None else solvent_files(solvent)
        about, named = ", ".join(used), ""
    texts["system.toml"] = f"""\
# {without_hydrogens(molecule)}: {about}
name = {json.dumps(name)}
sdf = "{STRUCTURE}"
forcefield = {json.dumps(used)}
{named}\
temperature = {float(temperature)!r}      # K
constraints = "none"     # every bond flexible
"""
    return texts


def write_ligand(folder: str | Path, texts: dict[str, str]) -> Path:
    """Write what `ligand_files` made into a folder, new or without a system.toml; returns it."""
    folder = Path(folder)
    if (folder / "system.toml").exists():
        raise ValueError(
            f"Expected a folder without a molecule; {folder} has a system.toml. Load it with MolecularSystem.load, or "
            "name another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():  # system.toml comes last: without it the folder is no molecule
        write_atomically(folder / file, partial(_write, text), "w")
    return folder


def _write(text: str, file: Any) -> None:
    file.write(text)


def sdf_text(molecule: Mol, title: str) -> str:
    """Text of one record of an SDF file, with a title."""
    Chem = rdkit_chem()
    copy = Chem.Mol(molecule)
    copy.SetProp("_Name", title)
    return f"{Chem.MolToMolBlock(copy)}$$$$\n"


def file_name(text: str) -> str:
    """A title as the name of a folder: letters, digits, dots, dashes and underscores; "ligand" where none are left."""
    return re.sub(r"[^\w.-]+", "_", text.strip()).strip("._")[:60] or "ligand"
