"""The application of the command line, ``app``, made of the commands in the modules beside this."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from ..tools.quiet import quiet
from ..tools.version import VERSION
from . import about, analysis, checkup, dynamics, screen, structure, training

EXIT_CODES = (
    "Exit codes: 0, all went well. 1, it could not be done; the last line says why and what to do. 2, the command line "
    "is wrong. 130, stopped by Ctrl-C; what was done until then is kept."
)

app = typer.Typer(
    help="Boltzmann ensembles and free energies from an OpenMM energy alone.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # it would eat [train], and break examples
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"openmm_fab {VERSION}")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens, to standard error.")] = False,
    hush: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress bars.")] = False,
) -> None:
    """Boltzmann ensembles and free energies from an OpenMM energy alone.

    A SYSTEM is the name of a shipped molecule (openmm-fab systems), a folder with a system.toml, or a file: PDB or
    PDBx/mmCIF, SDF of one small molecule, or with --positions an Amber, CHARMM or GROMACS topology, or a System as XML.
    """
    context.with_resource(quiet("pymbar"))  # it greets with the lack of JAX
    if verbose:
        logging.basicConfig(format="openmm-fab: %(message)s")
        logging.getLogger("openmm_fab").setLevel(logging.DEBUG)
    if hush:
        from ..tools.progress import hide_bars

        hide_bars()
        context.call_on_close(lambda: hide_bars(False))


for command, line in (  # of at most 60 letters, else the list of commands cuts them short
    (training.run, "Train on a molecule's energy, sample, compare, report."),
    (training.train, "Train on a molecule's energy, and save the model."),
    (screen.screen, "Run a list of small molecules: one table, one page."),
    (structure.prepare, "List what a structure file lacks, and correct it."),
    (analysis.sample, "Draw structures with weights from a trained model."),
    (dynamics.reference, "Sample a molecule by molecular dynamics, to compare with."),
    (analysis.compare, "Compare a run's ensemble with a reference again."),
    (analysis.report, "Write a run's report.html again."),
    (analysis.systems, "List the molecules that come with the package."),
    (checkup.doctor, "Check versions, devices, threads, compiler, energies."),
    (about.cite, "Print what to cite, as BibTeX."),
):
    app.command(epilog=EXIT_CODES, short_help=line)(command)
