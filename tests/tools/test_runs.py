"""Settings of a run on disk: written once, and the same when it is resumed."""

from __future__ import annotations

import json

import pytest

from openmm_fab.tools.runs import keep_settings


def test_a_resumed_run_has_the_settings_it_was_started_with(tmp_path) -> None:
    path = tmp_path / "settings.json"
    first = {"seed": 1, "minutes": 2.0, "steps": 10, "pair": (1, 2)}

    def resume(advice: str = "", **changes: object) -> None:
        keep_settings(path, first | changes, True, advice, may_change=["minutes"], may_grow=["steps"])

    with pytest.raises(FileNotFoundError):
        resume()
    keep_settings(path, first, False, "")
    assert json.loads(path.read_text()) == {**first, "pair": [1, 2]}
    resume(minutes=1.0, steps=20)
    assert json.loads(path.read_text())["steps"] == 20
    with pytest.raises(ValueError, match=r"got another seed\. Do something\."):
        resume("Do something.", seed=2, steps=20)
    with pytest.raises(ValueError, match="got another new"):
        resume(new=1, steps=20)
    with pytest.raises(ValueError, match=r"steps = 20.* or more; got 15"):
        resume(steps=15)
    with pytest.raises(ValueError, match="without a run"):
        keep_settings(path, first, False, "")
    assert json.loads(path.read_text())["steps"] == 20
