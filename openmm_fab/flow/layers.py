"""Coupling layers: each moves some coordinates by what a small network makes of the others, and can be undone.

`Coupling` has a layer's weights and index sets; `apply_layer` is what all of them do with theirs, compiled once.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from ..tools.circle import wrap_periodic
from . import native, splines

MAX_LOG_SCALE = 1.0  # a layer stretches a line by at most e
FEW = 3  # coordinates of a kind, none of which is moved by both layers of a pair


class Arrays(NamedTuple):
    """Tensors of one coupling layer, as `apply_layer` takes them.

    Attributes
    ----------
    kept_lines, kept_circles, moved : Tensor of int
        Coordinates that the layer reads, straight and circular, and those that it moves.
    spread : Tensor, shape (n_kept_lines,)
        Deviation of the straight ones over all modes of the base: the conditioner reads them in units of it.
    circular : Tensor of bool, shape (n_moved,)
        Which of the moved ones are angles.
    bound : Tensor, shape (n_moved,)
        Of the splines of straight coordinates.
    untouched : Tensor of int
        Coordinates that it neither reads nor moves.
    restore : Tensor of int, shape (dim,)
        Order that takes (kept_lines, kept_circles, moved, untouched) back to that of z.
    w1, b1, w2, b2, w3, b3 : Tensor
        Weights (n_out, n_in) and biases (n_out,) of the conditioner.
    """

    kept_lines: Tensor
    spread: Tensor
    kept_circles: Tensor
    moved: Tensor
    circular: Tensor
    bound: Tensor
    untouched: Tensor
    restore: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    w3: Tensor
    b3: Tensor


class Coupling(nn.Module):
    """Weights and index sets of one coupling layer; `apply_layer` is what it does with them."""

    kept_lines: Tensor
    spread: Tensor
    kept_circles: Tensor
    moved: Tensor
    circular: Tensor
    bound: Tensor
    untouched: Tensor
    restore: Tensor
    w1: nn.Parameter
    w2: nn.Parameter
    b3: nn.Parameter

    def __init__(
        self, moved: Tensor, read: Tensor, periodic: Tensor, hidden: int, bins: int, bound: Tensor, spread: Tensor
    ) -> None:
        super().__init__()
        kept = torch.ones_like(periodic)
        kept[moved] = False
        untouched = torch.nonzero(kept & ~read)[:, 0]
        kept = kept & read
        kept_lines, kept_circles = torch.nonzero(kept & ~periodic)[:, 0], torch.nonzero(kept & periodic)[:, 0]
        circular = periodic[moved]
        self.register_buffer("kept_lines", kept_lines)
        self.register_buffer("spread", spread[kept_lines], persistent=False)
        self.register_buffer("kept_circles", kept_circles)
        self.register_buffer("moved", moved)
        self.register_buffer("circular", circular)
        self.register_buffer("bound", bound)
        self.register_buffer("restore", torch.argsort(torch.cat([kept_lines, kept_circles, moved, untouched])))
        self.register_buffer("untouched", untouched, persistent=False)
        features = len(kept_lines) + 2 * len(kept_circles)
        sizes = [features, hidden, hidden, (3 * bins + 2) * len(moved)]
        for k, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
            setattr(self, f"w{k}", nn.Parameter(torch.zeros(fan_out, fan_in)))
            setattr(self, f"b{k}", nn.Parameter(torch.zeros(fan_out)))

    def reset(self, rng: torch.Generator | None) -> None:
        """Random hidden layers; an output of zero, so that the layer is the identity."""
        with torch.no_grad():
            for w in (self.w1, self.w2):
                w.normal_(0.0, max(w.shape[1], 1) ** -0.5, generator=rng)

    def arrays(self) -> Arrays:
        """Tensors of this layer, as `apply_layer` takes them."""
        return Arrays(*(getattr(self, name) for name in Arrays._fields))


def apply_layer(
    z: Tensor,
    layer: Arrays,
    inverse: bool,
    matmul_dtype: torch.dtype | None,
    mover: Callable[..., tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """One layer, data -> base (or back, if `inverse`): z (batch, dim) -> z and log |det| (batch,) of this direction.

    With products of less precision it is as exact a bijection: whatever the conditioner gives, it gives to both
    directions.
    """
    z = z.T
    kept, angles, x = z[layer.kept_lines], z[layer.kept_circles], z[layer.moved]
    circular, bound = layer.circular, layer.bound
    features = torch.cat([kept / layer.spread[:, None], angles.cos(), angles.sin()])
    hidden = silu(_product(layer.w1, features, matmul_dtype).to(x.dtype) + layer.b1[:, None])
    hidden = silu(_product(layer.w2, hidden, matmul_dtype).to(x.dtype) + layer.b2[:, None])
    product = _product(layer.w3, hidden, matmul_dtype)
    if len(layer.b3) == 2 * len(x):
        x, log_det = _scale_and_shift(x, product, layer.b3, inverse)
    else:
        x, log_det = mover(x, product, layer.b3, bound, circular, inverse)
    return torch.cat([kept, angles, x, z[layer.untouched]])[layer.restore].T, log_det


def move(
    x: Tensor, product: Tensor, bias: Tensor, bound: Tensor, circular: Tensor, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Move x (dim, batch) by a conditioner's product ((2 + 3 bins) dim, batch) and bias; also log |det| (batch,)."""
    raw = (product.to(x.dtype) + bias[:, None]).view(len(bias) // len(x), *x.shape)
    log_scale = torch.where(circular[:, None], 0.0, MAX_LOG_SCALE * torch.tanh(raw[0] / MAX_LOG_SCALE))
    shift = raw[1]
    if inverse:
        x, log_det = splines.spline(x, raw[2:], bound, circular, inverse=True)
        x, log_det = (x - shift) * (-log_scale).exp(), log_det - log_scale
        x = wrap_periodic(x, circular[:, None])
    else:
        x = x * log_scale.exp() + shift
        x, log_det = splines.spline(wrap_periodic(x, circular[:, None]), raw[2:], bound, circular)
        log_det = log_det + log_scale
    return x, log_det.sum(0)


def _scale_and_shift(x: Tensor, product: Tensor, bias: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """Move straight coordinates by scale and shift alone: product (2 dim, batch), bias (2 dim,)."""
    log_scale, shift = (product.to(x.dtype) + bias[:, None]).chunk(2)
    log_scale = MAX_LOG_SCALE * torch.tanh(log_scale / MAX_LOG_SCALE)
    if inverse:
        return (x - shift) * (-log_scale).exp(), -log_scale.sum(0)
    return x * log_scale.exp() + shift, log_scale.sum(0)


def move_in_c(
    x: Tensor, product: Tensor, bias: Tensor, bound: Tensor, circular: Tensor, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Compute `move` in C."""
    return native.couple(x, product, bias, bound, circular, inverse, MAX_LOG_SCALE)


def _product(w: Tensor, x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """w @ x, of that type where one is given."""
    return w @ x if dtype is None else w.to(dtype) @ x.to(dtype)


def halves(lines: Tensor, circles: Tensor) -> list[Tensor]:
    """Two sets that together hold every coordinate.

    They share one where a number is odd, so that all layers have one shape; but not of `FEW` or less, since no layer
    reads what is in both.  A single coordinate is in both, and depends on nothing.
    """
    if len(lines) + len(circles) == 1:
        return [torch.cat([lines, circles])] * 2
    a, b = (len(lines) + 1) // 2, len(circles) // 2 if len(circles) <= FEW else (len(circles) + 1) // 2
    c, d = (a if len(lines) <= FEW else len(lines) - a), (b if len(circles) <= FEW else len(circles) - b)
    return [torch.cat([lines[:a], circles[:b]]), torch.cat([lines[c:], circles[d:]])]
