"""openmm-fab run and train."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
    STOPPED,
    SYSTEM_HELP,
    DeviceOption,
    ForcefieldOption,
    PositionsOption,
    SeedOption,
    SolventOption,
    TemperatureOption,
    energies_in_words,
    errors_in_words,
    run_folder,
    write_run_settings,
)
from .ligands import ChargesOption, Ligand, SmilesOption, source_of
from .settings import MOLECULE, RunSettings, run_settings
from .source import Source, kelvin, kelvins

if TYPE_CHECKING:
    from ..generator.generator import BoltzmannGenerator
    from ..generator.outcome import Outcome
    from ..molecule.system import MolecularSystem
    from ..tools.metrics import TrainingMetrics
    from ..train.distributed import Ranks


PROBE_SECONDS = 10.0
AUDIT = 0.05  # of the training time, at most
MORE = 0.5  # of the training time again, where states are missing that the flow can reach

OptionalSystem = Annotated[
    str | None, typer.Argument(help=f"{SYSTEM_HELP} Or none, where --settings names it.", show_default=False)
]
SettingsOption = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        help="TOML file: preset, minutes, samples, seed, [molecule], [flow], [train], ...; a run's own is in it.",
    ),
]
PresetOption = Annotated[
    str | None, typer.Option(help="smoke (2 minutes), laptop (20), or gpu (5); with --device cuda gpu, else laptop.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="One setting, such as train.batch=512; repeat it for several.")
]
NameOption = Annotated[str | None, typer.Option(help="Name of the run; by default system-preset.")]
RunsOption = Annotated[Path, typer.Option(help="Folder that runs are kept in.")]
MinutesOption = Annotated[
    str | None, typer.Option(help="Training time, instead of the preset's: 20, or '90 s', '2 hours'.")
]
ErrorOption = Annotated[
    float | None,
    typer.Option(
        help="Instead of --minutes: train and sample until free energies of basins have this standard error, in kT, "
        "and the checks agree."
    ),
]
AtMostOption = Annotated[str | None, typer.Option(help="With --error: 90, '90 s', '2h' at most; 2 hours unless given.")]
OfOption = Annotated[
    list[str] | None,
    typer.Option("--of", help="With --error: a basin by its name in the table; repeatable. All above 0.1 % otherwise."),
]
SamplesOption = Annotated[int | None, typer.Option(min=1, help="Samples drawn, instead of the preset's.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on where this run stopped.")]
ReportOption = Annotated[
    float | None,
    typer.Option(
        min=0, help="Minutes between early reports; by default after 1 of training, then 2, 4, 8, ...; 0 for none."
    ),
]
CompileOption = Annotated[
    bool, typer.Option(help="On a GPU: fuse flow and energy with torch.compile. On a CPU they are C in any case.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show molecule, coordinates and cost (10 s of probing), and do nothing.")
]

TemperaturesOption = Annotated[
    str | None,
    typer.Option(
        help="300,400,600: one flow of these temperatures in K and all between; openmm-fab sample --temperature 350."
    ),
]

ObjectiveOption = Annotated[
    str | None,
    typer.Option(
        "--objective",
        help="auto, unless given: FAB, begun by objectives of less noise. fab: FAB from the first step, as published. "
        "Or fab_no_buffer, alpha_divergence, reverse_kl, cmt.",
    ),
]


def run(
    system: OptionalSystem = None,
    preset: PresetOption = None,
    settings: SettingsOption = None,
    change: SetOption = None,
    name: NameOption = None,
    runs: RunsOption = Path("runs"),
    seed: SeedOption = None,
    minutes: MinutesOption = None,
    samples: SamplesOption = None,
    error: ErrorOption = None,
    at_most: AtMostOption = None,
    of: OfOption = None,
    report_every: ReportOption = None,
    forcefield: ForcefieldOption = None,
    temperature: TemperatureOption = None,
    temperatures: TemperaturesOption = None,
    positions: PositionsOption = None,
    smiles: SmilesOption = None,
    charges: ChargesOption = None,
    solvent: SolventOption = None,
    objective: ObjectiveOption = None,
    resume: ResumeOption = False,
    compile: CompileOption = True,
    device: DeviceOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Train on a molecule's energy, sample it, compare with its reference, and write report.html.

    report.html is there early, and written again while the run goes on: open it.

    \b
    Examples:
      openmm-fab run alanine_dipeptide --preset smoke
      openmm-fab run my.pdb --forcefield amber14-all.xml --forcefield implicit/gbn2.xml --dry-run
      openmm-fab run ligand.sdf --solvent obc2 --minutes 30
      openmm-fab run my.pdb --forcefield amber14-all.xml --error 0.1 --at-most 2h
      openmm-fab run --smiles "CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)[O-]" --name ibuprofen
      openmm-fab run lig.prmtop --positions lig.inpcrd --solvent OBC2
      openmm-fab run alanine_dipeptide --settings my.toml --set train.batch=512 --minutes 40
      openmm-fab run --settings runs/alanine_dipeptide-laptop/settings.toml       # the same run again
      openmm-fab run alanine_dipeptide --resume          # after Ctrl-C, or for longer
    """
    started = time.perf_counter()
    with errors_in_words():
        flags: dict[str, Any] = {"preset": preset, "seed": seed, "minutes": minutes, "samples": samples}
        flags |= {"error": error, "at_most": at_most, "temperatures": kelvins(temperatures)}
        chosen = run_settings(settings, change or (), **flags, objective=objective, device=device)
        ligand = Ligand(system, smiles, name, forcefield, charges, solvent, kelvin(temperature))
        source = source_of(ligand, runs, positions, chosen.molecule)
        molecule = source.load()
        if dry_run:
            return _show_cost(molecule, chosen)
        from ..tools.progress import duration
        from ..train.distributed import Ranks, many
        from ..train.settings import Budget
        from .results import early_results, write_results

        if many():
            raise ValueError("Expected openmm-fab run as one process; under torchrun use openmm-fab train.")

        if of and chosen.error is None:
            raise ValueError("Expected --of with --error; it names the basins that are to have that error.")

        def early(generator: BoltzmannGenerator, folder: Path) -> Callable[[TrainingMetrics], None]:
            minutes = chosen.minutes if chosen.error is None else chosen.at_most
            return early_results(folder, generator, molecule, chosen.samples, minutes)

        reports = None if report_every == 0 else early
        every = 60 * report_every if report_every else None
        job = (molecule, source, chosen, name, runs, resume, compile)
        generator, folder, outcome = _trained(*job, Ranks(), reports, every, of)
        with _stop_in_words(folder):
            search = None if outcome is not None else Budget(minutes=AUDIT * chosen.minutes)
            lines, page, audit = write_results(
                folder, generator, molecule, chosen.samples, audit=search, outcome=outcome
            )
            if outcome is not None:
                audit = None  # it has gone on where states are missing, as long as there was time
            if audit is not None and audit.missing and len(generator.starts(audit)):
                typer.echo(
                    f"{audit.finding.head}: {audit.missing_in_words}\n"
                    f"Training goes on for {duration(60 * MORE * chosen.minutes)}, and starts there, too"
                )
                longer = Budget(minutes=(1 + MORE) * chosen.minutes)
                generator.train(
                    longer, folder=folder, resume=True, compile=compile, objective=chosen.objective, audit=audit
                )
                generator.save(folder / "model.safetensors")
                lines, page, _ = write_results(folder, generator, molecule, chosen.samples, audit=search)
    typer.echo("\n".join(lines))
    since = "since it was resumed" if resume else "in all"
    typer.echo(f"{duration(time.perf_counter() - started)} {since}; everything is in {folder}")
    typer.echo(f"Open {page}")


