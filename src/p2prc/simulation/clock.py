"""Time that passes only when nothing is left to do at this moment."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class VirtualClock:
    """Calls everything in the order of its time, then of its scheduling."""

    def __init__(self) -> None:
        self.now = 0.0
        self.called = 0
        self._count = 0
        self._agenda: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []

    def call_at(self, at: float, callback: Callable[..., None], *arguments: object) -> None:
        """Call it then, or as soon as possible when that is past."""
        self._count += 1
        # Arguments, not a closure: a million of these are waiting in a large network.
        heapq.heappush(
            self._agenda, (at if at > self.now else self.now, self._count, callback, arguments)
        )

    def call_later(self, delay_s: float, callback: Callable[..., None], *arguments: object) -> None:
        """Call it after so many virtual seconds."""
        self.call_at(self.now + delay_s, callback, *arguments)

    def run_until(self, end: float) -> None:
        """Let time pass; what is due at the end is still called."""
        agenda, pop = self._agenda, heapq.heappop
        while agenda and agenda[0][0] <= end:
            self.now, _, callback, arguments = pop(agenda)
            self.called += 1
            callback(*arguments)
        self.now = end
