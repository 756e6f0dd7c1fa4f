"""Command line: ``openmm-fab run alanine_dipeptide``. Each command is a function in one of the modules here."""

from __future__ import annotations

from .app import app

__all__ = [
    "app",
]
