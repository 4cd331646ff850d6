"""Bytes both ways: a stream of the wire as a duplex link, and two links joined to one."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Any

from p2prc.errors import P2prcError
from p2prc.node.framed import FramedStream
from p2prc.runtime.port import Link

STUCK_S = 3600.0
"""Bytes that nobody takes for so long are for nobody."""
_RESET = struct.pack("ii", 1, 0)
_READ_BYTES = 256 * 1024


class StreamBytes:
    """What is left of a framed stream, as raw bytes: `runtime.port.Link` over the wire."""

    def __init__(self, framed: FramedStream[Any]) -> None:
        self._stream = framed.stream
        self._rest = framed.take_raw()
        self._is_closed = False
        self._open_ways = 2

    async def read(self) -> bytes:
        """Return what comes next; nothing once the peer has ended, or is lost."""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        try:
            content = await self._stream.read()
        except P2prcError as error:
            raise ConnectionResetError(error.message) from error
        if not content:
            self._open_ways -= 1
        return content

    async def write(self, content: bytes) -> None:
        """Send bytes; returns when there is room for more. Raises OSError."""
        try:
            await self._stream.write(content)
        except P2prcError as error:
            raise ConnectionResetError(error.message) from error

    async def end_writing(self) -> None:
        """Say that nothing more comes from us."""
        try:
            await self._stream.finish()
        except P2prcError as error:
            raise ConnectionResetError(error.message) from error
        self._open_ways -= 1

    async def close(self) -> None:
        """Let go of both directions, at once unless both have ended. Twice is safe."""
        if not self._is_closed:
            self._is_closed = True
            if self._open_ways > 0:
                # One that has ended still brings what is on its way: giving up would lose that.
                await self._stream.abort()


class SocketBytes:
    """A connected socket as a link."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._has_ended = False

    async def read(self) -> bytes:
        """Return what comes next; nothing at the end. Raises OSError."""
        return await self._reader.read(_READ_BYTES)

    async def write(self, content: bytes) -> None:
        """Send bytes; returns when there is room for more. Raises OSError."""
        self._writer.write(content)
        await self._writer.drain()

    async def end_writing(self) -> None:
        """Say that nothing more comes from us. Raises OSError."""
        self._has_ended = True
        if self._writer.can_write_eof():
            self._writer.write_eof()

    async def close(self) -> None:
        """Let go of both directions. Twice is safe.

        What was cut off is reset: a reader must not take a part for the whole.
        """
        if not self._has_ended:
            self._has_ended = True
            with suppress(OSError, AttributeError):
                self._writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, _RESET
                )
            self._writer.transport.abort()
        self._writer.close()


async def splice(one: Link, other: Link) -> None:
    """Carry bytes both ways until both have ended or one is broken; closes neither."""

    async def carry(source: Link, sink: Link) -> None:
        while content := await source.read():
            # Whoever takes nothing cannot be seen to be gone.
            async with asyncio.timeout(STUCK_S):
                await sink.write(content)
        await sink.end_writing()

    ways = [asyncio.create_task(carry(one, other)), asyncio.create_task(carry(other, one))]
    try:
        # Broken on one side: the other is told by the end of its stream.
        with suppress(OSError):
            await asyncio.gather(*ways)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
