"""What a process is busy with, and how long it was."""

from __future__ import annotations

import pytest

from openmm_fab.tools import activity
from openmm_fab.tools.activity import current, doing


def test_the_innermost_is_current_and_times_do_not_overlap(monkeypatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 7.0, 10.0, 12.0])
    monkeypatch.setattr(activity.time, "monotonic", lambda: next(clock))
    times: dict[str, float] = {"code": 0.5}
    with doing("making coordinates", "coordinates", times):
        with doing("compiling C", "code"):
            assert current() == "compiling C"
        assert current() == "making coordinates"
    assert times == {"code": 0.5 + 2.0, "coordinates": 7.0 - 2.0} and current() == ""
    with doing("training"):  # nobody measures
        pass
    assert times == {"code": 2.5, "coordinates": 5.0}


def test_an_error_ends_it() -> None:
    times: dict[str, float] = {}
    with pytest.raises(KeyboardInterrupt), doing("training", times=times):
        raise KeyboardInterrupt
    assert current() == "" and times["training"] >= 0
