"""A base density with several modes, for coordinates whose minima are known before training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

Modes = tuple[Tensor, int, Tensor, Tensor, Tensor]  # as `Mixture` takes them

BROAD = 0.02  # share of a normal that holds all modes: nothing between them has no density
FLOOR = 0.05  # of the modes' share, that all of them have alike: what is thought to be rare is drawn still
GAIN = 5.0  # of the logarithms of the shares, by a parameter: they have farther to go than weights of a network


class Mixture(nn.Module):
    """A mixture of Gaussians over some of the coordinates, one a mode, their shares learned, and a broad one.

    Parameters
    ----------
    columns : Tensor of int, shape (k,)
        Entries of z that it holds; those that have the modes come first, others follow them.
    leading : int
        How many have the modes.
    means : Tensor, shape (modes, k)
    roots : Tensor, shape (modes, k, k)
        Lower triangular; a mode's covariance is root @ root.T.
    log_shares : Tensor, shape (modes,)
        Of the modes before training, up to a constant.

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
    log_norms_leading: Tensor
    untrained: Tensor
    spread: Tensor

    def __init__(self, columns: Tensor, leading: int, means: Tensor, roots: Tensor, log_shares: Tensor) -> None:
        super().__init__()
        n, k = means.shape
        self.leading = int(leading)
        if columns.shape != (k,) or roots.shape != (n, k, k) or log_shares.shape != (n,) or not 0 < self.leading <= k:
            raise ValueError(
                "Expected columns (k,), 1 <= leading <= k, means (modes, k), roots (modes, k, k) and log_shares "
                f"(modes,); got {tuple(columns.shape)}, {leading}, {tuple(means.shape)}, {tuple(roots.shape)} and "
                f"{tuple(log_shares.shape)}."
            )
        spread = (roots.square().sum(2).clamp(min=1.0) + means.square()).mean(0).sqrt()
        broad = torch.diag(spread)
        roots = torch.cat([roots, broad[None]])
        log_widths = roots.diagonal(dim1=1, dim2=2).log() + math.log(2 * math.pi) / 2
        self.register_buffer("columns", columns)
        self.register_buffer("means", torch.cat([means, means.new_zeros(1, k)]))
        self.register_buffer("roots", roots)
        self.register_buffer("inverses", torch.linalg.inv(roots), persistent=False)
        self.register_buffer("spread", spread, persistent=False)
        self.raw = nn.Parameter((log_shares - log_shares.logsumexp(0)).to(torch.get_default_dtype()) / GAIN)
        self.register_buffer("untrained", self.raw.detach().clone(), persistent=False)
        norms = [-log_widths[:, :m].sum(1) for m in (k, self.leading)]
        self.register_buffer("log_norms", norms[0], persistent=False)
        self.register_buffer("log_norms_leading", norms[1], persistent=False)

    def shares(self, before: bool = False) -> Tensor:
        """Return the shares (modes + 1,) of the modes and, the last, of the broad one; or those before training."""
        raw = self.untrained if before else self.raw
        of_modes = (1 - FLOOR) * torch.softmax(GAIN * raw, 0) + FLOOR / len(raw)
        return torch.cat([(1 - BROAD) * of_modes, of_modes.new_tensor([BROAD])])

    def log_prob(
        self, z: Tensor, width: Tensor | None = None, *, leading: bool = False, before: bool = False
    ) -> Tensor:
        """log density (batch,) of z (batch, dim), by its entries `columns`, or by the leading ones alone; with modes
        `width` (batch,) times as wide, or with the shares before training."""
        m = self.leading if leading else len(self.columns)
        terms = self._terms(z, m, width, before)[0]
        return torch.logsumexp(terms, 1) - (0.0 if width is None else m * width.log())

    def _terms(self, z: Tensor, m: int, width: Tensor | None, before: bool) -> tuple[Tensor, Tensor]:
        """log of every mode's part (batch, modes + 1) in the density of the first m entries, without the width's, and
        these entries in units of each mode's root (batch, modes + 1, m)."""
        log_norms = self.log_norms if m == len(self.columns) else self.log_norms_leading
        away = z[:, None, self.columns[:m]] - self.means[:, :m].to(z)
        # Roots are triangular: what leads is whitened by itself.
        whitened = torch.einsum("mij,bmj->bmi", self.inverses[:, :m, :m].to(z), away)
        squares = whitened.square().sum(2)
        if width is not None:
            squares = squares / width[:, None].square()
        return log_norms.to(z) + self.shares(before).to(z).log() - 0.5 * squares, whitened

    def sample(self, normal: Tensor, uniform: Tensor, width: Tensor | None = None, before: int = 0) -> Tensor:
        """Samples (batch, k) of the mixture, from standard normal numbers (batch, k) and uniform ones (batch,), which
        choose the modes; modes `width` (batch,) times as wide, the last `before` with the shares before training."""
        now, then = uniform[: len(uniform) - before], uniform[len(uniform) - before :]
        mode = torch.cat([_chosen(self.shares(), now), _chosen(self.shares(True), then)])
        normal = normal if width is None else normal * width[:, None]
        return self.means.to(normal)[mode] + torch.einsum("bij,bj->bi", self.roots.to(normal)[mode], normal)

    def sample_followers(self, z: Tensor, normal: Tensor, uniform: Tensor, width: Tensor | None = None) -> Tensor:
        """Samples (batch, k - leading) of the entries that follow, given the leading ones in z (batch, dim)."""
        m = self.leading
        terms, whitened = self._terms(z, m, width, False)
        mode = _chosen(terms.softmax(1), uniform)
        means, roots = self.means.to(z)[mode, m:], self.roots.to(z)[mode, m:]
        normal = normal if width is None else normal * width[:, None]
        both = torch.cat([whitened[torch.arange(len(z), device=z.device), mode], normal], 1)
        return means + torch.einsum("bij,bj->bi", roots, both)


def _chosen(shares: Tensor, uniform: Tensor) -> Tensor:
    """Modes (batch,) chosen by uniform numbers (batch,); of shares (modes,) for all, or (batch, modes)."""
    bounds = shares.detach().to(uniform).cumsum(-1).expand(len(uniform), -1)
    return torch.searchsorted(bounds.contiguous(), uniform[:, None].contiguous())[:, 0].clamp(max=bounds.shape[1] - 1)


def mixtures_of(modes: Sequence[Modes]) -> nn.ModuleList:
    """A `Mixture` for each (columns, leading, means, roots, log_shares).

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
