"""Check of a replica-exchange file of openmmtools before openmmtools reads it, which would run code in it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..molecule.safe_xml import check_serialized
from ..tools.files import SMALL

# What a storage of `md.replicas` names to be made anew; openmmtools imports and makes whatever is named.
CLASSES = {("openmmtools.states", "ThermodynamicState"), ("openmmtools.mcmc", "LangevinDynamicsMove")}
# Tags that openmmtools writes besides YAML's own; PyYAML would call whatever others name.
TAGS = ("!Quantity", "!ndarray", "tag:yaml.org,2002:python/tuple")
NUMPY = ("dtype", "core.multiarray.scalar", "_core.multiarray.scalar")


def check_storage(path: Path) -> None:
    """Refuse a storage with anything but numbers, text and the System, or with a System that would run code.

    Raises
    ------
    ValueError
        Objects that `md.replicas` does not write; a System that `check_serialized` refuses; no NetCDF file.
    """
    import netCDF4  # openmmtools needs it, too

    try:
        with netCDF4.Dataset(str(path)) as file:
            for name, text in _texts(file):
                _check(text, f"{name} of {path}")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Expected a replica exchange by openmmtools in {path}; {error}. Start again in another folder."
        ) from error


def _texts(group: Any, above: str = "") -> Iterator[tuple[str, str]]:
    """Names and texts of all variables of text, at any depth."""
    for name, variable in group.variables.items():
        if variable.dtype == np.dtype("S1"):
            yield above + name, variable[:].tobytes().decode()
        elif variable.dtype is str:
            yield from ((above + name, str(text)) for text in np.atleast_1d(variable[:]))
    for name, inner in group.groups.items():
        yield from _texts(inner, f"{above}{name}/")


def _check(text: str, where: str) -> None:
    import yaml

    class Loader(yaml.SafeLoader):
        """Plain values in place of the objects that a storage of ours may hold."""

    for tag in TAGS:
        Loader.add_constructor(tag, _plain)
    for name in NUMPY:
        Loader.add_constructor(f"tag:yaml.org,2002:python/object/apply:numpy.{name}", _plain)
    try:
        found = Loader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(
            f"Expected numbers, text and units in {where}, as openmm_fab has openmmtools write them; got something "
            f"that openmmtools may run ({error}). Read it in a script of your own, if you trust it."
        ) from error
    _check_values(found, where)


def _plain(loader: Any, node: Any) -> Any:
    import yaml

    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return loader.construct_sequence(node, deep=True)


def _check_values(value: Any, where: str) -> None:
    if isinstance(value, list | tuple):
        for one in value:
            _check_values(one, where)
    if not isinstance(value, dict):
        return
    named = value.get("_serialized__module_name"), value.get("_serialized__class_name")
    if named != (None, None) and named not in CLASSES:
        raise ValueError(
            f"Expected states and moves of openmmtools in {where}; got {named[0]}.{named[1]}. Read it in a script of "
            "your own, if you trust it."
        )
    for key, one in value.items():
        if key == "standard_system" and one is not None:
            check_serialized(_unpacked(one, where), f"standard_system in {where}")
        _check_values(one, where)


def _unpacked(system: Any, where: str) -> str:
    if isinstance(system, str):
        return system
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(system, SMALL)
        if not unpacking.eof:
            raise ValueError(f"more than {SMALL} bytes, or cut off")
        return text.decode()
    except (TypeError, zlib.error, ValueError) as error:
        raise ValueError(f"Expected a packed System as standard_system in {where}; {error}.") from error
