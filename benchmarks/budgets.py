"""Budgets of training that other jobs on the machine do not shorten."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from openmm_fab.train.settings import Budget


@dataclass(frozen=True)
class ProcessorTime(Budget):
    """Its minutes are those of this process's own processor time, from `began`, s of `time.process_time`, on."""

    began: float = field(default_factory=time.process_time)

    def spent(self, seconds: float, iterations: int, evaluations: int) -> float:
        assert self.minutes is not None
        return (time.process_time() - self.began) / (60.0 * self.minutes)
