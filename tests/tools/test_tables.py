"""Text tables: widths, alignment, the line below the head."""

from __future__ import annotations

import pytest

from openmm_fab.tools.tables import table


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    rows = [["phi", "1.5", "agree"], ["end to end", "12.25", ""]]
    assert table(["", "z", "verdict"], rows, right=[1], rule=True).splitlines() == [
        "                z  verdict",
        "--------------------------",
        "phi           1.5  agree",
        "end to end  12.25",
    ]
    assert table(None, rows).splitlines() == ["phi         1.5    agree", "end to end  12.25"]


def test_rows_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError):
        table(["a", "b"], [["1"]])
