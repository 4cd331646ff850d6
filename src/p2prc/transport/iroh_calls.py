"""The two calls of iroh that carry content, through its public bindings: correct, and slow.

`iroh_fastpath` has the same shape and is used instead wherever it fits the installed library.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import iroh


class Reader(Protocol):
    """The receiving half of one stream."""

    async def read(self, limit_bytes: int) -> bytes:
        """Return some bytes, b"" at the end; raise IrohError. Safe to cancel."""
        ...

    def drop(self) -> None:
        """Let go of the stream: nothing is read any more."""
        ...


class StreamCalls(Protocol):
    """How bytes go into Rust and come out of it."""

    def reader(self, stream: iroh.RecvStream) -> Reader: ...

    async def write_all(self, stream: iroh.SendStream, payload: bytes) -> None:
        """Hand over all bytes; raise IrohError."""
        ...


class SlowCalls:
    """What the generated bindings offer."""

    def reader(self, stream: iroh.RecvStream) -> Reader:
        return _SlowReader(stream)

    async def write_all(self, stream: iroh.SendStream, payload: bytes) -> None:
        await stream.write_all(payload)


class _SlowReader:
    """Reads in a task of its own, which a cancelled read leaves running for the next one.

    The bindings take a turn of the event loop between having the bytes and returning them: a read
    that is cancelled in that turn would lose them.
    """

    def __init__(self, stream: iroh.RecvStream) -> None:
        self._stream = stream
        self._pending: asyncio.Task[bytes] | None = None
        self._rest = b""

    async def read(self, limit_bytes: int) -> bytes:
        if not self._rest:
            if self._pending is None:
                self._pending = asyncio.create_task(self._stream.read(limit_bytes))
            await asyncio.wait({self._pending})
            finished, self._pending = self._pending, None
            self._rest = finished.result()
        piece, self._rest = self._rest[:limit_bytes], self._rest[limit_bytes:]
        return piece

    def drop(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
