"""A run as one HTML file that needs no network: verdicts, free energies, structures, curves, settings."""

from __future__ import annotations

from ..tools.findings import Finding
from .html import report_html, write_report
from .words import findings, usable

__all__ = [
    "Finding",
    "findings",
    "report_html",
    "usable",
    "write_report",
]
