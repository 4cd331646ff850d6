"""What a daemon costs while nothing happens, with its peers connected."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Figure

WINDOW_S = 20.0
SETTLE_S = 32.0
"""How long nodes rest before: a daemon gives memory back every half a minute."""
TARGET_CPU_PERCENT = 1.0
TARGET_RESIDENT_MB = 90.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_KIB = 1024


@dataclass(frozen=True, slots=True)
class Cost:
    """What one process used over the window."""

    cpu_percent: float
    resident_mb: float


def figures(daemons: Sequence[int]) -> list[Figure]:
    """Watch these daemons for a while; the costliest counts."""
    time.sleep(SETTLE_S)
    costs = _watch([(pid,) for pid in daemons])
    cpu = max(cost.cpu_percent for cost in costs)
    resident = max(cost.resident_mb for cost in costs)
    helpers = _watch([descendants(pid) for pid in daemons], window_s=0.0)
    return [
        Figure("idle daemon with two peers, CPU of a core", cpu, "%", at_most=TARGET_CPU_PERCENT),
        Figure("idle daemon, resident", resident, "MB", at_most=TARGET_RESIDENT_MB),
        Figure(
            "processes it keeps for leases (nursery), resident",
            statistics.median(cost.resident_mb for cost in helpers),
            "MB",
        ),
    ]


def watch_each(pids: Sequence[int]) -> list[Cost]:
    """Return what each of these processes uses over the window."""
    return _watch([(pid,) for pid in pids])


def cpu_s(pids: Sequence[int]) -> float:
    """Return the seconds of CPU that these processes have used since they began."""
    return sum(map(_ticks, pids)) / _TICKS_PER_S


def _watch(groups: Sequence[Sequence[int]], *, window_s: float = WINDOW_S) -> list[Cost]:
    before = [sum(map(_ticks, pids)) for pids in groups]
    began = time.monotonic()
    time.sleep(window_s)
    took_s = max(time.monotonic() - began, 1e-3)
    found = []
    for pids, ticks in zip(groups, before, strict=True):
        used_s = (sum(map(_ticks, pids)) - ticks) / _TICKS_PER_S
        resident = sum(map(resident_bytes, pids)) / 1e6
        found.append(Cost(100 * used_s / took_s, resident))
    return found


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def resident_bytes(pid: int) -> int:
    """Return what of a process is in memory now."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * _KIB
    return 0


def descendants(pid: int) -> tuple[int, ...]:
    """Return all that a process started, and what those started."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        children = (thread / "children").read_text(encoding="ascii").split()
        for child in map(int, children):
            found += [child, *descendants(child)]
    return tuple(found)
