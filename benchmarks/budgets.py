"""Clocks and budgets that other jobs on the machine do not shorten."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from openmm_fab.train.settings import Budget

wall = time.perf_counter  # whatever `on_processor_time` does


@dataclass(frozen=True)
class ProcessorTime(Budget):
    """Its minutes are those of this process's own processor time, from `began`, s of `time.process_time`, on."""

    began: float = field(default_factory=time.process_time)

    def spent(self, seconds: float, iterations: int, evaluations: int) -> float:
        assert self.minutes is not None
        return (time.process_time() - self.began) / (60.0 * self.minutes)


@contextmanager
def on_processor_time() -> Iterator[None]:
    """Make every clock of this process that of its own processor time: of a run until an error, of its trainings and
    of its draws, so that all limits and all decisions are those of a core that nobody shares."""
    before = time.monotonic, time.perf_counter
    time.monotonic = time.perf_counter = time.process_time
    try:
        yield
    finally:
        time.monotonic, time.perf_counter = before
