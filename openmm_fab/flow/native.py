"""What a coupling layer does after its conditioner, in C: `coupling.c`. The same in PyTorch: `coupling`, `splines`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..tools.native import in_threads, library

SOURCE = Path(__file__).with_name("coupling.c").read_text(encoding="utf-8")
MOST_BINS = 64
NAMES = {torch.float32: "single", torch.float64: "double"}


def couple(
    x: Tensor, raw: Tensor, bound: Tensor, circular: Tensor, inverse: bool, max_log_scale: float
) -> tuple[Tensor, Tensor]:
    """The moved coordinates of a layer, and log |det| of the direction taken; differentiable once.

    Parameters
    ----------
    x : Tensor, shape (dim, batch)
        float32 or float64, on the CPU.
    raw : Tensor, shape (2 + 3 * bins, dim, batch)
        The conditioner's output: logarithm of the scale, shift, and the splines' parameters.
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
    y, log_det = _Couple.apply(x, raw, bound, circular, inverse, max_log_scale)
    return y, log_det


def functions(dtype: torch.dtype) -> tuple[Callable[..., None], Callable[..., None]]:
    """The map, and its derivatives."""
    name = NAMES[dtype]
    real = ctypes.c_float if dtype == torch.float32 else ctypes.c_double
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    before, after = [*[pointer] * 4, *[integer] * 4, real], [integer] * 2
    arguments = {
        f"couple_{name}": [*before, *[pointer] * 2, *after],
        f"couple_back_{name}": [*before, *[pointer] * 4, *after],
    }
    found = library(SOURCE, arguments, name.upper())
    return cast("tuple[Callable[..., None], Callable[..., None]]", tuple(getattr(found, f) for f in arguments))


def _given(
    x: Tensor, raw: Tensor, bound: Tensor, circular: Tensor, inverse: bool, max_log_scale: float
) -> tuple[int | float, ...]:
    pointers = (t.data_ptr() for t in (x, raw, bound, circular))
    return (*pointers, *x.shape, (len(raw) - 2) // 3, inverse, max_log_scale)


class _Couple(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, raw: Tensor, bound: Tensor, circular: Tensor, inverse: bool, max_log_scale: float
    ) -> tuple[Tensor, Tensor]:
        x, raw, bound = x.contiguous(), raw.contiguous(), bound.to(x.dtype).contiguous()
        y, log_det = torch.empty_like(x), x.new_empty(x.shape[1])
        call, _ = functions(x.dtype)
        given = (
            *(t.data_ptr() for t in (x, raw, bound, circular)),
            *x.shape,
            (len(raw) - 2) // 3,
            inverse,
            max_log_scale,
        )
        in_threads(lambda start, stop: call(*given, y.data_ptr(), log_det.data_ptr(), start, stop), x.shape[1])
        ctx.save_for_backward(y if inverse else x, raw, bound, circular)
        ctx.choices = inverse, max_log_scale
        return y, log_det

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: Tensor, above_det: Tensor) -> tuple[Tensor | None, ...]:
        x, raw, bound, circular = ctx.saved_tensors
        inverse, max_log_scale = ctx.choices
        above, above_det = above.contiguous(), above_det.contiguous()
        by_x, by_raw = torch.empty_like(x), torch.empty_like(raw)
        _, call = functions(x.dtype)
        given = (
            *(t.data_ptr() for t in (x, raw, bound, circular)),
            *x.shape,
            (len(raw) - 2) // 3,
            inverse,
            max_log_scale,
        )
        places = [t.data_ptr() for t in (above, above_det, by_x, by_raw)]
        in_threads(lambda start, stop: call(*given, *places, start, stop), x.shape[1])
        return by_x, by_raw, None, None, None, None
