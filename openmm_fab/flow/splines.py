"""Monotonic rational-quadratic splines (Durkan et al. 2019, arXiv 1906.04032) on lines and circles, as pure functions.

The batch comes last: raw parameters stand one plane a parameter, (n_parameters, dim, batch), so that every operation
runs along a long axis.  All raw parameters zero is the identity.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

MIN_SHARE = 1e-3  # least width and height of a bin, as a share of the whole
MIN_SLOPE = 1e-3
_UNIT_SLOPE = math.log(math.expm1(1.0 - MIN_SLOPE))  # a raw slope of zero is a slope of one


def spline(x: Tensor, raw: Tensor, bound: Tensor, circular: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """Monotonic spline of [-bound, bound] onto itself, the identity beyond it on lines; a circle is all of [-pi, pi].

    Parameters
    ----------
    x : Tensor, shape (dim, batch)
        Angles in [-pi, pi) where `circular`.
    raw : Tensor, shape (3 * bins, dim, batch)
        Widths, heights, slopes at the inner knots, slope at both ends.  The last is free on a circle, so that value
        and slope are continuous at +-pi, and is not used on a line, whose ends have slope one.
    bound : Tensor, shape (dim,)
        Of the lines.
    circular : Tensor of bool, shape (dim,)

    Returns
    -------
    y, log_det : Tensor, shape (dim, batch)
    """
    bins = len(raw) // 3
    circular = circular[:, None]
    bound = torch.where(circular, math.pi, bound[:, None])  # here, where it takes bound's precision
    widths, heights, inner, end = raw.split([bins, bins, bins - 1, 1])
    end = torch.where(circular, end, 0.0)
    inside = circular | (x.abs() < bound)
    position = torch.where(inside, x / (2 * bound) + 0.5, 0.5)
    y, log_det = _unit_spline(position, widths, heights, torch.cat([end, inner, end]), inverse)
    return torch.where(inside, (2 * y - 1) * bound, x), torch.where(inside, log_det, 0.0)


def _unit_spline(x: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """Spline of [0, 1]; eq. 4 and 5 of the paper, or eq. 6 to 8 for the inverse."""
    x0, width, y0, height, d0, d1 = _Bin.apply(x, widths, heights, slopes, inverse)
    d0, d1 = MIN_SLOPE + softplus(d0 + _UNIT_SLOPE), MIN_SLOPE + softplus(d1 + _UNIT_SLOPE)
    slope = height / width
    bend = d0 + d1 - 2 * slope
    if inverse:  # the root of a quadratic, in the form that does not cancel
        rise = x - y0
        a = height * (slope - d0) + rise * bend
        b = height * d0 - rise * bend
        c = -slope * rise
        t = 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
    else:
        t = (x - x0) / width
    s = t * (1 - t)
    denominator = slope + bend * s
    y = x0 + t * width if inverse else y0 + height * (slope * t.square() + d0 * s) / denominator
    growth = d1 * t.square() + 2 * slope * s + d0 * (1 - t).square()
    log_det = 2 * slope.log() + growth.log() - 2 * denominator.log()
    return y, -log_det if inverse else log_det


class _Bin(torch.autograd.Function):
    """The bin that x lies in: left edge, width, bottom, height, raw slopes at both ends.

    By hand because the gradient is so simple: an edge is the sum of the shares before it.  Autograd would walk back
    through softmax, cumsum and gather, and take most of the flow's time.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, inverse: bool
    ) -> tuple[Tensor, ...]:
        scale = 1 - MIN_SHARE * len(widths)
        p, q = widths.softmax(0), heights.softmax(0)
        right, top = _running_sum(MIN_SHARE + scale * p), _running_sum(MIN_SHARE + scale * q)
        k = (x >= (top if inverse else right)[:-1]).sum(0, keepdim=True)
        width, height = MIN_SHARE + scale * p.gather(0, k), MIN_SHARE + scale * q.gather(0, k)
        x0, y0 = right.gather(0, k) - width, top.gather(0, k) - height
        d0, d1 = slopes.gather(0, k), slopes.gather(0, k + 1)
        ctx.save_for_backward(p, q, k)
        return tuple(plane[0] for plane in (x0, width, y0, height, d0, d1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        p, q, k = ctx.saved_tensors
        x0, width, y0, height, d0, d1 = (g[None] for g in gradients)
        bins = torch.arange(len(p), device=p.device)[:, None, None]
        here, before = bins == k, bins < k

        def shares(share: Tensor, edge: Tensor, size: Tensor) -> Tensor:
            g = share * torch.where(here, size, torch.where(before, edge, 0.0))
            return (1 - MIN_SHARE * len(p)) * (g - share * g.sum(0, keepdim=True))

        slopes = torch.zeros_like(p[:1]).expand(len(p) + 1, -1, -1).scatter(0, k, d0).scatter_add(0, k + 1, d1)
        return None, shares(p, x0, width), shares(q, y0, height), slopes, None


def _running_sum(shares: Tensor) -> Tensor:
    """Running sum of shares (bins, dim, batch) over the bins, as single additions, which torch.compile fuses but
    cumsum not."""
    return torch.stack(list(accumulate(shares.unbind())))
