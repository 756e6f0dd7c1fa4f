"""Functions of a batch and their derivatives, fused by torch.compile for one size of batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Function = Callable[..., Sequence[Tensor]]


def fuse(function: Function, example: Sequence[Tensor], what: str) -> Function:
    """`function` of tensors (..., batch), fused for the batch of the example; smaller batches are filled up.

    Derivatives that it takes inside are written out first, so that one graph holds them and nothing is kept between.
    Where it cannot be fused (on CPU that needs a C++ compiler) a warning says so, and the function itself is returned.

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
        warnings.warn(f"{what} is not fused, several times slower: {type(error).__name__}: {message[0]}", stacklevel=3)
        return function

    def filled_up(*inputs: Tensor) -> Sequence[Tensor]:
        n = inputs[0].shape[-1]
        whole = [torch.cat([t, t[..., -1:].expand(*t.shape[:-1], chunk - n)], -1) for t in inputs]
        return [out[..., :n] for out in fused(*(inputs if n == chunk else whole))]

    return filled_up
