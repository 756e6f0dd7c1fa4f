"""OpenMM's tabulated functions in torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import openmm
import torch
from torch import Tensor


def tabulated(function: openmm.TabulatedFunction) -> Callable[..., Tensor]:
    """Translate an OpenMM tabulated function to torch.

    Continuous functions are cubic splines through the values, natural or periodic, of one variable after the other;
    outside the range, where not periodic, they are 0. Discrete ones round their arguments (halves upwards), take the
    nearest entry that exists, and have no gradient.

    Parameters
    ----------
    function : openmm.Continuous1DFunction ... openmm.Discrete3DFunction

    Returns
    -------
    torch.nn.Module
        f(x), f(x, y) or f(x, y, z) for tensors that broadcast; its `dimensions` say which, its table moves with
        `.to(device)`.

    Raises
    ------
    TypeError
        If it is none of the six kinds.
    """
    kinds = [f"{kind}{n}DFunction" for kind in ("Continuous", "Discrete") for n in (1, 2, 3)]
    if type(function).__name__ not in kinds:
        raise TypeError(f"Expected a tabulated function out of {kinds}; got {type(function).__name__}.")
    # (sizes,) values (, bounds); one-dimensional functions give no size.
    parameters = list(function.getFunctionParameters())
    at = next((i for i, p in enumerate(parameters) if isinstance(p, Sequence)), None)
    if at is None:  # of a Discrete1DFunction there is nothing but the values
        parameters, at = [parameters], 0
    values = np.asarray(parameters[at], dtype=np.float64)
    grid = values.reshape(parameters[:at] or [len(values)], order="F")  # x runs fastest
    if type(function).__name__.startswith("Discrete"):
        return _Lookup(grid)
    bounds = np.reshape(parameters[at + 1 :], (-1, 2)).tolist()
    return _Spline(grid, [(low, high) for low, high in bounds], bool(function.getPeriodic()))


class _Spline(torch.nn.Module):
    """Tensor product of cubic splines, as one polynomial for every cell of the grid."""

    table: Tensor

    def __init__(self, grid: np.ndarray, bounds: list[tuple[float, float]], periodic: bool):
        from scipy.interpolate import CubicSpline  # not above: it takes a while to import

        super().__init__()
        self.bounds, self.periodic, self.dimensions = bounds, periodic, grid.ndim
        self.cells = [n - 1 for n in grid.shape]
        coefficients = grid
        for n in self.cells:
            if periodic:
                # Equal already, for OpenMM insists on it; scipy does so to the last bit.
                coefficients = np.concatenate([coefficients[:-1], coefficients[:1]])
            # Cells have length 1. (4, n, ...): the powers of the coordinate in the cell, highest first, and the cell.
            spline = CubicSpline(np.arange(n + 1), coefficients, bc_type="periodic" if periodic else "natural")
            coefficients = np.moveaxis(spline.c, (1, 0), (-2, -1))
        # (n_x, 4, n_y, 4, ...) -> (n_x n_y ..., 4, 4, ...)
        coefficients = coefficients.transpose([*range(0, 2 * grid.ndim, 2), *range(1, 2 * grid.ndim, 2)])
        table = np.ascontiguousarray(coefficients).reshape(math.prod(self.cells), *[4] * grid.ndim)
        self.register_buffer("table", torch.from_numpy(table))

    def forward(self, *arguments: Tensor) -> Tensor:
        arguments = torch.broadcast_tensors(*arguments)
        outside = torch.zeros_like(arguments[0], dtype=torch.bool)
        cell = torch.zeros_like(arguments[0], dtype=torch.long)
        inside_cell = []
        for x, (low, high), n in zip(arguments, self.bounds, self.cells, strict=True):
            s = (x - low) / (high - low)
            if self.periodic:
                s = s - s.floor()
            else:
                outside = outside | (x < low) | (x > high)
                s = s.clamp(0, 1)  # out there the value is 0, and it must not overflow on the way
            s = s * n
            i = s.detach().floor().nan_to_num(0.0).clamp(0, n - 1)
            inside_cell.append(s - i)
            cell = cell * n + i.long()
        c = self.table.to(arguments[0])[cell]
        for axis, t in reversed(list(enumerate(inside_cell))):
            t = t[(..., *[None] * axis)]
            c = ((c[..., 0] * t + c[..., 1]) * t + c[..., 2]) * t + c[..., 3]
        return torch.where(outside, torch.zeros_like(c), c)


class _Lookup(torch.nn.Module):
    """Discrete tabulated function: the table entry nearest to the arguments."""

    table: Tensor

    def __init__(self, grid: np.ndarray):
        super().__init__()
        self.dimensions = grid.ndim
        self.register_buffer("table", torch.from_numpy(np.ascontiguousarray(grid)))

    def forward(self, *arguments: Tensor) -> Tensor:
        index = [
            (x.detach() + 0.5).floor().nan_to_num(0.0).clamp(0, n - 1).long()
            for x, n in zip(arguments, self.table.shape, strict=True)
        ]
        return self.table.to(arguments[0])[tuple(torch.broadcast_tensors(*index))]
