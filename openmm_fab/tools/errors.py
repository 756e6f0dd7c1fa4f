"""The base of the package's own exceptions."""

from __future__ import annotations


class OpenMMFabError(Exception):
    """Base of every exception that the package defines; each has a built-in one beside it, such as ValueError."""
