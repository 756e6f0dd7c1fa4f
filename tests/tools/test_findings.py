"""Findings of checks: their lines, and the worst of several."""

from __future__ import annotations

from openmm_fab.tools.findings import BAD, CARE, GOOD, Finding, worst


def test_lines() -> None:
    assert str(Finding(GOOD, "torch: 2.8")) == "ok   torch: 2.8"
    assert str(Finding(BAD, "energy: off", "Report this.")) == "BAD  energy: off\n       -> Report this."


def test_the_worst_grade() -> None:
    assert worst([]) == worst([GOOD]) == GOOD
    assert worst(iter([GOOD, CARE, GOOD])) == CARE
    assert worst([CARE, BAD, GOOD]) == BAD
