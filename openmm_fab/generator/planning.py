"""Division of time between training and sampling, for the least time until an error is reached.

A flow after t seconds of training has a *work* c(t), in s kT^2: seconds of sampling times the squared standard error
that they leave, of the quantity that takes longest.  Samples are independent, so that an error e takes c / e^2.  The
work falls as the effective sample size rises, nearly as a power of the training: c(t) = c t^-p, with p from the flows
seen so far.  The total t + c(t) / e^2 is least where p c(t) / e^2 = t; and of R seconds that are left, the error at
their end is least where a share p / (1 + p) of t + R is training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

STEEPEST, UNKNOWN = 2.0, 1.0  # p at most; p where a single flow was seen
LOOKED_AT = 3  # flows, the latest, that p is from
LONGER = 2.0  # times the training so far, at most, before the next look
WORTH = 1.15  # times the training so far, at least, to go on at all
KEPT = 0.8  # of the time left, at most, that goes into training a flow whose weights are of no use yet


@dataclass(frozen=True)
class Point:
    """A flow and what samples of it are worth.

    Parameters
    ----------
    seconds : float
        Of training.
    evaluations : int
        Energies with gradient that training took.
    ess : float
        Share of plain samples that is effective.
    khat : float
        Of plain samples.
    work : float, s kT^2
        See the module; inf where no weights of this flow can be used. Of observables, in their unit squared.
    method : str
        Of sampling, the one that takes the least work: "plain" or "annealed".
    """

    seconds: float
    evaluations: int
    ess: float
    khat: float
    work: float
    method: str


@dataclass(frozen=True)
class Plan:
    """Decision on a run until an error: how long to train before the next look, and what is expected of it.

    Parameters
    ----------
    train : float, s
        Of training in all, until the flow is looked at again; no more than there was: it is time to sample.
    left : float, s
        Until the end, as predicted; inf where nothing is known.
    reached : float
        Error at the end, as predicted: the one asked for, or what the time left allows.
    takes : float, s
        Until the error asked for is reached, were there no limit.
    """

    train: float
    left: float
    reached: float
    takes: float


def steepness(points: Sequence[Point]) -> float:
    """The power p by which work falls with training, between 0 and `STEEPEST`, from the latest flows of use."""
    known = [p for p in points if 0.0 < p.work < math.inf and p.seconds > 0.0][-LOOKED_AT:]
    if len(known) < 2:
        return UNKNOWN
    x, y = [math.log(p.seconds) for p in known], [math.log(p.work) for p in known]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    if spread == 0.0:
        return UNKNOWN
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    return min(max(-slope, 0.0), STEEPEST)


def plan(points: Sequence[Point], error: float, left: float, beside: float = 1.0) -> Plan:
    """Decide between training on and sampling, from what the flows of a run were worth so far.

    Parameters
    ----------
    points : sequence of Point
        Flows seen so far, at least one.
    error : float
        Asked for.
    left : float, s
        Until the limit.
    beside : float
        Seconds of sampling and checks for each second of sampling alone.
    """
    t, work = points[-1].seconds, beside * points[-1].work
    left = max(left, 0.0)
    if not work < math.inf:
        further = min((LONGER - 1.0) * t, KEPT * left)
        return Plan(t + further if further > (WORTH - 1.0) * t else t, math.inf, math.inf, math.inf)
    p = steepness(points)

    def sampling(trained: float) -> float:
        return work * (t / trained) ** p / error**2

    best = max(t, t * (p * sampling(t) / t) ** (1.0 / (1.0 + p))) if p > 0.0 and t > 0.0 else t
    takes = best - t + sampling(best)
    reached = error
    if takes > left:
        best = t + max(0.0, (p * left - t) / (1.0 + p))
        rest = t + left - best
        reached = error * math.sqrt(sampling(best) / rest) if rest > 0.0 else math.inf
    train = min(best, LONGER * t) if best > WORTH * t else t
    return Plan(train, min(takes, left), reached, takes)
