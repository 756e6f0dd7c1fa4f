"""Names of a package whose modules are loaded when they are used."""

from __future__ import annotations

import importlib
import sys

import pytest

INIT = """
from openmm_fab.tools.lazy import load_when_used
__all__ = ["area", "Square", "SIDES"]
__getattr__, __dir__ = load_when_used(__name__, {"shapes": "Square SIDES", "land.areas": "area"})
"""
FILES = {
    "__init__.py": INIT,
    "shapes.py": "SIDES = 4\nclass Square: pass\nhidden = 1",
    "broken.py": "import no_such_module",
    "land/__init__.py": "from .areas import area",
    "land/areas.py": "def area(): return 1",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A fresh package with two lazy modules."""
    for path, text in FILES.items():
        (tmp_path / "house" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "house" / path).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("house")
    for name in [name for name in sys.modules if name.split(".")[0] == "house"]:
        del sys.modules[name]


def test_a_name_loads_its_module_and_no_other(package) -> None:
    assert "house.shapes" not in sys.modules
    assert package.SIDES == 4 and package.Square is sys.modules["house.shapes"].Square
    assert "SIDES" in vars(package) and "house.land" not in sys.modules


def test_submodules_are_attributes(package) -> None:
    assert package.shapes.hidden == 1
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        _ = package.broken


@pytest.mark.parametrize("name", ["nothing", "_private", "__wrapped__", "shapes.hidden", "hidden"])
def test_what_is_not_there_is_an_attribute_error(package, name) -> None:
    with pytest.raises(AttributeError, match=f"module 'house' has no attribute '{name}'"):
        getattr(package, name)


def test_dir_shows_the_public_names(package) -> None:
    _ = package.shapes
    assert [name for name in dir(package) if not name.startswith("__")] == ["SIDES", "Square", "area"]


@pytest.mark.parametrize("first", ["house.land.areas", "house.land", None])
def test_a_name_is_the_same_whatever_was_imported_first(package, first) -> None:
    if first:
        importlib.import_module(first)
    from house import area
    from house.land import area as inside

    assert area is inside is package.area and area() == 1


def test_other_attributes_can_be_set(package, monkeypatch) -> None:
    monkeypatch.setattr(package, "area", max)
    assert package.area is max
    package.more = sys
    assert package.more is sys
