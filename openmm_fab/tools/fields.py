"""Fields of frozen dataclasses of settings: their types and numbers checked, and set from nested dictionaries."""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class Fields:
    """Base of a dataclass of settings: a keyword that it does not have is refused with the nearest that it has."""

    def __new__(cls, *values: Any, **named: Any) -> Any:
        known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        for name in named.keys() - set(known):
            raise TypeError(f"Expected keywords of {cls.__name__} out of {known}; got {name!r}.{nearest(name, known)}")
        return super().__new__(cls)


def nearest(key: str, known: Sequence[str]) -> str:
    """ " Did you mean ...?", or nothing where no name is like it."""
    near = difflib.get_close_matches(key, known, 1)
    return f" Did you mean {near[0]}?" if near else ""


def check_fields(
    settings: Any,
    *,
    positive: Sequence[str] = (),
    at_least: Mapping[str, float] | None = None,
    shares: Sequence[str] = (),
) -> None:
    """Bring the fields of a frozen dataclass to their declared types, and refuse what no run can use.

    Whole numbers become floats where floats are declared, NumPy's numbers Python's. A dictionary stands for changes of
    a nested dataclass's defaults.

    Parameters
    ----------
    positive, shares : sequence of str
        Fields that have to be above 0, or between 0 and 1.
    at_least : mapping of str to number
        Fields and the least that they may be.

    Raises
    ------
    ValueError
        A value of another type, a number that is not finite or out of its range, a key that a nested one does not have.
    """
    defaults = {f.name: f for f in fields(settings)}
    kind: Any = type(settings)
    for name, hint in _hints(kind).items():
        value = getattr(settings, name)
        if isinstance(value, Mapping) and is_dataclass(hint):
            default = defaults[name]
            factory: Any = default.default_factory
            value = updated(factory() if callable(factory) else default.default, value, type(settings).__name__, name)
        object.__setattr__(settings, name, checked_value(value, hint, name, type(settings).__name__))
    limits = {**dict.fromkeys((*positive, *shares), 0.0), **(at_least or {})}
    for name, least in limits.items():
        value = getattr(settings, name)
        if value is None:
            continue
        if name in positive and not value > 0.0:
            raise ValueError(f"Expected {name} > 0; got {value}.")
        if name in shares and not 0.0 <= value <= 1.0:
            raise ValueError(f"Expected 0 <= {name} <= 1; got {value}.")
        if not value >= least:
            raise ValueError(f"Expected {name} >= {least:g}; got {value}.")


def updated(settings: T, given: Mapping[str, Any], where: str, table: str = "", also: Sequence[str] = ()) -> T:
    """A dataclass of settings with some values changed, those of nested dataclasses by nested tables.

    Parameters
    ----------
    where, table : str
        What errors call the file, and the table in it.
    also : names that the table may hold besides the dataclass's

    Raises
    ------
    ValueError
        Keys that do not exist; values of another type, or that the dataclass refuses.
    """
    assert is_dataclass(settings) and not isinstance(settings, type)
    known, hints, changes = [f.name for f in fields(settings)], _hints(type(settings)), {}
    for key, value in given.items():
        if key not in known:
            place = f"[{table}] of {where}" if table else where
            raise ValueError(f"Expected keys out of {[*also, *known]} in {place}; got {key!r}.{nearest(key, known)}")
        path = f"{table}.{key}" if table else key
        old = getattr(settings, key)
        if is_dataclass(old):
            if not isinstance(value, Mapping):
                raise ValueError(f"Expected a table [{path}] in {where}; got {value!r}.")
            changes[key] = updated(old, value, where, path)
        else:
            changes[key] = checked_value(value, hints[key], path, where)
    return replace(settings, **changes)


def checked(kind: type, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check the types of values for a dataclass of settings; unknown keys are left for it to refuse."""
    hints = _hints(kind)
    return {key: checked_value(v, hints[key], key, where) if key in hints else v for key, v in given.items()}


def checked_value(value: Any, hint: Any, key: str, where: str) -> Any:
    """Convert a value to the type `hint`, floats finite; the ValueError for any other names key and place."""
    if type(value).__module__ == "numpy" and value.shape == ():
        value = value.item()
    if not _fits(value, hint):
        if get_origin(hint) is Literal:
            raise ValueError(f"Expected {key} in {where} to be one of {get_args(hint)}; got {value!r}.")
        name = getattr(hint, "__name__", None) if get_origin(hint) is None else None
        raise ValueError(f"Expected {key} in {where} to be of type {name or hint}; got {value!r}.")
    if type(value) is float and not math.isfinite(value):
        raise ValueError(f"Expected {key} in {where} to be a finite number; got {value}.")
    # "1" is a fine number of minutes.
    return float(value) if type(value) is int and not _fits_exactly(value, hint) else value


def whole_number(value: Any, name: str, least: int = 1) -> int:
    """Convert an argument to int, 1e3 to 1000.

    Raises
    ------
    ValueError
        Text, a fraction, or less than `least`.
    """
    number = value.item() if type(value).__module__ == "numpy" and value.shape == () else value
    if isinstance(number, bool) or not isinstance(number, int | float) or number % 1 != 0:
        raise ValueError(f"Expected {name} to be a whole number; got {value!r}.")
    if number < least:
        raise ValueError(f"Expected {name} >= {least}; got {value}.")
    return int(number)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    """Declared types of a dataclass's fields, class variables left out."""
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}


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
    if is_dataclass(hint):
        return isinstance(value, hint)  # type: ignore[arg-type]
    if origin is dict:
        return isinstance(value, dict)
    return isinstance(value, (list, tuple))  # of sequences only the outermost
