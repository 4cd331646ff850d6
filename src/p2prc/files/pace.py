"""How fast files move: as fast as the owner's line may be used by p2prc, all peers together."""

from __future__ import annotations

import asyncio

_AHEAD_S = 0.25
"""So much may go at once after a pause."""


class Pace:
    """Bytes a second one way; None is no bound."""

    def __init__(self, bytes_per_s: int | None = None) -> None:
        self.bytes_per_s = bytes_per_s
        self._free_at = 0.0

    async def wait_for(self, size_bytes: int) -> None:
        """Wait until so many bytes may go; those that wait go one after another."""
        if self.bytes_per_s is None:
            return
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now - _AHEAD_S) + size_bytes / self.bytes_per_s
        if (wait_s := self._free_at - now) > 0:
            await asyncio.sleep(wait_s)
