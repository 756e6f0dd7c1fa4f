from __future__ import annotations

from .cli.app import app

app()
