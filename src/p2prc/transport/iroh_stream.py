"""A stream of iroh, with an abort that also ends a read or a write that is under way."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Any

import iroh

from p2prc.errors import PeerLost
from p2prc.model.identity import NodeId, short
from p2prc.transport.iroh_calls import StreamCalls
from p2prc.transport.iroh_errors import lost
from p2prc.transport.port import READ_SIZE_BYTES

_ABORTED = 1
_SIP_BYTES = 8 * 1024
"""A read that waits holds as much memory as it may bring: one that is idle has little."""
_ABORT_TIMEOUT_S = 2.0


class _Direction:
    """Who is reading or writing now, so that `abort` can make it let go.

    iroh's `stop` and `reset` wait for a pending call; that call is ended by cancelling its task,
    and what the caller sees is PeerLost. The count of cancellations tells our own from somebody
    else's, like `asyncio.timeout` does it.
    """

    __slots__ = ("_cancelled_before", "_is_aborted", "_peer", "_task")

    def __init__(self, peer: NodeId) -> None:
        self._peer = peer
        self._task: asyncio.Task[Any] | None = None
        self._cancelled_before = 0
        self._is_aborted = False

    def __enter__(self) -> None:
        if self._is_aborted:
            raise self._aborted()
        self._task = asyncio.current_task()
        self._cancelled_before = self._task.cancelling() if self._task is not None else 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        if error is None:
            return
        if isinstance(error, iroh.IrohError):
            raise lost(self._peer, error) from error
        if self._is_aborted and task is not None and isinstance(error, asyncio.CancelledError):
            if task.uncancel() > self._cancelled_before:
                return
            raise self._aborted() from None

    def abort(self) -> None:
        """Let nothing begin any more, and end what is under way."""
        self._is_aborted = True
        if self._task is not None:
            self._task.cancel()

    def _aborted(self) -> PeerLost:
        return PeerLost(f"the stream with {short(self._peer)} was aborted here")


class IrohStream:
    """Both halves of one bidirectional stream."""

    def __init__(self, pair: iroh.BiStream, peer: NodeId, calls: StreamCalls) -> None:
        self._peer = peer
        self._calls = calls
        self._receive = pair.recv()
        self._send = pair.send()
        self._reader = calls.reader(self._receive)
        self._reading = _Direction(peer)
        self._writing = _Direction(peer)
        self._appetite_bytes = _SIP_BYTES
        self._is_aborted = False
        self._is_torn = False
        self._has_finished = False

    async def read(self, limit_bytes: int = READ_SIZE_BYTES) -> bytes:
        with self._reading:
            content = await self._reader.read(min(limit_bytes, self._appetite_bytes))
        # Much follows on much.
        self._appetite_bytes = READ_SIZE_BYTES if len(content) >= _SIP_BYTES else _SIP_BYTES
        return content

    async def write(self, payload: bytes | bytearray | memoryview) -> None:
        with self._writing:
            self._check_whole()
            try:
                await self._write(payload)
            except asyncio.CancelledError:
                self._is_torn = True
                raise

    async def _write(self, payload: bytes | bytearray | memoryview) -> None:
        view = memoryview(payload).cast("B")
        if len(view) <= READ_SIZE_BYTES:
            await self._calls.write_all(self._send, bytes(payload))
            return
        for start in range(0, len(view), READ_SIZE_BYTES):
            piece = bytes(view[start : start + READ_SIZE_BYTES])
            await self._calls.write_all(self._send, piece)

    async def finish(self) -> None:
        if self._has_finished and not self._is_aborted:
            return
        with self._writing:
            self._check_whole()
            await self._send.finish()
            self._has_finished = True

    def _check_whole(self) -> None:
        # Nobody knows how much of a cancelled write has left.
        if self._is_torn:
            raise PeerLost(f"an earlier write to {short(self._peer)} was cancelled")

    async def abort(self) -> None:
        if self._is_aborted:
            return
        self._is_aborted = True
        self._reading.abort()
        self._writing.abort()
        self._reader.drop()
        # Resetting comes first: a stream that is merely dropped looks finished to the peer.
        for end in (self._send.reset, self._receive.stop):
            with suppress(iroh.IrohError, TimeoutError):
                async with asyncio.timeout(_ABORT_TIMEOUT_S):
                    await end(_ABORTED)
