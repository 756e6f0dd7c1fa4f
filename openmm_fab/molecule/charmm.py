"""Checks of CHARMM parameter files for options that change the energy and that OpenMM ignores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .checks import UnsupportedSystemError


def check_nonbonded(files: Sequence[str]) -> None:
    """Refuse files whose NONBONDED line sets a dielectric constant, a distance-dependent dielectric or geometric mean
    radii.

    Raises
    ------
    UnsupportedSystemError
    """
    problems = []
    for file in files:
        text = re.sub(r"!.*", "", Path(file).read_text(encoding="utf-8", errors="replace")).upper()
        for options in re.findall(r"(?m)^[ \t]*(?:NONB|NBON)\w*((?:[^\n]*-[ \t]*\n)*[^\n]*)", text):
            epsilon = re.search(r"\bEPS\s+([\d.]+)", options)
            unread = ["EPS " + epsilon[1]] if epsilon and float(epsilon[1]) != 1.0 else []
            unread += re.findall(r"\b(?:RDIE|GEOM)\w*", options)
            if unread:
                problems.append(
                    f"Expected NONBONDED with CDIE, EPS 1.0 and VDWE in {file}; got {', '.join(unread)}, which OpenMM "
                    "passes over: the energy would be another. Use parameters made for a dielectric constant of 1."
                )
    if problems:
        raise UnsupportedSystemError(problems)
