"""What an audit of an ensemble found: minima that walkers reached, and whether the ensemble has weight in them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..tools.findings import BAD, CARE, GOOD, Finding
from ..tools.tables import table
from ..weights import FEW, rule_of_three

TITLE = "An audit: states that walkers on the energy reach"
COVERED, RARE, EXCLUDED, MISSING = VERDICTS = ("covered", "rare", "excluded", "missing")
COLUMNS = ("verdict", "state", "u / kT", "due / %", "here / %", "barrier / kT")
SHOWN = 20  # rows
MUCH = 0.01  # of the weight, due on the other side of what is kept, that is worth a warning


@dataclass(frozen=True)
class State:
    """A minimum that walkers reached, and those that are like it.

    Parameters
    ----------
    where : str
        How it differs from the state with the most weight, by names of atoms.
    verdict : str
        One of `VERDICTS`: the ensemble has weight there; has none, and need not have any; the coordinates keep another
        side by choice; or has none, or next to none, where much is due.
    energy : float, kT
        Of the minimum, above the lowest one that was found.
    due : float
        Share of the weight that its energy and its width, by the Hessian, ask for; of what is excluded, were it not.
    share : float
        Share of the ensemble's weight that is there.
    barrier : float, kT
        Of what is excluded, where it is known; else nan.
    x : tuple of (float, float, float), nm
        The structure, of what is missing; else empty.
    """

    where: str
    verdict: str
    energy: float
    due: float
    share: float
    barrier: float = math.nan
    x: tuple[tuple[float, float, float], ...] = ()

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"Expected a verdict out of {VERDICTS}; got {self.verdict!r}.")

    def row(self, bound: float) -> tuple[str, ...]:
        """Cells for `COLUMNS`; `bound` is the share that the ensemble may have missed."""
        here = f"{100 * self.share:.2g}" if self.share > 0 else f"0 (< {100 * bound:.2g})"
        barrier = "" if math.isnan(self.barrier) else f"{self.barrier:.0f}"
        return (self.verdict, self.where, f"{self.energy:.1f}", f"{100 * self.due:.2g}", here, barrier)


@dataclass(frozen=True)
class Audit:
    """States by verdict, and how they were looked for.

    Parameters
    ----------
    states : tuple of State
    bound : float
        Share of the weight, at 95 %, that what none of the effective samples was may hold: the rule of three.
    evaluations : int
        Energies with gradients that the search took.
    seconds : float
    exhausted : bool
        Whether the search ended because nothing new of low energy turned up, and not by its budget.
    """

    states: tuple[State, ...]
    bound: float
    evaluations: int
    seconds: float
    exhausted: bool

    def of(self, verdict: str) -> list[State]:
        """The states with this verdict, the one that is due most first."""
        return sorted((s for s in self.states if s.verdict == verdict), key=lambda s: -s.due)

    @property
    def missing(self) -> list[State]:
        """States that should hold weight, and hold next to none."""
        return self.of(MISSING)

    @property
    def missing_in_words(self) -> str:
        """The first three missing states, by how they differ from the one with the most weight."""
        return "; ".join(s.where for s in self.missing[:3]) + (" ..." if len(self.missing) > 3 else "")

    @property
    def finding(self) -> Finding:
        """The verdict, with a grade and what to do."""
        if self.missing:
            n, due = len(self.missing), sum(s.due for s in self.missing)
            return Finding(
                BAD,
                f"{_states(n)} {'is' if n == 1 else 'are'} missing: some {_percent(due)} of the weight",
                f"Walkers on the energy reach {self.missing_in_words}, where the ensemble has none or next to none. "
                "Averages, populations and log Z are those of the rest. Train longer; if it stays, see what is held "
                "fixed, and compare with dynamics.",
            )
        kept = [s for s in self.of(EXCLUDED) if s.due > MUCH]
        if kept:
            return Finding(
                CARE,
                f"{_states(len(kept))} kept out by choice would hold some {_percent(_odds(kept))} of the weight",
                f"{'; '.join(s.where for s in kept[:3])}: see what is held fixed, and how it is let go.",
            )
        if self.undecided:
            return Finding(
                CARE,
                "No verdict on missing states: too few effective samples",
                f"{self.counts}. What was reached has frames, or little is due there; {FEW:.0f} effective samples or "
                "more tell whether their share is what it should be.",
            )
        rest = "" if self.exhausted else " The search ended with its budget: a longer one may reach more."
        return Finding(
            GOOD,
            "No state is missing that walkers on the energy reach",
            f"{self.counts}. They see what the coordinates exclude, too.{rest}",
        )

    @property
    def undecided(self) -> bool:
        """Whether nothing is missing for certain, and the ensemble has too few effective samples to rule it out."""
        return not self.missing and self.bound > rule_of_three(FEW)

    @property
    def counts(self) -> str:
        """ "5 covered, 2 rare (below 0.1 % of the weight each), 1 excluded, 0 missing"."""
        found = {verdict: len(self.of(verdict)) for verdict in VERDICTS}
        rare = f" (below {_percent(self.bound)} of the weight each)" if found[RARE] else ""
        return (
            f"{found[COVERED]} covered, {found[RARE]} rare{rare}, {found[EXCLUDED]} excluded by choice, "
            f"{'no verdict on what is missing' if self.undecided else f'{found[MISSING]} missing'}"
        )

    def table(self, most: int | None = None) -> str:
        """A row a state, those that are missing first; no more than `most`."""
        rows = self.rows(most)
        left = len(self.states) - len(rows)
        text = table(COLUMNS, rows, right=(2, 3, 4, 5)) if rows else "No state was found."
        return text + (f"\n... and {left} more." if left > 0 else "")

    def rows(self, most: int | None = None) -> list[tuple[str, ...]]:
        """Cells for `COLUMNS` of no more than `most` states: what is missing, then what is due most."""
        ordered = sorted(self.states, key=lambda state: (state.verdict != MISSING, -state.due))
        return [state.row(self.bound) for state in ordered[:most]]

    def summary(self, most: int | None = SHOWN) -> str:
        """The verdict, what was done, and the table."""
        return "\n".join([f"{TITLE}: {self.counts}", str(self.finding), self.effort, self.table(most)])

    @property
    def effort(self) -> str:
        """Sentence on the energies and the time that the search took, and on why it ended."""
        ended = "nothing new of low energy turned up" if self.exhausted else "the budget was spent"
        return f"{self.evaluations:,} energies and gradients in {self.seconds:.0f} s, until {ended}."

    def __repr__(self) -> str:
        return f"Audit({self.counts}; {self.effort})"

    def to_json(self) -> str:
        """Text that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Audit:
        """Audit out of the text that `to_json` wrote."""
        fields = json.loads(text)
        states = tuple(State(**{**s, "x": tuple(tuple(point) for point in s["x"])}) for s in fields.pop("states"))
        return cls(states, **fields)


def _odds(states: Sequence[State]) -> float:
    """Share of the weight that states would hold, were they let in."""
    due = sum(s.due for s in states)
    return due / (1.0 + due)


def _states(n: int) -> str:
    return f"{n} state{'' if n == 1 else 's'}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
