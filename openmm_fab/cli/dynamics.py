"""openmm-fab reference: molecular dynamics to compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import (
    ForcefieldOption,
    PositionsOption,
    SeedOption,
    SolventOption,
    SystemArgument,
    TemperatureOption,
    errors_in_words,
)
from .source import Source


def reference(
    system: SystemArgument,
    method: Annotated[
        str | None,
        typer.Option(help="langevin unless given; replica-exchange, walkers, walkers-exchange, metadynamics or opes."),
    ] = None,
    settings: Annotated[
        Path | None, typer.Option("--settings", help="TOML file: method, and the settings of that method.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where it is kept; by default md-SYSTEM-METHOD.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="One setting of the method, time_ps=2000; repeat it for several.")
    ] = None,
    seed: SeedOption = None,
    forcefield: ForcefieldOption = None,
    temperature: TemperatureOption = None,
    positions: PositionsOption = None,
    solvent: SolventOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on in the folder; time_ps may be longer.")] = False,
) -> None:
    """Sample a molecule by molecular dynamics; a method's settings are named when one is wrong.

    Leaves ensemble.npz, frames, checkpoints, settings.json and convergence.txt in the folder. Ctrl-C keeps what was
    sampled.

    \b
    Examples:
      openmm-fab reference butane --method walkers --set walkers=64 --set time_ps=200 --folder md
      openmm-fab reference butane --method walkers --set walkers=64 --set time_ps=400 --folder md --resume
      openmm-fab compare butane runs/butane-laptop --reference md
    """
    with errors_in_words():
        from ..md.reference import run_reference
        from ..md.settings import METHODS
        from ..molecule.ligand_folder import file_name
        from ..tools.fields import checked
        from .settings import parse_assignments, read_toml

        given = {} if settings is None else read_toml(settings)
        named = given.pop("method", "langevin")
        method = method or named
        if method not in set(METHODS) - {"hybrid"}:
            expected = f"Expected a method out of {sorted(set(METHODS) - {'hybrid'})}; got {method!r}."
            hint = " It takes a trained generator: fab.run_reference(system, 'hybrid', generator=generator), in Python."
            raise ValueError(expected + hint * (method == "hybrid"))
        given |= parse_assignments(change or (), "time_ps=2000")
        where = "--set" if settings is None else f"{settings} and --set"
        values = checked(METHODS[method], given, f"{where} of {method}")
        molecule = Source.of(system, forcefield, temperature, positions, solvent).load()
        folder = folder or Path(f"md-{file_name(molecule.name)}-{method}")
        found = run_reference(
            molecule, method, folder=folder, resume=resume, seed=0 if seed is None else seed, **values
        )
        path = found.save(folder / "ensemble.npz")
    typer.echo(
        f"{found}\n{found.convergence}\nThe ensemble is {path}\n"
        f"Compare a run with it: openmm-fab compare {system} RUN --reference {path}"
    )
