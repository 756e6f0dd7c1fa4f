"""One page about many runs: a row each, with the verdict first and a link to the run's own report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ..tools.findings import BAD, CARE, GOOD
from ..weights import Estimate
from .templates import now, render

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
    about = f"{done} of {len(rows)} molecules done. Written {now()}."
    return render(
        "overview.jinja",
        title=title,
        about=about,
        head=HEADINGS,
        rows=[_row(row) for row in rows],
        enough=ENOUGH,
        heavy=HEAVY,
    )


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    if row["status"] != "done":
        return {**row, "grade": "" if row["status"] == "waiting" else BAD, "cells": None}
    good = row["ess"] >= ENOUGH and row["khat"] < HEAVY
    cells = [
        f"{row['atoms']}",
        f"{row['ess']:,.0f}",
        f"{row['khat']:.2f}" if math.isfinite(row["khat"]) else "-",
        f"{row['conformers']}",
        str(Estimate(row["first"], row["first_error"])),
        f"{row['seconds'] / 60:.1f}",
    ]
    link = f"{quote(str(row['name']))}/report.html"
    return {"name": row["name"], "link": link, "grade": GOOD if good else CARE, "cells": cells}
