"""What time it is, so that it can be compared over a restart of the node."""

from __future__ import annotations

import functools
import time
from pathlib import Path

from p2prc.model.moments import Moment

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def moment() -> Moment:
    """Return this instant."""
    boot = _boot()
    return Moment(time.time(), boot, time.clock_gettime(time.CLOCK_BOOTTIME) if boot else 0.0)


@functools.cache
def _boot() -> str:
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
