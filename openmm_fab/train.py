"""The training loop: Flow AIS Bootstrap with a prioritised replay buffer (FAB paper, algorithm 1).

    trainer = Trainer(flow, target, budget=Budget(minutes=20))
    for info in trainer:
        print(info["ess_flow"], info["ess_ais"])

One iteration anneals a batch of flow samples towards p^alpha q^(1 - alpha), puts them into the buffer, and makes
gradient steps on what the buffer thinks matters most.  All this happens to a *learner*; the flow that training leaves
is the learner's running average, which is far less noisy.
"""

from __future__ import annotations

import copy
import math
import pickle
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .ais import AISResult, AISSettings, run_ais
from .basins import LiftedTarget
from .buffer import ReplayBuffer
from .files import write_atomically
from .hmc import adapt
from .memory import keep_freed_memory
from .objectives import fab_buffer_loss
from .path import TrainableFlow
from .target import Target
from .weights import effective_sample_size

CHECKPOINT_FORMAT = 2
BASINS_EVERY = 25  # iterations


@dataclass(frozen=True)
class TrainSettings:
    """How FAB learns.

    Attributes
    ----------
    batch : int
        Chains in a pass of annealed importance sampling, and samples in a gradient step.
    updates : int
        Gradient steps after each pass.
    buffer_min, buffer_max : int
        Batches in the buffer before the first gradient step, and at most.
    learning_rate : float
        Of Adam; rises over the first `warmup` gradient steps, then falls to zero as a cosine over the budget.
    max_gradient : float
        Norm to which the gradient is cut.
    max_adjustment : float
        Largest correction of a buffered weight inside the loss.
    averaging : float
        Share of the flow that stays itself at a gradient step; the rest is taken from the learner.
    basin_share : float
        Least share of the training that each torsional basin gets, see `basins`; 0 trains on the target as it is.
    """

    batch: int = 256
    updates: int = 2
    buffer_min: int = 16
    buffer_max: int = 256
    learning_rate: float = 1.5e-4
    warmup: int = 100
    max_gradient: float = 100.0
    max_adjustment: float = 10.0
    averaging: float = 0.99
    basin_share: float = 0.05
    ais: AISSettings = field(default_factory=AISSettings)

    def __post_init__(self) -> None:
        if not 0 < self.updates <= self.buffer_min <= self.buffer_max or self.batch < 2:
            raise ValueError(f"Expected 0 < updates <= buffer_min <= buffer_max and batch >= 2; got {self}.")
        if not 0 <= self.averaging < 1:
            raise ValueError(f"Expected 0 <= averaging < 1; got {self.averaging}.")
        if not 0 <= self.basin_share < 0.5:
            raise ValueError(f"Expected 0 <= basin_share < 0.5; got {self.basin_share}.")


@dataclass(frozen=True)
class Budget:
    """When to stop: whichever is reached first. The learning rate follows the same measure.

    Only with `iterations` or `evaluations` alone is a run reproducible: minutes depend on the machine.
    """

    minutes: float | None = None
    iterations: int | None = None
    evaluations: int | None = None

    def __post_init__(self) -> None:
        limits = [v for v in (self.minutes, self.iterations, self.evaluations) if v is not None]
        if not limits or not all(v > 0 for v in limits):
            raise ValueError(f"Expected a positive number of minutes, iterations or evaluations; got {self}.")

    def spent(self, seconds: float, iterations: int, evaluations: int) -> float:
        """Share of the budget that is gone; 1 or more is the end."""
        pairs = ((seconds / 60, self.minutes), (iterations, self.iterations), (evaluations, self.evaluations))
        return max(used / limit for used, limit in pairs if limit is not None)


class TrainingError(RuntimeError):
    """Training cannot go on; the message says what was seen and what to change."""


