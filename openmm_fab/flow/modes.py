"""A base density with several modes, for coordinates whose minima are known before training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

BROAD = 0.02  # share of a normal that holds all modes: nothing between them has no density


class Mixture(nn.Module):
    """A mixture of Gaussians over some of the coordinates, one a mode, all of one weight, and a broad one.

    Parameters
    ----------
    columns : Tensor of int, shape (k,)
        Entries of z that it holds.
    means : Tensor, shape (modes, k)
    roots : Tensor, shape (modes, k, k)
        Lower triangular; a mode's covariance is root @ root.T.

    Attributes
    ----------
    spread : Tensor, shape (k,)
        Deviation over all modes, and of the broad one.
    """

    columns: Tensor
    means: Tensor
    roots: Tensor
    inverses: Tensor
    log_norms: Tensor
    shares: Tensor
    spread: Tensor

    def __init__(self, columns: Tensor, means: Tensor, roots: Tensor) -> None:
        super().__init__()
        n, k = means.shape
        if columns.shape != (k,) or roots.shape != (n, k, k):
            raise ValueError(
                f"Expected columns (k,), means (modes, k) and roots (modes, k, k); got {tuple(columns.shape)}, "
                f"{tuple(means.shape)} and {tuple(roots.shape)}."
            )
        spread = (1 + means.square().mean(0)).sqrt()
        broad = torch.diag(spread)
        roots = torch.cat([roots, broad[None]])
        shares = torch.tensor([(1 - BROAD) / n] * n + [BROAD], dtype=roots.dtype)
        log_width = roots.diagonal(dim1=1, dim2=2).log().sum(1)
        self.register_buffer("columns", columns)
        self.register_buffer("means", torch.cat([means, means.new_zeros(1, k)]))
        self.register_buffer("roots", roots)
        self.register_buffer("inverses", torch.linalg.inv(roots), persistent=False)
        self.register_buffer("spread", spread, persistent=False)
        self.register_buffer("shares", shares, persistent=False)
        self.register_buffer("log_norms", shares.log() - log_width - k / 2 * math.log(2 * math.pi), persistent=False)

    def log_prob(self, z: Tensor, width: Tensor | None = None) -> Tensor:
        """log density (batch,) of z (batch, dim), by its entries `columns`; with modes `width` (batch,) times as
        wide."""
        away = z[:, None, self.columns] - self.means.to(z)  # (batch, modes, k)
        whitened = torch.einsum("mij,bmj->bmi", self.inverses.to(z), away)
        squares = whitened.square().sum(2)
        if width is None:
            return torch.logsumexp(self.log_norms.to(z) - 0.5 * squares, 1)
        wider = torch.logsumexp(self.log_norms.to(z) - 0.5 * squares / width[:, None].square(), 1)
        return wider - len(self.columns) * width.log()

    def sample(self, normal: Tensor, uniform: Tensor, width: Tensor | None = None) -> Tensor:
        """Samples (batch, k) of the mixture, from standard normal numbers (batch, k) and uniform ones (batch,), which
        choose the modes; modes `width` (batch,) times as wide."""
        bounds = self.shares.to(uniform).cumsum(0)
        mode = torch.bucketize(uniform.contiguous(), bounds).clamp(max=len(bounds) - 1)
        normal = normal if width is None else normal * width[:, None]
        return self.means.to(normal)[mode] + torch.einsum("bij,bj->bi", self.roots.to(normal)[mode], normal)


def mixtures_of(modes: Sequence[tuple[Tensor, Tensor, Tensor]]) -> nn.ModuleList:
    """A `Mixture` for each (columns, means, roots).

    Raises
    ------
    ValueError
        A coordinate in two of them.
    """
    found = [Mixture(*one) for one in modes]
    columns = torch.cat([one.columns for one in found]).tolist() if found else []
    if len(set(columns)) != len(columns):
        raise ValueError(f"Expected every coordinate in one mixture at most; got columns {sorted(columns)}.")
    return nn.ModuleList(found)
