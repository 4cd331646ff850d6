"""What a channel of SSH receives, kept until a slower reader takes it."""

from __future__ import annotations

import asyncio
from typing import Protocol

_KEPT_BYTES = 256 * 1024


class Readable(Protocol):
    """A channel that can be told to wait."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Inflow:
    """Bytes in order; the channel is paused while too much is kept."""

    def __init__(self) -> None:
        self._channel: Readable | None = None
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._is_over = False
        self._news = asyncio.Event()

    def attach(self, channel: Readable) -> None:
        """Know which channel to pause."""
        self._channel = channel

    def put(self, content: bytes) -> None:
        self._kept.append(content)
        self._kept_bytes += len(content)
        if self._kept_bytes >= _KEPT_BYTES and self._channel is not None:
            self._channel.pause_reading()
        self._news.set()

    def end(self) -> None:
        """Say that nothing more comes."""
        self._is_over = True
        self._news.set()

    async def read(self) -> bytes:
        """Return all that is kept, waiting for some; nothing at the end."""
        while not self._kept:
            if self._is_over:
                return b""
            self._news.clear()
            await self._news.wait()
        content = b"".join(self._kept)
        self._kept.clear()
        self._kept_bytes = 0
        if self._channel is not None and not self._is_over:
            self._channel.resume_reading()
        return content
