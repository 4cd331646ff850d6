"""Read a stream that mixes frames and raw content, with an end to every wait.

One buffer serves both, so that many small blobs in one read cost no copying back and forth.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from p2prc.errors import PeerLost, WireError
from p2prc.transport.port import READ_SIZE_BYTES, Stream
from p2prc.wire.framing import HEADER_BYTES


class Inflow:
    """What arrives on one stream; silence longer than `silence_s` is `PeerLost`."""

    def __init__(self, stream: Stream, *, silence_s: float) -> None:
        self._stream = stream
        self._silence_s = silence_s
        self._buffer = memoryview(b"")

    async def next_frame(self, *, limit_bytes: int) -> bytes | None:
        """Return the next frame, or None where the stream ended before one began."""
        if not self._buffer and not await self._fill():
            return None
        length = int.from_bytes(await self._exactly(HEADER_BYTES), "big")
        if length > limit_bytes:
            raise WireError(f"a frame of {length} bytes, at most {limit_bytes} are allowed")
        return await self._exactly(length)

    async def content(self, size_bytes: int) -> AsyncIterator[memoryview]:
        """Yield exactly so many raw bytes, as they come."""
        while size_bytes:
            if not self._buffer and not await self._fill():
                raise PeerLost("the peer ended the stream in the middle of a blob")
            piece = self._buffer[:size_bytes]
            self._buffer = self._buffer[len(piece) :]
            size_bytes -= len(piece)
            yield piece

    async def _exactly(self, size_bytes: int) -> bytes:
        found = bytearray()
        async for piece in self.content(size_bytes):
            found += piece
        return bytes(found)

    async def _fill(self) -> bool:
        try:
            async with asyncio.timeout(self._silence_s):
                received = await self._stream.read(READ_SIZE_BYTES)
        except TimeoutError as error:
            raise PeerLost(f"the peer sent nothing for {self._silence_s:g} s") from error
        self._buffer = memoryview(received)
        return bool(received)
