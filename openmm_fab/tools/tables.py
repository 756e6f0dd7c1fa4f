"""Plain-text tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def table(
    head: Sequence[str] | None, rows: Sequence[Sequence[str]], right: Collection[int] = (), rule: bool = False
) -> str:
    """Format rows of cells as a plain-text table, two blanks between columns.

    Parameters
    ----------
    head : sequence of str, optional
        Titles of the columns.
    right : collection of int
        Columns that are aligned at their right-hand edge; the others at the left-hand one.
    rule : bool
        Draw a line below the head.

    Raises
    ------
    ValueError
        Rows of different length.
    """
    lines = [*([] if head is None else [head]), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for line in lines:
        cells = zip(line, widths, strict=True)
        text.append("  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(cells)).rstrip())
    if rule and head is not None:
        text.insert(1, "-" * max(map(len, text)))
    return "\n".join(text)
