"""Compilation of functions of a batch, and of their derivatives, by torch.compile for a fixed batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .warn import warn

Function = Callable[..., Sequence[Tensor]]


def fuse(function: Function, example: Sequence[Tensor], what: str) -> Function:
    """Compile a function of tensors (..., batch) for the batch size of the example; smaller batches are padded.

    Derivatives that it takes inside are written out first, so that one graph holds them and nothing is kept between.
    Where it cannot be fused (it needs a C++ compiler for a CPU, Triton for a GPU) a warning says so, and the function
    itself is returned.

    Parameters
    ----------
    function : callable
        Tensors (..., batch) -> sequence of tensors (..., batch), each structure by itself.
    example : sequence of Tensor
    what : str
        What the warning speaks of: "The energy".
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # slow to import

    chunk = example[0].shape[-1]
    try:
        fused = torch.compile(make_fx(function)(*example), dynamic=False)
        fused(*example)
    except Exception as error:
        message = str(error).strip().splitlines() or [""]
        warn(f"{what} is not fused, and slower: {type(error).__name__}: {message[0]}")
        return function

    def filled_up(*inputs: Tensor) -> Sequence[Tensor]:
        n = inputs[0].shape[-1]
        whole = [torch.cat([t, t[..., -1:].expand(*t.shape[:-1], chunk - n)], -1) for t in inputs]
        return [out[..., :n] for out in fused(*(inputs if n == chunk else whole))]

    return filled_up


class FusedMap:
    """Function of one tensor (dim, batch) and its derivative, both compiled and evaluated in chunks of the batch.

    Parameters
    ----------
    function : callable
        z (dim, batch) -> sequence of tensors (..., batch), each structure by itself.
    dim, chunk : int
    what : str
        What the warning that it cannot be fused speaks of: "The coordinates".
    """

    def __init__(self, function: Function, dim: int, chunk: int, what: str) -> None:
        self.function, self.dim, self.chunk, self.what = function, dim, chunk, what
        self._fused: dict[tuple[torch.device, torch.dtype], tuple[Function, Function]] = {}

    def __call__(self, z: Tensor) -> tuple[Tensor, ...]:
        """Evaluate the function at z (dim, batch): tensors (..., batch), differentiable once by autograd."""
        return _FusedMap.apply(z, self)

    def functions(self, device: torch.device, dtype: torch.dtype) -> tuple[Function, Function]:
        """The function of one chunk, and its derivative: (z, *gradients of the results) -> [gradient of z]."""
        if (device, dtype) not in self._fused:

            def derivative(z: Tensor, *above: Tensor) -> Sequence[Tensor]:
                with torch.enable_grad():
                    z = z.detach().requires_grad_()
                    return torch.autograd.grad(tuple(self.function(z)), z, above)

            z = torch.zeros(self.dim, self.chunk, device=device, dtype=dtype)
            with torch.no_grad():
                values = [torch.zeros_like(value) for value in self.function(z)]
                forward = fuse(lambda z: self.function(z), [z], self.what)
                backward = fuse(derivative, [z, *values], self.what)
            self._fused[device, dtype] = forward, backward
        return self._fused[device, dtype]


class _FusedMap(torch.autograd.Function):
    @staticmethod
    @torch.inference_mode(False)
    @torch.no_grad()  # inside: to leave inference mode is to enter this one, for which another graph would be compiled
    def forward(ctx: Any, z: Tensor, fused: FusedMap) -> tuple[Tensor, ...]:
        ctx.fused = fused
        ctx.save_for_backward(z)
        forward, _ = fused.functions(z.device, z.dtype)
        # An empty batch is one empty part.
        parts = [forward(part.contiguous()) for part in z.detach().split(fused.chunk, dim=1) if len(z.T)]
        if not parts:
            return tuple(value[..., :0] for value in fused.function(z.new_zeros(fused.dim, 1)))
        return tuple(torch.cat(column, dim=-1) for column in zip(*parts, strict=True))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        _, backward = ctx.fused.functions(z.device, z.dtype)
        if z.shape[1] == 0:
            return torch.zeros_like(z), None
        # Detached: for a z that requires a gradient another graph would be compiled.
        pieces = zip(*(t.detach().split(ctx.fused.chunk, dim=-1) for t in (z, *above)), strict=True)
        return torch.cat([backward(*(t.contiguous() for t in piece))[0] for piece in pieces], dim=-1), None
