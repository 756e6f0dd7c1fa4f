"""A structure file that OpenMM does not take as it is: `find_problems` lists what is wrong, `Findings.fix` mends it.

Finding changes nothing. Fixing does what you accept, moves no atom that stays, keeps the formula unless you say else,
and says what is left to you. `records` knows the lines of a file, `scanning` what is wrong with them, `bonding` which
atoms are bonded, `structure` what else is wrong with what OpenMM reads, `fixing` how to add atoms.
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
