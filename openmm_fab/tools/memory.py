"""Memory: freed memory is kept in the process, and a batch that does not fit is evaluated in halves.

On some machines, virtual ones above all, touching a fresh page costs far more than computing on it.  glibc hands
large freed blocks back to the system, so code that allocates and frees big tensors pays for the same pages again and
again: up to 50 times the time of the arithmetic.  Set OPENMM_FAB_KEEP_MEMORY=0 to leave the allocator alone.
"""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_LARGE = 2_000_000_000


def keep_freed_memory() -> bool:
    """Tell glibc to reuse freed memory instead of returning it; true if it was told. Elsewhere it does nothing."""
    if os.environ.get("OPENMM_FAB_KEEP_MEMORY", "1") == "0" or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # musl and others have no mallopt
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _LARGE))


class Halving:
    """Evaluates a batch in one piece; where the accelerator runs out of memory in halves, quarters, ..., and says so.

    Parameters
    ----------
    what : str
        What the warning speaks of: "Sampling".

    Attributes
    ----------
    limit : int or None
        Rows that fit, once a piece did not; later batches start with it.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.limit: int | None = None

    def __call__(self, function: Callable[[int, int], T], n: int, generator: torch.Generator | None = None) -> list[T]:
        """What function(start, stop) returns for pieces that cover rows 0 to n, in order.

        Parameters
        ----------
        function : callable
        n : int
        generator : torch.Generator, optional
            All randomness of the function: a piece that failed leaves no trace in it.

        Raises
        ------
        torch.OutOfMemoryError
            If there is no memory for a single row.
        """
        parts: list[T] = []
        start = 0
        while start < n or not parts:
            stop = min(n, start + (self.limit or n))
            state = generator.get_state() if generator is not None else None
            try:
                parts.append(function(start, stop))
                start = stop
                continue
            except torch.cuda.OutOfMemoryError:
                if stop - start <= 1:
                    raise
            # Behind the `except`: within it, the traceback holds all that the failed piece allocated.
            if generator is not None and state is not None:
                generator.set_state(state)
            self.halve(stop - start)
        return parts

    def halve(self, rows: int) -> None:
        """Take pieces of at most half as many rows from now on."""
        self.limit = (rows + 1) // 2
        warnings.warn(
            f"{self.what}: out of memory with {rows} rows at once; goes on with {self.limit}. A smaller batch "
            "(TrainSettings.batch) would save the attempt.",
            stacklevel=3,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
