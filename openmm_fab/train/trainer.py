"""The training loop, by default Flow AIS Bootstrap with a prioritised replay buffer (FAB paper, algorithm 1).

    trainer = Trainer(flow, target, budget=Budget(minutes=20))
    for info in trainer:
        print(info["ess_flow"], info["ess_ais"])

One iteration anneals a batch of flow samples towards p^alpha q^(1 - alpha), adds them to the buffer, and makes gradient
steps on samples drawn from the buffer by their weights.  Once the flow is good, plain samples with their weights
replace most annealed ones (`TrainSettings.anneal_below`).  Other `objectives` use the same loop.  Gradient steps change
a *learner*; the flow that training returns is the learner's running average, which has far less noise.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..flow.base import TrainableFlow
from ..target import Target
from ..tools.devices import stream
from ..tools.memory import keep_freed_memory
from ..tools.metrics import IterationMetrics, StepMetrics
from ..weights import effective_share
from . import checkpoints
from .distributed import Ranks
from .experience import Experience
from .health import Health
from .learner import Learner
from .objectives import MaximumLikelihood, Objective, fab
from .settings import Budget, TrainSettings
from .start import Start
from .transport import ConstrainedMassTransport

STATEFUL = (Start, ConstrainedMassTransport)  # objectives that a checkpoint holds more of than the name


class Trainer:
    """Iterator over the iterations of a training; each yields its metrics, and may be the last.

    Parameters
    ----------
    flow : TrainableFlow
        Any torch.nn.Module with sample, log_prob and log_prob_and_gradient; trained in place.
    target : Target
    budget : Budget
    settings : TrainSettings, optional
    rng : torch.Generator, optional
        All randomness; saved in checkpoints.
    objective : Objective
        What is minimised, see `train.objectives`; FAB with the buffer unless told otherwise.
    about : dict of str, optional
        What the target is; a checkpoint is loaded only where it says the same.

    Notes
    -----
    `IterationMetrics` says what the metrics are. What an objective does not look at is nan.
    """

    def __init__(
        self,
        flow: TrainableFlow,
        target: Target,
        budget: Budget,
        *,
        settings: TrainSettings | None = None,
        rng: torch.Generator | None = None,
        objective: Objective = fab,
        about: Mapping[str, str] | None = None,
    ) -> None:
        keep_freed_memory()
        self.flow, self.target, self.budget, self.objective = flow, target, budget, objective
        self.settings = settings or TrainSettings()
        self.ranks, self.about = Ranks(), dict(about or {})
        if isinstance(objective, MaximumLikelihood) and budget.minutes is budget.iterations is None:
            raise ValueError(f"Expected minutes or iterations: maximum likelihood has no energies; got {budget}.")
        like = next(flow.parameters())
        rng = self.rng = self.ranks.stream(rng or stream(like.device, 0))
        me = weakref.proxy(self)  # a circle of references would hold the buffer's memory after the trainer is gone
        self.learner = Learner(flow, self.settings, self.ranks, rng, lambda: me.spent, lambda seen: me._back_off(seen))
        self.experience = Experience(self.learner.counted, target, self.settings, self.ranks, rng, like)
        self.health = Health()
        self.iteration, self.seconds = 0, 0.0
        self._before, self._evaluations = target.evaluations, 0

    def __repr__(self) -> str:
        return f"Trainer({self.flow!r}, {self.target!r}, {self.budget!r}; {self.iteration} iterations made)"

    @property
    def evaluations(self) -> int:
        """Number of target evaluations in this training; with several ranks of all of them, as of the last
        iteration."""
        return self.own_evaluations if self.ranks.single else self._evaluations

    @property
    def own_evaluations(self) -> int:
        """Target evaluations made by this process since training began."""
        return self.target.evaluations - self._before

    @property
    def spent(self) -> float:
        """Share of the budget that is used; training ends at 1."""
        return self.budget.spent(self.seconds, self.iteration, self.evaluations)

    def __iter__(self) -> Iterator[IterationMetrics]:
        while self.spent < 1:
            started = time.perf_counter()
            info = self.step()
            self.seconds += self.ranks.all_gather(time.perf_counter() - started)[0]
            yield {**info, "seconds": self.seconds, "spent": self.spent}
            self.ranks.stop_if_asked()

    @torch.enable_grad()
    def step(self) -> StepMetrics:
        """Make one iteration: draw the objective's samples and make its gradient steps."""
        learner, experience = self.learner, self.experience
        learner.begin()
        experience.begin(self.iteration)
        phase = getattr(self.objective, "phase", None)
        self.objective(learner, experience, self.settings)
        losses, norms = zip(*learner.steps, strict=True)
        self.iteration += 1
        counts = [self.own_evaluations, learner.counted.evaluations, experience.buffer.size]
        self._evaluations, flow_evaluations, buffered = self.ranks.totals(counts)
        last = experience.last
        info: StepMetrics = {
            "iteration": self.iteration,
            "evaluations": self.evaluations,
            "flow_evaluations": flow_evaluations,
            "loss": sum(losses) / len(losses),
            "ess_flow": experience.ess,
            "ess_ais": math.nan if last is None else effective_share(last.log_w),
            "lam": getattr(self.objective, "lam", math.nan) if last is None else experience.lam,
            "acceptance": math.nan if last is None else _mean(last.acceptance),
            "step_size": _mean(experience.step_sizes),
            "buffer": buffered,
            "invalid": experience.invalid,
            "gradient": max(norms),
            "learning_rate": learner.optimizer.rate,
        }
        info = self.health.check(learner, experience, info)
        if getattr(self.objective, "phase", None) != phase:
            self.health.begin_anew()  # another loss
        return info

    def _back_off(self, seen: str) -> None:
        self.health.back_off(self.learner, self.experience, seen)

    def save(self, path: str | Path) -> Path:
        """Write a checkpoint atomically; the previous one is kept as `files.previous(path)`."""
        state = self.ranks.pool(self.state_dict())
        return checkpoints.write(path, state) if self.ranks.is_main else Path(path)

    def load(self, path: str | Path) -> None:
        """Continue from a checkpoint written by `save`; reads tensors and numbers only, never code.

        Raises
        ------
        FileNotFoundError
        DamagedFileError
            If the file is no checkpoint, or not whole.
        FormatError
            If another version of this package wrote it.
        ValueError
            If it was made with other settings, for another flow or target.
        """
        state = checkpoints.read(path)
        with checkpoints.restoring(path):
            checkpoints.check(path, state, self.state_dict(), self.target.matches)
            self.load_state_dict(self.ranks.redistribute(state, self.rng.device))

    def state_dict(self) -> dict[str, Any]:
        """State that the next iteration of this process depends on, with the identity of the training."""
        return {
            "settings": self.settings.to_dict(),
            "objective": self.objective_name,
            "about": self.about,
            "marks": self.target.fingerprint,
            **self.learner.state_dict(),
            **self.experience.state_dict(),
            "start": self.objective.state_dict() if isinstance(self.objective, STATEFUL) else None,
            "health": {"rate": self.learner.rate, **self.health.state_dict()},
            "random": self.rng.get_state(),
            "counts": [self.iteration, self.learner.updates, self.seconds, self.learner.skipped],
            "evaluations": [self.own_evaluations, self.learner.counted.evaluations],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`.

        Raises
        ------
        ValueError
            If it is of a flow of another shape.
        """
        learner = self.learner
        try:
            learner.load_state_dict(state)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ValueError(
                "Expected a checkpoint of this flow; got one of another shape. Resume with the system and the flow "
                "settings it was made with."
            ) from error
        self.experience.load_state_dict(state)
        if isinstance(self.objective, STATEFUL):
            self.objective.load_state_dict(state["start"])
        self.health.load_state_dict(state["health"])
        learner.rate = state["health"]["rate"]
        self.rng.set_state(state["random"])
        self.iteration, learner.updates, self.seconds, learner.skipped = state["counts"]
        own, learner.counted.evaluations = state["evaluations"]
        self._before = self.target.evaluations - own
        (self._evaluations,) = self.ranks.totals([own])

    @property
    def objective_name(self) -> str:
        """Name of the objective's function or class, for checkpoints."""
        return getattr(self.objective, "__name__", type(self.objective).__name__)


def _mean(values: list[float]) -> float:
    """Mean of values, or nan without any."""
    return sum(values) / len(values) if values else math.nan
