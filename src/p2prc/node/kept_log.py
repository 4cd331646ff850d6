"""The end of what a process printed: bounded, readable while it grows."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from p2prc.runtime.port import OutputChunk

KEPT_BYTES = 1 << 20
KEPT_CHUNKS = 4096


class KeptLog:
    """Chunks by their number; the oldest go first. The writer never waits for a reader."""

    def __init__(self, *, limit_bytes: int = KEPT_BYTES, limit_chunks: int = KEPT_CHUNKS) -> None:
        self._limit_bytes = limit_bytes
        self._limit_chunks = limit_chunks
        self._chunks: deque[OutputChunk] = deque()
        self._first = 0
        self._size_bytes = 0
        self._is_closed = False
        self._news = asyncio.Event()

    def add(self, chunk: OutputChunk) -> None:
        """Keep it, and forget what is too old."""
        content = chunk.content[-self._limit_bytes :]
        self._chunks.append(OutputChunk(chunk.channel, content))
        self._size_bytes += len(content)
        while self._size_bytes > self._limit_bytes or len(self._chunks) > self._limit_chunks:
            self._size_bytes -= len(self._chunks.popleft().content)
            self._first += 1
        self._wake()

    def close(self) -> None:
        """Nothing more comes: who follows reaches an end."""
        self._is_closed = True
        self._wake()

    async def read(self, *, follows: bool) -> AsyncIterator[OutputChunk]:
        """Yield what is kept, then, following, what comes; who reads too slowly misses some."""
        position = self._first
        while True:
            position = max(position, self._first)
            while position < self._first + len(self._chunks):
                chunk = self._chunks[position - self._first]
                position += 1
                yield chunk
                position = max(position, self._first)
            if not follows or self._is_closed:
                return
            await self._news.wait()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
