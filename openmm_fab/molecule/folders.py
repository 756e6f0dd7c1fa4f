"""A molecule's folder: where it is, by its path or by the name of a shipped molecule, and its `system.toml`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from openmm import app

from ..tools.toml import tomllib
from .checks import some

KNOWN_KEYS = (
    *("name", "pdb", "sdf", "forcefield", "parameters", "residue_templates", "temperature", "constraints"),
    *("reference", "pretrained"),
)


KNOWN_REFERENCE_KEYS = ("trajectory", "weights")


KNOWN_PRETRAINED_KEYS = ("model",)


CONSTRAINTS = {"none": None, "HBonds": app.HBonds, "AllBonds": app.AllBonds}


def read_settings(path: Path) -> dict[str, Any]:
    """Read a `system.toml`; raises ValueError for unknown, missing and impossible entries."""
    try:
        settings: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8
        raise ValueError(f"{path}: expected a TOML file; {error}.") from error
    _refuse_unknown(path, settings, KNOWN_KEYS)
    if ("pdb" in settings) == ("sdf" in settings):
        got = "both" if "pdb" in settings else "it is missing"
        raise ValueError(f"{path}: expected the key pdb, or sdf (the structure's file name); {got}.")
    for key, value in settings.items():
        kind, fits = KINDS[key]
        if not fits(value):
            raise ValueError(f"{path}: expected {key} to be {kind}; got {value!r}.")
    for key, known in (("reference", KNOWN_REFERENCE_KEYS), ("pretrained", KNOWN_PRETRAINED_KEYS)):
        table = settings.get(key, {})
        _refuse_unknown(path, table, known, f" in [{key}]")
        for name, value in table.items():
            if not isinstance(value, str):
                raise ValueError(f"{path}: expected {name} in [{key}] to be a file name; got {value!r}.")
    if settings.get("constraints", "none") not in CONSTRAINTS:
        raise ValueError(
            f"{path}: expected constraints to be one of {list(CONSTRAINTS)}; got {settings['constraints']!r}."
        )
    if "forcefield" not in settings:
        raise ValueError(f"{path}: expected the key forcefield (OpenMM's force-field files); it is missing.")
    return settings


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


def _is_temperature(value: object) -> bool:
    return type(value) in (int, float) and 0.0 < value < math.inf  # type: ignore[operator]


KINDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    **dict.fromkeys(("name", "pdb", "sdf", "parameters", "constraints"), ("text", _is_text)),
    "forcefield": (
        "a file name, or a list of them",
        lambda value: _is_text(value) or (isinstance(value, list) and bool(value) and all(map(_is_text, value))),
    ),
    "temperature": ("a positive, finite number of K", _is_temperature),
    "residue_templates": (
        "a table of residues and templates",
        lambda value: isinstance(value, dict) and all(map(_is_text, value.values())),
    ),
    **dict.fromkeys(("reference", "pretrained"), ("a table", lambda value: isinstance(value, dict))),
}


def _refuse_unknown(path: Path, table: Iterable[str], known: Sequence[str], where: str = "") -> None:
    unknown = [key for key in table if key not in known]
    if unknown:
        raise ValueError(f"{path}: unknown {some(unknown)}{where}; the known keys are {', '.join(known)}.")


def available_systems() -> list[str]:
    """Names of the shipped molecules, for `MolecularSystem.load`."""
    return sorted({path.parent.name for root in _shipped_folders() for path in root.glob("*/system.toml")})


def _shipped_folders() -> list[Path]:
    # In a wheel they lie inside the package, in a checkout beside it.
    package = Path(__file__).resolve().parents[1]
    return [root for root in (package / "systems", package.parent / "systems") if root.is_dir()]


def find_folder(folder_or_name: str | Path) -> Path:
    """The folder with a system.toml, of a path or of a shipped molecule's name."""
    given = Path(folder_or_name)
    given = given.parent if given.name == "system.toml" else given
    for folder in (given, *(root / folder_or_name for root in _shipped_folders())):
        if (folder / "system.toml").is_file():
            return folder.resolve()
    raise FileNotFoundError(
        f"Expected a folder with a system.toml, or one of {available_systems()}; got {str(folder_or_name)!r}."
    )
