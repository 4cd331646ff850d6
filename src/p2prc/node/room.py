"""How many streams of a peer are served at once, on one connection."""

from __future__ import annotations

import asyncio

from p2prc.transport.port import Connection

STREAMS_LIMIT = 512
WIDE_STREAMS_LIMIT = 2560
"""Of a peer on which this node's owner chose to depend: a gateway hands over what comes to it."""
_AHEAD = 512
"""So many more may be open than are served: they wait."""


class Room:
    """Counts the streams that are served; there may be more of them after `widen`."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(STREAMS_LIMIT)
        self._is_wide = False

    async def enter(self) -> None:
        """Wait until one more may be served."""
        await self._free.acquire()

    def leave(self) -> None:
        """Make room for another one."""
        self._free.release()

    def widen(self, connection: Connection) -> None:
        """Serve more from now on, and let the peer open them. Twice is safe."""
        if self._is_wide:
            return
        self._is_wide = True
        connection.allow_streams(WIDE_STREAMS_LIMIT + _AHEAD)
        for _ in range(WIDE_STREAMS_LIMIT - STREAMS_LIMIT):
            self._free.release()
