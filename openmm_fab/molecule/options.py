"""Options of OpenMM's `createSystem`, and those that the call at hand does not have or does not use."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from openmm import app

from ..tools.errors import OpenMMFabError


class OptionError(OpenMMFabError, ValueError):
    """Unknown or unused options of createSystem: the call is wrong, not the file."""


UNUSED_OPTION = re.compile(r"The argument '(\w+)' was specified to createSystem\(\) but was never used")


PERIODIC = "Requested periodic boundary conditions"


OPTION_HINTS = {
    "gbsaModel": "its name is sasaMethod today",
    **dict.fromkeys(
        ("implicitSolventSaltConc", "temperature"),
        "salt is implicitSolventKappa here, in 1/nm; from_amber and from_charmm take a concentration",
    ),
    **dict.fromkeys(
        ("implicitSolvent", "gbModel"), "the implicit solvent is a force-field file here, such as implicit/gbn2.xml"
    ),
    "flexibleConstraints": "it is used with constraints only: give constraints=app.HBonds, or leave it out",
    **dict.fromkeys(
        ("sasaMethod", "implicitSolventKappa", "soluteDielectric", "solventDielectric"),
        "it is of an implicit solvent: name its file too, such as implicit/gbn2.xml",
    ),
}


def unused_option(name: str, files: Sequence[str]) -> str:
    hint = OPTION_HINTS.get(name, "mind the spelling, or leave it out")
    return f"Expected options of createSystem that {', '.join(files)} uses; got {name}, which nothing uses: {hint}."


def check_options(create: Callable[..., Any], options: dict[str, Any]) -> None:
    """Refuse options that a createSystem with named parameters does not have."""
    known = inspect.signature(create).parameters
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}."
            raise OptionError(f"Expected options of {create.__qualname__}; got {name}, which it does not have: {hint}")


def with_defaults(options: dict[str, Any]) -> dict[str, Any]:
    return {"nonbondedMethod": app.NoCutoff, "removeCMMotion": False, "rigidWater": False, **options}
