"""A user of its own for every lease, where the node is root: limits do not bind uid 0."""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path
from random import Random

_FIRST, _LAST = 0x7000_0000, 0x7FFF_0000
"""Above what systemd and useradd give away, below what 32-bit signed programs can hold."""
_FIRST_IN_CONTAINER, _LAST_IN_CONTAINER = 40_000, 60_000


def tenant_uid(taken: Container[int], rng: Random) -> int:
    """Return an unused user id for one lease, or 0 when we are an ordinary user ourselves."""
    if os.geteuid() != 0:
        return 0
    first, last = _range(Path("/proc/self/uid_map").read_text(encoding="ascii"))
    uid = rng.randrange(first, last)
    while uid in taken:
        uid = rng.randrange(first, last)
    return uid


def _range(uid_map: str) -> tuple[int, int]:
    """Return the ids to choose from; a container may know only the first 65536."""
    for line in uid_map.splitlines():
        inside, _, count = map(int, line.split())
        if inside <= _FIRST and inside + count >= _LAST:
            return _FIRST, _LAST
    return _FIRST_IN_CONTAINER, _LAST_IN_CONTAINER
