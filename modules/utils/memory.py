"""The memory that tensors leave behind on a CPU."""
from __future__ import annotations

import ctypes
import sys

# mallopt's parameters (man 3 mallopt): freed memory above which the heap shrinks, and the most separate mappings.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for later tensors, rather than return it to the system and take it anew page by page:
    at 224 pixels a training step took half as long again. True if that could be set; other C libraries have none."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_TRIM_THRESHOLD, -1) and mallopt(_M_MMAP_MAX, 0))
