"""Resampled base distribution with learned acceptance (LARS: Stimper, Schölkopf, Hernández-Lobato 2022, arXiv
2110.15828).

A sample of the plain base is taken with a learned probability a(z), or drawn anew, `TRIES` times at most.  Its density
is base(z) [a(z) (1 - c) / Z + c] with Z = E[a] and c = (1 - Z)^(TRIES - 1) (eq. 5).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

TRIES = 100
POINTS = 4096  # that Z is the mean over


class Resampling(nn.Module):
    """Learned acceptance of base samples; initially constant, so that it has no effect.

    Z is the mean over points of the base that stay the same, so that the density is a function; while it learns, they
    are drawn anew for every step, since it would learn to be low at those. Its normalisation is off by their standard
    error: 1.6 % where half of the base is kept, 5 % for a tenth, 16 % for a hundredth of it.

    Parameters
    ----------
    periodic : Tensor of bool, shape (dim,)
        Angles, which enter as (cos, sin).
    hidden : int
    points : Tensor, shape (n, dim)
        Samples of the base.
    """

    lines: Tensor
    circles: Tensor
    points: Tensor

    def __init__(self, periodic: Tensor, hidden: int, points: Tensor, rng: torch.Generator | None) -> None:
        super().__init__()
        self.register_buffer("lines", torch.nonzero(~periodic)[:, 0], persistent=False)
        self.register_buffer("circles", torch.nonzero(periodic)[:, 0], persistent=False)
        self.register_buffer("points", points, persistent=False)  # the same ones again from their own seed
        features = len(periodic) + int(periodic.sum())
        self.net = nn.Sequential(
            nn.Linear(features, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1)
        )
        with torch.no_grad():
            for name, p in self.net.named_parameters():
                if name.endswith("weight") and not name.startswith("4"):
                    p.normal_(0.0, p.shape[1] ** -0.5, generator=rng)
                else:
                    p.zero_()

    def log_acceptance(self, z: Tensor) -> Tensor:
        """log of the acceptance a(z) (batch,), between 0 and 1, of samples of the base before resampling."""
        angles = z[:, self.circles]
        features = torch.cat([z[:, self.lines], angles.cos(), angles.sin()], 1)
        return logsigmoid(self.net(features)[:, 0])

    def log_ratio(self, z: Tensor) -> Tensor:
        """log of the resampled density over the plain base density (batch,)."""
        mean = self.log_acceptance(self.points).exp().mean()
        forced = (1 - mean) ** (TRIES - 1)
        return (self.log_acceptance(z).exp() * (1 - forced) / mean + forced).log()

    @torch.no_grad()
    def sample(self, n: int, draw: Callable[[int], Tensor], rng: torch.Generator | None = None) -> Tensor:
        """Draw n accepted samples (n, dim) from those that `draw` makes."""
        z = draw(n)
        waiting = torch.arange(n, device=z.device)
        for _ in range(TRIES - 1):
            here = z[waiting]
            uniform = torch.rand(len(waiting), generator=rng, device=z.device, dtype=z.dtype)
            waiting = waiting[uniform >= self.log_acceptance(here).exp()]
            if not len(waiting):
                break
            z[waiting] = draw(len(waiting))
        return z
