"""The report's templates (`*.jinja`) and what they are rendered with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..tools.findings import BAD, CARE, GOOD
from . import page

MARKS = {GOOD: "✓", CARE: "!", BAD: "✗"}

# "1.2 ± 0.3", "< 5", "12 (...)", "-", or nothing
NUMBER = re.compile(r"|-|[<>]? ?[+-]?(\d|inf|nan).*", re.DOTALL)


def render(template: str, **values: Any) -> str:
    """HTML of a page; values are what the template names."""
    return TEMPLATES.get_template(template).render(values)


def now() -> str:
    """Date and time as pages have it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def kinds_of_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Class of each column of a table, "number" or none, and of one more."""
    return ["number" if all(map(NUMBER.fullmatch, column)) else "" for column in zip(*rows, strict=True)] + [""]


def in_script(text: str) -> Markup:
    """Text that does not end the <script> it stands in."""
    return Markup(text.replace("</script", "<\\/script"))


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
TEMPLATES.globals |= {"marks": MARKS, "css": page.CSS, "reload": page.RELOAD, "viewer": page.VIEWER_JS}
TEMPLATES.filters |= {"kinds_of_columns": kinds_of_columns, "in_script": in_script}
