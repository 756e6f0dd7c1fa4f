"""HTML tables of the report's pages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

# "1.2 ± 0.3", "< 5", "12 (...)", "-", or nothing
NUMBER = re.compile(r"|-|[<>]? ?[+-]?(\d|inf|nan).*", re.DOTALL)


def html_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, last: Sequence[tuple[str, str]] | None = None
) -> str:
    """HTML of a table that scrolls by itself on a narrow page; columns of numbers are aligned at their right-hand edge.

    Parameters
    ----------
    headings : sequence of str
        One a column; empty for a table without a head.
    rows : sequence of sequences of str
        Plain text of the cells.
    last : sequence of (text, class), optional
        One more cell for each row, in a class of the page's styles.
    """
    classes = ["number" if all(map(NUMBER.fullmatch, column)) else "" for column in zip(*rows, strict=True)]
    lines = [_row("th", list(zip(headings, [*classes, ""], strict=False)))] if headings else []
    for k, row in enumerate(rows):
        lines.append(_row("td", [*zip(row, classes, strict=True), *([] if last is None else [last[k]])]))
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _row(tag: str, cells: Sequence[tuple[str, str]]) -> str:
    texts = (f'<{tag} class="{kind}">{escape(text)}</{tag}>' for text, kind in cells)
    return f"<tr>{''.join(texts)}</tr>".replace(' class=""', "")
