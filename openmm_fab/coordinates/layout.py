"""Index arithmetic of coordinates: which entry of z is which length, angle or torsion, and which are fixed, narrow or
turn."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .zmatrix import ZMatrix


class Layout:
    """Positions of a Z-matrix's lengths, angles and torsions among the coordinates.

    Lengths and angles stand in one array `lengths`: first ones of rows 1, 2, ..., then angles of rows 2, 3, ... or, of
    rows that close rings, second lengths.  Torsions are those of rows 3, 4, ...  z holds the lengths and angles that
    are not fixed, then narrow torsions (together the stiff entries), then torsions that turn (the periodic ones).

    Parameters
    ----------
    zmatrix : ZMatrix
    lengths : ndarray, shape (n_bonds + n_angles,), nm, optional
        Fixed lengths; nan for what is a coordinate, as all are by default.

    Attributes
    ----------
    free : ndarray of int
        Places in `lengths` of the coordinates among them.
    narrow, turning : ndarray of int
        Places, from row 3 on, of narrow torsions and of those that turn.
    leader : ndarray of int, shape (n_torsions,)
        Place of the torsion that each one is counted from, where it `follows` one, else 0.
    follows : ndarray of bool, shape (n_torsions,)

    Raises
    ------
    ValueError
        A single atom.
    """

    def __init__(self, zmatrix: ZMatrix, lengths: np.ndarray | None = None) -> None:
        n = zmatrix.n_atoms
        if n < 2:
            raise ValueError("Expected a molecule of two atoms or more; got a single atom, which has no shape.")
        self.zmatrix = zmatrix
        self.n_bonds, self.n_angles, self.n_torsions = n - 1, n - 2, max(n - 3, 0)
        every = np.full(self.n_bonds + self.n_angles, np.nan)
        self.lengths = every if lengths is None else np.asarray(lengths, dtype=np.float64)
        self.free = np.flatnonzero(np.isnan(self.lengths))
        turns, leader = zmatrix.periodic[3:], zmatrix.leader[3:]
        self.narrow, self.turning = np.flatnonzero(~turns), np.flatnonzero(turns)
        self.leader, self.follows = np.maximum(leader - 3, 0), leader >= 0
        self.n_stiff, self.n_periodic = len(self.free) + len(self.narrow), len(self.turning)
        self.dim = self.n_stiff + self.n_periodic

    @property
    def fixed(self) -> np.ndarray:
        """Positions in `lengths` of fixed lengths."""
        return np.flatnonzero(~np.isnan(self.lengths))

    def length(self, row: int) -> int:
        """Position in `lengths` of the bond length of a row; rows 1, 2, ..."""
        return row - 1

    def bend(self, row: int) -> int:
        """Position in `lengths` of a row's angle or second length; rows 2, 3, ..."""
        return self.n_bonds + row - 2

    def stiff_torsions(self, rows: Iterable[int]) -> list[int]:
        """Entries of z that are the narrow torsions of these rows; rows without one are skipped."""
        entry = {k + 3: len(self.free) + i for i, k in enumerate(self.narrow.tolist())}
        return [entry[int(row)] for row in rows if int(row) in entry]

    def row_of(self, entry: int) -> int:
        """Z-matrix row whose torsion is this periodic entry of z."""
        return int(self.turning[entry - self.n_stiff]) + 3

    def stiff(self, entry: int) -> tuple[str, list[int]]:
        """What this stiff entry of z is, "length", "angle" or "torsion", and its atoms."""
        rows, n_free = self.zmatrix.rows, len(self.free)
        if entry >= n_free:
            return "torsion", rows[int(self.narrow[entry - n_free]) + 3].tolist()
        place = int(self.free[entry])
        if place < self.n_bonds:
            return "length", rows[place + 1, :2].tolist()
        row = place - self.n_bonds + 2
        return ("length", rows[row, [0, 2]].tolist()) if self.zmatrix.closes[row] else ("angle", rows[row, :3].tolist())

    def distances(self) -> dict[frozenset[int], int]:
        """Positions in `lengths` of all distances, by pair of atoms."""
        rows, closing = self.zmatrix.rows, np.flatnonzero(self.zmatrix.closes).tolist()
        places = {frozenset(row[:2].tolist()): self.length(k) for k, row in enumerate(rows[1:], start=1)}
        return places | {frozenset(rows[k, [0, 2]].tolist()): self.bend(k) for k in closing}
