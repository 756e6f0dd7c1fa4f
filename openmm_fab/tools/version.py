"""The version of the package, as its `__init__` and pyproject.toml have it."""

from __future__ import annotations

VERSION = "0.1.0"
