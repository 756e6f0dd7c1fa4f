"""Prioritised replay buffer (FAB paper, algorithm 1), with the weights of a control variate.

The buffer holds annealed samples and, stored with `own`, plain samples of the flow. With pi = p^alpha q^(1 - alpha),
every sample has an importance weight a = pi / q_then towards pi, where q_then is the density that it was drawn from; a
plain sample also has b = q / q_then towards the present flow. The gradient of log q has zero mean over q, so

    E[(a - kappa b) grad log q]    with kappa = (sum of a) / (sum of b)

estimates the same gradient with less noise, the less the better the flow is: a control variate. Samples are drawn with
the priority |a - kappa b| + (a + kappa b) / 2, which for annealed samples, for which b = 0, is
proportional to their weight as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

_COLUMNS = ("z", "log_w", "log_q", "grad_log_p", "log_b")  # of a buffer's state: one row a sample


@dataclass(frozen=True)
class Drawn:
    """Samples drawn from the buffer.

    Attributes
    ----------
    index : Tensor of int, shape (n,)
    z : Tensor, shape (n, dim)
    log_q : Tensor, shape (n,)
    grad_log_p : Tensor, shape (n, dim)
        As stored.
    weight, control_weight : Tensor, shape (n,), float64
        Importance weights a for an average over pi, and kappa b for that over the flow, which is the control variate.
        Both are divided by what the samples were drawn by.
    log_total : Tensor, scalar, float64
        Logarithm of the sum of what all samples were drawn by.
    """

    index: Tensor
    z: Tensor
    log_q: Tensor
    grad_log_p: Tensor
    weight: Tensor
    control_weight: Tensor
    log_total: Tensor

    def split(self, size: int) -> list[Drawn]:
        """Split into batches of this size; each keeps `log_total` of all."""
        names = ("index", "z", "log_q", "grad_log_p", "weight", "control_weight")
        columns = zip(*(getattr(self, name).split(size) for name in names), strict=True)
        return [replace(self, **dict(zip(names, parts, strict=True))) for parts in columns]


class ReplayBuffer:
    """The latest `capacity` samples with their log weights.

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
        self._log_b = torch.full((capacity,), -torch.inf, dtype=torch.float64, device=device)

    def add(self, z: Tensor, log_w: Tensor, log_q: Tensor, grad_log_p: Tensor, own: bool = False) -> None:
        """Store samples z (n, dim) with log weights and log q (n,) of the time they were drawn, and the target's
        gradient (n, dim). Samples without weight are dropped unless they are plain samples of the flow (`own`)."""
        weight = torch.isfinite(log_w)
        keep = torch.nonzero((weight | own) & torch.isfinite(log_q))[-self.capacity :, 0]
        log_w = torch.where(weight, log_w, -torch.inf)
        z, log_w, log_q, grad_log_p = (part[keep] for part in (z, log_w, log_q, grad_log_p))
        where = torch.arange(self._next, self._next + len(z), device=self._z.device) % self.capacity
        self._z[where], self._log_w[where], self._log_q[where] = z, log_w.double(), log_q
        self._grad_log_p[where] = grad_log_p
        self._log_b[where] = 0.0 if own else -torch.inf
        self._next = (self._next + len(z)) % self.capacity
        self.size = min(self.size + len(z), self.capacity)

    def log_sums(self) -> Tensor:
        """Logarithms (3,) of three sums: of all a, of the a of plain samples, and of b."""
        a, b = self.log_w, self._log_b[: self.size]
        own = torch.where(torch.isfinite(b), a, -torch.inf)
        return torch.stack([a.logsumexp(0), own.logsumexp(0), b.logsumexp(0)])

    def log_priority(self, log_kappa: Tensor | float = -torch.inf) -> Tensor:
        """Logarithm (size,) of the priorities that samples are drawn with."""
        a, b = self.log_w, self._log_b[: self.size] + log_kappa
        more, less = torch.maximum(a, b), torch.minimum(a, b)
        ratio = torch.where(torch.isfinite(more), (less - more).exp(), 0.0)
        return more + ((1 - ratio) + 0.5 * (1 + ratio)).log()

    def sample(self, n: int, rng: torch.Generator | None = None, log_kappa: Tensor | float = -torch.inf) -> Drawn:
        """Draw n distinct samples in proportion to their priorities.

        Raises
        ------
        ValueError
            If fewer than n samples are stored.
        """
        if n > self.size:
            raise ValueError(f"Expected at most {self.size} samples to be asked of the buffer; got {n}. Fill it first.")
        # The n largest of log priority + Gumbel noise are a draw without replacement.
        priority = self.log_priority(log_kappa)
        uniform = torch.rand(self.size, generator=rng, dtype=torch.float64, device=self._z.device)
        index = torch.topk(priority - (-uniform.log()).log(), n).indices
        index = index[torch.randperm(n, generator=rng, device=self._z.device)]
        by = priority[index]
        parts = (self._log_w[index], self._log_b[index] + log_kappa)
        weight, control_weight = (torch.where(torch.isfinite(by), (part - by).exp(), 0.0) for part in parts)
        return Drawn(
            index,
            self._z[index],
            self._log_q[index],
            self._grad_log_p[index],
            weight,
            control_weight,
            priority.logsumexp(0),
        )

    def adjust(self, index: Tensor, log_w_change: Tensor, log_q: Tensor) -> None:
        """Update stored weights to the present flow: towards pi they change by (1 - alpha)(log q - log q_old).

        A sample whose change is not finite loses its weight: NaN would sort first and always be drawn.
        """
        followed = log_q.double() - self._log_q[index]
        for stored, change in ((self._log_w, log_w_change.double()), (self._log_b, followed)):
            finite = torch.isfinite(log_w_change) & torch.isfinite(change)
            stored[index] = torch.where(finite, stored[index] + change, -torch.inf)
        self._log_q[index] = log_q

    def reweight(self, log_w_change: Tensor) -> None:
        """Update stored weights after a change of the target by `log_w_change` (size,)."""
        self._log_w[: self.size] += log_w_change

    def newest(self, n: int) -> tuple[Tensor, Tensor]:
        """z (n, dim) and log weights (n,) of the samples stored last, or of all if there are fewer."""
        where = (self._next - 1 - torch.arange(min(n, self.size), device=self._z.device)) % self.capacity
        return self._z[where], self._log_w[where]

    @property
    def z(self) -> Tensor:
        """Stored samples, shape (size, dim)."""
        return self._z[: self.size]

    @property
    def log_w(self) -> Tensor:
        """Log weights (size,) of the stored samples."""
        return self._log_w[: self.size]

    def state_dict(self) -> dict[str, Any]:
        """State without unused rows."""
        filled = {"z": self._z, "log_w": self._log_w, "log_q": self._log_q, "grad_log_p": self._grad_log_p}
        filled["log_b"] = self._log_b
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
        self._log_b.fill_(-torch.inf)
        self._log_b[: self.size] = state["log_b"]
        self._z[: self.size], self._log_w[: self.size] = state["z"], state["log_w"]
        self._log_q[: self.size], self._grad_log_p[: self.size] = state["log_q"], state["grad_log_p"]

    @staticmethod
    def merged(states: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, list[int]]]:
        """Join the states of a buffer's shards, and return with it the "size" and the "next" row of each shard.

        The rows of the shards lie one below the other; capacity and all that is no row are those of the first.
        """
        first = states[0]
        rows = {key: torch.cat([state[key].to(first[key].device) for state in states]) for key in _COLUMNS}
        sizes, nexts = [len(state["z"]) for state in states], [int(state["next"]) for state in states]
        return {**first, **rows}, {"size": sizes, "next": nexts}

    @staticmethod
    def split(state: dict[str, Any], shards: dict[str, list[int]], number: int, of: int) -> dict[str, Any]:
        """State of shard `number` out of a state joined by `merged`.

        Where there were as many shards as `of` it is the one that was; otherwise the samples are dealt out, the newest
        first, as many as fit.
        """
        capacity, sizes, nexts = state["capacity"], shards["size"], shards["next"]
        if len(sizes) == of:
            start = sum(sizes[:number])
            rows, after = torch.arange(start, start + sizes[number]), nexts[number]
        else:
            rows = _newest(sizes, nexts, capacity)[number::of]
            rows = rows[:capacity].flip(0)  # a shard has its oldest first
            after = len(rows) % capacity
        return {**state, **{key: state[key][rows] for key in _COLUMNS}, "next": after}


def _newest(sizes: Sequence[int], nexts: Sequence[int], capacity: int) -> Tensor:
    """Row numbers of shards that lie one below the other, the newest of each first, in turn."""
    ages, rows, start = [], [], 0
    for size, after in zip(sizes, nexts, strict=True):
        place = torch.arange(size)
        ages.append((after - 1 - place) % (capacity if size == capacity else max(size, 1)))
        rows.append(start + place)
        start += size
    return torch.cat(rows)[torch.argsort(torch.cat(ages), stable=True)]
