"""Warnings that name the user's line, however deep in this package their cause is found."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

_OURS = f"{Path(__file__).parents[1]}{os.sep}"
_TORCH = find_spec("torch")
# What may stand between a user's line and ours: PyTorch's decorators and modules, context managers, cached properties.
_BETWEEN = (
    *((f"{Path(_TORCH.origin).parent}{os.sep}",) if _TORCH is not None and _TORCH.origin else ()),
    contextlib.__file__,
    functools.__file__,
)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, with the line that called this package as the place.

    `warnings.warn` would need the number of calls from there to here, which decorators and progress bars change.
    """
    frame: FrameType | None = sys._getframe(1)
    assert frame is not None
    inside = frame
    while frame is not None:
        inside = frame if frame.f_code.co_filename.startswith(_OURS) else inside
        frame = frame.f_back
    frame = inside.f_back
    while frame is not None and frame.f_code.co_filename.startswith(_BETWEEN):
        frame = frame.f_back
    frame = frame or inside
    names = frame.f_globals
    registry = names.setdefault("__warningregistry__", {})
    where = frame.f_code.co_filename, frame.f_lineno, names.get("__name__")
    warnings.warn_explicit(message, category, *where, registry)
