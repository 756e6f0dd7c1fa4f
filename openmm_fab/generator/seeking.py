"""Training and sampling until an error is reached: the loop, of which `planning` says how the time is divided.

Nothing that decides when to stop is part of the result: a flow is looked at with pilot samples, which are discarded;
then the number of samples is fixed and they are drawn anew.  The result is checked by Markov chains, which have no
weights, and by an audit.  Where it fails a check and there is time, training goes on, and the next result is drawn
anew, too.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..ensemble.audit import Audit
from ..ensemble.ensemble import Ensemble
from ..tools.files import load_json, write_atomically
from ..tools.findings import BAD, CARE, Finding
from ..tools.progress import duration
from ..weights import FEW, KHAT_LIMIT, KHAT_RELIABLE, effective_sample_size, pareto_khat
from .checking import INSIDE, SEEN, agreement, tail_checks, tails
from .outcome import Outcome, Row
from .planning import Plan, Point, plan
from .quantities import Measured, measured

PLAIN, ANNEALED, CHAINS = METHODS = ("plain", "annealed", "chains")
FIRST, FIRST_SHARE = 20.0, 0.1  # s of training before the first look; of the limit, at most
PILOT, PILOT_SHARE = 4096, 0.05  # plain samples of a look, at least; their time as a share of the training
ANNEALED_PILOT = 512  # annealed samples of a look
ANNEAL_BELOW, ANNEAL_AFTER = 0.1, 120.0  # ESS of plain samples, and s of training, for a look at annealed ones
POOR = 0.01  # ESS of plain samples, as a share, below which their weights are of no use
MARGIN = 1.2  # on the number of samples, for a variance that a pilot tells; larger for few samples
CHECK, CHECK_LEAST = 0.5, 5.0  # time of the independent estimate as a share of the sampling; s, at least
WIDER = 2.0  # its error, in units of the one asked for; a smaller one is not needed
TRIAL = 512  # states of chains that tell what one takes
AUDIT, AUDIT_LEAST = 0.05, 10.0  # of the training; s
ROUNDS = 3  # results, at most


@dataclass(frozen=True, eq=False)
class Draw:
    """Samples with weights, and the quantities' values in them.

    Parameters
    ----------
    log_w : (n,)
    values : dict of str to (n,)
        bool: inside a basin; else an observable.
    seconds : float
        That drawing took.
    ensemble : Ensemble, optional
    block : (n,) int, optional
        Samples of the same label depend on each other.
    """

    log_w: np.ndarray
    values: Mapping[str, np.ndarray]
    seconds: float
    ensemble: Ensemble | None = None
    block: np.ndarray | None = None

    def measured(self) -> dict[str, Measured]:
        """Every quantity's estimate."""
        return {name: measured(self.log_w, values, self.block) for name, values in self.values.items()}


class Work(Protocol):
    """Interface of what `Seeking` trains and samples: a generator, or a model with a known answer."""

    @property
    def left_out(self) -> Sequence[str]:
        """Quantities with too little weight, by name."""

    def train(self, seconds: float, audit: Audit | None) -> tuple[float, int]:
        """Train until so many seconds in all; returns those that training had, and its evaluations."""

    def draw(self, n: int, seed: int, method: str, purpose: str) -> Draw:
        """Draw n samples by one of `METHODS`; of the purpose "pilot" they define the quantities from then on."""

    def audit(self, draw: Draw, seconds: float) -> tuple[Audit | None, bool]:
        """Look for states that are missing, and say whether training can start there."""


@dataclass
class State:
    """State of a run until an error, from which an interrupted run is resumed; kept in a file, if there is one.

    Parameters
    ----------
    path : path or None
    until : float, s
        Of training, until the next look.
    points : list of Point
    decision : dict or None
        Method, n, seed of the samples to draw, and the pilot that defined the quantities.
    seconds : dict of str to float
        Spent so far.
    rounds : int
        Results so far.
    """

    path: Path | None = None
    until: float = 0.0
    points: list[Point] = field(default_factory=list)
    decision: dict[str, Any] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    rounds: int = 0
    asked: float = math.nan

    @classmethod
    def of(cls, path: Path | None, resume: bool) -> State:
        """The state in a file, or a new one."""
        if path is None or not resume or not path.exists():
            return cls(path)
        fields = load_json(path, "the state of a run until an error")
        return cls(path, **{**fields, "points": [Point(**point) for point in fields["points"]]})

    def save(self) -> None:
        """Write the state as JSON to its file, if there is one."""
        if self.path is not None:
            fields = {key: getattr(self, key) for key in self.__dataclass_fields__ if key != "path"}
            text = json.dumps(fields | {"points": [asdict(point) for point in self.points]})
            write_atomically(self.path, lambda file: file.write(text), "w")


