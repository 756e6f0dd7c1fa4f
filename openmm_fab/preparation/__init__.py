"""A structure file that OpenMM does not take as it is: `find_problems` lists what is wrong, `Findings.fix` mends it.

Finding changes nothing. Fixing does what you accept, moves no atom that stays, and says what is left to you.
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
