"""The C allocator: memory that was freed is kept in the process.

On some machines, virtual ones above all, touching a fresh page costs far more than computing on it.  glibc hands
large freed blocks back to the system, so code that allocates and frees big tensors pays for the same pages again and
again: up to 50 times the time of the arithmetic.  Set OPENMM_FAB_KEEP_MEMORY=0 to leave the allocator alone.
"""

from __future__ import annotations

import ctypes
import os
import sys

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
