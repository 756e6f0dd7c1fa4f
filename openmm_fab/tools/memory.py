"""Setting of the C allocator: freed memory stays in the process instead of returning to the system.

On some machines, virtual ones above all, first use of a memory page costs far more than computing on it. glibc returns
large freed blocks to the system, so that code which allocates and frees large tensors pays for the same pages again and
again, up to 50 times the time of the arithmetic. OPENMM_FAB_KEEP_MEMORY=0 leaves the allocator alone.
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_LARGE = 2_000_000_000


def keep_freed_memory() -> bool:
    """Tell glibc to reuse freed memory; returns whether that was possible. Has no effect with other C libraries."""
    if os.environ.get("OPENMM_FAB_KEEP_MEMORY", "1") == "0" or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # musl and others have no mallopt
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _LARGE))
