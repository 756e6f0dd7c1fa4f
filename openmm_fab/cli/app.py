"""The application of the command line, ``app``, made of the commands in the modules beside this."""

from __future__ import annotations

import typer

from ..tools.quiet import quiet
from . import analysis, checkup, dynamics, screen, structure, training

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


@app.callback()
def main(context: typer.Context) -> None:
    """Boltzmann ensembles and free energies from an OpenMM energy alone.

    A SYSTEM is the name of a shipped molecule (openmm-fab systems), a folder with a system.toml, a PDB or PDBx/mmCIF
    file, or an SDF file of one small molecule.
    """
    context.with_resource(quiet("pymbar"))  # it greets with the lack of JAX


for command in (
    training.run,
    training.train,
    screen.screen,
    structure.prepare,
    analysis.sample,
    dynamics.reference,
    analysis.compare,
    analysis.report,
    analysis.systems,
    checkup.doctor,
):
    app.command(epilog=EXIT_CODES)(command)
