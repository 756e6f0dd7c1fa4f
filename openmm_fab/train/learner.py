"""The flow being optimised, and its running average, which training returns."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..flow.base import Counted, Invertible, TrainableFlow
from ..flow.coupling import CouplingFlow
from ..tools.adaptive_batch import AdaptiveBatch
from ..tools.devices import rounds_quickly
from . import pathwise
from .adam import Adam
from .distributed import Ranks
from .errors import TrainingError
from .settings import TrainSettings

SLOW_GRADIENT = 2.0  # norm to which the gradient of parameters that are slowed is cut
SKIPPED = 20  # gradient steps in a row whose loss or gradient may be no number


class Learner:
    """Optimises a copy of a flow; the flow itself becomes the running average of the copy.

    Parameters
    ----------
    averaged : TrainableFlow
        The flow that training leaves; changed in place.
    settings : TrainSettings
    ranks : Ranks
    rng : torch.Generator
    spent : callable
        () -> share of the budget that is spent, which the learning rate follows.
    recover : callable
        Takes in words what was seen, where `SKIPPED` gradient steps in a row were not finite; brings back a good state,
        or raises.

    Attributes
    ----------
    flow : TrainableFlow
        The copy.
    counted : Counted
        It again, counting what it is asked.
    rate : float
        Factor on the learning rate of the settings.
    faster : float
        Another one, which the objective may change.
    updates, skipped : int
        Gradient steps so far, and those in a row before now that were not finite, and left out.
    steps : list of (float, float)
        Loss, and norm of the gradient before it is cut, of each gradient step in this iteration.
    """

    def __init__(
        self,
        averaged: TrainableFlow,
        settings: TrainSettings,
        ranks: Ranks,
        rng: torch.Generator,
        spent: Callable[[], float],
        recover: Callable[[str], None],
    ) -> None:
        self.averaged, self.settings, self.ranks, self.rng = averaged, settings, ranks, rng
        self._spent, self._recover = spent, recover
        ranks.agree(averaged.state_dict().values())
        self.flow = copy.deepcopy(averaged)
        parameter = next(self.flow.parameters())
        if isinstance(self.flow, CouplingFlow):
            single = parameter.dtype == torch.float32 and rounds_quickly(parameter.device)
            lower = settings.matmul_dtype == "bfloat16" or (settings.matmul_dtype == "auto" and single)
            self.flow.matmul_dtype = torch.bfloat16 if lower else None
        elif settings.matmul_dtype == "bfloat16":
            raise ValueError(f'Expected a CouplingFlow for matmul_dtype = "bfloat16"; got {type(averaged).__name__}.')
        self.counted = Counted(self.flow)
        self.optimizer = Adam(self.flow.parameters(), settings.learning_rate)
        self.rate, self.updates, self.skipped = 1.0, 0, 0
        self.faster = 1.0
        self.steps: list[tuple[float, float]] = []
        self.differentiating = AdaptiveBatch("Gradient step")

    @property
    def spent(self) -> float:
        """Share of the budget that is spent."""
        return self._spent()

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next gradient step: a linear rise over the warm-up, then half a cosine over the
        budget."""
        s = self.settings
        warm = min(1.0, (self.updates + 1) / max(s.warmup, 1))
        return self.rate * self.faster * s.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(self.spent, 1.0)))

    def slow(self, parameters: Iterable[nn.Parameter], factor: float) -> None:
        """Multiply the learning rate of these parameters of the copy by `factor` from now on; all others get the
        plain rate."""
        self.optimizer.factors = dict.fromkeys(parameters, factor)

    def begin(self) -> None:
        """Begin an iteration: no gradient steps yet; a quasi-random base gets new points."""
        self.steps = []
        if isinstance(self.flow, CouplingFlow):  # from the random numbers of a checkpoint, which has no points
            self.flow.renew_points(self.rng)

    def log_prob(self, z: Tensor, grad_log_p: Tensor | None = None, path_share: float = 0.0) -> Tensor:
        """log q(z) (n,), with a graph of the parameters; the first of `log_probs`."""
        return self.log_probs(z, grad_log_p, path_share)[0]

    def log_probs(self, z: Tensor, grad_log_p: Tensor | None = None, path_share: float = 0.0) -> tuple[Tensor, Tensor]:
        """log q(z) (n,) twice, with different gradients by the parameters.

        Where z are samples of p^alpha q^(1 - alpha), and the gradient (n, dim) of log p as trained on is given, the
        gradient that the mean of -log q gets is by this share the path gradient, in the first one; never in the second.

        Where memory does not hold the graph of all rows, it keeps the graph of none and makes that of each piece anew
        when the gradient is taken: the same loss and gradient, but for rounding.
        """
        share = 0.0 if grad_log_p is None else path_share
        self.counted.evaluations += (2 if share else 1) * len(z)
        z = z.detach().requires_grad_()

        def of(z: Tensor, grad_log_p: Tensor | None) -> Tensor:
            if not share or grad_log_p is None:
                return self.flow.log_prob(z)[:, None].expand(-1, 2)
            return pathwise.log_probs(cast(Invertible, self.flow), z, grad_log_p, self.settings.ais.alpha, share)

        def piece(start: int, stop: int) -> Tensor:
            if stop - start == len(z):
                return of(z, grad_log_p)
            slope = None if grad_log_p is None else grad_log_p[start:stop]
            return checkpoint(of, z[start:stop], slope, use_reentrant=False, preserve_rng_state=False)

        mixed, plain = torch.cat(self.differentiating(piece, len(z))).unbind(1)
        return mixed, plain

    def learn(self, loss: Tensor) -> None:
        """Make one gradient step on a loss, a scalar with a graph of the parameters, and update the average.

        Raises
        ------
        TrainingError
            There is too little memory, or losses stay no numbers.
        """
        self.optimizer.rate = self.learning_rate
        self.optimizer.zero_grad()
        try:
            loss.backward()
        except torch.cuda.OutOfMemoryError as error:
            raise TrainingError(
                f"Expected memory for a gradient step on {self.settings.batch} samples; the accelerator has too "
                "little. Train anew with a smaller TrainSettings.batch, or a smaller flow. The flow of the last step "
                "and the last checkpoint are whole."
            ) from error
        value = self.ranks.average(self.flow.parameters(), loss)
        norm = float(nn.utils.clip_grad_norm_(self.flow.parameters(), self.settings.max_gradient))
        if self.optimizer.factors:
            nn.utils.clip_grad_norm_(self.optimizer.factors, SLOW_GRADIENT)
        self.updates += 1
        if math.isfinite(norm) and math.isfinite(value):
            self.optimizer.step()
            self._average()
            self.skipped = 0
        else:
            self.skipped += 1
            if self.skipped > SKIPPED:
                self._recover(
                    f"Expected finite losses; got {value} with gradient norm {norm} for the last "
                    f"{self.skipped} gradient steps."
                )
                self.skipped = 0
        self.steps.append((value, norm))

    @torch.no_grad()
    def _average(self) -> None:
        own: list[Tensor] = list(self.averaged.parameters())
        new: list[Tensor] = list(self.flow.parameters())
        # Less at first, or after 200 steps a seventh of it were the untrained flow.
        kept = min(self.settings.averaging, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(own, new, 1 - kept)
        if not isinstance(self.averaged, CouplingFlow):  # running statistics of another library's layers
            pairs = [cast(nn.Module, flow).buffers() for flow in (self.averaged, self.flow)]
            for mine, learned in zip(*pairs, strict=True):
                mine.copy_(learned)
        elif isinstance(self.flow, CouplingFlow):
            self.flow.renew_points(self.rng)

    def state_dict(self) -> dict[str, Any]:
        """State that gradient steps change: the average as "flow", the copy as "learner", and "optimizer"."""
        return {
            "flow": self.averaged.state_dict(),
            "learner": self.flow.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`; other keys are ignored."""
        self.averaged.load_state_dict(state["flow"])
        self.flow.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
