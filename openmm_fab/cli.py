"""Command line: ``openmm-fab run systems/alanine_dipeptide``."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from .ensemble import Ensemble
    from .system import MolecularSystem

app = typer.Typer(
    help="Boltzmann ensembles and free energies from an OpenMM energy alone.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def main() -> None:
    """Boltzmann ensembles and free energies from an OpenMM energy alone."""
    logging.getLogger("pymbar").setLevel(logging.ERROR)  # it greets with the lack of JAX


@app.command()
def run(
    system: Annotated[str, typer.Argument(help="Folder with a system.toml, or the name of a shipped system.")],
    preset: Annotated[str, typer.Option(help="smoke (2 minutes) or laptop (20 minutes).")] = "laptop",
    name: Annotated[str | None, typer.Option(help="Name of the run; by default system-preset.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder that runs are kept in.")] = Path("runs"),
    seed: Annotated[int, typer.Option(help="Of all random numbers.")] = 0,
    minutes: Annotated[float | None, typer.Option(help="Training time, instead of the preset's.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Samples drawn, instead of the preset's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where this run stopped.")] = False,
    compile: Annotated[bool, typer.Option(help="Fuse the flow with torch.compile.")] = True,
) -> None:
    """Train on a molecule's energy, sample it, and compare with its reference.

    Example: openmm-fab run systems/alanine_dipeptide --preset smoke
    """
    from .generator import BoltzmannGenerator
    from .presets import PRESETS
    from .system import MolecularSystem
    from .train import Budget, TrainingError
    from .weights import diagnosis

    started = time.perf_counter()
    try:
        if preset not in PRESETS:
            raise ValueError(f"Expected a preset out of {sorted(PRESETS)}; got {preset!r}.")
        chosen = PRESETS[preset]
        budget = Budget(minutes=chosen.minutes if minutes is None else minutes)
        molecule = MolecularSystem.load(system)
        folder = _run_folder(runs, name or f"{molecule.name}-{preset}", resume)
        generator = BoltzmannGenerator(molecule, chosen.settings, seed)
        settings = {
            "system": molecule.name,
            "fingerprint": molecule.fingerprint,
            "preset": preset,
            "seed": seed,
            "minutes": budget.minutes,
            "samples": samples or chosen.samples,
            **asdict(chosen.settings),
        }
        _write_settings(folder / "settings.json", settings, resume)
        coordinates = generator.coordinates
        typer.echo(
            f"{molecule}: {coordinates.dim} internal coordinates, {coordinates.n_periodic} of them periodic; "
            f"{generator.energy}\nTraining for {budget.minutes:g} minutes; results go to {folder}"
        )
        try:
            generator.train(budget, folder=folder, resume=resume, compile=compile)
        except KeyboardInterrupt:
            generator.save(folder / "model.safetensors")
            kept = (folder / "checkpoint.pt").exists()
            advice = "the same command with --resume goes on" if kept else "it is too early to resume: start anew"
            typer.echo(f"\nStopped. Everything so far is in {folder}; {advice}.", err=True)
            raise typer.Exit(130) from None
        generator.save(folder / "model.safetensors")
        ensemble = generator.sample(samples or chosen.samples, name="FAB", progress=True)
        ensemble.save(folder / "ensemble.npz")
        outside, outside_weight = generator.outside_range(ensemble)
        report = [
            repr(ensemble),
            f"{diagnosis(ensemble.log_w)}",
            f"Beyond the splines' range: {100 * outside:.2f} % of samples, {100 * outside_weight:.2f} % of weight",
        ]
        report += _compare(molecule, ensemble, folder)
        _write(folder / "report.txt", "\n".join(report) + "\n")
        _plot_learning(folder)
    except (ValueError, OSError, TrainingError) as error:
        typer.echo(f"openmm-fab: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo("\n".join(report))
    typer.echo(f"{(time.perf_counter() - started) / 60:.1f} minutes in all; everything is in {folder}")


@app.command()
def compare(
    system: Annotated[str, typer.Argument(help="Folder with a system.toml, or the name of a shipped system.")],
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
) -> None:
    """Compare a run's ensemble with the system's reference once more, after either has changed.

    Example: openmm-fab compare systems/alanine_dipeptide runs/alanine_dipeptide-laptop
    """
    from .ensemble import Ensemble
    from .system import MolecularSystem

    try:
        report = _compare(MolecularSystem.load(system), Ensemble.load(run / "ensemble.npz"), run)
    except (ValueError, OSError) as error:
        typer.echo(f"openmm-fab: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo("\n".join(report) or f"{system} has no reference: see [reference] in the system.toml of other systems.")


@app.command()
def systems() -> None:
    """List the systems that come with the package."""
    from .system import available_systems

    typer.echo("\n".join(available_systems()))


def _compare(molecule: MolecularSystem, ensemble: Ensemble, folder: Path) -> list[str]:
    """Compare with the reference where there is one; leaves comparison.json and comparison.png."""
    from .compare import compare
    from .md import load_reference

    reference = load_reference(molecule)
    if reference is None:
        return []
    comparison = compare(ensemble, reference)
    _write(folder / "comparison.json", json.dumps(comparison.to_dict(), indent=2))
    comparison.plot(folder / "comparison.png")
    return [comparison.table()]


def _run_folder(runs: Path, name: str, resume: bool) -> Path:
    """The run's folder; without --resume a run never writes over an earlier one."""
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"Expected a run's name to be one folder name; got {name!r}.")
    folder = runs / name
    if resume and not (folder / "checkpoint.pt").exists():
        raise ValueError(f"Expected a checkpoint to resume from in {folder}; there is none. Leave out --resume.")
    if not resume:
        count = 1
        while folder.exists():
            count += 1
            folder = runs / f"{name}-{count}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_settings(path: Path, settings: dict[str, Any], resume: bool) -> None:
    """Only how long a run trains and how much it draws may change when it is resumed."""
    text = json.dumps(settings, indent=2)
    if resume:
        old, new = json.loads(path.read_text(encoding="utf-8")), json.loads(text)
        changed = [k for k in new if k not in ("minutes", "samples") and old.get(k) != new[k]]
        if changed:
            raise ValueError(
                f"Expected to resume with the settings in {path}; got another {', '.join(changed)}. "
                "Use the same system and options, or leave out --resume."
            )
    _write(path, text)


def _plot_learning(folder: Path) -> None:
    from .plots import learning_curve

    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    learning_curve([json.loads(line) for line in lines]).savefig(folder / "learning.png", dpi=150)


def _write(path: Path, text: str) -> None:
    from .files import write_atomically

    write_atomically(path, lambda file: file.write(text), "w")


if __name__ == "__main__":
    app()
