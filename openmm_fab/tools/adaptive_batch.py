"""Evaluation of a batch in pieces where it does not fit into the accelerator's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from .warn import warn

T = TypeVar("T")


class AdaptiveBatch:
    """Evaluates a batch at once, or in halves, quarters, ... after the accelerator ran out of memory, with a warning.

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

    def __call__(self, function: Callable[[int, int], T], n: int, rng: torch.Generator | None = None) -> list[T]:
        """Call function(start, stop) for pieces that cover rows 0 to n, and return the results in order.

        Parameters
        ----------
        function : callable
        n : int
        rng : torch.Generator, optional
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
            state = rng.get_state() if rng is not None else None
            try:
                parts.append(function(start, stop))
                start = stop
                continue
            except torch.cuda.OutOfMemoryError:
                if stop - start <= 1:
                    raise
            # Behind the `except`: within it, the traceback holds all that the failed piece allocated.
            if rng is not None and state is not None:
                rng.set_state(state)
            self.halve(stop - start)
        return parts

    def halve(self, rows: int) -> None:
        """Limit pieces to half as many rows from now on."""
        self.limit = (rows + 1) // 2
        warn(
            f"{self.what}: out of memory with {rows} rows at once; goes on with {self.limit}. A smaller batch "
            "(TrainSettings.batch) would save the attempt.",
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
