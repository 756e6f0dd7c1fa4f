"""Arguments and options shared by commands, the molecule that they name, a run's folder, and error messages."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..tools.warn import warn

if TYPE_CHECKING:
    from ..generator.generator import BoltzmannGenerator


SYSTEM_HELP = (
    "Name of a shipped molecule, folder with a system.toml, PDB or PDBx/mmCIF file with --forcefield, SDF file; or "
    "with --positions: prmtop, psf, top, or System as XML."
)
SystemArgument = Annotated[str, typer.Argument(help=SYSTEM_HELP)]
ForcefieldOption = Annotated[
    list[str] | None,
    typer.Option(
        "--forcefield",
        help="Of a PDB or PDBx/mmCIF file, always: OpenMM's force-field file, such as amber14-all.xml, and that of its "
        "solvent, implicit/gbn2.xml; repeat the option. Of a psf: CHARMM's files. Of SDF or SMILES openff-2.2.1, "
        "unless given.",
    ),
]
TemperatureOption = Annotated[
    str | None,
    typer.Option(help="In K, of a molecule from a file; 300 unless given. Shipped ones and folders have their own."),
]
PositionsOption = Annotated[
    str | None,
    typer.Option(
        help="Where the atoms of a prmtop, psf or top are: an inpcrd, crd, gro, PDB or PDBx/mmCIF file; those of a "
        "System as XML: a PDB, PDBx/mmCIF or SDF file."
    ),
]
SolventOption = Annotated[
    str | None,
    typer.Option(
        help="Implicit solvent: gbn2, obc2, gbn, obc1, hct or none. Unless given gbn2 of SDF or SMILES, none of prmtop "
        "or psf; a PDB file has it from --forcefield."
    ),
]
DeviceOption = Annotated[str | None, typer.Option(help="Where it computes: cpu unless given, or cuda for a GPU.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of all random numbers; 0 unless given.")]
ReferenceOption = Annotated[
    Path | None,
    typer.Option(
        help="Ensemble (.npz, .nc), folder of a run, or trajectory (.dcd, .xtc, .trr, .h5, ...) to compare with, in "
        "place of the system's own."
    ),
]

STOPPED = 130
COLD = 100.0  # K; below it, °C may be meant
# These may change when a run is resumed; where the molecule lies says nothing of what it is, the fingerprint does.
MAY_CHANGE = ("minutes", "samples", "error", "at_most", "source", "device", "made_with", "physics", "turning")


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


def digest(file: Path) -> str:
    """A few hexadecimal digits that tell what a file holds."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:8]


def warn_if_cold(kelvin: float | None) -> None:
    """Warn of a temperature that looks like °C."""
    if kelvin is not None and 0 < kelvin < COLD:
        warn(f"--temperature is in K: {kelvin:g} K is {kelvin - 273.15:.0f} °C.")


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


def write_run_settings(folder: Path, settings: dict[str, Any], again: dict[str, Any], resume: bool) -> None:
    """Write a run's settings.json; only its training time and number of samples may change when it is resumed.

    Beside it settings.toml, with which --settings runs it again.

    Parameters
    ----------
    again : dict
        What settings.toml says.
    """
    from ..tools.runs import keep_settings
    from ..tools.toml import to_toml

    path = folder / "settings.json"
    keep_settings(path, settings, resume, "Use the same system and options, or leave out --resume.", MAY_CHANGE)
    head = "# As this run was started; to do it again: openmm-fab run --settings settings.toml\n"
    write(folder / "settings.toml", head + to_toml(again) + "\n")


def write(path: Path, text: str) -> None:
    """Write a text file atomically."""
    from ..tools.files import write_atomically

    write_atomically(path, lambda file: file.write(text), "w")
