"""Cost of a training in time and memory, measured on a few seconds of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..tools.progress import duration
from ..tools.tables import table

if TYPE_CHECKING:
    from ..generator.generator import BoltzmannGenerator


MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """Cost of a training, measured without torch.compile.

    Attributes
    ----------
    iteration, filling : float, s
        Of one iteration of the training, and of what comes before the first one.
    sampling : float, s
        Of one structure with its energy and weight.
    evaluations : int
        Of the energy with its gradient, in one iteration.
    peak : int or None, bytes
        Largest memory of this process so far; None where the system does not tell.
    """

    iteration: float
    filling: float
    sampling: float
    evaluations: int
    peak: int | None

    def words(self, minutes: float, samples: int, generator: BoltzmannGenerator) -> str:
        """Table, as text, of the cost of a run with this training time and number of samples."""
        train, atoms = generator.settings.train, generator.system.n_atoms
        iterations = max(0.0, 60 * minutes - self.filling) / self.iteration
        weights = sum(p.numel() for p in generator.flow.parameters())
        buffer = train.buffer_max * train.batch * (8 * generator.coordinates.dim + 20)
        checkpoint = 2 * 4 * 4 * weights + buffer  # flow, learner and Adam's two averages, and those to go back to
        ensemble = samples * 24 * (atoms + 1)
        rows = {
            "one iteration": f"{self.iteration:.2f} s, {self.evaluations} energy evaluations",
            f"{minutes:g} minutes": f"about {iterations:.2g} iterations, {iterations * self.evaluations:.2g} energy "
            "evaluations" + (f"; at most {self.filling:.0f} s fill the buffer first" if self.filling else ""),
            f"{samples} samples": f"{duration(samples * self.sampling)} after the training",
            "flow": f"{weights:,} parameters",
            "files": f"checkpoint up to {checkpoint / MIB:.0f} MiB, ensemble {ensemble / MIB:.0f} MiB",
        }
        if self.peak is not None:
            rows["memory"] = (
                f"{self.peak / MIB:.0f} MiB so far; the full replay buffer adds {buffer / MIB:.0f} MiB, "
                f"the samples up to {2 * ensemble / MIB:.0f} MiB"
            )
        lines = [table(None, list(rows.items()))]
        if generator.device.type != "cpu":
            lines.append(
                "Measured without torch.compile, which takes a minute or so and then makes iterations shorter."
            )
        return "\n".join(lines)


def probe(generator: BoltzmannGenerator, seconds: float, objective: str = "auto") -> Cost:
    """Measure the cost of the first iterations of a training with this objective, for about `seconds`; the generator is
    trained by it and should be discarded."""
    from ..generator.parts import objective_of
    from ..train.settings import Budget
    from ..train.start import Start
    from ..train.trainer import Trainer

    train = generator.settings.train
    # The buffer is filled no further than the first gradient steps need.
    little = replace(train, buffer_min=train.updates)
    goal, endless = objective_of(objective, generator.flow, None), Budget(iterations=10**9)
    trainer = Trainer(generator.flow, generator.target, endless, settings=little, objective=goal)
    started = time.perf_counter()
    times: list[float] = []
    counts: list[int] = []
    while len(times) < 3 or time.perf_counter() - started < seconds:
        before = generator.target.evaluations
        times.append(_timed(trainer.step))
        counts.append(generator.target.evaluations - before)
    iteration = sorted(times[1:])[len(times[1:]) // 2]  # the first one warms up
    # Passes before the first step are each no longer than an iteration.
    filling = 0.0 if isinstance(goal, Start) else iteration * max(0, train.buffer_min - 1)
    sampling = _timed(lambda: generator.sample(generator.batch)) / generator.batch
    return Cost(iteration, filling, sampling, counts[-1], peak_memory())


def peak_memory() -> int | None:
    """Largest memory of this process so far, in bytes; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
