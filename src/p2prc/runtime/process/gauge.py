"""What one lease uses, compared with what it may use."""

# ruff: noqa: PTH116, S108
# Works on plain paths: pathlib would have to be loaded for every lease.
from __future__ import annotations

import os
import time

from p2prc.runtime.process import folders, watch
from p2prc.runtime.process.messages import Measured, Start
from p2prc.runtime.process.places import Place
from p2prc.runtime.process.powers import own_power

_SHORTEST_SAMPLE_S = 0.1
_DISK_FULL_BYTES = 1 << 20
_MEBIBYTE = 1 << 20


class Gauge:
    """Memory, disk and processor of a lease, looked at when asked."""

    def __init__(self, start: Start, place: Place) -> None:
        self._start = start
        self._place = place
        self._device = os.stat(start.folder).st_dev
        self._sample = (time.monotonic(), 0.0)
        self._hidden = 0
        self.percent = 0.0
        self.memory = self.memory_peak = self.command_peak = self.disk = 0

    def look_at_memory(self, pids: list[int]) -> int:
        """Measure and return the memory that all processes use now."""
        used = watch.memory_bytes(pids, self._start.memory_bytes) + self._hidden
        if init := self._place.init():
            used += watch.shared_memory_bytes(init)
        self.memory = used
        self.command_peak = max(self.command_peak, used)
        self.memory_peak = max(self.memory_peak, used)
        return used

    def memory_excess(self, pids: list[int]) -> str:
        """Measure the memory; say what is wrong with it, or nothing."""
        used, limit = self.look_at_memory(pids), self._start.memory_bytes
        return f"memory: {_mib(used)} used, {_mib(limit)} allowed" if used > limit else ""

    def disk_excess(self, pids: list[int] | None = None) -> str:
        """Measure the disk and what these processes hold; say what is wrong with it, or nothing."""
        try:
            with own_power(self._start.uid):
                work = folders.used_bytes(f"{self._start.folder}/work")
                used = work + folders.used_bytes(f"{self._start.folder}/tmp")
                used += sum(folders.used_bytes(source) for source, _ in self._start.volumes)
        except folders.TooDeep as error:
            return f"disk: {error}"
        if pids is not None:
            unnamed, self._hidden = watch.unnamed_bytes(pids, self._device)
            used += unnamed
        self.disk = used
        limit = self._start.disk_bytes
        return f"disk: {_mib(used)} used, {_mib(limit)} allowed" if used > limit else ""

    def is_disk_full(self) -> bool:
        """Say whether the node's disk is full, whoever filled it."""
        facts = os.statvfs(self._start.folder)
        return facts.f_bavail * facts.f_frsize < _DISK_FULL_BYTES

    def has_calmed_down(self, used_s: float) -> None:
        """Note that nothing runs any more."""
        self._sample = (time.monotonic(), used_s)
        self.memory, self.percent = 0, 0.0

    def begin(self) -> None:
        """Note that a command starts in what was at rest."""
        self.command_peak = self._hidden = 0

    def measured(self, number: int, used_s: float, processes: int) -> Measured:
        """Return what is used now as the daemon is told."""
        now = time.monotonic()
        then, before_s = self._sample
        if now - then >= _SHORTEST_SAMPLE_S:
            self.percent = max(0.0, round(100 * (used_s - before_s) / (now - then), 1))
            self._sample = (now, used_s)
        return Measured(
            number, used_s, self.percent, self.memory, self.memory_peak, self.disk, processes
        )


def _mib(count: int) -> str:
    return f"{count / _MEBIBYTE:.0f} MiB"
