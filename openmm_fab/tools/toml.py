"""TOML: the standard library's reader, where Python has one, and a writer of nested dictionaries."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["to_toml", "tomllib"]


def to_toml(values: Mapping[str, Any], name: str = "") -> str:
    """Values, then tables, each under its dotted name; keys of None are left out.

    Parameters
    ----------
    values : mapping
        Of texts, finite numbers, truth values, lists of these, and mappings.
    name : str
        Of the table that they stand in.
    """
    plain = {key: value for key, value in values.items() if value is not None and not isinstance(value, Mapping)}
    lines = [f"[{name}]"] if name and plain else []
    # What JSON writes of these, TOML reads.
    lines += [f"{_key(key)} = {json.dumps(value, ensure_ascii=False)}" for key, value in plain.items()]
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    parts = [
        "\n".join(lines),
        *(to_toml(table, f"{name}.{_key(key)}" if name else _key(key)) for key, table in tables.items()),
    ]
    return "\n\n".join(part for part in parts if part)


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else json.dumps(key, ensure_ascii=False)
