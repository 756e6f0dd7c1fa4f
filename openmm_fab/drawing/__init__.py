"""Pictures of structures: positions and topology in, figures and notebook widgets out."""

from __future__ import annotations

from .sticks import structure_picture
from .structures import Structures

__all__ = [
    "Structures",
    "structure_picture",
]
