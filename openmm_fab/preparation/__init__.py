"""Preparation of structure files that OpenMM does not accept: `find_problems` lists problems, `Findings.fix` corrects
them.

Finding changes nothing. Fixing corrects what is accepted, moves no atom that it keeps, keeps the formula unless told
otherwise, and lists what remains. `records` reads the lines of a file, `scanning` finds problems in them, `bonding`
determines bonds, `structure` finds problems of what OpenMM reads, `fixing` adds atoms.
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
