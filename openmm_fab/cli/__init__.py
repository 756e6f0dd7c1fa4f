"""The command ``openmm-fab``: each subcommand is a function in a module of this package."""

from __future__ import annotations

from .commands import app

__all__ = [
    "app",
]
