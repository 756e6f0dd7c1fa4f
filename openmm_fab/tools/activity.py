"""Names what this process is busy with, for progress bars, and measures how long each activity takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(eq=False)
class _Activity:
    what: str
    name: str
    times: dict[str, float] | None
    started: float
    inside: float = 0.0  # s, of the activities in it


_running: list[_Activity] = []


@contextmanager
def doing(what: str, name: str = "", times: dict[str, float] | None = None) -> Iterator[None]:
    """Context manager: `current` returns `what` inside it, unless a nested activity has begun.

    Parameters
    ----------
    what : str
        Such as "compiling C, a few seconds".
    name : str
        What its time is called, where that is measured; by default `what`.
    times : dict of str to float, optional
        Gets the seconds that this and the activities inside took, by name, each without those inside of it.
    """
    activity = _Activity(what, name or what, times, time.monotonic())
    _running.append(activity)
    try:
        yield
    finally:
        seconds = time.monotonic() - activity.started
        for one in _running:
            if one.times is not None:
                one.times[activity.name] = one.times.get(activity.name, 0.0) + seconds - activity.inside
        _running.remove(activity)
        if _running:
            _running[-1].inside += seconds


def current() -> str:
    """Description of the innermost activity that is running; "" if there is none."""
    running = _running[-1:]  # another thread may ask
    return running[0].what if running else ""
