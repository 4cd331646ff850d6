"""The limits that the kernel itself holds a process to."""

from __future__ import annotations

import contextlib
import resource
from typing import NamedTuple

_MEBIBYTE = 1 << 20
_GIBIBYTE = 1 << 30


class Caps(NamedTuple):
    """What the kernel itself can hold a process to."""

    memory_bytes: int
    disk_bytes: int
    processes: int
    has_gpu: bool

    def limits(self) -> tuple[tuple[int, int], ...]:
        """Return (resource, value) pairs.

        The sizes are backstops for what the watch, ten times a second, is too slow for. They
        are generous: a reservation is not memory, and numeric libraries reserve a lot.
        """
        sizes = [
            (resource.RLIMIT_CORE, 0),
            # A little more than allowed, so that a file that stops here shows as excess.
            (resource.RLIMIT_FSIZE, self.disk_bytes + _MEBIBYTE),
            (resource.RLIMIT_NPROC, self.processes),
            (resource.RLIMIT_DATA, 4 * self.memory_bytes + 4 * _GIBIBYTE),
        ]
        if not self.has_gpu:
            sizes.append((resource.RLIMIT_AS, 4 * self.memory_bytes + 16 * _GIBIBYTE))
        return tuple(sizes)


def lower_limit(pid: int, kind: int, value: int) -> None:
    """Set a limit unless a lower one is in force already."""
    _, hard = resource.prlimit(pid, kind)
    if hard == resource.RLIM_INFINITY or value < hard:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, kind, (value, value))
