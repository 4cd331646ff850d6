"""What the process takes of the system: memory that is given back, and files it may open.

The allocator would keep it: some ten megabytes after a start without bytecode, as much again after
every large transfer. A node is idle most of its life, and then it should be small.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable

if sys.platform != "win32":
    import resource

FILES_WANTED = 8192
_ARENA_MAX = -8
"""`M_ARENA_MAX` of glibc's malloc.h."""


def take_for_permanent() -> None:
    """Collect once; later collections need not look at what the start has loaded."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Hand free pages to the system, where the allocator can; takes a millisecond or two."""
    if _trim is not None:
        _trim(0)


def use_one_arena() -> None:
    """Let all threads take memory from one place, before there are threads.

    Each keeps a place of its own otherwise, and what is free in one is of no use to the others: a
    few megabytes after a large transfer. Transfers take as long as before.
    """
    if _set_option is not None:
        _set_option(_ARENA_MAX, 1)


def allow_many_files() -> None:
    """Raise our own limit of open files as far as needed and allowed: every lease needs some."""
    if sys.platform == "win32":
        return
    present, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if most == resource.RLIM_INFINITY else min(FILES_WANTED, most)
    if present != resource.RLIM_INFINITY and present < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _find(name: str) -> Callable[..., int] | None:
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None  # Only glibc has it.
    return found


_trim = _find("malloc_trim")
_set_option = _find("mallopt")
