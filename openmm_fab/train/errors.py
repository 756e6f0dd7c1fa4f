"""Exceptions of training."""

from __future__ import annotations

from ..tools.errors import OpenMMFabError


class TrainingError(OpenMMFabError, RuntimeError):
    """Training cannot continue; the message says what was observed and what to change."""
