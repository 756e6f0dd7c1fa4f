"""The snippets of docs/bgflow.md run, from the first to the last."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "bgflow.md"


def test_snippets_run(bg):
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) == 5
    names: dict = {}
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), names)
    assert names["ensemble"].n == 500 and names["x"].shape == (100, 42)
    assert names["log_weights"].shape == (100, 1)


def test_names_on_the_page_exist():
    """Those of openmm_fab in the table of names."""
    import openmm_fab as fab
    from openmm_fab.coordinates import internal as coordinates
    from openmm_fab.flow import coupling as flow
    from openmm_fab.interop import bgflow as interop

    text = PAGE.read_text(encoding="utf-8")
    known = {*dir(fab), *vars(interop), *vars(coordinates), *vars(flow)}
    table = text[text.index("## Names") : text.index("## What differs")]
    right = re.findall(r"^\| [^|]*\| ([^|]*) \|$", table, re.MULTILINE)
    names = {re.split(r"[.(]", code)[0] for cell in right for code in re.findall(r"`-?([^`]+)`", cell)}
    methods = {"x", "u", "log_w", "to_internal", "to_cartesian"}
    assert len(names) > 10 and not names - known - methods
