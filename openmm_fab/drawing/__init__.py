"""Pictures of structures: arrays in, pictures and widgets out."""

from __future__ import annotations

from .sticks import structure_picture
from .structures import Structures

__all__ = [
    "Structures",
    "structure_picture",
]
