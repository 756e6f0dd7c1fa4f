"""Geometry of a batch of structures: atoms gathered by index, distances of pairs, angles and torsions.

The batch is the last, contiguous dimension: a row is one coordinate of one atom in all structures, so gathering atoms
copies whole rows and every operation runs along the batch.  Derivatives of gathering sum over tables of fixed size
(for each atom: the positions in the index that hold it) instead of scattering, which on a CPU cannot be vectorised and
on a GPU needs atomic additions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Value = Tensor | float
Parameters = dict[str, Value]


def occurrences(index: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions in `index` (m,) that hold each of n rows: table (degree, n) int, and its weights.

    The weights (degree, n, 1) are 1 for a position and 0 for padding; None where nothing is padded. The degree comes
    first, so that sums over it run over the outermost dimension: torch.compile then vectorises along the batch alone.
    """
    order = np.argsort(index, kind="stable")
    degree = np.bincount(index, minlength=n)
    table = np.zeros((n, max(int(degree.max(initial=0)), 1)), dtype=np.int64)
    weights = np.arange(table.shape[1]) < degree[:, None]
    table[weights] = order
    table, weights = np.ascontiguousarray(table.T), weights.T
    return table, None if weights.all() else weights[:, :, None].astype(np.float64)


class Gather(nn.Module):
    """Module that takes rows of a tensor (..., n, batch) by an integer index of any shape: -> (..., *index.shape,
    batch)."""

    index: Tensor
    table: Tensor
    weights: Tensor | None

    def __init__(self, index: np.ndarray, n: int) -> None:
        super().__init__()
        index = np.asarray(index, dtype=np.int64)
        self.shape = tuple(index.shape)
        table, weights = occurrences(index.ravel(), n)
        self.register_buffer("index", torch.from_numpy(index.ravel()))
        self.register_buffer("table", torch.from_numpy(table))
        self.register_buffer("weights", None if weights is None else torch.from_numpy(weights))

    def forward(self, rows: Tensor) -> Tensor:
        gathered = _Gather.apply(rows, self.index, self.table, self.weights)
        return gathered.unflatten(-2, self.shape) if len(self.shape) != 1 else gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, table: Tensor, weights: Tensor | None) -> Tensor:
        ctx.save_for_backward(table, weights)
        return rows.index_select(-2, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        table, weights = ctx.saved_tensors
        return _sum_rows(grad, table, weights), None, None, None


def _sum_rows(rows: Tensor, table: Tensor, weights: Tensor | None) -> Tensor:
    """(..., m, batch) -> (..., n, batch): for each column of the table the sum of the rows that it lists."""
    if rows.shape[-2] == 0:
        return rows.new_zeros(*rows.shape[:-2], table.shape[1], rows.shape[-1])
    found = rows.index_select(-2, table.flatten()).unflatten(-2, tuple(table.shape))
    return (found if weights is None else found * weights).sum(-3)


class Pairs(nn.Module):
    """Module for squared distances of pairs of atoms i < j.

    Parameters
    ----------
    pairs : (n_pairs, 2) int, i < j, sorted, each once
    n_atoms : int

    Attributes
    ----------
    neighbours, rows : (degree, n_atoms) int
        For each atom the other atom, and the pair, of all pairs that it is in.
    """

    i: Tensor
    j: Tensor
    neighbours: Tensor
    rows: Tensor
    weights: Tensor | None

    def __init__(self, pairs: np.ndarray, n_atoms: int) -> None:
        super().__init__()
        pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
        self.number = len(pairs)
        both, others = pairs.T.ravel(), pairs[:, ::-1].T.ravel()
        table, weights = occurrences(both, n_atoms)
        self.register_buffer("i", torch.from_numpy(pairs[:, 0].copy()))
        self.register_buffer("j", torch.from_numpy(pairs[:, 1].copy()))
        self.register_buffer("neighbours", torch.from_numpy(others[table] if len(pairs) else table))
        self.register_buffer("rows", torch.from_numpy(table % max(len(pairs), 1)))
        self.register_buffer("weights", None if weights is None else torch.from_numpy(weights))

    def forward(self, x: Tensor) -> Tensor:
        """Squared distances (n_pairs, batch) of x (3, n_atoms, batch)."""
        return _Squares.apply(x, self.i, self.j, self.neighbours, self.rows, self.weights)


class _Squares(torch.autograd.Function):
    # One coordinate after the other: (3, pairs, batch) would be written to memory and read back.
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, i: Tensor, j: Tensor, neighbours: Tensor, rows: Tensor, weights: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, neighbours, rows, weights)
        dx, dy, dz = (c.index_select(0, i) - c.index_select(0, j) for c in x.unbind(0))
        return dx * dx + dy * dy + dz * dz

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, neighbours, rows, weights = ctx.saved_tensors
        if len(grad) == 0:
            return torch.zeros_like(x), None, None, None, None, None
        slope = 2.0 * grad.index_select(0, rows.flatten()).unflatten(0, tuple(rows.shape))
        if weights is not None:
            slope = slope * weights
        parts = []
        for c in x.unbind(0):
            others = c.index_select(0, neighbours.flatten()).unflatten(0, tuple(rows.shape))
            parts.append((slope * (c - others)).sum(0))
        return torch.stack(parts), None, None, None, None, None


