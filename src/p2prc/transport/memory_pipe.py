"""Bounded pipes and inboxes within one event loop: what the transport's twin is made of."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from p2prc.errors import PeerLost
from p2prc.model.identity import NodeId, short
from p2prc.transport.port import READ_SIZE_BYTES

PIPE_LIMIT_BYTES = 1 << 20
INBOX_LIMIT = 128

Item = TypeVar("Item")


class _Change:
    """Something changed: whoever waits looks again."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)

    def announce(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)


class Inbox(Generic[Item]):
    """A bounded queue with an end."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._change = _Change()
        self._is_ended = False

    async def put(self, item: Item) -> bool:
        """Wait for room; False when the inbox has ended."""
        while len(self._items) >= INBOX_LIMIT and not self._is_ended:
            await self._change.wait()
        if self._is_ended:
            return False
        self._items.append(item)
        self._change.announce()
        return True

    async def get(self) -> Item | None:
        """Wait for an item; None once the inbox has ended."""
        while not self._items and not self._is_ended:
            await self._change.wait()
        if self._is_ended:
            return None
        self._change.announce()
        return self._items.popleft()

    def end(self) -> None:
        """Forget what is left; nobody waits any more."""
        self._is_ended = True
        self._items.clear()
        self._change.announce()


class Pipe:
    """One direction of a stream."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size_bytes = 0
        self._is_finished = False
        self._failure: str | None = None
        self._change = _Change()

    @property
    def is_over(self) -> bool:
        """Whether nobody can wait here any more."""
        return self._failure is not None or (self._is_finished and not self._pieces)

    async def read(self, limit_bytes: int, peer: NodeId) -> bytes:
        """Return some bytes, b"" at the end; what was written before a failure comes first."""
        while not self._pieces:
            if self._is_finished:
                return b""
            self._check(peer)
            await self._change.wait()
        piece = self._pieces.popleft()
        if len(piece) > limit_bytes:
            self._pieces.appendleft(piece[limit_bytes:])
            piece = piece[:limit_bytes]
        self._size_bytes -= len(piece)
        self._change.announce()
        return piece

    async def write(self, payload: memoryview, peer: NodeId) -> None:
        """Wait until all bytes found room."""
        for start in range(0, len(payload), READ_SIZE_BYTES):
            piece = bytes(payload[start : start + READ_SIZE_BYTES])
            while self._size_bytes >= PIPE_LIMIT_BYTES and self._failure is None:
                await self._change.wait()
            self._check(peer)
            self._pieces.append(piece)
            self._size_bytes += len(piece)
            self._change.announce()

    def finish(self, peer: NodeId) -> None:
        """Let nothing more be written."""
        self._check(peer)
        self._is_finished = True
        self._change.announce()

    def fail(self, reason: str, *, keep_content: bool = False) -> None:
        """Let both ends raise PeerLost from now on; the first reason stays."""
        self._failure = self._failure or reason
        if not keep_content:
            self._pieces.clear()
            self._is_finished = False
        self._change.announce()

    def _check(self, peer: NodeId) -> None:
        if self._failure is not None:
            raise PeerLost(f"lost {short(peer)}: {self._failure}")


class MemoryStream:
    """One side of a stream: the pipe it reads and the pipe it writes."""

    def __init__(
        self,
        inward: Pipe,
        outward: Pipe,
        peer: NodeId,
        *,
        announce: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._inward = inward
        self._outward = outward
        self._peer = peer
        self._announce = announce
        self._is_torn = False

    async def read(self, limit_bytes: int = READ_SIZE_BYTES) -> bytes:
        return await self._inward.read(limit_bytes, self._peer)

    async def write(self, payload: bytes | bytearray | memoryview) -> None:
        self._check_whole()
        try:
            await self._show()
            await self._outward.write(memoryview(payload).cast("B"), self._peer)
        except asyncio.CancelledError:
            self._is_torn = True
            raise

    async def finish(self) -> None:
        self._check_whole()
        await self._show()
        self._outward.finish(self._peer)

    async def abort(self) -> None:
        for pipe in (self._inward, self._outward):
            pipe.fail("the stream was aborted")

    async def _show(self) -> None:
        """Let the peer see the stream: with the first thing said on it, as over QUIC."""
        if (announce := self._announce) is not None:
            self._announce = None
            await announce()

    def _check_whole(self) -> None:
        if self._is_torn:
            raise PeerLost(f"an earlier write to {short(self._peer)} was cancelled")