class Trainer:
    """Iterate over it to train; every iteration yields its metrics, and may be the last.

    Parameters
    ----------
    flow : TrainableFlow
        Any torch.nn.Module with sample, log_prob and log_prob_and_gradient; trained in place.
    target : Target
    budget : Budget
    settings : TrainSettings, optional
    generator : torch.Generator, optional
        All randomness; saved in checkpoints.

    Notes
    -----
    Metrics of an iteration: iteration, seconds, evaluations (of the target), loss, ess_flow (Kish share of the
    learner's samples in the last passes, towards the target as trained on), ess_ais (of this pass towards
    p^alpha q^(1 - alpha)), acceptance, step_size, buffer (samples), invalid (the learner's samples of zero density in
    this pass), gradient (norm), learning_rate, spent (share of the budget).
    """

    def __init__(
        self,
        flow: TrainableFlow,
        target: Target,
        budget: Budget,
        settings: TrainSettings | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        keep_freed_memory()
        self.flow, self.target, self.budget = flow, target, budget
        self.settings = settings or TrainSettings()
        self.generator = generator or torch.Generator().manual_seed(0)
        parameter = next(flow.parameters())
        s = self.settings
        self.lifted = LiftedTarget(target, s.basin_share)
        self.learner = copy.deepcopy(flow)
        self.buffer = ReplayBuffer(s.buffer_max * s.batch, target.dim, parameter.dtype, parameter.device)
        self.optimizer = torch.optim.Adam(self.learner.parameters(), lr=s.learning_rate, fused=True)
        self.step_sizes = [s.ais.step_size] * s.ais.intermediate
        self.iteration, self.updates, self.seconds, self.skipped = 0, 0, 0.0, 0
        self._recent: deque[Tensor] = deque(maxlen=16)

    @property
    def spent(self) -> float:
        return self.budget.spent(self.seconds, self.iteration, self.target.evaluations)

    def __iter__(self) -> Iterator[dict[str, float]]:
        while self.spent < 1:
            started = time.perf_counter()
            info = self.step()
            self.seconds += time.perf_counter() - started
            yield {**info, "seconds": self.seconds, "spent": self.spent}

    def step(self) -> dict[str, float]:
        """One pass of annealing and the gradient steps that follow it."""
        s = self.settings
        result, passes = self.anneal(), 1
        while self.buffer.size < s.buffer_min * s.batch:
            if passes == 4 * s.buffer_min:
                raise TrainingError(
                    f"Expected at least {s.buffer_min * s.batch} usable samples after {passes} passes of "
                    f"annealing; got {self.buffer.size}. Nearly every structure has a non-finite energy: check the "
                    "system, or lower the energy cut."
                )
            result, passes = self.anneal(), passes + 1
        if s.basin_share and self.iteration % BASINS_EVERY == 0:
            self.buffer.reweight(s.ais.alpha * self.lifted.update(self.buffer.z, self.buffer.log_w))
        losses, norms = self.learn()
        self.iteration += 1
        flow_w = torch.cat(list(self._recent))
        return {
            "iteration": self.iteration,
            "evaluations": self.target.evaluations,
            "loss": sum(losses) / len(losses),
            "ess_flow": _share(flow_w),
            "ess_ais": _share(result.log_w),
            "acceptance": sum(result.acceptance) / max(len(result.acceptance), 1),
            "step_size": sum(self.step_sizes) / max(len(self.step_sizes), 1),
            "buffer": self.buffer.size,
            "invalid": int((~torch.isfinite(result.start.log_p)).sum()),
            "gradient": max(norms),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }

    def anneal(self) -> AISResult:
        """One pass of annealed importance sampling into the buffer; adapts the step sizes."""
        s = self.settings.ais
        result = run_ais(self.learner, self.lifted, self.settings.batch, s, self.step_sizes, self.generator)
        self.buffer.add(result.points.z, result.log_w, result.points.log_q)
        self.step_sizes = [adapt(e, a, s.acceptance) for e, a in zip(self.step_sizes, result.acceptance, strict=True)]
        self._recent.append((result.start.log_p.double() - result.start.log_q.double()).cpu())
        return result

    def learn(self) -> tuple[list[float], list[float]]:
        """Gradient steps on prioritised samples; returns losses and gradient norms."""
        s, losses, norms = self.settings, [], []
        drawn = self.buffer.sample(s.updates * s.batch, self.generator)
        for index, z, log_q_old in zip(*(part.split(s.batch) for part in drawn), strict=True):
            for group in self.optimizer.param_groups:
                group["lr"] = self._learning_rate()
            log_q = self.learner.log_prob(z.requires_grad_())
            loss, log_adjustment = fab_buffer_loss(log_q, log_q_old, s.ais.alpha, s.max_adjustment)
            self.optimizer.zero_grad()
            loss.backward()
            norm = float(nn.utils.clip_grad_norm_(self.learner.parameters(), s.max_gradient))
            self.updates += 1
            if math.isfinite(norm) and math.isfinite(float(loss.detach())):
                self.optimizer.step()
                self._average()
                self.skipped = 0
            else:
                self.skipped += 1
                if self.skipped > 20:
                    raise TrainingError(
                        f"Expected finite losses; got {float(loss.detach())} with gradient norm {norm} for the last "
                        f"{self.skipped} gradient steps. Lower the learning rate (now {self._learning_rate():.1e})."
                    )
            self.buffer.adjust(index, log_adjustment, log_q.detach())
            losses.append(float(loss.detach()))
            norms.append(norm)
        return losses, norms

    @torch.no_grad()
    def _average(self) -> None:
        for own, new in zip(self.flow.parameters(), self.learner.parameters(), strict=True):
            own.lerp_(new, 1 - self.settings.averaging)

    def _learning_rate(self) -> float:
        s = self.settings
        warm = min(1.0, (self.updates + 1) / max(s.warmup, 1))
        return s.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(self.spent, 1.0)))

    def save(self, path: str | Path) -> Path:
        """Write everything that the next iteration depends on, atomically."""
        return write_atomically(path, lambda file: torch.save(self.state_dict(), file))

    def load(self, path: str | Path) -> None:
        """Go on from a checkpoint written by `save`; loads tensors and numbers only, never code.

        Raises
        ------
        ValueError
            If the file is no checkpoint, or was made with other settings or for another flow.
        """
        try:
            state = torch.load(path, weights_only=True)
        except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
            raise ValueError(f"Expected a training checkpoint at {path}; got a file torch cannot read.") from error
        self.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        return {
            "format": CHECKPOINT_FORMAT,
            "settings": asdict(self.settings),
            "flow": self.flow.state_dict(),
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "buffer": self.buffer.state_dict(),
            "step_sizes": list(self.step_sizes),
            "basins": self.lifted.coefficients,
            "recent": list(self._recent),
            "random": self.generator.get_state(),
            "counts": [self.iteration, self.updates, self.seconds, self.skipped, self.target.evaluations],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not isinstance(state, dict) or state.get("format") != CHECKPOINT_FORMAT:
            raise ValueError(f"Expected a training checkpoint of format {CHECKPOINT_FORMAT}; got another kind of file.")
        if state["settings"] != asdict(self.settings):
            raise ValueError(
                f"Expected a checkpoint made with {asdict(self.settings)}; got one made with {state['settings']}. "
                "Resume with the settings it was made with."
            )
        try:
            self.flow.load_state_dict(state["flow"])
            self.learner.load_state_dict(state["learner"])
        except RuntimeError as error:
            raise ValueError(
                "Expected a checkpoint of this flow; got one of another shape. Resume with the system and the flow "
                "settings it was made with."
            ) from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.buffer.load_state_dict(state["buffer"])
        self.step_sizes = list(state["step_sizes"])
        self.lifted.coefficients = state["basins"]
        self._recent = deque(state["recent"], maxlen=self._recent.maxlen)
        self.generator.set_state(state["random"])
        self.iteration, self.updates, self.seconds, self.skipped, self.target.evaluations = state["counts"]


def _share(log_w: Tensor) -> float:
    """Kish effective sample size as a share; 0 if no sample has weight."""
    if not torch.isfinite(log_w).any():
        return 0.0
    return effective_sample_size(log_w.cpu().numpy()) / len(log_w)
