"""The settings file beside a run's results, which a resumed run has to match."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from .files import load_json, write_atomically

WHAT = "the settings of a run"


def keep_settings(
    path: Path,
    settings: Mapping[str, Any],
    resume: bool,
    advice: str,
    may_change: Collection[str] = (),
    may_grow: Collection[str] = (),
) -> None:
    """Write a run's settings as JSON or, when a run is resumed, check that they match those it was started with.

    Parameters
    ----------
    settings : dict of what json can write
    resume : bool
        The file is there, and the run in its folder goes on.
    advice : str
        Ends the message where settings differ.
    may_change, may_grow : collection of str
        Settings that may be others, or larger numbers, in a resumed run.

    Raises
    ------
    ValueError
        Settings differ; or the file is there and `resume` is False.
    FileNotFoundError, DamagedFileError
        There is nothing to resume, or it cannot be read.
    """
    text = json.dumps(settings, indent=2)
    if resume:
        old, new = load_json(path, WHAT), json.loads(text)
        free = {*may_change, *may_grow}
        changed = [k for k in {**old, **new} if k not in free and old.get(k) != new.get(k)]
        if changed:
            raise ValueError(
                f"Expected to resume with the settings in {path}; got another {', '.join(changed)}. {advice}"
            )
        shorter = [k for k in may_grow if new[k] < old[k]]
        if shorter:
            raise ValueError(
                f"Expected to resume with {shorter[0]} = {old[shorter[0]]:g}, as {path} has it, or more; got "
                f"{new[shorter[0]]:g}. A run that is to be shorter needs another folder."
            )
    elif path.exists():
        raise ValueError(f"Expected a folder without a run; got {path.parent}. Pass resume=True, or another folder.")
    write_atomically(path, lambda file: file.write(text), "w")
