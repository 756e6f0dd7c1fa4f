"""The base of the package's own exceptions."""

from __future__ import annotations


class OpenMMFabError(Exception):
    """Base class of all exceptions that this package defines; each also derives from a built-in one, such as
    ValueError."""