class Frame:
    """Batch of structures during an evaluation: x (3, n_atoms, batch) in nm, and the distances of its pairs."""

    def __init__(self, x: Tensor, pairs: Pairs) -> None:
        self.x = x
        self.pairs = pairs

    @cached_property
    def r2(self) -> Tensor:
        """Squared distances (n_pairs, batch), nm^2."""
        return self.pairs(self.x)

    @cached_property
    def r(self) -> Tensor:
        """Distances (n_pairs, batch), nm."""
        return self.r2.sqrt()


# --- distances, angles and torsions of gathered atoms: (3, m, batch) -> (m, batch) ---


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Scalar products (m, batch) of vectors (3, m, batch)."""
    (ax, ay, az), (bx, by, bz) = a.unbind(0), b.unbind(0)
    return ax * bx + ay * by + az * bz


def cross(a: Tensor, b: Tensor) -> Tensor:
    """Vector products (3, m, batch) of vectors (3, m, batch)."""
    (ax, ay, az), (bx, by, bz) = a.unbind(0), b.unbind(0)
    return torch.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])


def root(x: Tensor) -> Tensor:
    """Square root with derivative 0 at 0, so that a distance of zero gives no NaN gradients."""
    return torch.sqrt(torch.where(x == 0, x.detach(), x))


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Distances |a - b|, with gradient 0 where a is at b."""
    d = a - b
    return root(dot(d, d))


def angle(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Angle at b in [0, pi], rad; NaN if a or c is at b. A straight angle has gradient 0, as in OpenMM."""
    u, v = a - b, c - b
    w = cross(u, v)
    theta = torch.atan2(root(dot(w, w)), dot(u, v))
    return torch.where(dot(u, u) * dot(v, v) > 0, theta, torch.nan)


def torsion(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The torsion about b-c in (-pi, pi], rad, with the sign of IUPAC; NaN if a, b, c or b, c, d are on a line."""
    u, v, w = b - a, c - b, d - c
    p, q = cross(u, v), cross(v, w)
    phi = torch.atan2(dot(u, q) * root(dot(v, v)), dot(p, q))
    return torch.where(dot(p, p) * dot(q, q) > 0, phi, torch.nan)


def expand_like(value: Value, like: Tensor) -> Tensor:
    """Expand a value (a constant, one for each row, or one for each structure) to the shape of `like`."""
    if not isinstance(value, Tensor):
        return torch.full_like(like, value)
    return value.expand(like.shape)


def gather_atoms(x: Tensor, gather: Gather) -> Sequence[Tensor]:
    """Positions of the k atoms of each of m terms: k tensors (3, m, batch), from x (3, n_atoms, batch) and an index (k,
    m)."""
    return gather(x).unbind(1)


def all_pairs(n_atoms: int) -> np.ndarray:
    """All pairs of atoms (n_atoms (n_atoms - 1) / 2, 2) int, i < j, sorted."""
    return np.stack(np.triu_indices(n_atoms, 1), axis=1)


def find_pairs(wanted: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Row numbers (m,) in the sorted `pairs` (n, 2) of the pairs `wanted` (m, 2), in either order."""
    n = int(pairs.max(initial=0)) + 1
    keys = pairs[:, 0] * n + pairs[:, 1]
    return np.searchsorted(keys, wanted.min(1) * n + wanted.max(1))