def train(
    system: OptionalSystem = None,
    preset: PresetOption = None,
    settings: SettingsOption = None,
    change: SetOption = None,
    name: NameOption = None,
    runs: RunsOption = Path("runs"),
    seed: SeedOption = None,
    minutes: MinutesOption = None,
    forcefield: ForcefieldOption = None,
    temperature: TemperatureOption = None,
    temperatures: TemperaturesOption = None,
    positions: PositionsOption = None,
    smiles: SmilesOption = None,
    charges: ChargesOption = None,
    solvent: SolventOption = None,
    objective: ObjectiveOption = None,
    resume: ResumeOption = False,
    compile: CompileOption = True,
    device: DeviceOption = None,
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
        flags = {"preset": preset, "seed": seed, "minutes": minutes}
        several = kelvins(temperatures)
        chosen = run_settings(settings, change or (), **flags, temperatures=several, objective=objective, device=device)
        ligand = Ligand(system, smiles, name, forcefield, charges, solvent, kelvin(temperature))
        source = ranks.from_main(lambda: source_of(ligand, runs, positions, chosen.molecule))
        molecule = source.load()
        if dry_run:
            return _show_cost(molecule, chosen)
        _, folder, _ = _trained(molecule, source, chosen, name, runs, resume, compile, ranks)
        model = folder / "model.safetensors"
        typer.echo(f"The model is {model}; openmm-fab sample {source.system} --run {folder} draws from it.")


def _trained(
    molecule: MolecularSystem,
    source: Source,
    chosen: RunSettings,
    name: str | None,
    runs: Path,
    resume: bool,
    compile: bool,
    ranks: Ranks,
    early: Callable[[BoltzmannGenerator, Path], Callable[[TrainingMetrics], None]] | None = None,
    report_every: float | None = None,
    of: list[str] | None = None,
) -> tuple[BoltzmannGenerator, Path, Outcome | None]:
    """A trained generator, the folder with its settings, metrics, checkpoint and model, and where an error was asked
    for what came of it; the first rank writes.

    Parameters
    ----------
    early : callable, optional
        Generator and folder -> a function of metrics, called every `report_every` seconds as `train` says.
    of : list of str, optional
        Basins, see `BoltzmannGenerator.run`.
    """
    from ..generator.generator import BoltzmannGenerator
    from ..molecule.ligand_folder import file_name
    from ..tools.progress import Ticking, duration
    from ..tools.provenance import provenance
    from ..tools.quiet import logged_to
    from ..train.settings import Budget

    budget = Budget(minutes=chosen.minutes)
    folder = ranks.from_main(lambda: run_folder(runs, name or f"{file_name(molecule.name)}-{chosen.preset}", resume))
    with Ticking("set-up", ranks.is_main):
        generator = BoltzmannGenerator(molecule, chosen.settings, seed=chosen.seed, device=chosen.device)
    untrained = generator.digest
    if len(set(ranks.all_gather(untrained))) > 1:
        raise ValueError("Expected the same coordinates on all ranks; got different ones. Are versions the same?")
    about = {
        "system": molecule.name,
        "fingerprint": molecule.fingerprint,
        "physics": molecule.physics,
        "turning": generator.turning_in_words(),
        **chosen.to_dict(),
        "source": source.absolute(),
        "made_with": provenance(chosen.device),
    }
    again = {**chosen.to_dict(), MOLECULE: source.absolute()}
    ranks.from_main(lambda: write_run_settings(folder, about, again, resume))
    coordinates = generator.coordinates
    length = f"for {duration(60 * chosen.minutes)}"
    if chosen.error is not None:
        length = f"until errors are below {chosen.error:g} kT, {duration(60 * chosen.at_most)} in all at most"
    typer.echo(
        f"{molecule}: {coordinates.dim} internal coordinates, {int(coordinates.periodic.sum())} of them periodic\n"
        f"{energies_in_words(generator)}\n"
        + "".join(f"{line}\n" for line in filter(None, [generator.temperatures_in_words()]))
        + f"Training {length}; results go to {folder}"
    )
    log = logged_to(folder / "run.log") if ranks.is_main else nullcontext()
    with _stop_in_words(folder, ranks.is_main), log:
        outcome, report = None, None if early is None else early(generator, folder)
        about_it: dict[str, Any] = {
            "folder": folder,
            "resume": resume,
            "compile": compile,
            "objective": chosen.objective,
        }
        about_it |= {"report": report, "report_every": report_every}
        try:
            if chosen.error is None:
                generator.train(budget, **about_it)
            else:
                outcome = generator.run(error=chosen.error, of=of or None, at_most=chosen.at_most, **about_it)
        except KeyboardInterrupt:
            # Stopped before it trained: the model that may be there is the better one.
            if ranks.is_main and generator.digest != untrained:
                generator.save(folder / "model.safetensors")
            raise
    ranks.from_main(lambda: generator.save(folder / "model.safetensors"))
    return generator, folder, outcome


@contextmanager
def _stop_in_words(folder: Path, is_main: bool = True) -> Iterator[None]:
    """End Ctrl-C with what there is in a run's folder, and how it goes on."""
    from .results import last_page

    try:
        with last_page(folder) if is_main else nullcontext():
            yield
    except KeyboardInterrupt:
        if is_main:
            kept = (folder / "checkpoint.pt").exists()
            again = f"the same command with --name {folder.name} --resume goes on"
            advice = again if kept else "it is too early to resume: start anew"
            page = folder / "report.html"
            look = f" The last report is {page}." if page.exists() else ""
            typer.echo(f"\nStopped. Everything so far is in {folder}; {advice}.{look}", err=True)
        raise typer.Exit(STOPPED) from None


def _show_cost(molecule: MolecularSystem, chosen: RunSettings) -> None:
    from ..coordinates.internal import InternalCoordinates
    from ..generator.generator import BoltzmannGenerator
    from ..tools.progress import Ticking
    from ..train.settings import Budget
    from .probe import probe

    Budget(minutes=chosen.minutes)  # refuses what is no budget
    with Ticking("set-up"):
        generator = BoltzmannGenerator(molecule, chosen.settings, seed=chosen.seed, device=chosen.device)
    coordinates = generator.coordinates
    assert isinstance(coordinates, InternalCoordinates)
    typer.echo(f"{molecule}\n{energies_in_words(generator)}\n\n{coordinates.summary()}\n")
    typer.echo(f"Probing for about {PROBE_SECONDS:g} s ...")
    with Ticking("probing"):
        cost = probe(generator, PROBE_SECONDS, chosen.objective)
    typer.echo(cost.words(chosen.minutes, chosen.samples, generator))
    typer.echo("\n".join(filter(None, [generator.turning_in_words(), generator.temperatures_in_words()])))
