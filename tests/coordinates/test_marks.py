"""What a picture of the coordinates marks: bonds by what the Z-matrix does with them, and stereocentres."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from openmm_fab.coordinates import marks
from openmm_fab.coordinates.marks import marked_bonds, marked_centres

NAMES = ("A", "B", "C", "D", "E")


def test_bonds_by_what_they_do() -> None:
    zmatrix = SimpleNamespace(
        rows=np.array([[0, -1, -1, -1], [1, 0, -1, -1], [2, 1, 0, -1], [3, 2, 1, 0], [4, 2, 1, 0]]),
        periodic=np.array([False, False, False, True, True]),
        closes=np.array([False, False, True, False, False]),
    )
    lengths = np.array([np.nan, 0.1, np.nan, np.nan])
    assert marked_bonds(zmatrix, {4}, lengths, NAMES) == [
        ((2, 0), marks.CLOSES, "closes a ring: C-A"),
        ((2, 1), marks.FIXED, "fixed: C-B"),
        ((2, 1), marks.TURNS, "turns: C-B"),
        ((2, 1), marks.SECTOR, "turns: one sector of C-B"),
    ]


def test_centres_by_name() -> None:
    assert marked_centres([1, 3], NAMES) == [((i,), marks.HAND, f"keeps its chirality: {NAMES[i]}") for i in (1, 3)]
