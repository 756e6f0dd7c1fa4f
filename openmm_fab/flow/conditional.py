"""A flow of several temperatures at one of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .coupling import CouplingFlow

ROUNDING = 1e-6  # of log(T / T0)


class AtTemperature:
    """Flow over z (batch, dim), which a `CouplingFlow` of several temperatures is at one of them.

    Parameters
    ----------
    flow : CouplingFlow
        With one entry more in its z.
    log_temperature : float
        log(T / T0), within the range of the flow's.

    Raises
    ------
    ValueError
        A flow of one temperature, or a temperature out of the range.
    """

    def __init__(self, flow: CouplingFlow, log_temperature: float) -> None:
        given = flow.log_temperatures
        if not given:
            raise ValueError("Expected a flow of several temperatures; got one without log_temperatures.")
        if not given[0] - ROUNDING <= log_temperature <= given[-1] + ROUNDING:
            raise ValueError(f"Expected {given[0]:g} <= log(T / T0) <= {given[-1]:g}; got {log_temperature:g}.")
        self.flow, self.log_temperature, self.dim = flow, log_temperature, flow.dim - 1

    @property
    def reach(self) -> Tensor:
        """Range of the splines (dim,) at this temperature."""
        none = torch.zeros(1, self.dim, device=self.flow.reach.device)
        return self.flow.reach_at(self._with(none))[0, :-1]

    def _with(self, z: Tensor) -> Tensor:
        return torch.cat([z, torch.full_like(z[:, :1], self.log_temperature)], 1)

    def sample(self, n: int, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        z, log_q = self.flow.sample(n, rng, log_temperature=self.log_temperature)
        return z[:, :-1], log_q

    def log_prob(self, z: Tensor) -> Tensor:
        return self.flow.log_prob(self._with(z))

    def log_prob_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        log_q, gradient = self.flow.log_prob_and_gradient(self._with(z))
        return log_q, gradient[:, :-1]

    def to_base(self, z: Tensor) -> tuple[Tensor, Tensor]:
        base, log_det = self.flow.to_base(self._with(z))
        return base[:, :-1], log_det

    def from_base(self, base: Tensor, frozen: bool = False) -> tuple[Tensor, Tensor]:
        z, log_det = self.flow.from_base(self._with(base), frozen)
        return z[:, :-1], log_det

    def base_log_prob(self, base: Tensor) -> Tensor:
        return self.flow.base_log_prob(self._with(base))

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.flow.parameters()
