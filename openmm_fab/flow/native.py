"""Coupling layers after their conditioner in C (`coupling.c`); `coupling` and `splines` are the same in PyTorch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..tools.native import in_threads, library

SOURCE = Path(__file__).with_name("coupling.c").read_text(encoding="utf-8")
MOST_BINS = 64
# By the types of the points and of the conditioner's product: macros of the source.
MACROS = {
    (torch.float32, torch.float32): ("SINGLE",),
    (torch.float32, torch.bfloat16): ("SINGLE", "BFLOAT16"),
    (torch.float64, torch.float64): (),
}


def couple(
    x: Tensor,
    product: Tensor,
    bias: Tensor,
    bound: Tensor,
    circular: Tensor,
    inverse: bool,
    max_log_scale: float,
) -> tuple[Tensor, Tensor]:
    """Coordinates moved by a layer, and log |det| of this direction; differentiable once.

    Parameters
    ----------
    x : Tensor, shape (dim, batch)
        float32 or float64, on the CPU.
    product : Tensor, shape ((2 + 3 * bins) * dim, batch)
        Of x's type, or bfloat16 where that is float32. With the bias, what the conditioner says: logarithm of the
        scale, shift, and the splines' parameters.
    bias : Tensor, shape ((2 + 3 * bins) * dim,)
    bound : Tensor, shape (dim,)
        Range of the splines on lines.
    circular : Tensor of bool, shape (dim,)
    inverse : bool
        Base -> data.
    max_log_scale : float
        Largest logarithm of the scale.

    Returns
    -------
    y : Tensor, shape (dim, batch)
    log_det : Tensor, shape (batch,)

    Raises
    ------
    NotCompiledError
        There is no C compiler.
    """
    y, log_det = _Couple.apply(x, product, bias, bound, circular, inverse, max_log_scale)
    return y, log_det


def functions(dtype: torch.dtype, of_product: torch.dtype) -> tuple[Callable[..., None], Callable[..., None]]:
    """C functions of the map and of its derivatives."""
    real = ctypes.c_double if dtype == torch.float64 else ctypes.c_float
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    before, after = [*[pointer] * 5, *[integer] * 4, real], [integer] * 2
    arguments = {"couple": [*before, *[pointer] * 2, *after], "couple_back": [*before, *[pointer] * 5, *after]}
    found = library(SOURCE, arguments, *MACROS[dtype, of_product])
    return found.couple, found.couple_back


class _Couple(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        product: Tensor,
        bias: Tensor,
        bound: Tensor,
        circular: Tensor,
        inverse: bool,
        max_log_scale: float,
    ) -> tuple[Tensor, Tensor]:
        x, product, bias, bound = (t.contiguous() for t in (x, product, bias, bound.to(x.dtype)))
        y, log_det = torch.empty_like(x), x.new_empty(x.shape[1])
        call, _ = functions(x.dtype, product.dtype)
        given = _given(x, product, bias, bound, circular, inverse, max_log_scale)
        in_threads(lambda start, stop: call(*given, y.data_ptr(), log_det.data_ptr(), start, stop), x.shape[1])
        ctx.save_for_backward(y if inverse else x, product, bias, bound, circular)
        ctx.choices = inverse, max_log_scale
        return y, log_det

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: Tensor, above_det: Tensor) -> tuple[Tensor | None, ...]:
        x, product, bias, bound, circular = ctx.saved_tensors
        above, above_det = above.contiguous(), above_det.contiguous()
        by_x, by_product, by_bias = torch.empty_like(x), torch.empty_like(product), []
        _, call = functions(x.dtype, product.dtype)
        given = _given(x, product, bias, bound, circular, *ctx.choices)

        def piece(start: int, stop: int) -> None:
            own = torch.zeros_like(bias)
            by_bias.append((start, own))
            pointers = (t.data_ptr() for t in (above, above_det, by_x, by_product, own))
            call(*given, *pointers, start, stop)

        in_threads(piece, x.shape[1])
        by_bias.sort(key=lambda piece: piece[0])
        whole = sum((own for _, own in by_bias[1:]), by_bias[0][1])
        return by_x, by_product, whole, None, None, None, None


def _given(
    x: Tensor,
    product: Tensor,
    bias: Tensor,
    bound: Tensor,
    circular: Tensor,
    inverse: bool,
    max_log_scale: float,
) -> tuple[int | float, ...]:
    pointers = (t.data_ptr() for t in (x, product, bias, bound, circular))
    return (*pointers, *x.shape, (len(bias) // max(len(x), 1) - 2) // 3, inverse, max_log_scale)
