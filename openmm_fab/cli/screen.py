"""openmm-fab screen."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .common import SeedOption, SolventOption, TemperatureOption, errors_in_words, write
from .ligands import ChargesOption
from .training import PresetOption, SamplesOption, SetOption, SettingsOption

FileArgument = Annotated[Path, typer.Argument(help="A .smi file, a SMILES string and a name a line, or an .sdf file.")]
FolderOption = Annotated[
    Path | None, typer.Option(help="Where all is kept; by default screen-FILE. The same one goes on.")
]
MinutesOption = Annotated[float, typer.Option(help="Training time of each molecule.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Molecules at a time on this machine; they share its cores.")]
SchedulerOption = Annotated[str | None, typer.Option(help="Of a Dask cluster, tcp://host:8786, in place of --workers.")]
ForcefieldOption = Annotated[
    list[str] | None, typer.Option("--forcefield", help="openff-2.2.1 unless given, or files (.xml) that describe all.")
]


def screen(
    file: FileArgument,
    minutes: MinutesOption = 10.0,
    workers: WorkersOption = 1,
    folder: FolderOption = None,
    forcefield: ForcefieldOption = None,
    charges: ChargesOption = None,
    solvent: SolventOption = None,
    temperature: TemperatureOption = None,
    preset: PresetOption = None,
    settings: SettingsOption = None,
    change: SetOption = None,
    samples: SamplesOption = None,
    seed: SeedOption = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Run a list of small molecules, a process each; leaves table.csv and index.html, written after each molecule.

    The same command again goes on: what is done is left alone, what was stopped goes on at its checkpoint, what failed
    is tried again.

    \b
    Examples:
      openmm-fab screen ligands.smi --minutes 10 --workers 4
      openmm-fab screen poses.sdf --solvent none --folder vacuum
      openmm-fab screen ligands.smi --scheduler tcp://10.0.0.1:8786
    """
    from .screening import Job, Row, client_of, keep_options, molecules_of, row_of, rows_by_dask, rows_by_threads, table

    with errors_in_words():
        from ..report.overview import overview_html
        from ..train.settings import Budget

        Budget(minutes=minutes)  # refuses what is no budget
        place = folder or Path(f"screen-{file.stem}")
        given = {
            "--charges": charges,
            "--solvent": solvent,
            "--temperature": temperature,
            "--preset": preset,
            "--settings": settings if settings is None else settings.resolve(),
            "--samples": samples,
            "--seed": seed,
        }
        options = [text for key, value in given.items() if value is not None for text in (key, str(value))]
        options += [text for one in forcefield or () for text in ("--forcefield", _absolute(one))]
        options += [text for one in change or () for text in ("--set", one)]
        threads = max(1, (os.cpu_count() or 1) // workers) if scheduler is None else 1
        molecules = molecules_of(file, place.resolve())
        jobs = [
            Job(name, arguments, tuple(options), str(place.resolve()), minutes, threads)
            for name, arguments in molecules.items()
        ]
        rows: dict[str, Row] = {job.name: row_of(place / job.name) or Row(job.name, "waiting") for job in jobs}

        def keep() -> None:
            write(place / "table.csv", table(list(rows.values())))
            write(place / "index.html", overview_html([asdict(row) for row in rows.values()], file.name))

        keep_options(place, options)
        keep()
        found = rows_by_threads(jobs, workers) if scheduler is None else rows_by_dask(jobs, client_of(scheduler))
        for row in found:
            rows[row.name] = row
            keep()
            said = f"ESS {row.ess:.0f}, {row.conformers} conformers" if row.status == "done" else row.status
            typer.echo(f"{row.name}: {said}")
    failed = sum(row.status != "done" for row in rows.values())
    typer.echo(f"{len(rows) - failed} of {len(rows)} done; open {place / 'index.html'}")
    if failed:
        raise typer.Exit(1)


def _absolute(name: str) -> str:
    """A file's name that holds in every folder; other names as they are."""
    return str(Path(name).resolve()) if Path(name).is_file() else name
