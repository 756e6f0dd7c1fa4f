"""Samples that training uses: plain or annealed samples of the flow, and the replay buffer that holds them."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..ais.annealing import AISResult, AISSettings, concatenate, in_passes, run_ais
from ..ais.kernels import adapted, hmc, widths
from ..ais.path import AnnealedDensity, Path, Points
from ..flow.base import Flow
from ..target import Target, TemperedTarget
from ..tools.adaptive_batch import AdaptiveBatch
from ..weights import effective_share, trusted_power
from .buffer import ReplayBuffer
from .distributed import Ranks
from .errors import TrainingError
from .levels import Levels
from .lifting import BiasedTarget
from .settings import TrainSettings

BASINS_EVERY = 25  # iterations
LEVELS_EVERY = 10
FOUND_EVERY = 10  # iterations
RECENT = 16  # passes that the flow's ESS is that of, and of which one is annealed where annealing does not pay
TRUST = 0.05  # share of a pass that its weights leave effective
PLAIN = 2  # batches in a pass that is not annealed
EQUILIBRATION = 20  # HMC trajectories before chains that start in given points count


class Experience:
    """The target with its bias, the replay buffer, and the passes of annealed importance sampling that fill it.

    Parameters
    ----------
    flow : Flow
        The learner; it is asked for samples and densities, and not changed.
    target : Target
    settings : TrainSettings
    ranks : Ranks
    rng : torch.Generator
    like : Tensor
        With the dtype and the device of the flow.

    Attributes
    ----------
    target : BiasedTarget
        p as trained on, see `train.lifting`.
    buffer : ReplayBuffer
    step_sizes : list of float
        Of each density between the two ends of the path; adapted after every pass.
    widths : Tensor, shape (dim,), or None
        Of the coordinates in the buffer, if HMC's steps are in proportion; of a temperature 0, which no step changes.
    levels : Levels or None
        Of a target at several temperatures.
    last : AISResult or None
        The latest pass of this iteration, where it had one; log weights and acceptances of all ranks.
    lam : float
        Power of the weights with which the latest pass went to the buffer; nan before the first.
    """

    def __init__(
        self,
        flow: Flow,
        target: Target,
        settings: TrainSettings,
        ranks: Ranks,
        rng: torch.Generator,
        like: Tensor,
    ) -> None:
        s = settings
        self.flow, self.settings, self.ranks, self.rng = flow, settings, ranks, rng
        self.target = BiasedTarget(target, s.basin_share)
        self.buffer = ReplayBuffer(s.buffer_max * s.batch, target.dim, like.dtype, like.device)
        self.step_sizes = [s.ais.step_size] * s.ais.intermediate
        self.levels = Levels(target, RECENT) if isinstance(target, TemperedTarget) else None
        self.widths = None
        if s.ais.widths or self.levels is not None:
            self.widths = self._held(torch.ones(target.dim, dtype=like.dtype, device=like.device))
        self.annealing = AdaptiveBatch("Annealing")
        self.last: AISResult | None = None
        self.lam = math.nan
        self._found: Tensor | None = None
        self._iteration = 0
        self._recent: deque[Tensor] = deque(maxlen=RECENT)
        self._ess: float | None = None

    def begin(self, iteration: int) -> None:
        """Start an iteration; the first has number 0."""
        self._iteration, self.last = iteration, None
        if self.levels is not None and iteration % LEVELS_EVERY == 0:
            before = self.levels.target.level(self.buffer.z[:, -1])
            self.levels.update()
            change = before - self.levels.target.level(self.buffer.z[:, -1])
            self.buffer.reweight(self.settings.ais.alpha * change)

    def _held(self, widths: Tensor) -> Tensor:
        """Widths (dim,), that of a temperature 0."""
        return widths if self.levels is None else torch.cat([widths[:-1], torch.zeros_like(widths[-1:])])

    def start_from(self, z: Tensor) -> None:
        """Points (n, dim) in basins that the flow does not know, found by other means: chains on the target p begin
        there, and what they reach is learned from now and then. Not part of the state that checkpoints keep."""
        self._found = z.to(self.buffer.z)
        for _ in range(EQUILIBRATION):
            self._follow_found()

    def found(self) -> Points | None:
        """Points of the chains that `start_from` began, after one more HMC trajectory, every `FOUND_EVERY` iterations;
        None in the others, and without such chains."""
        return self._follow_found() if self._found is not None and self._iteration % FOUND_EVERY == 0 else None

    def _follow_found(self) -> Points:
        """The chains that `start_from` began, one HMC trajectory on."""
        assert self._found is not None
        density = AnnealedDensity(Path(1.0), 1.0, self.flow, self.target)
        step = self.step_sizes[len(self.step_sizes) // 2] if self.step_sizes else self.settings.ais.step_size
        length = step if self.widths is None else step * self.widths
        points, _ = hmc(density.points(self._found), density, length, self.settings.ais.leapfrogs, self.rng)
        self._found = points.z
        return points

    def _add_found(self, points: Points) -> None:
        """Store what the chains reach, weighted as if they were draws of all of p, but no more than any that is stored.

        The flow lacks them by many nats: what that leaves of their weights, it is asked to reach step by step.
        """
        s = self.settings
        recent = torch.cat(list(self._recent)) if self._recent else torch.zeros(1, dtype=torch.float64)
        log_z = torch.logsumexp(recent[torch.isfinite(recent)], 0) - math.log(len(recent))
        log_w = (s.ais.alpha - 1) * (points.log_p - points.log_q).double() + log_z.to(points.z.device)
        log_w = log_w.clamp(max=float(self.buffer.log_w.max())) if self.buffer.size else log_w
        self.buffer.add(points.z, log_w, points.log_q, self.target.remove_bias(points.grad_log_p, points.z))

    def fill(self) -> None:
        """Add one pass to the buffer, or more while it holds too little; update bias and widths at intervals.

        Raises
        ------
        TrainingError
            Passes leave hardly any sample of finite energy.
        """
        s, passes = self.settings, 0
        while passes == 0 or self.ranks.minimum(self.buffer.size) < s.buffer_min * s.batch:
            if passes == 4 * s.buffer_min:
                raise TrainingError(
                    f"Expected at least {s.buffer_min * s.batch} usable samples after {passes} passes of "
                    f"annealing; got {self.buffer.size}. Nearly every structure has a non-finite energy: check the "
                    "system, or lower the energy cut."
                )
            annealed = self.annealing_pays
            result, passes = self.anneal() if annealed else self.draw(), passes + 1
            points, own = result.points, s.control_variate and not annealed
            unbiased = self.target.remove_bias(points.grad_log_p, points.z)
            self.buffer.add(points.z, self._trusted(result.log_w), points.log_q, unbiased, own)
        if (found := self.found()) is not None:
            self._add_found(found)
        if self._iteration % BASINS_EVERY == 0:
            self._follow_buffer()

    def _trusted(self, log_w: Tensor) -> Tensor:
        """Log weights (n,) of this rank's samples of the last pass, raised to the power `lam` about their mean weight.

        lam is the largest in (0, 1] that leaves `TRUST` of the pass effective: the flow is asked to reach no further
        than its samples do.
        """
        assert self.last is not None
        every = self.last.log_w
        _, self.lam = trusted_power(every, TRUST)
        mean = torch.logsumexp(every[torch.isfinite(every)], 0) - math.log(len(every))
        return log_w if self.lam == 1.0 else torch.where(torch.isfinite(log_w), mean + self.lam * (log_w - mean), log_w)

    def anneal(self) -> AISResult:
        """Make one pass of annealed importance sampling and adapt the step sizes."""
        return self._pass(1, self.settings.ais)

    def draw(self) -> AISResult:
        """Make one pass of plain flow samples, with weights towards the end of the annealed path."""
        return self._pass(PLAIN, replace(self.settings.ais, intermediate=0))

    def _pass(self, batches: int, s: AISSettings) -> AISResult:
        def run(n: int) -> AISResult:
            return run_ais(self.flow, self.target, n, s, self.step_sizes, rng=self.rng, widths=self.widths)

        n = self.settings.batch
        result = concatenate([in_passes(run, n, self.annealing, self.rng) for _ in range(batches)])
        start = result.start.log_p.double() - result.start.log_q.double()
        columns = [result.log_w.double(), start, result.start.z[:, -1].double()]
        log_w, start, last = self.ranks.gathered(torch.stack(columns, 1)).unbind(1)
        self.last = replace(result, log_w=log_w, acceptance=self.ranks.mean(result.acceptance))
        self.step_sizes = adapted(self.step_sizes, self.last.acceptance, s.acceptance)
        self._remember(start, last)
        return result

    def _follow_buffer(self) -> None:
        """Bias of the target and widths of the steps anew, from the weighted samples of all ranks' buffers."""
        s = self.settings
        if s.basin_share:
            (z, log_w), here = self.ranks.gather_rows(self.buffer.z, self.buffer.log_w)
            self.buffer.reweight(s.ais.alpha * self.target.update(z, log_w)[here])
        if s.ais.widths:
            (z, log_w), _ = self.ranks.gather_rows(self.buffer.z, self.buffer.log_w)
            self.widths = self._held(widths(z, log_w, self.target.periodic).to(self.buffer.z))

    @property
    def annealing_pays(self) -> bool:
        """Whether the next pass is to be annealed; see `TrainSettings.anneal_below`."""
        return self._iteration % RECENT == 0 or not self.ess_above(self.settings.anneal_below)

    @property
    def ess(self) -> float:
        """Effective sample size of the flow's samples in the last passes, as a share; nan without any."""
        if self._ess is None:  # asked more than once a pass, and each time a GPU is waited for
            self._ess = effective_share(torch.cat(list(self._recent))) if self._recent else math.nan
        return self._ess

    def ess_above(self, share: float) -> bool:
        """Whether the flow's effective sample size is known, and above this share."""
        return len(self._recent) == RECENT and self.ess > share

    @property
    def invalid(self) -> float:
        """Number of flow samples of zero density in the last pass; nan without one."""
        return int((~torch.isfinite(self._recent[-1])).sum()) if self._recent else math.nan

    def record_log_w(self, log_w: Tensor, z: Tensor) -> None:
        """Record log weights (n,) of the learner's samples z (n, dim) towards the target, for the metrics and the
        levels."""
        self._remember(*self.ranks.gathered(torch.stack([log_w.double(), z[:, -1].double()], 1)).unbind(1))

    def _remember(self, log_w: Tensor, last: Tensor) -> None:
        """Record log weights (n,), and the last entries (n,) of z, which of several temperatures tell them."""
        self._recent.append(log_w)
        self._ess = None
        if self.levels is not None:
            self.levels.record(log_w, last)

    def steps_state(self) -> dict[str, Any]:
        """State of the moves: "step_sizes" and "widths"."""
        return {"step_sizes": list(self.step_sizes), "widths": self.widths}

    def load_steps_state(self, state: dict[str, Any]) -> None:
        """Restore a state of `steps_state`; other keys are ignored."""
        self.step_sizes = list(state["step_sizes"])
        self.widths = None if state["widths"] is None else state["widths"].to(self.buffer.z)

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint: `steps_state`, "buffer", "basins" of the bias, "recent" log weights."""
        return {
            **self.steps_state(),
            "buffer": self.buffer.state_dict(),
            "basins": self.target.coefficients,
            "recent": list(self._recent),
            "levels": None if self.levels is None else self.levels.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`; other keys are ignored."""
        self.load_steps_state(state)
        self.buffer.load_state_dict(state["buffer"])
        self.target.coefficients = state["basins"]
        self._recent = deque([log_w.to(self.buffer.z.device) for log_w in state["recent"]], RECENT)
        if self.levels is not None:
            self.levels.load_state_dict(state["levels"])
        self._ess = None
