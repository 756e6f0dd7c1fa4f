"""A structure file that OpenMM does not take as it is: `find_problems` lists what is wrong, `fix` mends what you
accept.

Finding changes nothing. Fixing moves no atom that stays; it says what it did and what is left to you.
`records` knows the lines of a file, `structure` what OpenMM makes of them, `fixing` how to add atoms.
"""

from __future__ import annotations

from .findings import Findings, Prepared, find_problems
from .problems import FIXES, Problem

__all__ = [
    "FIXES",
    "Findings",
    "Prepared",
    "Problem",
    "find_problems",
]
