"""Every exception that the package defines has one base, and a built-in one beside it."""

from __future__ import annotations

import ast
import builtins
import importlib
from pathlib import Path

import pytest

import openmm_fab
from openmm_fab.tools.errors import OpenMMFabError

ROOT = Path(openmm_fab.__file__).parent


def _is_exception(name: str, classes: dict[str, ast.ClassDef]) -> bool:
    found = getattr(builtins, name, None)
    if isinstance(found, type):
        return issubclass(found, BaseException)
    bases = [ast.unparse(base) for base in classes[name].bases] if name in classes else []
    return any(_is_exception(base, classes) for base in bases)


def _defined() -> list[tuple[str, str]]:
    """(module, name) of the exceptions in the package, found in its text: some modules need optional packages."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}
    nodes = {path: [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)] for path, tree in trees.items()}
    classes = {node.name: node for found in nodes.values() for node in found}
    return [
        (".".join([openmm_fab.__name__, *path.relative_to(ROOT).with_suffix("").parts]), node.name)
        for path, found in nodes.items()
        for node in found
        if _is_exception(node.name, classes)
    ]


@pytest.mark.parametrize(("module", "name"), _defined())
def test_exceptions_have_one_base_and_a_built_in_one(module, name):
    error = getattr(importlib.import_module(module), name)
    assert issubclass(error, OpenMMFabError)
    assert error is OpenMMFabError or any(base.__module__ == "builtins" for base in error.__bases__)


def test_all_are_looked_at():
    names = {name for _, name in _defined()}
    assert {"UnsupportedSystemError", "TrainingError", "NotWrittenError", "UntranslatedForceError"} <= names
