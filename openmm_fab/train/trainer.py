"""The training loop: by default Flow AIS Bootstrap with a prioritised replay buffer (FAB paper, algorithm 1).

    trainer = Trainer(flow, target, budget=Budget(minutes=20))
    for info in trainer:
        print(info["ess_flow"], info["ess_ais"])

One iteration anneals a batch of flow samples towards p^alpha q^(1 - alpha), puts them into the buffer, and makes
gradient steps on what the buffer thinks matters most.  Once the flow is good, more of its samples as they come, with
their own weights, are worth more than annealed ones (`TrainSettings.anneal_below`).  Other `objectives` are trained by
the same loop.  All this happens to a *learner*; the flow that training leaves is the learner's running average, which
is far less noisy.
"""

from __future__ import annotations

import copy
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..ais.annealing import AISResult, AISSettings, adapted, in_passes, joined, run_ais
from ..ais.kernels import widths
from ..flow.base import Counted, Invertible, TrainableFlow
from ..flow.coupling import CouplingFlow
from ..target import Target
from ..tools.devices import rounds_quickly, stream
from ..tools.memory import Halving, keep_freed_memory
from . import checkpoints, pathwise
from .buffer import ReplayBuffer
from .distributed import Ranks
from .health import Health, TrainingError
from .lifting import LiftedTarget
from .objectives import MaximumLikelihood, Objective, fab
from .settings import Budget, TrainSettings

