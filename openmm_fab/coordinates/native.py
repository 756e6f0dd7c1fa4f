"""Placement of a Z-matrix's atoms in C (`placement.c`); `placement` is the same in PyTorch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..tools.native import LANES, in_threads, library, work_space
from .zmatrix import ZMatrix

SOURCE = Path(__file__).with_name("placement.c").read_text(encoding="utf-8")


class NativePlacement:
    """`placement.Placement.place` in C, for float64 on the CPU, differentiable once.

    Parameters
    ----------
    zmatrix : ZMatrix

    Raises
    ------
    NotCompiledError
        There is no C compiler.
    """

    def __init__(self, zmatrix: ZMatrix) -> None:
        order = np.concatenate(zmatrix.blocks)
        self.n_atoms = zmatrix.n_atoms
        self._rows = torch.from_numpy(np.ascontiguousarray(zmatrix.rows[order], dtype=np.int64))
        self._closes = torch.from_numpy(np.ascontiguousarray(zmatrix.closes[order], dtype=np.uint8))
        self._second_on_first = self.n_atoms > 2 and int(self._rows[2, 1]) == int(self._rows[1, 0])
        self.functions()  # compiles, or raises

    def __call__(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """x (batch, n_atoms, 3) and log-volume (batch,) of q (3 n_atoms - 6, batch): ln r, angles, torsions."""
        return cast("tuple[Tensor, Tensor]", _Place.apply(q, self))

    def functions(self) -> tuple[Callable[..., None], Callable[..., None]]:
        """C functions of the map and of its derivatives."""
        pointer, integer = ctypes.c_void_p, ctypes.c_int64
        before, after = [pointer, pointer, integer, integer, pointer, integer, pointer], [integer, integer]
        arguments = {"place": [*before, *[pointer] * 2, *after], "place_back": [*before, *[pointer] * 4, *after]}
        found = library(SOURCE, arguments)
        return found.place, found.place_back

    def run(self, call: Callable[..., None], q: Tensor, *others: Tensor) -> None:
        """Call a C function on q (n_entries, batch) and others, which it fills or reads, in pieces and threads."""
        rows, closes, given = self._rows.data_ptr(), self._closes.data_ptr(), [t.data_ptr() for t in others]

        def piece(start: int, stop: int) -> None:
            work = work_space(6 * LANES * self.n_atoms)
            own = (rows, closes, self.n_atoms, self._second_on_first, q.data_ptr(), q.shape[1], work.data_ptr())
            call(*own, *given, start, stop)

        in_threads(piece, q.shape[1])


class _Place(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, native: NativePlacement) -> tuple[Tensor, Tensor]:
        q = q.contiguous()
        x, volume = q.new_empty(q.shape[1], native.n_atoms, 3), q.new_empty(q.shape[1])
        native.run(native.functions()[0], q, x, volume)
        ctx.save_for_backward(q, x)
        ctx.native = native
        return x, volume

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: Tensor, above_volume: Tensor) -> tuple[Tensor, None]:
        q, x = ctx.saved_tensors
        by_q = torch.empty_like(q)
        ctx.native.run(ctx.native.functions()[1], q, x, above.contiguous(), above_volume.contiguous(), by_q)
        return by_q, None
