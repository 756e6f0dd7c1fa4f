"""Arguments and options shared by commands, the molecule that they name, a run's folder, and error messages."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..generator.generator import BoltzmannGenerator
    from ..molecule.system import MolecularSystem


SystemArgument = Annotated[
    str, typer.Argument(help="Name of a shipped molecule, folder with a system.toml, or PDB, PDBx/mmCIF or SDF file.")
]
ForcefieldOption = Annotated[
    list[str] | None,
    typer.Option("--forcefield", help="With a file: OpenMM's force-field file, repeatable; of a ligand also a name."),
]
TemperatureOption = Annotated[float | None, typer.Option(help="With a file, in K; 300 unless given.")]
DeviceOption = Annotated[str, typer.Option(help="Where it computes: cpu, or cuda for a GPU.")]
SeedOption = Annotated[int | None, typer.Option(help="Of all random numbers; 0 unless given.")]
ReferenceOption = Annotated[
    Path | None, typer.Option(help="Ensemble (.npz) to compare with, instead of the system's own reference.")
]

STOPPED = 130
COLD = 100.0  # K; below it, °C may be meant
# These may change when a run is resumed; where the molecule lies says nothing of what it is, the fingerprint does.
MAY_CHANGE = ("minutes", "samples", "source")


@contextmanager
def errors_in_words() -> Iterator[None]:
    """Context manager that prints errors a user can correct as one line, exit code 1; Ctrl-C ends with 130."""
    import openmm

    from ..tools.errors import OpenMMFabError

    expected = (OpenMMFabError, ValueError, OSError, ImportError, FloatingPointError, openmm.OpenMMException)
    plain, warnings.formatwarning = warnings.formatwarning, _one_line
    try:
        yield
    except expected as error:
        typer.echo(f"openmm-fab: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("\nStopped.", err=True)
        raise typer.Exit(STOPPED) from None
    finally:
        warnings.formatwarning = plain


def _one_line(message: Warning | str, *_: object, **__: object) -> str:
    """A warning without the line of code that it came from."""
    return f"openmm-fab: warning: {message}\n"


@dataclass(frozen=True)
class Source:
    """The SYSTEM argument and, for a structure file, its options."""

    system: str
    forcefield: list[str] | None = None
    temperature: float | None = None

    def load(self) -> MolecularSystem:
        from ..molecule.inputs import STRUCTURES
        from ..molecule.ligand import SUFFIXES
        from ..molecule.parameters import FORCEFIELD as OPENFF
        from ..molecule.system import FORCEFIELD, MolecularSystem

        kelvin = 300.0 if self.temperature is None else self.temperature
        if Path(self.system).suffix.lower() in SUFFIXES:
            warn_if_cold(kelvin)
            return MolecularSystem.from_sdf(self.system, forcefield=self.forcefield or OPENFF, temperature=kelvin)
        if Path(self.system).suffix.lower() in STRUCTURES:
            warn_if_cold(kelvin)
            return MolecularSystem.from_pdb(self.system, self.forcefield or FORCEFIELD, kelvin)
        if Path(self.system).is_file():
            raise ValueError(
                f"Expected a structure file ({', '.join(STRUCTURES)}), or a folder with a system.toml; got the file "
                f"{self.system}. Other files are read in Python: MolecularSystem.from_openmm, from_xml, from_amber, "
                "from_charmm, from_gromacs."
            )
        if self.forcefield or self.temperature is not None:
            raise ValueError(
                f"Expected --forcefield and --temperature with a PDB or PDBx/mmCIF file; got {self.system!r}, which "
                "says both in its system.toml. Change them there, in a copy of the folder."
            )
        return MolecularSystem.load(self.system)

    def as_in(self, run: Path) -> Source:
        """This source with the force field and temperature of a run of the same structure file, where neither is
        given."""
        from ..molecule.inputs import STRUCTURES

        source = run_settings_of(run).get("source") or {}
        given = self.forcefield or self.temperature is not None
        file = Path(self.system)
        kept = Path(source.get("system", ""))  # of a small molecule, its folder
        if not given and file.is_file() and f"-{digest(file)}-" in kept.name and (kept / "system.toml").exists():
            return Source(str(kept))
        if given or file.suffix.lower() not in STRUCTURES or source.get("system") != str(file.resolve()):
            return self
        return replace(self, forcefield=source["forcefield"], temperature=source["temperature"])

    def absolute(self) -> dict[str, Any]:
        """Fields with absolute paths, which are valid from any folder."""
        system, *fields = (
            str(Path(name).resolve()) if Path(name).exists() else name
            for name in (self.system, *(self.forcefield or []))
        )
        return {"system": system, "forcefield": fields or None, "temperature": self.temperature}


def digest(file: Path) -> str:
    """A few hexadecimal digits that tell what a file holds."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:8]


def warn_if_cold(kelvin: float | None) -> None:
    """A temperature that looks like °C is told of."""
    if kelvin is not None and 0 < kelvin < COLD:
        warnings.warn(f"--temperature is in K: {kelvin:g} K is {kelvin - 273.15:.0f} °C.", stacklevel=3)


def energies_in_words(generator: BoltzmannGenerator) -> str:
    """Description, in one line, of how a generator's energies are calculated."""
    from ..energy.compiled import CompiledEnergy

    energy = generator.energy
    if not isinstance(energy, CompiledEnergy):
        return f"Energies: {energy}"
    return f"Energies: {energy.how if generator.device.type == 'cpu' else 'PyTorch'} ({energy.reason})"


def run_settings_of(run: Path) -> dict[str, Any]:
    """Content of a run's settings.json, from its folder or a file in it; empty without one."""
    from ..tools.files import load_json

    path = (run if run.is_dir() else run.parent) / "settings.json"
    return load_json(path, "the settings of a run") if path.exists() else {}


def run_folder(runs: Path, name: str, resume: bool) -> Path:
    """Folder of a run; without --resume an earlier run is never overwritten."""
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"Expected a run's name to be one folder name; got {name!r}.")
    folder = runs / name
    if resume and not any((folder / name).exists() for name in ("checkpoint.pt", "checkpoint.previous.pt")):
        raise ValueError(f"Expected a checkpoint to resume from in {folder}; there is none. Leave out --resume.")
    if not resume:
        count = 1
        while folder.exists():
            count += 1
            folder = runs / f"{name}-{count}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_run_settings(path: Path, settings: dict[str, Any], resume: bool) -> None:
    """Write a run's settings.json; only its training time and number of samples may change when it is resumed."""
    from ..tools.runs import keep_settings

    keep_settings(path, settings, resume, "Use the same system and options, or leave out --resume.", MAY_CHANGE)


def write(path: Path, text: str) -> None:
    """Write a text file atomically."""
    from ..tools.files import write_atomically

    write_atomically(path, lambda file: file.write(text), "w")
