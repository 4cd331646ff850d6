"""Bytes that mean nothing, to see how fast they go: after P2PRC's file of fifty megabytes.

A measurement asks for four times as much until that takes long enough to say something. It takes
the same way as files, and keeps to the same bounds (`transfer.up`, `transfer.down`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import cache

from p2prc.errors import PeerLost, PeerMisbehaved, PeerTooOld, WireError, from_fields
from p2prc.files.inflow import Inflow
from p2prc.files.pace import Pace
from p2prc.protocol.messages import Filler, Refused, SendFiller, TakeFiller, bulk_codec
from p2prc.transport.port import READ_SIZE_BYTES, Connection, Stream
from p2prc.wire.codec import encode
from p2prc.wire.framing import frame

FIRST_BYTES = 64 << 10
GROWTH = 4
LONG_ENOUGH_S = 0.5
SILENCE_S = 30.0
ANSWER_S = 100.0
"""The peer says nothing before the last byte came."""
RELAYED_LIMIT_BYTES = 4 << 20
_ANSWER_LIMIT_BYTES = 16 << 10


@cache
def _block() -> memoryview:
    # Not zeros: some path may compress. Made when first asked for: most nodes are never measured.
    return memoryview(os.urandom(READ_SIZE_BYTES))


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes a second from the peer and to it; `measured_at` is in UTC seconds."""

    down_bytes_s: float
    up_bytes_s: float
    measured_at: float


def filler(size_bytes: int) -> Iterator[memoryview]:
    """Yield so many bytes in pieces."""
    whole = _block()
    for start in range(0, size_bytes, READ_SIZE_BYTES):
        yield whole[: size_bytes - start]


async def measured(move: Callable[[int], Awaitable[None]], *, limit_bytes: int) -> float:
    """Return bytes a second: of the last and largest move."""
    loop = asyncio.get_running_loop()
    size_bytes = FIRST_BYTES
    while True:
        began_at = loop.time()
        await move(size_bytes)
        elapsed_s = max(loop.time() - began_at, 1e-6)
        if elapsed_s >= LONG_ENOUGH_S or size_bytes * GROWTH > limit_bytes:
            return size_bytes / elapsed_s
        size_bytes *= GROWTH


async def bring_filler(connection: Connection, size_bytes: int, pace: Pace) -> None:
    """Have the peer send so many bytes, and drop them. Raises PeerError."""
    stream = await connection.open_stream()
    try:
        await stream.write(frame(encode(SendFiller(size_bytes))))
        await stream.finish()
        inflow = Inflow(stream, silence_s=SILENCE_S)
        await _answered(inflow, size_bytes)
        async for piece in inflow.content(size_bytes):
            await pace.wait_for(len(piece))
    except BaseException:
        await stream.abort()
        raise


async def send_filler(connection: Connection, size_bytes: int, pace: Pace) -> None:
    """Send so many bytes, until the peer says that all came. Raises PeerError."""
    stream = await connection.open_stream()
    try:
        await stream.write(frame(encode(TakeFiller(size_bytes))))
        async with asyncio.TaskGroup() as group:
            # A peer that refuses reads no more: its word must not wait for our last byte.
            group.create_task(_answered(Inflow(stream, silence_s=ANSWER_S), size_bytes))
            await _write_filler(stream, size_bytes, pace)
    except BaseExceptionGroup as errors:
        await stream.abort()
        raise errors.exceptions[0] from None
    except BaseException:
        await stream.abort()
        raise


async def _write_filler(stream: Stream, size_bytes: int, pace: Pace) -> None:
    for piece in filler(size_bytes):
        await pace.wait_for(len(piece))
        try:
            async with asyncio.timeout(SILENCE_S):
                await stream.write(piece)
        except TimeoutError as error:
            raise PeerLost(f"the peer took nothing for {SILENCE_S:g} s") from error
    await stream.finish()


async def _answered(inflow: Inflow, size_bytes: int) -> None:
    payload = await inflow.next_frame(limit_bytes=_ANSWER_LIMIT_BYTES)
    if payload is None:
        raise PeerLost("the peer ended the stream without an answer")
    try:
        answer = bulk_codec.decode(payload)
    except WireError as error:
        raise PeerMisbehaved(error.message) from error
    if isinstance(answer, Refused):
        if answer.code in ("wire-error", "unsupported"):
            raise PeerTooOld("its version cannot be measured", hint="update p2prc there")
        raise from_fields(answer.code, answer.message, hint=answer.hint)
    if answer != Filler(size_bytes):
        raise PeerMisbehaved("the peer answered something else than what it was asked")