BASINS_EVERY = 25  # iterations
RECENT = 16  # passes that the flow's ESS is that of, and of which one is annealed where annealing does not pay
PLAIN = 2  # batches in a pass that is not annealed
PATH_FROM = 0.6  # of the budget, where the learning rate has fallen: before, path gradients undo what they gain


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
    objective : Objective
        What is minimised, see `train.objectives`; FAB with the buffer unless told otherwise.
    about : dict of str, optional
        What the target is; a checkpoint is loaded only where it says the same.

    Notes
    -----
    Metrics of an iteration: iteration, seconds, evaluations (of the target), flow_evaluations (of the learner), loss,
    ess_flow (Kish share of the learner's samples in the last passes, towards the target as trained on), ess_ais (of
    this pass towards p^alpha q^(1 - alpha)), acceptance (nan if it was not annealed), step_size, buffer (samples),
    invalid (the learner's samples of zero density in this pass), gradient (norm), learning_rate, spent (share of the
    budget).  What an objective does not look at is nan.
    """

    def __init__(
        self,
        flow: TrainableFlow,
        target: Target,
        budget: Budget,
        settings: TrainSettings | None = None,
        generator: torch.Generator | None = None,
        objective: Objective = fab,
        about: Mapping[str, str] | None = None,
    ) -> None:
        keep_freed_memory()
        self.flow, self.target, self.budget, self.objective = flow, target, budget, objective
        self.settings = settings or TrainSettings()
        self.ranks, self.about = Ranks(), dict(about or {})
        parameter = next(flow.parameters())
        self.generator = self.ranks.stream(generator or stream(parameter.device, 0))
        s = self.settings
        if isinstance(objective, MaximumLikelihood) and budget.minutes is budget.iterations is None:
            raise ValueError(f"Expected minutes or iterations: maximum likelihood has no energies; got {budget}.")
        self.lifted = LiftedTarget(target, s.basin_share)
        self.ranks.agree(flow.state_dict().values())
        self.learner = copy.deepcopy(flow)
        if isinstance(self.learner, CouplingFlow):
            single = parameter.dtype == torch.float32 and rounds_quickly(parameter.device)
            self.learner.rounded = s.products == "bfloat16" or (s.products == "auto" and single)
        elif s.products == "bfloat16":
            raise ValueError(f'Expected a CouplingFlow for products = "bfloat16"; got {type(flow).__name__}.')
        self.counted = Counted(self.learner)
        self.buffer = ReplayBuffer(s.buffer_max * s.batch, target.dim, parameter.dtype, parameter.device)
        self.optimizer = torch.optim.Adam(self.learner.parameters(), lr=s.learning_rate, fused=True)
        self.step_sizes = [s.ais.step_size] * s.ais.intermediate
        self.widths = torch.ones(target.dim, dtype=parameter.dtype, device=parameter.device) if s.ais.widths else None
        self.iteration, self.updates, self.seconds, self.skipped = 0, 0, 0.0, 0
        self.health = Health()
        self.annealing, self.differentiating = Halving("Annealing"), Halving("Gradient step")
        self._recent: deque[Tensor] = deque(maxlen=RECENT)
        self._ess: float | None = None
        self._last: AISResult | None = None
        self._before, self._evaluations = target.evaluations, 0
        self._steps: list[tuple[float, float]] = []

    @property
    def evaluations(self) -> int:
        """Structures whose energy this training evaluated; on several ranks all of them, as of the last iteration."""
        return self.own_evaluations if self.ranks.alone else self._evaluations

    @property
    def own_evaluations(self) -> int:
        """Those of this rank."""
        return self.target.evaluations - self._before

    @own_evaluations.setter
    def own_evaluations(self, number: int) -> None:
        self._before = self.target.evaluations - number

    @property
    def spent(self) -> float:
        return self.budget.spent(self.seconds, self.iteration, self.evaluations)

    def __iter__(self) -> Iterator[dict[str, float]]:
        while self.spent < 1:
            started = time.perf_counter()
            info = self.step()
            self.seconds += self.ranks.objects(time.perf_counter() - started)[0]
            yield {**info, "seconds": self.seconds, "spent": self.spent}
            self.ranks.stop_if_asked()

    @torch.enable_grad()
    def step(self) -> dict[str, float]:
        """One iteration: the objective's samples, and the gradient steps on them."""
        self._last = None
        if isinstance(self.learner, CouplingFlow):  # from the random numbers of a checkpoint, which has no points
            self.learner.renew_points(self.generator)
        self._steps = []
        self.objective(self)
        losses, norms = zip(*self._steps, strict=True)
        self.iteration += 1
        counts = [self.own_evaluations, self.counted.evaluations, self.buffer.size]
        self._evaluations, flow_evaluations, buffered = self.ranks.totals(counts)
        info: dict[str, float] = {
            "iteration": self.iteration,
            "evaluations": self.evaluations,
            "flow_evaluations": flow_evaluations,
            "loss": sum(losses) / len(losses),
            "ess_flow": self._ess_flow(),
            "ess_ais": math.nan if self._last is None else _share(self._last.log_w),
            "acceptance": math.nan if self._last is None else _mean(self._last.acceptance),
            "step_size": _mean(self.step_sizes),
            "buffer": buffered,
            "invalid": int((~torch.isfinite(self._recent[-1])).sum()) if self._recent else math.nan,
            "gradient": max(norms),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        return self.health.check(self, info)

    def fill(self) -> None:
        """One pass into the buffer, and more while it holds too little; lifts rare basins now and then."""
        s, passes = self.settings, 0
        while passes == 0 or self.ranks.least(self.buffer.size) < s.buffer_min * s.batch:
            if passes == 4 * s.buffer_min:
                raise TrainingError(
                    f"Expected at least {s.buffer_min * s.batch} usable samples after {passes} passes of "
                    f"annealing; got {self.buffer.size}. Nearly every structure has a non-finite energy: check the "
                    "system, or lower the energy cut."
                )
            annealed = self._annealing_pays
            result, passes = self.anneal() if annealed else self.draw(), passes + 1
            points, own = result.points, s.control_variate and not annealed
            unlifted = self.lifted.unlifted(points.grad_log_p, points.z)
            self.buffer.add(points.z, result.log_w, points.log_q, unlifted, own)
        if s.basin_share and self.iteration % BASINS_EVERY == 0:
            (z, log_w), here = self.ranks.pooled(self.buffer.z, self.buffer.log_w)
            self.buffer.reweight(s.ais.alpha * self.lifted.update(z, log_w)[here])
        if self.widths is not None and self.iteration % BASINS_EVERY == 0:
            (z, log_w), _ = self.ranks.pooled(self.buffer.z, self.buffer.log_w)
            self.widths = widths(z, log_w, self.target.periodic).to(self.widths)

    @property
    def _annealing_pays(self) -> bool:
        """Whether the next pass is annealed; see `TrainSettings.anneal_below`."""
        return self.iteration % RECENT == 0 or not self._good_above(self.settings.anneal_below)

    @property
    def path_share(self) -> float:
        """Share of the next gradient that is a path gradient; see `TrainSettings.path_above`."""
        s = self.settings
        if not s.path_gradient or not pathwise.has_base(self.learner):
            return 0.0
        late = self.spent >= PATH_FROM and self._good_above(s.path_above)
        return s.path_gradient if s.path_above == 0 or late else 0.0

    def _good_above(self, share: float) -> bool:
        """Whether the flow's ESS is known, and above this share."""
        return len(self._recent) == RECENT and self._ess_flow() > share

    def _ess_flow(self) -> float:
        """Share, of the learner's samples in the last passes."""
        if self._ess is None:  # asked more than once a pass, and each time a GPU is waited for
            self._ess = _share(torch.cat(list(self._recent))) if self._recent else math.nan
        return self._ess

    def _remember(self, log_w: Tensor) -> None:
        self._recent.append(log_w)
        self._ess = None

    def anneal(self) -> AISResult:
        """One pass of annealed importance sampling; adapts the step sizes."""
        return self._pass(1, self.settings.ais)

    def draw(self) -> AISResult:
        """One pass of flow samples as they come, with weights towards what annealing ends at."""
        return self._pass(PLAIN, replace(self.settings.ais, intermediate=0))

    def _pass(self, batches: int, s: AISSettings) -> AISResult:
        def run(n: int) -> AISResult:
            return run_ais(self.counted, self.lifted, n, s, self.step_sizes, self.generator, self.widths)

        n = self.settings.batch
        result = joined([in_passes(run, n, self.annealing, self.generator) for _ in range(batches)])
        start = result.start.log_p.double() - result.start.log_q.double()
        log_w, start = self.ranks.gathered(torch.stack([result.log_w.double(), start], 1)).unbind(1)
        self._last = replace(result, log_w=log_w, acceptance=self.ranks.mean(result.acceptance))
        self.step_sizes = adapted(self.step_sizes, self._last, s.acceptance)
        self._remember(start)
        return result

    def watch(self, log_w: Tensor) -> None:
        """Keep log weights (n,) of the learner's samples, for the metrics."""
        self._remember(self.ranks.gathered(log_w.double()))

    def log_prob(self, z: Tensor, grad_log_p: Tensor | None = None) -> Tensor:
        """The learner's log q(z) (n,), with a graph of its parameters; the first of `log_probs`."""
        return self.log_probs(z, grad_log_p)[:, 0]

    def log_probs(self, z: Tensor, grad_log_p: Tensor | None = None) -> Tensor:
        """The learner's log q(z) twice (n, 2), with a graph of its parameters.

        Where z are samples of p^alpha q^(1 - alpha), and the gradient (n, dim) of log p as trained on is given, the
        gradient that the mean of -log q gets is in part the path gradient, in the first column; never in the second.

        Where memory does not hold the graph of all rows, it keeps the graph of none and makes that of each piece anew
        when the gradient is taken: the same loss and gradient, but for rounding.
        """
        share = 0.0 if grad_log_p is None else self.path_share
        self.counted.evaluations += (2 if share else 1) * len(z)
        z = z.detach().requires_grad_()

        def of(z: Tensor, grad_log_p: Tensor | None) -> Tensor:
            if not share or grad_log_p is None:
                return self.learner.log_prob(z)[:, None].expand(-1, 2)
            flow = cast(Invertible, self.learner)
            return pathwise.log_probs(flow, z, grad_log_p, self.settings.ais.alpha, share)

        def piece(start: int, stop: int) -> Tensor:
            if stop - start == len(z):
                return of(z, grad_log_p)
            slope = None if grad_log_p is None else grad_log_p[start:stop]
            return checkpoint(of, z[start:stop], slope, use_reentrant=False, preserve_rng_state=False)

        return torch.cat(self.differentiating(piece, len(z)))

    def learn(self, loss: Tensor) -> None:
        """One gradient step; its loss and the norm of its gradient are kept for the metrics of the iteration."""
        s = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.zero_grad()
        try:
            loss.backward()
        except torch.cuda.OutOfMemoryError as error:
            raise TrainingError(
                f"Expected memory for a gradient step on {s.batch} samples; the accelerator has too little. Train "
                "anew with a smaller TrainSettings.batch, or a smaller flow. The flow of the last step and the "
                "last checkpoint are whole."
            ) from error
        value = self.ranks.average(self.learner.parameters(), loss)
        norm = float(nn.utils.clip_grad_norm_(self.learner.parameters(), s.max_gradient))
        self.updates += 1
        if math.isfinite(norm) and math.isfinite(value):
            self.optimizer.step()
            self._average()
            self.skipped = 0
        else:
            self.skipped += 1
            if self.skipped > 20:
                self.health.back_off(
                    self,
                    f"Expected finite losses; got {value} with gradient norm {norm} for the last "
                    f"{self.skipped} gradient steps.",
                )
                self.skipped = 0
        self._steps.append((value, norm))

    @torch.no_grad()
    def _average(self) -> None:
        own: list[Tensor] = list(self.flow.parameters())
        new: list[Tensor] = list(self.learner.parameters())
        torch._foreach_lerp_(own, new, 1 - self.settings.averaging)
        if not isinstance(self.flow, CouplingFlow):  # running statistics of another library's layers
            pairs = [cast(nn.Module, flow).buffers() for flow in (self.flow, self.learner)]
            for mine, learned in zip(*pairs, strict=True):
                mine.copy_(learned)
        elif isinstance(self.learner, CouplingFlow):
            self.learner.renew_points(self.generator)

    def _learning_rate(self) -> float:
        s = self.settings
        warm = min(1.0, (self.updates + 1) / max(s.warmup, 1))
        return self.health.rate * s.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(self.spent, 1.0)))

    def save(self, path: str | Path) -> Path:
        """Write everything that the next iteration depends on, atomically; the checkpoint before stays as
        `files.previous(path)`."""
        return checkpoints.write(self, path)

    def load(self, path: str | Path) -> None:
        """Go on from a checkpoint written by `save`; loads tensors and numbers only, never code.

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
        checkpoints.read(self, path)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return checkpoints.state_of(self)

    def learned(self) -> dict[str, Any]:
        """What a step of training changes and `take_back` brings back: flow, learner, optimizer, step sizes."""
        return {
            "flow": self.flow.state_dict(),
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step_sizes": list(self.step_sizes),
            "widths": self.widths,
        }

    def take_back(self, learned: dict[str, Any]) -> None:
        """Load what `learned` gave."""
        self.flow.load_state_dict(learned["flow"])
        self.learner.load_state_dict(learned["learner"])
        self.optimizer.load_state_dict(learned["optimizer"])
        self.step_sizes = list(learned["step_sizes"])
        self.widths = None if learned["widths"] is None else learned["widths"].to(next(self.learner.parameters()))

    @property
    def objective_name(self) -> str:
        return getattr(self.objective, "__name__", type(self.objective).__name__)


def _share(log_w: Tensor) -> float:
    """Kish effective sample size as a share, where what is not finite has no weight; 0 if no sample has any."""
    log_w = torch.where(torch.isfinite(log_w), log_w, -torch.inf)
    share = float((2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()) / len(log_w)
    return 0.0 if math.isnan(share) else share


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
