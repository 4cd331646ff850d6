"""Read a stream that mixes frames and raw content, with an end to every wait.

One buffer serves both, so that many small blobs in one read cost no copying back and forth.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from p2prc.errors import PeerLost, WireError
from p2prc.transport.port import READ_SIZE_BYTES, Stream
from p2prc.wire.framing import HEADER_BYTES

SLOWEST_BYTES_PER_S = 512
"""A peer that sends a byte now and then would hold a task, and a place, for ever."""


class Inflow:
    """What arrives on one stream.

    Silence longer than `silence_s` is `PeerLost`, and so is less than `SLOWEST_BYTES_PER_S` over
    twice that time of waiting.
    """

    def __init__(self, stream: Stream, *, silence_s: float) -> None:
        self._stream = stream
        self._silence_s = silence_s
        self._buffer = memoryview(b"")
        self._waited_s = 0.0
        self._received_bytes = 0

    async def next_frame(self, *, limit_bytes: int) -> bytes | None:
        """Return the next frame, or None where the stream ended before one began."""
        if not self._buffer and not await self._fill():
            return None
        length = int.from_bytes(await self._exactly(HEADER_BYTES), "big")
        if length > limit_bytes:
            raise WireError(f"a frame of {length} bytes, at most {limit_bytes} are allowed")
        return await self._exactly(length)

    def take_rest(self) -> bytes:
        """Return what was read already: the stream goes on in another conversation."""
        rest, self._buffer = bytes(self._buffer), memoryview(b"")
        return rest

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
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        try:
            async with asyncio.timeout(self._silence_s):
                received = await self._stream.read(READ_SIZE_BYTES)
        except TimeoutError as error:
            raise PeerLost(f"the peer sent nothing for {self._silence_s:g} s") from error
        self._buffer = memoryview(received)
        self._weigh(loop.time() - began_at, len(received))
        return bool(received)

    def _weigh(self, waited_s: float, received_bytes: int) -> None:
        """Count what a wait brought; our own pauses between the waits do not count."""
        self._waited_s += waited_s
        self._received_bytes += received_bytes
        if self._waited_s < 2 * self._silence_s:
            return
        rate = self._received_bytes / self._waited_s
        if rate < SLOWEST_BYTES_PER_S:
            raise PeerLost(f"the peer sends too slowly: {rate:.0f} bytes a second")
        self._waited_s, self._received_bytes = 0.0, 0
