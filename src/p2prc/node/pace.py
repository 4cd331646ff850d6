"""A bound on bytes a second of what goes over several links together."""

from __future__ import annotations

import asyncio
import time

from p2prc.runtime.port import Link


class Pace:
    """Lets so many bytes a second through; None is no bound."""

    def __init__(self, bytes_s: int | None = None) -> None:
        self.bytes_s = bytes_s
        self._free_at = 0.0

    async def take(self, amount: int) -> None:
        """Wait until so many bytes more have passed; nobody waits for a first burst."""
        if not self.bytes_s:
            return
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + amount / self.bytes_s
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)


class PacedLink:
    """A link that takes its time: what waits is not read, so that its sender waits as well."""

    def __init__(self, link: Link, pace: Pace) -> None:
        self._link = link
        self._pace = pace

    async def read(self) -> bytes:
        content = await self._link.read()
        await self._pace.take(len(content))
        return content

    async def write(self, content: bytes) -> None:
        await self._pace.take(len(content))
        await self._link.write(content)

    async def end_writing(self) -> None:
        await self._link.end_writing()

    async def close(self) -> None:
        await self._link.close()
