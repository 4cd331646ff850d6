"""Bytes on their way: counted, held to the owner's rate, and never idle for long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from p2prc.protocol.egress import Allowance, EgressRefused, EgressTerms

CHUNK_BYTES = 32 * 1024


class Flow:
    """One connection's bytes both ways; any of them winds up the clock that ends what is idle."""

    def __init__(self, allowance: Allowance, terms: EgressTerms) -> None:
        self._allowance = allowance
        self._idle_s = terms.idle_s
        self._clock: asyncio.Timeout | None = None

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Raise TimeoutError inside the block once nothing moves."""
        async with asyncio.timeout(self._idle_s) as self._clock:
            yield

    async def carry(self, content: bytes, sink: asyncio.StreamWriter, *, is_sent: bool) -> None:
        """Admit and write. Raises EgressRefused, OSError."""
        await self.admit(len(content), is_sent=is_sent)
        await write(sink, content)
        self._wind()

    async def admit(self, count: int, *, is_sent: bool) -> None:
        """Count; wait as the rate demands. Raises EgressRefused where all is used."""
        if self._allowance.is_used_up:
            raise EgressRefused(self._allowance.reason)
        if is_sent:
            self._allowance.count(sent=count)
        else:
            self._allowance.count(received=count)
        self._wind()
        delay_s = self._allowance.delay_s(count, asyncio.get_running_loop().time())
        while delay_s > 0:
            # Waiting by our own order is not being idle.
            await asyncio.sleep(min(delay_s, self._idle_s / 2))
            delay_s -= self._idle_s / 2
            self._wind()

    def _wind(self) -> None:
        if self._clock is not None and not self._clock.expired():
            self._clock.reschedule(asyncio.get_running_loop().time() + self._idle_s)


async def write(sink: asyncio.StreamWriter, content: bytes) -> None:
    """Write, and wait until there is room for more."""
    if content:
        sink.write(content)
        await sink.drain()


async def finish(writer: asyncio.StreamWriter) -> None:
    """Let everything written arrive before the connection is let go."""
    with contextlib.suppress(OSError):
        writer.write_eof()
        writer.transport.set_write_buffer_limits(0)
        await writer.drain()
