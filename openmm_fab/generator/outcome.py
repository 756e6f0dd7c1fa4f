"""What a run until an error found: quantities with errors, the checks that were made, and what it took."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..ensemble.ensemble import Ensemble
from ..tools.findings import BAD, CARE, GOOD, Finding, worst
from ..tools.progress import duration
from ..tools.tables import table
from ..weights import Estimate
from .planning import Point

OUTCOME = "outcome.json"  # in a run's folder
COLUMNS = ("quantity", "value", "population", "samples inside", "k-hat", "independent estimate")


@dataclass(frozen=True)
class Row:
    """A quantity of a run until an error.

    Parameters
    ----------
    name : str
    value, error : float
        Of a basin F - F(all the rest), kT; of an observable its mean.
    population : float
        Of a basin; else nan.
    effective, khat : float
        Effective samples inside, and k-hat of their weights; see `generator.quantities.Measured`.
    check, check_error : float
        The independent estimate; nan without one.
    """

    name: str
    value: float
    error: float
    population: float
    effective: float
    khat: float
    check: float = math.nan
    check_error: float = math.nan

    @property
    def cells(self) -> tuple[str, ...]:
        """Cells of a table, one for each of `COLUMNS`."""
        population = "" if math.isnan(self.population) else f"{100 * self.population:.2g} %"
        check = "" if math.isnan(self.check) else str(Estimate(self.check, self.check_error))
        khat = f"{self.khat:.2f}" if math.isfinite(self.khat) else "-"
        value = str(Estimate(self.value, self.error))
        return (self.name, value, population, f"{self.effective:,.0f}", khat, check)


@dataclass(frozen=True, eq=False, repr=False)
class Outcome:
    """Result of `BoltzmannGenerator.run`.

    Parameters
    ----------
    error : float
        Asked for; kT, of observables their unit.
    rows : tuple of Row
    checks : tuple of Finding
        Those that were made, each with its grade.
    method : str
        Of the last sampling: "plain" or "annealed".
    n : int
        Its samples, as fixed before the first of them was drawn.
    seconds : dict of str to float
        By what took them: training, pilots, sampling, check, audit.
    evaluations : int
        Energies that training took.
    takes : float, s
        Total time until the error, as predicted, where it was not reached; else nan.
    points : tuple of Point
        The learning curve.
    left_out : tuple of str
        Basins with less than 0.1 % of the weight.
    ensemble : Ensemble or None
        The last samples; None of a file's outcome.
    """

    error: float
    rows: tuple[Row, ...]
    checks: tuple[Finding, ...]
    method: str
    n: int
    seconds: dict[str, float]
    evaluations: int
    takes: float
    points: tuple[Point, ...]
    left_out: tuple[str, ...] = ()
    ensemble: Ensemble | None = field(default=None, compare=False)

    @property
    def reached(self) -> float:
        """The largest standard error; inf where there is one without."""
        return max((row.error if math.isfinite(row.error) else math.inf for row in self.rows), default=math.inf)

    @property
    def believed(self) -> bool:
        """Whether the error is reached, and no check speaks against it."""
        return bool(self.rows) and self.reached <= self.error and worst(c.grade for c in self.checks) != BAD

    @property
    def finding(self) -> Finding:
        """The verdict, with the checks that were made."""
        total = duration(sum(self.seconds.values()))
        made = "Checked: " + "; ".join(check.head for check in self.checks) + "."
        if not self.rows:
            return Finding(BAD, "There is no quantity to give an error of", "One basin holds all of the weight.")
        if self.believed:
            grade = GOOD if worst(check.grade for check in self.checks) == GOOD else CARE
            return Finding(grade, f"Error {self.reached:.2g} after {total}; {self.error:g} was asked for", made)
        if self.reached <= self.error:
            against = [check for check in self.checks if check.grade == BAD]
            head = f"The error {self.reached:.2g} after {total} is not to be believed"
            return Finding(BAD, head, f"{'; '.join(c.head for c in against)}. {made}")
        needed = (
            "What it would take cannot be said: weights of no use" if not math.isfinite(self.takes)
            else f"It would take about {duration(self.takes)} in all"
        )  # fmt: skip
        reached = f"{self.reached:.2g}" if math.isfinite(self.reached) else "none"
        head = f"Error {reached} after {total}, not {self.error:g}"
        return Finding(BAD, head, f"{needed}; a longer at_most goes on from here with resume. {made}")

    def table(self) -> str:
        """The quantities, a row each."""
        return table(COLUMNS, [row.cells for row in self.rows], right=(2, 3, 4))

    def summary(self) -> str:
        """Verdict, quantities, checks, and what it took."""
        took = ", ".join(f"{name} {duration(seconds)}" for name, seconds in self.seconds.items() if seconds >= 0.05)
        lines = [str(self.finding), self.table(), *map(str, self.checks)]
        lines.append(f"{self.n:,} samples, {self.method}, drawn after the decision to stop; {took}.")
        if self.left_out:
            lines.append(f"Below 0.1 % of the weight: {', '.join(self.left_out)}.")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Outcome({self.finding.head}; {len(self.rows)} quantities)"

    def __str__(self) -> str:
        return self.summary()

    def to_json(self) -> str:
        """Text that `from_json` reads; without the ensemble."""
        fields = {key: getattr(self, key) for key in self.__dataclass_fields__ if key != "ensemble"}
        fields |= {key: [asdict(part) for part in fields[key]] for key in ("rows", "checks", "points")}
        return json.dumps(_finite(fields), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """Outcome out of the text that `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        kinds: Sequence[tuple[str, type]] = (("rows", Row), ("checks", Finding), ("points", Point))
        for key, kind in kinds:
            unknown = math.inf if key == "points" else math.nan
            parts = [
                {name: unknown if value is None else value for name, value in part.items()} for part in fields[key]
            ]
            fields[key] = tuple(kind(**part) for part in parts)
        takes = math.nan if fields["takes"] is None else fields["takes"]
        return cls(**{**fields, "left_out": tuple(fields["left_out"]), "takes": takes})


def _finite(value: Any) -> Any:
    """A value for JSON, which has neither nan nor infinity: None in their place."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
