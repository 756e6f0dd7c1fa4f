"""A small molecule on the command line: parametrised once, and kept as a folder that every command takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import digest, warn_if_cold
from .source import Source

SmilesOption = Annotated[
    str | None, typer.Option(help="A small molecule as SMILES, in place of SYSTEM; --name names it.")
]
ChargesOption = Annotated[
    str | None,
    typer.Option(help="Partial charges, of SDF or SMILES: nagl unless given, am1bcc, or gasteiger to try."),
]
KEPT = "molecules"  # folder beside the runs


@dataclass(frozen=True)
class Ligand:
    """What was said of a small molecule: a file or SMILES, and its options; None for what is left to the defaults."""

    system: str | None = None
    smiles: str | None = None
    name: str | None = None
    forcefield: list[str] | None = None
    charges: str | None = None
    solvent: str | None = None
    temperature: float | None = None

    def make(self, folder: Path) -> None:
        """Parametrise it, and keep it in a folder."""
        from ..molecule.system import MolecularSystem

        given: dict[str, Any] = {
            "forcefield": self.forcefield,
            "charges": self.charges,
            "solvent": self.solvent,
            "temperature": self.temperature,
        }
        options = {key: value for key, value in given.items() if value is not None}
        if self.smiles is not None:
            MolecularSystem.from_smiles(self.smiles, self.name or "ligand", folder=folder, **options)
        else:
            MolecularSystem.from_sdf(self.system or "", folder=folder, **options)

    @property
    def place(self) -> str:
        """Name of its folder: title, and digests of the structure and of the options."""
        from ..molecule.ligand_folder import file_name

        options = [self.smiles, self.forcefield, self.charges, self.solvent, self.temperature]
        rest = hashlib.sha256(json.dumps(options).encode()).hexdigest()[:8]
        if self.system is None:
            return f"{file_name(self.name or 'ligand')}-{rest}"
        return f"{file_name(Path(self.system).stem)}-{digest(Path(self.system))}-{rest}"


def is_sdf(system: str | None) -> bool:
    """Whether SYSTEM is a file of small molecules, by its suffix."""
    from ..molecule.ligand import SUFFIXES

    return system is not None and Path(system).suffix.lower() in SUFFIXES


def source_of(
    ligand: Ligand, runs: Path, positions: str | None = None, table: Mapping[str, Any] | None = None
) -> Source:
    """Where the molecule comes from; a small one is parametrised into a folder of `runs`, or found there.

    Parameters
    ----------
    positions : str, optional
        Of --positions.
    table : mapping, optional
        The [molecule] table of a file of settings, for where neither SYSTEM nor --smiles is given.
    """
    system, smiles = ligand.system, ligand.smiles
    if system is not None and smiles is not None:
        raise ValueError("Expected SYSTEM or --smiles; got both.")
    if smiles is None and not is_sdf(system):
        if ligand.charges:
            raise ValueError("Expected --charges with an SDF file or --smiles; others have their own.")
        temperature = None if ligand.temperature is None else str(ligand.temperature)
        return Source.of(system, ligand.forcefield, temperature, positions, ligand.solvent, table)
    warn_if_cold(ligand.temperature)
    if system is not None and not Path(system).is_file():
        raise ValueError(f"Expected an SDF file at {system}; there is none (working directory {Path.cwd()}).")
    folder = runs / KEPT / ligand.place
    if (folder / "system.toml").exists():
        typer.echo(f"The molecule as it was parametrised before: {folder}")
    else:
        ligand.make(folder)
        typer.echo(f"Parametrised; other commands take this folder as SYSTEM: {folder}")
    return Source(str(folder))
