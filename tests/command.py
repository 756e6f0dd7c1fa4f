"""The command line as tests call it."""

from __future__ import annotations

from typer.testing import CliRunner

from openmm_fab.cli.commands import app


def _call(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])
