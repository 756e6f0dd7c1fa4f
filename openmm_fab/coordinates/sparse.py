"""Products with a constant, mostly zero matrix on the CPU."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

DENSE = 0.1  # share of entries beyond which an ordinary product is as fast


def sparse_pair(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """The matrix (m, n) and its transpose in compressed rows; None if it is dense, or torch was built without MKL."""
    if (matrix != 0).double().mean() > DENSE:
        return None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        pair = matrix.to_sparse_csr(), matrix.T.contiguous().to_sparse_csr()
    try:
        pair[0] @ torch.zeros(matrix.shape[1], 1, dtype=matrix.dtype)
    except RuntimeError:
        return None
    return pair


class SparseProduct(torch.autograd.Function):
    """Product matrix @ z of a pair made by `sparse_pair` with z (n, batch); differentiable once in z."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ z.contiguous()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transposed @ grad.contiguous(), None, None
