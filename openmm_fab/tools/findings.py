"""Result of a check: a grade, what was found, and the reason or a remedy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

GOOD, CARE, BAD = "good", "care", "bad"
WORDS = {GOOD: "ok  ", CARE: "note", BAD: "BAD "}


@dataclass(frozen=True)
class Finding:
    """Result of one check; its string is one line for a terminal.

    Parameters
    ----------
    grade : "good", "care" or "bad"
    head : str
        What was looked at, with the figure or the verdict.
    because : str
        The reason, or what to do about it.
    """

    grade: str
    head: str
    because: str = ""

    def __str__(self) -> str:
        line = f"{WORDS[self.grade]} {self.head}"
        return f"{line}\n       -> {self.because}" if self.because else line


def worst(grades: Iterable[str]) -> str:
    """Worst of several grades; "good" if there are none."""
    found = set(grades)
    return next((grade for grade in (BAD, CARE) if grade in found), GOOD)
