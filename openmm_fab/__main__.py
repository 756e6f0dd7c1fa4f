from __future__ import annotations

from .cli.commands import app

app()