class Seeking:
    """One run until an error.

    Parameters
    ----------
    work : Work
    error : float
        kT for basins; for observables their unit.
    at_most : float, s
        Everything included.
    seed : int
    state : State
    say : callable
        Takes a line of text, at each look.
    clock : callable, optional
        Seconds, of any origin; by default `time.monotonic`.
    """

    def __init__(
        self,
        work: Work,
        error: float,
        at_most: float,
        *,
        seed: int = 0,
        state: State | None = None,
        say: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.work, self.error, self.at_most, self.seed = work, error, at_most, seed
        self.state, self.say, self.clock = state or State(), say, clock or time.monotonic
        if self.state.asked != error:  # another error than before, or a new run
            self.state.decision, self.state.asked = None, error
        self._missing: Audit | None = None
        self._pilot: tuple[int, int, str] = (0, 0, PLAIN)
        self._defined = False  # the quantities, in this process

    def run(self) -> Outcome:
        """Train, sample and check until the result is believed, or the time is over."""
        state = self.state
        state.rounds = 0
        while True:
            if state.decision is None:
                self._decide()
            elif state.points and not self._defined:  # interrupted in the sampling: the same flow, basins and number
                self._train(state.points[-1].seconds)
                n, seed, method = state.decision["pilot"]
                self._draw(n, seed, method, "pilot", "pilots")
            outcome, audit, startable = self._result()
            state.rounds += 1
            trained, left = state.points[-1].seconds, self._left
            if outcome.believed:
                return outcome
            if state.rounds == ROUNDS:
                self.say("The result is not to be believed after as many tries as there may be")
            elif audit is not None and audit.missing and startable and left > 0.5 * trained:
                self._missing = audit
                self.say("States are missing that the flow can reach: training goes on, and starts there, too")
                state.until = 1.5 * trained
            elif any(check.grade == BAD for check in outcome.checks) and left > 0.5 * trained:
                failed = "; ".join(check.head for check in outcome.checks if check.grade == BAD)
                self.say(f"The result fails a check ({failed}): training goes on")
                state.until = min(2.0 * trained, trained + 0.5 * left)
            elif outcome.reached > self.error and (larger := self._larger(outcome)) is not None:
                self.say("The error is larger than the pilot had it: more samples, all new")
                state.decision = larger
                state.save()
                continue
            state.decision = None  # a run that is resumed with more time looks anew
            state.save()
            if state.rounds == ROUNDS or state.until <= trained:
                return outcome

    # --- until it is time to sample ---

    def _decide(self) -> None:
        """Train, look, and plan, until it is time to sample; then fix the number of samples."""
        state = self.state
        if not state.until:
            state.until = min(FIRST, FIRST_SHARE * self.at_most)
        while True:
            before = state.points[-1] if state.points else None
            trained, evaluations = self._train(max(state.until, before.seconds if before else 0.0))
            variance, each = self._look(trained, evaluations or (before.evaluations if before else 0))
            found = plan(state.points, self.error, self._left - self._audit_seconds(trained), 1.0 + CHECK)
            self.say(self._in_words(found))
            if found.train <= trained or self._left <= 0.0:
                break
            state.until = found.train
            state.save()
        allowed = max(0.0, self._left - self._audit_seconds(trained)) / (1.0 + CHECK)
        n = variance / self.error**2
        if not math.isfinite(n):
            n = allowed / each
        method = state.points[-1].method
        least = PILOT if method == PLAIN else ANNEALED_PILOT
        n = int(max(least, math.ceil(min(n, allowed / each))))
        seed = self.seed + 10_007 * (1 + len(state.points))
        about = {"pilot": self._pilot, "takes": found.takes, "sampling": n * each}
        state.decision = {"method": method, "n": n, "seed": seed, **about}
        state.save()

    def _train(self, until: float) -> tuple[float, int]:
        with self._timed("training"):
            found = self.work.train(until, self._missing)
        self._missing = None
        return found

    def _look(self, trained: float, evaluations: int) -> tuple[float, float]:
        """Draw pilots of a flow and add a point; variance of a sample, with its margin, and seconds of one."""
        seed = self.seed + 101 * (1 + len(self.state.points))
        n, most = PILOT, PILOT_SHARE * trained
        while True:
            draw = self._draw(n, seed, PLAIN, "pilot", "pilots")
            each = draw.seconds / n
            found = draw.measured()
            few = min((m.effective for m in found.values()), default=0.0)
            allowed = (4.0 if few < SEEN else 1.0) * most / max(each, 1e-12)
            if n >= allowed / 2.0 or (few >= 4.0 * SEEN and n > PILOT):
                break
            n = int(min(4 * n, allowed))
        self._pilot = (n, seed, PLAIN)
        log_w = draw.log_w
        weighted = bool(np.isfinite(log_w).any())
        ess = effective_sample_size(log_w) / n if weighted else 0.0
        khat = pareto_khat(log_w) if weighted else math.nan
        variance, method = _needed(found, self.error), PLAIN
        # What is usable with underrated errors is trained on: stated errors are all that is asked for.
        if not (khat <= KHAT_RELIABLE and ess * n >= FEW and ess >= POOR and tails(found)):
            variance = math.inf
        if (variance == math.inf or ess < ANNEAL_BELOW) and trained > ANNEAL_AFTER:
            # Where the weights of plain samples are of no use, they do not show where the basins are either.
            purpose = "pilot" if variance == math.inf else "look"
            trial = self._draw(ANNEALED_PILOT, seed + 1, ANNEALED, purpose, "pilots")
            if purpose == "pilot":
                self._pilot = (ANNEALED_PILOT, seed + 1, ANNEALED)
            other, annealed = _annealed(trial, variance, ess, self.error), trial.seconds / ANNEALED_PILOT
            if other * annealed < variance * each:
                variance, method, each = other, ANNEALED, annealed
        self.state.points.append(Point(trained, evaluations, ess, khat, variance * each, method))
        return variance, each

    def _in_words(self, found: Plan) -> str:
        point = self.state.points[-1]
        head = f"{duration(point.seconds)} of training: ESS {100 * point.ess:.1f} %, k-hat {point.khat:.2f}"
        if not point.work < math.inf:
            return f"{head}: weights of no use yet; training goes on to {duration(found.train)}"
        now = f"{head}; {self.error:g} would take {duration(point.work / self.error**2)} of {point.method} sampling"
        what = f"training goes on to {duration(found.train)}" if found.train > point.seconds else "time to sample"
        if found.takes > found.left:
            return f"{now}; {what}; about {found.reached:.2g} is within the time left, {duration(found.left)}"
        return f"{now}; {what}; about {duration(found.left)} left"

    # --- the result ---

    def _result(self) -> tuple[Outcome, Audit | None, bool]:
        """Draw the samples that were decided on, and check them."""
        state = self.state
        assert state.decision is not None
        method, n, seed = (state.decision[key] for key in ("method", "n", "seed"))
        draw = self._draw(n, seed, method, "final", "sampling")
        found = draw.measured()
        checks = [*tail_checks(draw.log_w, found)]
        other = self._check(found, seed + 1)
        checks.append(agreement(found, other))
        with self._timed("audit"):
            audit, startable = self.work.audit(draw, self._audit_seconds(state.points[-1].seconds))
        if audit is None:
            checks.append(Finding(CARE, "no audit was made", "A state that the flow never visits would not be seen."))
        else:
            checks.append(audit.finding)
        rows = []
        for name, m in found.items():
            check = (other[name].value, other[name].error) if name in other else (math.nan, math.nan)
            rows.append(Row(name, m.value, m.error, m.population, m.effective, m.khat, *check))
        reached = max((row.error for row in rows if math.isfinite(row.error)), default=math.inf)
        takes = math.nan
        if reached > self.error:
            spent = sum(state.seconds.values())
            again = state.decision["sampling"] * (1.0 + CHECK) * (reached / self.error) ** 2
            takes = spent + min(state.decision["takes"], again)
        outcome = Outcome(
            self.error,
            tuple(rows),
            tuple(checks),
            method,
            n,
            dict(state.seconds),
            state.points[-1].evaluations,
            takes,
            tuple(state.points),
            tuple(self.work.left_out),
            None if draw.ensemble is None else replace(draw.ensemble, audit=audit),
        )
        return outcome, audit, startable

    def _check(self, found: Mapping[str, Measured], seed: int) -> dict[str, Measured]:
        """Estimates from Markov chains, whose number of states is fixed before they are run."""
        assert self.state.decision is not None
        least = min(CHECK_LEAST, 0.1 * self.at_most)
        seconds = max(CHECK * self.state.decision["sampling"], least)
        trial = self._draw(TRIAL, seed + 1, CHAINS, "check", "check")
        variances = [m.variance for m in trial.measured().values() if math.isfinite(m.variance)]
        variances = variances or [m.variance for m in found.values() if math.isfinite(m.variance)]
        enough = max(variances, default=0.0) / (WIDER * self.error) ** 2
        n = int(max(TRIAL, min(enough, TRIAL * seconds / max(trial.seconds, 1e-12))))
        return self._draw(n, seed, CHAINS, "check", "check").measured()

    def _larger(self, outcome: Outcome) -> dict[str, Any] | None:
        """A decision on more samples, where there is time for them."""
        decision = self.state.decision
        assert decision is not None
        factor = MARGIN * (outcome.reached / self.error) ** 2
        sampling = factor * decision["sampling"]
        if not sampling * (1.0 + CHECK) < self._left:
            return None
        more = {"n": math.ceil(factor * decision["n"]), "seed": decision["seed"] + 1_000_003, "sampling": sampling}
        return decision | more

    # --- time ---

    def _draw(self, n: int, seed: int, method: str, purpose: str, what: str) -> Draw:
        with self._timed(what):
            found = self.work.draw(n, seed, method, purpose)
        self._defined |= purpose == "pilot"
        return found

    def _timed(self, what: str) -> _Timed:
        return _Timed(self, what)

    def _audit_seconds(self, trained: float) -> float:
        return min(max(AUDIT * trained, AUDIT_LEAST), 0.1 * self.at_most)

    @property
    def _left(self) -> float:
        return self.at_most - sum(self.state.seconds.values())


class _Timed:
    """Context manager that adds the time of its body to a run's, by name."""

    def __init__(self, run: Seeking, what: str) -> None:
        self._run, self._what = run, what

    def __enter__(self) -> None:
        self._since = self._run.clock()

    def __exit__(self, *_: object) -> None:
        seconds = self._run.state.seconds
        seconds[self._what] = seconds.get(self._what, 0.0) + self._run.clock() - self._since
        self._run.state.save()


def _needed(found: Mapping[str, Measured], error: float) -> float:
    """Variance of a sample, of the quantity that needs most, with a margin; inf where one cannot be told."""
    most = 0.0
    for m in found.values():
        if not (math.isfinite(m.variance) and m.effective > 1.0):
            return math.inf
        most = max(most, m.variance * MARGIN * (1.0 + m.effective**-0.5), 1.2 * INSIDE * m.n / m.effective * error**2)
    return most if found else math.inf


def _annealed(trial: Draw, variance: float, ess: float, error: float) -> float:
    """Variance, with its margin, of an annealed sample, from a trial and from that of a plain one, if it is known."""
    log_w = trial.log_w
    effective = effective_sample_size(log_w) if np.isfinite(log_w).any() else 0.0
    if not (effective >= FEW / 2 and pareto_khat(log_w) <= KHAT_LIMIT):
        return math.inf
    if math.isfinite(variance):  # few are too few for rare basins: evener weights are what is gained
        return variance * ess * len(log_w) / effective
    return _needed(trial.measured(), error)
