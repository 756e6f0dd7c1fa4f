"""The command ``openmm-fab``: ``openmm-fab run alanine_dipeptide``. Each subcommand is a function in a module here."""

from __future__ import annotations

from .app import app

__all__ = [
    "app",
]
