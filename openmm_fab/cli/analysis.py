"""openmm-fab sample, compare, report and systems."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..tools.warn import warn
from .common import (
    DeviceOption,
    ForcefieldOption,
    PositionsOption,
    ReferenceOption,
    SeedOption,
    SolventOption,
    SystemArgument,
    TemperatureOption,
    errors_in_words,
    run_settings_of,
    write,
)
from .source import Source, kelvin

if TYPE_CHECKING:
    from ..comparison.comparison import Comparison
    from ..ensemble.ensemble import Ensemble
    from ..generator.generator import BoltzmannGenerator
    from ..molecule.system import MolecularSystem


RunArgument = Annotated[Path, typer.Argument(help="Folder of a finished run.")]


def sample(
    system: SystemArgument,
    n: Annotated[int, typer.Option("--n", min=1, help="Number of samples.")] = 10_000,
    run: Annotated[
        Path | None, typer.Option(help="A run's folder, or a model.safetensors; else the model shipped for SYSTEM.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="New file: .npz, .csv, .colvar (PLUMED), .nc (any number of samples), or what mdtraj writes; by "
            "default SYSTEM-samples.npz."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a .nc file until it holds N samples.")] = False,
    seed: SeedOption = None,
    device: DeviceOption = None,
    forcefield: ForcefieldOption = None,
    temperature: TemperatureOption = None,
    positions: PositionsOption = None,
    solvent: SolventOption = None,
) -> None:
    """Draw structures with importance weights from a trained model.

    A trajectory (.dcd, .xtc, .h5, .pdb, ...) holds all structures; their weights come in a .colvar file beside it. A
    NetCDF trajectory (.nc) holds both; it is written as samples are drawn, and what is there stays after Ctrl-C.

    \b
    Examples:
      openmm-fab sample alanine_dipeptide --n 10000
      openmm-fab sample my.pdb --run runs/my-laptop --n 100000 --out samples.dcd
      openmm-fab sample my.pdb --run runs/my-laptop --n 10000000 --out samples.nc --resume
      openmm-fab sample my.pdb --run runs/several --temperature 350      # of a run with --temperatures 300,400,600
    """
    with errors_in_words():
        from ..ensemble.ensemble import write_ensemble
        from ..ensemble.netcdf import SUFFIX
        from ..generator.presets import load_pretrained
        from ..weights import diagnosis

        several = run is not None and run_settings_of(run).get("temperatures")
        at = kelvin(temperature) if several else None  # else it is of the molecule
        source = Source.of(system, forcefield, None if several else temperature, positions, solvent)
        generator = (
            load_pretrained(source.load(), device or "cpu") if run is None else _of_run(source, run, device or "cpu")
        )
        path = out or Path(f"{generator.system.name}-samples.npz")
        if path.suffix == SUFFIX:
            streamed = generator.sample(n, seed, temperature=at, progress=True, out=path, resume=resume)
            typer.echo(f"{streamed}\n{streamed.weights.diagnosis()}\nWritten: {path}")
            return
        if resume:
            raise ValueError(f"Expected --resume with a {SUFFIX} file; got {path.name!r}.")
        with tempfile.TemporaryDirectory() as trial:  # before all are drawn: can it be written, and as what?
            written = write_ensemble(generator.sample(1, temperature=at), Path(trial) / path.name)
        there = [str(new) for file in written if (new := path.with_name(file.name)).exists()]
        if there:
            raise ValueError(
                f"Expected a new file to write; {', '.join(there)} exists. Move it, or name another with --out."
            )
        found = generator.sample(n, seed, temperature=at, progress=True)
        written = write_ensemble(found, path)
    typer.echo(f"{found}\n{diagnosis(found.log_w)}\nWritten: {', '.join(map(str, written))}")


def compare(
    system: SystemArgument,
    run: RunArgument,
    reference: ReferenceOption = None,
    forcefield: ForcefieldOption = None,
    temperature: TemperatureOption = None,
    positions: PositionsOption = None,
    solvent: SolventOption = None,
) -> None:
    """Compare a run's ensemble with a reference once more, after either has changed.

    \b
    Examples:
      openmm-fab compare alanine_dipeptide runs/alanine_dipeptide-laptop
      openmm-fab compare butane runs/butane-laptop --reference md
      openmm-fab compare butane runs/butane-laptop --reference md.dcd
    """
    with errors_in_words():
        ensemble = _ensemble(run)
        molecule = Source.of(system, forcefield, temperature, positions, solvent).as_in(run).load()
        comparison, page = finish(run, ensemble, molecule, reference)
    if comparison is None:
        typer.echo(f"{system} has no reference. Make one with openmm-fab reference, and name it with --reference.")
    else:
        typer.echo(f"{comparison.table()}\n\nOpen {page}")


def report(run: RunArgument, reference: ReferenceOption = None) -> None:
    """Write a run's report.html: one file that needs no network, with curves, free energies, verdicts and structures.

    \b
    Examples:
      openmm-fab report runs/alanine_dipeptide-laptop
      openmm-fab report runs/butane-laptop --reference md
    """
    with errors_in_words():
        ensemble = _ensemble(run)
        molecule = None
        source = run_settings_of(run).get("source")
        if source is None and reference is None:
            typer.echo("This run does not say where its molecule lies: no reference is shown.", err=True)
        elif source is not None and reference is None:
            try:
                molecule = Source(**source).load()
            except (OSError, ValueError) as error:
                typer.echo(f"The run's molecule cannot be read, so no reference is shown: {error}", err=True)
        _, page = finish(run, ensemble, molecule, reference)
    typer.echo(f"Open {page}")


def systems() -> None:
    """List the molecules that come with the package.

    \b
    Examples:
      openmm-fab systems
    """
    from ..molecule.folders import available_systems

    typer.echo("\n".join(available_systems()))


def finish(
    folder: Path,
    ensemble: Ensemble,
    molecule: MolecularSystem | None,
    reference: Path | None = None,
    early: str = "",
) -> tuple[Comparison | None, Path]:
    """Compare with a reference where there is one, and write the report.

    Leaves learning.png, comparison.json, comparison.png and report.html; of a run that goes on, without the pictures.

    Parameters
    ----------
    early : str
        As for `report_html`.
    """
    from ..comparison.comparing import compare as compare_ensembles
    from ..ensemble.beside import as_ensemble
    from ..ensemble.shipped import load_reference
    from ..generator.outcome import OUTCOME, Outcome
    from ..plots import learning_curve
    from ..report.html import write_report

    metrics = metrics_of(folder)
    if metrics and not early:
        learning_curve(metrics).savefig(folder / "learning.png", dpi=150)
    against = None
    if reference is not None:
        against = as_ensemble(reference, ensemble, system=molecule)
        ours, theirs = (run_settings_of(place).get("fingerprint") for place in (folder, reference))
        if ours and theirs and ours != theirs:
            warn(
                f"{reference} was made with another molecule, force field or temperature than {folder}: what differs "
                "may be that. `openmm-fab reference` takes --forcefield and --temperature.",
            )
    elif molecule is not None:
        against = load_reference(molecule)
    comparison = None
    if against is not None:
        comparison = compare_ensembles(ensemble, against)
        write(folder / "comparison.json", json.dumps(comparison.to_dict(), indent=2))
        if not early:
            comparison.plot(folder / "comparison.png")
    asked = folder / OUTCOME
    page = write_report(
        folder / "report.html",
        ensemble,
        comparison=comparison,
        outcome=Outcome.from_json(asked.read_text(encoding="utf-8")) if asked.exists() and not early else None,
        metrics=metrics,
        settings=run_settings_of(folder),
        title=folder.name,
        early=early,
    )
    return comparison, page


def _ensemble(run: Path) -> Ensemble:
    from ..ensemble.ensemble import Ensemble

    path = run / "ensemble.npz"
    if not run.is_dir():
        raise ValueError(f"Expected the folder of a run; there is none at {run}.")
    if not path.exists():
        raise ValueError(
            f"Expected a finished run in {run}; it has no ensemble.npz yet. The command that began it goes on with "
            f"--resume; openmm-fab sample SYSTEM --run {run} --out {path} draws from what it has learned so far."
        )
    return Ensemble.load(path)


def metrics_of(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.jsonl; none without one."""
    from ..tools.run_log import read_metrics

    path = folder / "metrics.jsonl"
    return read_metrics(path) if path.exists() else []


def _of_run(source: Source, run: Path, device: str) -> BoltzmannGenerator:
    from ..generator.generator import BoltzmannGenerator

    path = run / "model.safetensors" if run.is_dir() else run
    if not path.exists():
        raise ValueError(f"Expected a trained model at {path}; there is none. Train one with openmm-fab train.")
    return BoltzmannGenerator.load(path, source.as_in(run).load(), device=device)
