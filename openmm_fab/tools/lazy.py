"""Names of a package whose modules are loaded when the name is first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def load_when_used(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__` (PEP 562), for its `__init__` to take.

    Submodules are found as attributes, too, before anybody has imported them. None may be called as one of the names:
    Python would put it in its place once it is imported.

    Parameters
    ----------
    package : str
        Its `__name__`.
    homes : mapping of str to str
        Modules, relative to the package, and the names that are taken from each, with spaces between them.
    """
    home_of = {name: f"{package}.{module}" for module, names in homes.items() for name in names.split()}

    module = sys.modules[package]

    def load(name: str) -> Any:
        if name in home_of:
            value = getattr(import_module(home_of[name]), name)
            setattr(module, name, value)
            return value
        if name.isidentifier() and not name.startswith("_") and find_spec(f"{package}.{name}") is not None:
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=module)

    def shown() -> list[str]:
        return sorted({*module.__all__, *(name for name in vars(module) if name.startswith("__"))})

    return load, shown
