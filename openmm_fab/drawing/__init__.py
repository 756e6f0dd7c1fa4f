"""Pictures of structures: positions and topology -> figures and notebook widgets."""

from __future__ import annotations

from .sticks import structure_picture
from .structures import Structures

__all__ = [
    "Structures",
    "structure_picture",
]
