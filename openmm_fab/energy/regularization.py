"""Energies that training sees: those of clashes made less steep."""

from __future__ import annotations

import torch
from torch import Tensor


def regularize(u: Tensor, cut: float, dim: int) -> Tensor:
    """Replace energies above `cut` by cut + dim log(1 + (u - cut) / dim), for training only; weights use the true
    energy.

    u for u <= cut, cut + dim log(1 + (u - cut) / dim) above: monotone, with a continuous slope. +inf and NaN stay.

    A flow of dim coordinates that stretches all of them by c gains dim log c of entropy, and pays, as u grows by c^2,
    2 dim log c: so reverse KL does not fall by stretching, and exp(-u) keeps a finite integral. Under one logarithm,
    without the factor, stretching pays. A force in a clash, u ~ r^-12, stays below 12 dim / r.

    Parameters
    ----------
    u : Tensor, shape (batch,)
    cut : float
    dim : int
        Coordinates that the flow moves.
    """
    # The clamp keeps log1p inside its domain, so the branch not taken has a finite gradient.
    return torch.where(u <= cut, u, cut + dim * torch.log1p((u - cut).clamp(min=0.0) / dim))
