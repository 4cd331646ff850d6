"""Give memory that nothing uses back to the system.

The allocator would keep it: some ten megabytes after a start without bytecode, as much again after
every large transfer. A node is idle most of its life, and then it should be small.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable


def take_for_permanent() -> None:
    """Collect once; later collections need not look at what the start has loaded."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Hand free pages to the system, where the allocator can; takes a millisecond or two."""
    if _trim is not None:
        _trim(0)


def _find_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None  # Only glibc has it.
    return found


_trim = _find_trim()
