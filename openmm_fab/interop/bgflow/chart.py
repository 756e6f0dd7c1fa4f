"""Conversion between z, a vector of about unit width with angles in [-pi, pi), and the tensors of bgflow's layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

NARROW = 0.5  # rad; a torsion of smaller circular deviation is a straight coordinate: HMC wants its width


@dataclass(frozen=True)
class Range:
    """Ranges of the n numbers in one tensor.

    Attributes
    ----------
    low, high : Tensor, shape (n,)
        Bounds outside which the density is zero.
    circular : Tensor of bool, shape (n,)
        Whether the number is on a circle, on which `high` is the same point as `low`.
    """

    low: Tensor
    high: Tensor
    circular: Tensor

    @classmethod
    def line(cls, n: int, low: float = -math.inf, high: float = math.inf) -> Range:
        """Range of n numbers on a line, with common bounds."""
        return cls(torch.full((n,), low), torch.full((n,), high), torch.zeros(n, dtype=torch.bool))

    @classmethod
    def circle(cls, n: int, low: float = 0.0, high: float = 1.0) -> Range:
        """Range of n numbers on a circle of circumference high - low."""
        return cls(torch.full((n,), low), torch.full((n,), high), torch.ones(n, dtype=torch.bool))


class Chart(nn.Module):
    """Affine bijection between z (batch, dim) and tensors y, each (batch, n_i), in order.

    Straight y are centred and divided by their widths. Circular y become angles in [-pi, pi); those narrower than
    `NARROW` are straight, too, counted from their mean: a stiff torsion next to stretched bonds would otherwise set
    the step of HMC.

    Parameters
    ----------
    ranges : sequence of Range, one a tensor
    samples : sequence of Tensor, shape (n, n_i)
        Centres and widths come from these.
    """

    low: Tensor
    high: Tensor
    circular: Tensor
    periodic: Tensor
    centre: Tensor
    width: Tensor
    period: Tensor

    def __init__(self, ranges: Sequence[Range], samples: Sequence[Tensor]) -> None:
        super().__init__()
        self.sizes = [len(r.low) for r in ranges]
        self.dim = sum(self.sizes)
        got = [tuple(s.shape[1:]) for s in samples]
        if got != [(n,) for n in self.sizes]:
            raise ValueError(f"Expected samples of {self.sizes} numbers; got shapes {got}.")
        for name in ("low", "high", "circular"):
            values = torch.cat([getattr(r, name) for r in ranges])
            self.register_buffer(name, values if name == "circular" else values.double())
        y = torch.cat([s.double().cpu() for s in samples], 1)
        self.register_buffer("period", torch.where(self.circular, self.high - self.low, 2 * math.pi))
        unit = self.period / (2 * math.pi)
        turns = torch.polar(torch.ones_like(y), (y - torch.where(self.circular, self.low, 0.0)) / unit).mean(0)
        spread = (-2 * turns.abs().clamp(1e-12, 1.0).log()).sqrt()
        narrow = self.circular & (spread < NARROW)
        self.register_buffer("periodic", self.circular & ~narrow)
        circular_mean = self.low + unit * torch.remainder(turns.angle(), 2 * math.pi)
        middle = self.low + self.period / 2
        centre = torch.where(self.periodic, middle, torch.where(narrow, circular_mean, y.mean(0)))
        width = torch.where(self.periodic, unit, torch.where(narrow, spread * unit, y.std(0)))
        if not (torch.isfinite(centre).all() and (width > 0).all() and torch.isfinite(width).all()):
            raise ValueError("Expected samples with a finite mean and width of every coordinate; some have none.")
        self.register_buffer("centre", centre)
        self.register_buffer("width", width)

    @property
    def log_det(self) -> float:
        """Constant log |det dy/dz|."""
        return float(self.width.log().sum())

    def unpack(self, z: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Convert z (batch, dim) to y, with whether each row (batch,) lies where the density can be positive."""
        centre, width, low, high, period = self._like(z)
        y = centre + width * z
        within = torch.where(self.circular, (y - centre).abs() <= period / 2, (y >= low) & (y <= high))
        start = torch.where(self.circular, low, 0.0)
        y = torch.where(self.circular, start + torch.remainder(y - start, period), y)
        return y.split(self.sizes, 1), (within | self.periodic).all(1)

    def pack(self, *y: Tensor) -> Tensor:
        """Convert y to z (batch, dim), angles in [-pi, pi)."""
        joined = torch.cat(y, 1)
        centre, width, _, _, period = self._like(joined)
        turned = torch.remainder(joined - centre + period / 2, period) - period / 2
        return torch.where(self.circular, turned, joined - centre) / width

    def _like(self, y: Tensor) -> list[Tensor]:
        return [part.to(y) for part in (self.centre, self.width, self.low, self.high, self.period)]
