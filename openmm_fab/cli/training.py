"""openmm-fab run and train."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import (
    STOPPED,
    DeviceOption,
    ForcefieldOption,
    SeedOption,
    Source,
    SystemArgument,
    TemperatureOption,
    errors_in_words,
    run_folder,
    write,
    write_run_settings,
)
from .settings import RunSettings, run_settings

if TYPE_CHECKING:
    from ..generator.generator import BoltzmannGenerator
    from ..molecule.system import MolecularSystem
    from ..train.distributed import Ranks


PROBE_SECONDS = 10.0

SettingsOption = Annotated[
    Path | None, typer.Option("--settings", help="TOML file: preset, minutes, samples, seed, [flow], [train], ...")
]
PresetOption = Annotated[
    str | None, typer.Option(help="smoke (2 minutes), laptop (20), or gpu (5); with --device cuda gpu, else laptop.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="One setting, such as train.batch=512; repeat it for several.")
]
NameOption = Annotated[str | None, typer.Option(help="Name of the run; by default system-preset.")]
RunsOption = Annotated[Path, typer.Option(help="Folder that runs are kept in.")]
MinutesOption = Annotated[float | None, typer.Option(help="Training time, instead of the preset's.")]
SamplesOption = Annotated[int | None, typer.Option(min=1, help="Samples drawn, instead of the preset's.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on where this run stopped.")]
CompileOption = Annotated[bool, typer.Option(help="Fuse flow and energy with torch.compile.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show molecule, coordinates and cost (10 s of probing), and do nothing.")
]


def run(
    system: SystemArgument,
    preset: PresetOption = None,
    settings: SettingsOption = None,
    change: SetOption = None,
    name: NameOption = None,
    runs: RunsOption = Path("runs"),
    seed: SeedOption = None,
    minutes: MinutesOption = None,
    samples: SamplesOption = None,
    forcefield: ForcefieldOption = None,
    temperature: TemperatureOption = None,
    resume: ResumeOption = False,
    compile: CompileOption = True,
    device: DeviceOption = "cpu",
    dry_run: DryRunOption = False,
) -> None:
    """Train on a molecule's energy, sample it, compare with its reference, and write report.html.

    \b
    Examples:
      openmm-fab run alanine_dipeptide --preset smoke
      openmm-fab run my.pdb --forcefield amber14-all.xml --forcefield implicit/gbn2.xml --dry-run
      openmm-fab run alanine_dipeptide --settings my.toml --set train.batch=512 --minutes 40
      openmm-fab run alanine_dipeptide --resume          # after Ctrl-C, or for longer
    """
    started = time.perf_counter()
    with errors_in_words():
        chosen = run_settings(
            settings, change or (), device, preset=preset, seed=seed, minutes=minutes, samples=samples
        )
        source = Source(system, forcefield, temperature)
        molecule = source.load()
        if dry_run:
            return _show_cost(molecule, chosen, device)
        from ..train.distributed import Ranks, many
        from ..weights import diagnosis
        from .analysis import finish

        if many():
            raise ValueError("Expected openmm-fab run as one process; under torchrun use openmm-fab train.")
        generator, folder = _trained(molecule, source, chosen, name, runs, resume, compile, device, Ranks())
        ensemble = generator.sample(chosen.samples, name="FAB", progress=True)
        ensemble.save(folder / "ensemble.npz")
        outside, outside_weight = generator.outside_range(ensemble)
        lines = [
            repr(ensemble),
            f"{diagnosis(ensemble.log_w)}",
            f"Beyond the splines' range: {100 * outside:.2f} % of samples, {100 * outside_weight:.2f} % of weight",
        ]
        comparison, page = finish(folder, ensemble, molecule)
        lines += [] if comparison is None else [comparison.table()]
        write(folder / "report.txt", "\n".join(lines) + "\n")
    typer.echo("\n".join(lines))
    typer.echo(f"{(time.perf_counter() - started) / 60:.1f} minutes in all; everything is in {folder}")
    typer.echo(f"Open {page}")


def train(
    system: SystemArgument,
    preset: PresetOption = None,
    settings: SettingsOption = None,
    change: SetOption = None,
    name: NameOption = None,
    runs: RunsOption = Path("runs"),
    seed: SeedOption = None,
    minutes: MinutesOption = None,
    forcefield: ForcefieldOption = None,
    temperature: TemperatureOption = None,
    resume: ResumeOption = False,
    compile: CompileOption = True,
    device: DeviceOption = "cpu",
    dry_run: DryRunOption = False,
) -> None:
    """Train on a molecule's energy and save the model; `openmm-fab sample` draws from it.

    \b
    Examples:
      openmm-fab train alanine_dipeptide --minutes 60 --name long
      openmm-fab sample alanine_dipeptide --run runs/long --n 100000 --out long.npz
      torchrun --nproc-per-node 4 -m openmm_fab train alanine_dipeptide --minutes 60      # four processes, one flow
    """
    from ..train.distributed import process_group

    with errors_in_words(), process_group() as ranks:
        chosen = run_settings(settings, change or (), device, preset=preset, seed=seed, minutes=minutes)
        source = Source(system, forcefield, temperature)
        molecule = source.load()
        if dry_run:
            return _show_cost(molecule, chosen, device)
        _, folder = _trained(molecule, source, chosen, name, runs, resume, compile, device, ranks)
        model = folder / "model.safetensors"
        typer.echo(f"The model is {model}; openmm-fab sample {system} --run {folder} draws from it.")


def _trained(
    molecule: MolecularSystem,
    source: Source,
    chosen: RunSettings,
    name: str | None,
    runs: Path,
    resume: bool,
    compile: bool,
    device: str,
    ranks: Ranks,
) -> tuple[BoltzmannGenerator, Path]:
    """A trained generator and the folder with its settings, metrics, checkpoint and model; the first rank writes."""
    from ..generator.generator import BoltzmannGenerator
    from ..train.settings import Budget

    budget = Budget(minutes=chosen.minutes)
    folder = ranks.from_main(lambda: run_folder(runs, name or f"{molecule.name}-{chosen.preset}", resume))
    generator = BoltzmannGenerator(molecule, chosen.settings, chosen.seed, device=device)
    untrained = generator.digest
    if len(set(ranks.all_gather(untrained))) > 1:
        raise ValueError("Expected the same coordinates on all ranks; got different ones. Are versions the same?")
    about = {
        "system": molecule.name,
        "fingerprint": molecule.fingerprint,
        **chosen.to_dict(),
        "source": source.absolute(),
    }
    ranks.from_main(lambda: write_run_settings(folder / "settings.json", about, resume))
    coordinates = generator.coordinates
    typer.echo(
        f"{molecule}: {coordinates.dim} internal coordinates, {int(coordinates.periodic.sum())} of them periodic; "
        f"{generator.energy}\nTraining for {budget.minutes:g} minutes; results go to {folder}"
    )
    try:
        generator.train(budget, folder=folder, resume=resume, compile=compile)
    except KeyboardInterrupt:
        if not ranks.is_main:
            raise typer.Exit(STOPPED) from None
        if generator.digest != untrained:  # stopped while it compiled: the model that may be there is the better one
            generator.save(folder / "model.safetensors")
        kept = (folder / "checkpoint.pt").exists()
        again = f"the same command with --name {folder.name} --resume goes on"
        advice = again if kept else "it is too early to resume: start anew"
        typer.echo(f"\nStopped. Everything so far is in {folder}; {advice}.", err=True)
        raise typer.Exit(STOPPED) from None
    ranks.from_main(lambda: generator.save(folder / "model.safetensors"))
    return generator, folder


def _show_cost(molecule: MolecularSystem, chosen: RunSettings, device: str) -> None:
    from ..coordinates.internal import InternalCoordinates
    from ..generator.generator import BoltzmannGenerator
    from ..train.settings import Budget
    from .probe import probe

    Budget(minutes=chosen.minutes)  # refuses what is no budget
    generator = BoltzmannGenerator(molecule, chosen.settings, chosen.seed, device=device)
    coordinates = generator.coordinates
    assert isinstance(coordinates, InternalCoordinates)
    typer.echo(f"{molecule}; {generator.energy}\n\n{coordinates.summary()}\n")
    typer.echo(f"Probing for about {PROBE_SECONDS:g} s ...")
    typer.echo(probe(generator, PROBE_SECONDS).words(chosen.minutes, chosen.samples, generator))
