"""Time that passes only when nothing is left to do at this moment."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class VirtualClock:
    """Calls everything in the order of its time, then of its scheduling."""

    def __init__(self) -> None:
        self.now = 0.0
        self._count = 0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []

    def call_at(self, at: float, callback: Callable[[], None]) -> None:
        """Call it then, or as soon as possible when that is past."""
        self._count += 1
        heapq.heappush(self._agenda, (max(at, self.now), self._count, callback))

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call it after so many virtual seconds."""
        self.call_at(self.now + delay_s, callback)

    def run_until(self, end: float) -> None:
        """Let time pass; what is due at the end is still called."""
        while self._agenda and self._agenda[0][0] <= end:
            self.now, _, callback = heapq.heappop(self._agenda)
            callback()
        self.now = end
