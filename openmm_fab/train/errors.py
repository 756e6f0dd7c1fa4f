"""What training raises."""

from __future__ import annotations

from ..tools.errors import OpenMMFabError


class TrainingError(OpenMMFabError, RuntimeError):
    """Training cannot go on; the message says what was seen and what to change."""
