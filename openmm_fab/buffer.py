"""Prioritised replay buffer of annealed samples (FAB paper, algorithm 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ReplayBuffer:
    """The latest `capacity` samples with the log weights they were annealed with.

    Parameters
    ----------
    capacity : int
        Samples kept; the oldest are overwritten.
    dim : int
    dtype, device
        Of the stored z; weights are float64.
    """

    def __init__(
        self, capacity: int, dim: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        self.capacity, self.size, self._next = capacity, 0, 0
        self._z = torch.zeros(capacity, dim, dtype=dtype, device=device)
        self._log_w = torch.full((capacity,), -torch.inf, dtype=torch.float64, device=device)
        self._log_q = torch.zeros(capacity, dtype=dtype, device=device)
        self._grad_log_p = torch.zeros(capacity, dim, dtype=dtype, device=device)

    def add(self, z: Tensor, log_w: Tensor, log_q: Tensor, grad_log_p: Tensor) -> None:
        """Store samples z (n, dim) with log weights and log q (n,) of when they were annealed, and the target's
        gradient (n, dim); weightless ones not."""
        keep = torch.nonzero(torch.isfinite(log_w) & torch.isfinite(log_q))[-self.capacity :, 0]
        z, log_w, log_q, grad_log_p = (part[keep] for part in (z, log_w, log_q, grad_log_p))
        where = torch.arange(self._next, self._next + len(z), device=self._z.device) % self.capacity
        self._z[where], self._log_w[where], self._log_q[where] = z, log_w.double(), log_q
        self._grad_log_p[where] = grad_log_p
        self._next = (self._next + len(z)) % self.capacity
        self.size = min(self.size + len(z), self.capacity)

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw n different samples with probability proportional to their weights.

        Returns
        -------
        index : Tensor of int, shape (n,)
        z : Tensor, shape (n, dim)
        log_q : Tensor, shape (n,)
        grad_log_p : Tensor, shape (n, dim)
            As stored.

        Raises
        ------
        ValueError
            If fewer than n samples are stored.
        """
        if n > self.size:
            raise ValueError(f"Expected at most {self.size} samples to be asked of the buffer; got {n}. Fill it first.")
        # The n largest of log w + Gumbel noise are a draw without replacement.
        uniform = torch.rand(self.size, generator=generator, dtype=torch.float64, device=self._z.device)
        index = torch.topk(self._log_w[: self.size] - (-uniform.log()).log(), n).indices
        index = index[torch.randperm(n, generator=generator, device=self._z.device)]
        return index, self._z[index], self._log_q[index], self._grad_log_p[index]

    def adjust(self, index: Tensor, log_w_change: Tensor, log_q: Tensor) -> None:
        """Follow the flow: weights towards p^alpha q^(1 - alpha) change by (1 - alpha)(log q - log q_old).

        A sample whose change is not finite loses its weight: NaN would sort first and be drawn for ever.
        """
        change = torch.where(torch.isfinite(log_w_change), log_w_change.double(), -torch.inf)
        self._log_w[index] += change
        self._log_q[index] = log_q

    def reweight(self, log_w_change: Tensor) -> None:
        """Follow a change of the target: add to the log weights of everything stored, shape (size,)."""
        self._log_w[: self.size] += log_w_change

    @property
    def z(self) -> Tensor:
        """What is stored, shape (size, dim)."""
        return self._z[: self.size]

    @property
    def log_w(self) -> Tensor:
        """Log weights of what is stored, shape (size,)."""
        return self._log_w[: self.size]

    def state_dict(self) -> dict[str, Tensor | int]:
        """What is stored, without the empty places."""
        filled = {"z": self._z, "log_w": self._log_w, "log_q": self._log_q, "grad_log_p": self._grad_log_p}
        return {key: part[: self.size].clone() for key, part in filled.items()} | {
            "capacity": self.capacity,
            "next": self._next,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        expected, got = (self.capacity, self._z.shape[1]), (state["capacity"], state["z"].shape[1])
        if got != expected:
            raise ValueError(
                f"Expected a buffer of (capacity, dim) {expected}; got {got}. "
                "Resume with the settings that the checkpoint was made with."
            )
        self.size, self._next = len(state["z"]), int(state["next"])
        self._log_w.fill_(-torch.inf)
        self._z[: self.size], self._log_w[: self.size] = state["z"], state["log_w"]
        self._log_q[: self.size], self._grad_log_p[: self.size] = state["log_q"], state["grad_log_p"]
