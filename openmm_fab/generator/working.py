"""A generator as what `seeking` trains and samples, in a folder or without one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..ensemble.audit import Audit
from ..ensemble.ensemble import Ensemble
from ..tools.files import write_atomically
from ..tools.progress import History, say
from ..tools.run_log import METRICS, read_metrics
from ..train.settings import Budget
from .outcome import OUTCOME, Outcome
from .quantities import Quantities
from .seeking import ANNEALED, CHAINS, Draw, Seeking, State

NAME = "flow"
STATE = "state.json"
FINAL = "samples-{seed}.nc"  # of the result, as it is drawn, with which a run that was killed goes on


@dataclass(frozen=True)
class Parts:
    """Functions that a run until an error calls: methods of `BoltzmannGenerator`, with options filled in.

    Parameters
    ----------
    train : callable
        Budget, folder, resume=, audit= -> History.
    sample : callable
        n, seed, name=, refine=, out=, resume= -> Ensemble, or with out StreamedEnsemble.
    chains : callable
        n, seed -> Ensemble of equal weights, in blocks.
    audit : callable
        Budget, Ensemble -> Audit.
    startable : callable
        Audit -> whether training can start in its missing states.
    """

    train: Callable[..., History]
    sample: Callable[..., Any]
    chains: Callable[[int, int], Ensemble]
    audit: Callable[[Budget, Ensemble], Audit]
    startable: Callable[[Audit], bool]


class Working:
    """Training in a folder, sampling, and audit, with the quantities that are asked for; see `generator.seeking.Work`.

    Parameters
    ----------
    parts : Parts
    quantities : Quantities
    folder : path
    keep : bool
        Draw the result into a file in the folder.
    resume : bool
        Go on from the checkpoint in the folder.
    """

    def __init__(self, parts: Parts, quantities: Quantities, folder: Path, keep: bool, resume: bool) -> None:
        self.parts, self.quantities, self.folder, self.keep = parts, quantities, folder, keep
        self._begun = resume

    @property
    def left_out(self) -> Sequence[str]:
        """Basins with too little weight."""
        return self.quantities.left_out

    def train(self, seconds: float, audit: Audit | None) -> tuple[float, int]:
        """Train until `seconds` in all; returns those that it has had and the evaluations. A flow that was trained as
        long already, in an interrupted run, is read from its checkpoint, and what it took from its metrics."""
        goes_on, self._begun = self._begun, True
        rows = self.parts.train(Budget(minutes=seconds / 60.0), self.folder, resume=goes_on, audit=audit)
        if rows:
            return float(rows[-1]["seconds"]), int(rows[-1]["evaluations"])
        path = self.folder / METRICS
        known = read_metrics(path) if path.exists() else []
        return (float(known[-1]["seconds"]), int(known[-1]["evaluations"])) if known else (seconds, 0)

    def draw(self, n: int, seed: int, method: str, purpose: str) -> Draw:
        """Draw n samples, plain, annealed or of chains; see `generator.seeking.Work`."""
        started = time.perf_counter()
        if method == CHAINS:
            ensemble = self.parts.chains(n, seed)
        elif method == ANNEALED:
            ensemble = self.parts.sample(n, seed, name=NAME, refine="ais")
        elif purpose == "final" and self.keep:
            path = self.folder / FINAL.format(seed=seed)
            ensemble = self.parts.sample(n, seed, name=NAME, out=path, resume=True).load()
        else:
            ensemble = self.parts.sample(n, seed, name=NAME)
        seconds = time.perf_counter() - started
        if purpose == "pilot":
            self.quantities.define(ensemble)
        return Draw(ensemble.log_w, self.quantities.values(ensemble), seconds, ensemble, ensemble.block)

    def audit(self, draw: Draw, seconds: float) -> tuple[Audit | None, bool]:
        """Audit the samples; see `generator.seeking.Work`."""
        assert draw.ensemble is not None
        found = self.parts.audit(Budget(minutes=seconds / 60.0), draw.ensemble)
        return found, bool(found.missing) and self.parts.startable(found)


def run_to_error(
    parts: Parts,
    error: float,
    quantities: Quantities,
    at_most: float,
    folder: Path | None,
    resume: bool,
    *,
    seed: int,
    progress: bool,
) -> Outcome:
    """Run until an error is reached, see `BoltzmannGenerator.run`.

    Parameters
    ----------
    at_most : float, s
    """
    if not error > 0.0:
        raise ValueError(f"Expected error > 0, in kT; got {error}.")
    if resume and folder is None:
        raise ValueError("Expected a folder to resume from; got none.")
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        if not resume:
            _remove_samples(place)  # of a run that was killed
        work = Working(parts, quantities, place, folder is not None, resume)
        state = State.of(None if folder is None else folder / STATE, resume)
        seeking = Seeking(work, error, at_most, seed=seed, state=state, say=partial(say, show=progress))
        outcome = seeking.run()
        if folder is not None:
            write_atomically(folder / OUTCOME, lambda file: file.write(outcome.to_json()), "w")
            _remove_samples(folder)
    return outcome


def _remove_samples(folder: Path) -> None:
    for path in folder.glob(FINAL.format(seed="*")):
        path.unlink()
