"""Bytes both ways, as this room needs them: the shape of `runtime.port.Link`."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Bytes(Protocol):
    """Both directions of a connection."""

    async def read(self) -> bytes: ...

    async def write(self, content: bytes) -> None: ...

    async def end_writing(self) -> None: ...

    async def close(self) -> None: ...


class Ahead:
    """Reads a link, one piece ahead where asked: an end is seen before anybody reads it."""

    def __init__(self, link: Bytes, early: bytes = b"") -> None:
        self._link = link
        self._early = early
        self._reading: asyncio.Task[bytes] | None = None

    @property
    def is_over(self) -> bool:
        """Whether something came, or the end, while nothing was due."""
        return bool(self._early) or (self._reading is not None and self._reading.done())

    def look_ahead(self) -> asyncio.Task[bytes]:
        """Begin to read what comes next."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._link.read(), name="a piece ahead")
        return self._reading

    async def seen(self) -> None:
        """Return once something is there to be read. Raises OSError where the link broke."""
        if not self._early:
            reading = self.look_ahead()
            await asyncio.wait([reading])
            if (error := reading.exception()) is not None:
                raise error

    async def read(self) -> bytes:
        """Return what comes next; a reader that is cancelled loses nothing. Raises OSError."""
        if self._early:
            early, self._early = self._early, b""
            return early
        reading = self.look_ahead()
        await asyncio.wait([reading])
        self._reading = None
        return reading.result()

    async def write(self, content: bytes) -> None:
        """Send bytes. Raises OSError."""
        await self._link.write(content)

    async def end_writing(self) -> None:
        """Say that nothing more comes from us. Raises OSError."""
        await self._link.end_writing()

    async def close(self) -> None:
        """Let go of it, and of what is being read."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None
        await self._link.close()
