"""Interfaces of flows, and a wrapper that counts evaluations.

A flow is a density q on z (batch, dim): `sample` returns points with log q, `log_prob` evaluates log q anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Flow(Protocol):
    """Interface that annealed importance sampling needs."""

    def sample(self, n: int, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]: ...

    def log_prob(self, z: Tensor) -> Tensor: ...

    def log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]: ...


class TrainableFlow(Flow, Protocol):
    """Interface that the trainer needs besides; every `torch.nn.Module` has it."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def share_outside_circle(z: Tensor, periodic: Tensor) -> float:
    """Share of z (n, dim) with an angle outside [-pi, pi], but for rounding."""
    return float((z.abs() > math.pi + 1e-4)[:, periodic.to(z.device)].any(1).double().mean())


class Counted:
    """Wrapper of a flow that counts in `evaluations` the points sampled or evaluated, gradients included.

    It shows its base if the flow does.
    """

    def __init__(self, flow: Flow) -> None:
        self.flow, self.evaluations = flow, 0

    def sample(self, n: int, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        self.evaluations += n
        return self.flow.sample(n, rng)

    def log_prob(self, z: Tensor) -> Tensor:
        self.evaluations += len(z)
        return self.flow.log_prob(z)

    def log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self.evaluations += len(z)
        return self.flow.log_prob_and_gradient(z)

    def to_base(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self.evaluations += len(z)
        return self.flow.to_base(z)  # type: ignore[attr-defined]

    def from_base(self, base: Tensor, frozen: bool = False) -> tuple[Tensor, Tensor]:
        self.evaluations += len(base)
        return self.flow.from_base(base, frozen)  # type: ignore[attr-defined]

    def base_log_prob(self, base: Tensor) -> Tensor:
        return self.flow.base_log_prob(base)  # type: ignore[attr-defined]


class Invertible(Protocol):
    """Interface of a flow whose base coordinates are lines and circles like those of z."""

    def to_base(self, z: Tensor) -> tuple[Tensor, Tensor]: ...

    def from_base(self, base: Tensor, frozen: bool = False) -> tuple[Tensor, Tensor]: ...

    def base_log_prob(self, base: Tensor) -> Tensor: ...
