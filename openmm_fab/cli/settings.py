"""Settings of a run: a preset, changed by a TOML file, then by the command line."""

from __future__ import annotations

import types
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from ..generator.settings import GeneratorSettings


T = TypeVar("T")
WHOLE_RUN = {"preset": str, "minutes": float, "samples": int, "seed": int}
DEFAULT_PRESET, GPU_PRESET = "laptop", "gpu"


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run, all but its molecule.

    The one place where the length of a run is decided: `minutes`, `samples` and `seed` are those of the command's flag
    (--samples), else of --set, else of the TOML file, else of the preset (`Preset.samples`); the seed is 0 otherwise.
    """

    preset: str
    minutes: float
    samples: int
    seed: int
    settings: GeneratorSettings

    def to_dict(self) -> dict[str, Any]:
        whole = {key: getattr(self, key) for key in WHOLE_RUN}
        return {**whole, **self.settings.to_dict()}


def run_settings(file: Path | None, assignments: Sequence[str] = (), device: str = "cpu", **flags: Any) -> RunSettings:
    """Combine the settings of a preset, a TOML file, assignments, and flags that are not None, in this order.

    Parameters
    ----------
    assignments : sequence of str
        Values of --set, such as "train.batch=512".
    device : str
        Chooses the preset where none is named.
    **flags
        preset, minutes, samples and seed of the command line.

    Raises
    ------
    ValueError
        A file that is no TOML; keys that do not exist; values of another type or that a part refuses.
    """
    from ..generator.presets import PRESETS

    given = {} if file is None else read_toml(file)
    where = " and ".join([*([str(file)] if file else []), *(["--set"] if assignments else [])]) or "the settings"
    for key, value in parse_assignments(assignments, "train.batch=512").items():
        *tables, last = key.split(".")
        table = given
        for name in tables:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise ValueError(f"Expected a table of settings before the dot in {key!r}; {name!r} is a value.")
        table[last] = value
    given |= {key: value for key, value in flags.items() if value is not None}
    whole = {key: given.pop(key) for key in WHOLE_RUN if key in given}
    for key, value in whole.items():
        whole[key] = _checked(value, WHOLE_RUN[key], key, where)
    preset = whole.get("preset", GPU_PRESET if device.startswith("cuda") else DEFAULT_PRESET)
    if preset not in PRESETS:
        raise ValueError(f"Expected a preset out of {sorted(PRESETS)}; got {preset!r}.")
    chosen = PRESETS[preset]
    samples = whole.get("samples", chosen.samples)
    if samples < 1:
        raise ValueError(f"Expected samples >= 1; got {samples}.")
    return RunSettings(
        preset,
        whole.get("minutes", chosen.minutes),
        samples,
        whole.get("seed", 0),
        updated(chosen.settings, given, where, also=tuple(WHOLE_RUN)),
    )


def read_toml(path: Path) -> dict[str, Any]:
    """Read the tables of a TOML file; raises ValueError if it is missing or invalid."""
    from ..molecule.inputs import tomllib

    if not path.is_file():
        raise ValueError(f"Expected a TOML file of settings at {path}; there is none.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"Expected a TOML file of settings at {path}; {error}.") from error


def parse_assignments(assignments: Sequence[str], example: str) -> dict[str, Any]:
    """Parse assignments `key=value`, the value as in TOML; strings may omit their quotes."""
    from ..molecule.inputs import tomllib

    found: dict[str, Any] = {}
    for text in assignments:
        key, sign, value = (part.strip() for part in text.partition("="))
        if not sign or not key or not value:
            raise ValueError(f"Expected key=value, such as {example}; got {text!r}.")
        try:
            found[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = value
    return found


def updated(settings: T, given: dict[str, Any], where: str, table: str = "", also: Sequence[str] = ()) -> T:
    """Copy of a dataclass of settings with some values changed; nested tables change nested dataclasses.

    Parameters
    ----------
    where, table : str
        What errors call the file, and the table in it.
    also : names that the table may hold besides the dataclass's
    """
    assert is_dataclass(settings) and not isinstance(settings, type)
    known, hints, changes = [f.name for f in fields(settings)], get_type_hints(type(settings)), {}
    for key, value in given.items():
        if key not in known:
            place = f"[{table}] of {where}" if table else where
            raise ValueError(f"Expected keys out of {[*also, *known]} in {place}; got {key!r}.")
        path = f"{table}.{key}" if table else key
        old = getattr(settings, key)
        if is_dataclass(old):
            if not isinstance(value, dict):
                raise ValueError(f"Expected a table [{path}] in {where}; got {value!r}.")
            changes[key] = updated(old, value, where, path)
        else:
            changes[key] = _checked(value, hints[key], path, where)
    return replace(settings, **changes)


def checked(kind: type, given: dict[str, Any], where: str) -> dict[str, Any]:
    """Check the types of values for a dataclass of settings; unknown keys are left for it to refuse."""
    hints = get_type_hints(kind)
    return {key: _checked(value, hints[key], key, where) if key in hints else value for key, value in given.items()}


def _checked(value: Any, hint: Any, key: str, where: str) -> Any:
    if not _fits(value, hint):
        name = getattr(hint, "__name__", None) if get_origin(hint) is None else None
        raise ValueError(f"Expected {key} in {where} to be of type {name or hint}; got {value!r}.")
    # "1" is a fine number of minutes.
    return float(value) if type(value) is int and not _fits_exactly(value, hint) else value


def _fits(value: Any, hint: Any) -> bool:
    return _fits_exactly(value, hint) or (type(value) is int and _fits_exactly(float(value), hint))


def _fits_exactly(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits_exactly(value, part) for part in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if hint in (bool, int, float, str):
        return type(value) is hint
    if hint is type(None):
        return value is None
    if origin is dict:
        return isinstance(value, dict)
    return isinstance(value, (list, tuple))  # of sequences only the outermost
