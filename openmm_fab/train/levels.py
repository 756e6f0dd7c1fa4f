"""Levels of several temperatures: estimates of log Z that keep all of them in training."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import torch
from torch import Tensor

from ..target import TemperedTarget
from ..weights import trusted_power

TRUST = 0.3  # share of the samples of a temperature that the weights of an estimate leave effective
FEW = 16  # samples of finite weight that an estimate takes


class Levels:
    """Latest log weights of the flow's samples by temperature, and what follows for `TemperedTarget.levels`.

    Parameters
    ----------
    target : TemperedTarget
        Its levels are set.
    passes : int
        That are kept.
    """

    def __init__(self, target: TemperedTarget, passes: int) -> None:
        self.target = target
        self._recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=passes)

    def record(self, log_w: Tensor, c: Tensor) -> None:
        """Record log weights (n,) towards the target as it is, float64, and c = log(T / T0) (n,) of the samples."""
        self._recent.append((log_w + self.target.level(c), c))

    def update(self) -> None:
        """Set the levels anew: to log(mean w^lam) / lam over the samples of each temperature.

        lam is the largest power in (0, 1] that leaves `TRUST` of them effective: of a flow that is far from the target
        a few weights would decide. With lam = 1 it is log Z, with a small one the mean of log w.
        """
        if not self._recent:
            return
        log_w, c = map(torch.cat, zip(*self._recent, strict=True))
        levels = self.target.levels.clone()
        for k, given in enumerate(self.target.log_temperatures):
            here = log_w[(c - given).abs() < 1e-5]
            finite = here[torch.isfinite(here)]
            if len(finite) < FEW:
                continue
            lam = max(trusted_power(here, TRUST)[1], 1e-3)
            mean = torch.logsumexp(lam * finite, 0) - math.log(len(here))
            levels[k] = mean / lam - self.target.harmonic(given)
        self.target.levels = levels

    def state_dict(self) -> dict[str, Any]:
        """State that the next iteration depends on."""
        return {"levels": self.target.levels, "recent": list(self._recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`."""
        like = self.target.levels
        self.target.levels = state["levels"].to(like)
        self._recent.clear()
        self._recent.extend((log_w.to(like), c.to(like)) for log_w, c in state["recent"])
