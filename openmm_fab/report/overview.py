"""One page about many runs: a row each, with the verdict first and a link to the run's own report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from html import escape
from typing import Any
from urllib.parse import quote

from ..tools.findings import BAD, CARE, GOOD
from ..weights import Estimate
from . import page

ENOUGH = 100.0  # effective samples
HEAVY = 0.7  # k-hat
HEADINGS = ("molecule", "", "atoms", "ESS", "k-hat", "conformers above 1 %", "first conformer", "minutes in all")


def overview_html(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """The page's HTML.

    Parameters
    ----------
    rows : sequence of mappings
        name, status ("done", "waiting", or what went wrong), atoms, ess, khat, conformers, first, first_error, seconds.
    """
    done = sum(row["status"] == "done" for row in rows)
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    about = f"{done} of {len(rows)} molecules done. Written {date}."
    numbers = [""] * 2 + [' class="number"'] * (len(HEADINGS) - 2)
    head = "".join(f"<th{of}>{escape(text)}</th>" for text, of in zip(HEADINGS, numbers, strict=True))
    body = "".join(map(_row, rows))
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}: openmm_fab screening</title>",
            '<link rel="icon" href="data:,">',
            f"<style>{page.CSS}</style></head><body>",
            f'<header><h1>{escape(title)}</h1><p class="soft">{escape(about)}</p></header>',
            f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>',
            f'<p class="soft">To be trusted: an effective sample size (ESS) of {ENOUGH:g} or more, and k-hat below '
            f"{HEAVY:g}. Neither sees a conformer that was never visited.</p>",
            "</body></html>",
        ]
    )


def _row(row: Mapping[str, Any]) -> str:
    name = escape(str(row["name"]))
    if row["status"] != "done":
        waits = row["status"] == "waiting"
        mark, grade = ("", "") if waits else ("✗", BAD)
        words = escape(str(row["status"]))
        return f'<tr><td>{name}</td><td class="{grade}">{mark}</td><td colspan="6">{words}</td></tr>'
    good = row["ess"] >= ENOUGH and row["khat"] < HEAVY
    khat = f"{row['khat']:.2f}" if math.isfinite(row["khat"]) else "-"
    cells = [
        f'<td><a href="{quote(str(row["name"]))}/report.html">{name}</a></td>',
        f'<td class="{GOOD if good else CARE}">{"✓" if good else "!"}</td>',
    ]
    texts = [
        f"{row['atoms']}",
        f"{row['ess']:,.0f}",
        khat,
        f"{row['conformers']}",
        str(Estimate(row["first"], row["first_error"])),
        f"{row['seconds'] / 60:.1f}",
    ]
    cells += [f'<td class="number">{escape(text)}</td>' for text in texts]
    return f"<tr>{''.join(cells)}</tr>"
