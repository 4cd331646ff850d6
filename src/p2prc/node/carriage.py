"""Raw bytes between two nodes: they move to a faster stream as they flow, and back if it breaks.

Every conversation begins on a stream of the control connection, whose path may change under it.
Whoever opened it looks for a lane (TCP, where bulk goes too) once enough has been carried. Both
sides then send there, and acknowledge on the first stream. A lane that breaks, or brings nothing
while the first stream lives, costs its unacknowledged bytes a second way and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from p2prc.errors import P2prcError, PeerLost, PeerMisbehaved
from p2prc.model.identity import NodeId
from p2prc.node.framed import FramedStream
from p2prc.node.splicing import StreamBytes
from p2prc.protocol.carriage import (
    PIECE_BYTES,
    Ack,
    Ask,
    Data,
    End,
    Frames,
    Receiving,
    Sending,
    ack_frame,
    ask_frame,
    data_head,
    end_frame,
)
from p2prc.runtime.port import Link
from p2prc.transport.port import Stream

TOKEN_BYTES = 16
FAST_FROM_BYTES = 1 << 20
"""A lane costs a handshake: small talk stays where it is."""
AGAIN_S = 60.0
LOOK_S = 2.0
STRIKES = 3
"""So many looks without progress, each answered on the first stream, and a lane is given up."""
FAREWELL_S = 5.0
Opening = Callable[[], Awaitable[bytes]]
"""Wait for the peer's word that it serves us; return what came behind it. Raises P2prcError."""
OpenFast = Callable[[], Awaitable[Stream | None]]
"""Open a faster stream and announce on it whose it is; None where there is no such way now."""

log = logging.getLogger(__name__)


class Carriage:
    """One side of a carried conversation: `runtime.port.Link` over one stream, or two."""

    def __init__(
        self,
        base: Stream,
        rest: bytes,
        *,
        open_fast: OpenFast | None = None,
        opening: Opening | None = None,
    ) -> None:
        self._base = base
        self._opening = opening
        self._open_fast = open_fast
        self._sending, self._receiving = Sending(), Receiving()
        self._ends_after: int | None = None
        self._has_sent_end = False
        self._fast: Stream | None = None
        self._next_carrier: Stream | None = None
        self._peer_is_fast = False
        self._fast_again_at = 0.0
        self._fast_over = asyncio.Event()
        self._broken = ""
        self._is_closed = False
        self._news, self._room = asyncio.Event(), asyncio.Event()
        self._pumping, self._base_turn = asyncio.Lock(), asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._trying: asyncio.Task[None] | None = None
        self._answering: asyncio.Task[None] | None = None
        self._start(self._read_base(rest), "what a conversation brings")

    # -- the link

    async def read(self) -> bytes:
        """Return what comes next; nothing once the peer has ended. Raises OSError."""
        while not self._receiving.has_some:
            if self._receiving.is_over:
                return b""
            self._check()
            self._news.clear()
            await self._news.wait()
        content = self._receiving.take()
        if self._receiving.is_ack_due:
            await self._say(ack_frame(self._receiving.ack()))
        self._perhaps_faster()
        return content

    async def write(self, content: bytes) -> None:
        """Send bytes; returns when there is room for more. Raises OSError."""
        view = memoryview(content)
        while view:
            while (room := self._sending.room_bytes) <= 0:
                self._check()
                self._room.clear()
                await self._room.wait()
            piece = view[: min(room, PIECE_BYTES)]
            view = view[len(piece) :]
            self._sending.give(content if len(piece) == len(content) else bytes(piece))
            await self._pump()
        self._perhaps_faster()

    async def end_writing(self) -> None:
        """Say that nothing more comes from us. Raises OSError."""
        self._ends_after = self._sending.given
        await self._pump()

    async def close(self) -> None:
        """Let go of both directions, at once unless both have ended. Twice is safe."""
        if self._is_closed:
            return
        self._is_closed = True
        is_whole = self._has_sent_end and self._receiving.is_over and not self._broken
        if not (is_whole and self._fast is None and self._next_carrier is None):
            with suppress(OSError, P2prcError, TimeoutError):
                async with asyncio.timeout(FAREWELL_S):
                    await self._see_off()
                    is_whole = self._receiving.is_over
        if self._answering is not None:
            # Cancelled in its middle it would spoil the stream.
            await asyncio.wait({self._answering}, timeout=FAREWELL_S)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stream in (self._fast, self._next_carrier):
            if stream is not None:
                await stream.abort()
        self._fast = self._next_carrier = None
        self._fast_over.set()
        if not is_whole:
            await self._base.abort()
            return
        with suppress(P2prcError):
            await self._base.finish()

    async def _see_off(self) -> None:
        """Wait until the peer has what we said to the end; then others may have the lane."""
        if not self._has_sent_end:
            return
        while not self._sending.has_end:
            self._room.clear()
            await self._say(ask_frame())
            await self._room.wait()
        if self._receiving.is_over and (fast := self._fast) is not None:
            await fast.finish()
            await self._fast_over.wait()

    # -- a faster way

    async def carry_on(self, fast: Stream, rest: bytes = b"") -> None:
        """Use a stream of the peer that belongs to this conversation; returns when it is over."""
        if self._is_closed or self._fast is not None or self._next_carrier is not None:
            raise PeerMisbehaved("that conversation has a faster stream already, or is over")
        self._fast_over.clear()
        self._next_carrier = fast
        self._start(self._read_fast(fast, rest), "what a faster stream brings")
        self._start(self._pump_quietly(), "a change of carriers")
        await self._fast_over.wait()

    def _perhaps_faster(self) -> None:
        if self._open_fast is None or self._fast is not None or self._next_carrier is not None:
            return
        if self._sending.given + self._receiving.received < FAST_FROM_BYTES or self._is_closed:
            return
        if self._opening is not None:
            return
        is_trying = self._trying is not None and not self._trying.done()
        if is_trying or asyncio.get_running_loop().time() < self._fast_again_at:
            return
        self._trying = self._start(self._try_faster(self._open_fast), "a faster way")

    async def _try_faster(self, open_fast: OpenFast) -> None:
        self._fast_again_at = asyncio.get_running_loop().time() + AGAIN_S
        try:
            stream = await open_fast()
        except P2prcError as error:
            log.info("no faster way", extra={"reason": error.message})
            return
        if stream is not None:
            await self.carry_on(stream)

    async def _read_fast(self, fast: Stream, rest: bytes) -> None:
        reason = "its peer ended it"
        watching = self._start(self._watch(fast), "whether a faster stream brings anything")
        try:
            await self._take_frames(fast, rest)
        except P2prcError as error:
            reason = error.message
        finally:
            watching.cancel()
        if self._is_closed or self._receiving.is_complete:
            # The end of a conversation: the lane goes on to the next.
            with suppress(P2prcError):
                await fast.finish()
            self._fast_over.set()
            return
        await self._drop(fast, reason)

    async def _watch(self, fast: Stream) -> None:
        """Give up a stream that brings nothing though the peer is there."""
        strikes, before = 0, -1
        while strikes < STRIKES:
            await asyncio.sleep(LOOK_S)
            is_stuck = self._sending.is_under_way and self._sending.received == before
            strikes, before = (strikes + 1 if is_stuck else 0), self._sending.received
            if self._sending.is_under_way:
                await self._say(ask_frame())
        self._start(self._drop(fast, "it brings nothing"), "the end of a faster stream")

    async def _drop(self, fast: Stream, reason: str) -> None:
        if self._leave(fast, reason):
            await fast.abort()
            await self._pump_quietly()

    def _leave(self, fast: Stream, reason: str) -> bool:
        """Go on with the first stream; say whether that is a change."""
        if fast not in (self._fast, self._next_carrier):
            return False
        log.info("a conversation goes on without its faster stream", extra={"reason": reason})
        if fast is self._fast:
            self._sending.rewind()
            self._has_sent_end = False
        self._fast = self._next_carrier = None
        self._peer_is_fast = False
        self._fast_again_at = asyncio.get_running_loop().time() + AGAIN_S
        self._fast_over.set()
        self._room.set()
        return True

    # -- what goes out

    async def _pump(self) -> None:
        """Send what is given. Raises OSError when the conversation is lost."""
        async with self._pumping:
            while not self._broken:
                if self._next_carrier is not None and not await self._change_carrier():
                    continue
                fast = self._fast
                piece = self._sending.next_piece()
                if piece is None:
                    if self._ends_after is not None and not self._has_sent_end:
                        self._has_sent_end = True
                        await self._put(fast, end_frame(self._ends_after))
                        continue
                    return
                offset, content = piece
                if await self._put(fast, data_head(offset, len(content)), content):
                    self._sending.sent(offset + len(content))
        self._check()

    async def _put(self, fast: Stream | None, *parts: bytes) -> bool:
        """Write to the carrier; False when it broke, and what it carried is to be sent again."""
        if fast is None:
            await self._say(*parts)
            return True
        try:
            await fast.write(b"".join(parts))
        except P2prcError as error:
            if self._leave(fast, error.message):
                await fast.abort()
        return self._fast is fast

    async def _change_carrier(self) -> bool:
        """Change once all that was sent has come; say whether that is so, or there is no need."""
        if not self._sending.is_under_way:
            self._fast, self._next_carrier = self._next_carrier, None
            return True
        await self._say(ask_frame())
        self._room.clear()
        waited = self._sending.received
        while self._sending.received == waited and self._next_carrier is not None:
            self._check()
            self._room.clear()
            await self._room.wait()
        return False

    async def _say(self, *parts: bytes) -> None:
        """Write to the first stream. Raises OSError."""
        async with self._base_turn:
            self._check()
            try:
                await self._base.write(b"".join(parts))
            except P2prcError as error:
                self._break(error.message)
        self._check()

    async def _pump_quietly(self) -> None:
        with suppress(OSError):
            await self._pump()

    # -- what comes in

    async def _read_base(self, rest: bytes) -> None:
        try:
            if self._opening is not None:
                rest = await self._opening()
                self._opening = None
            await self._take_frames(self._base, rest)
        except P2prcError as error:
            self._break(error.message)
            return
        if not self._receiving.is_complete and self._fast is None:
            self._break("the peer ended in the middle")

    async def _take_frames(self, stream: Stream, rest: bytes) -> None:
        frames = Frames()
        content = rest
        while content or (content := await stream.read()):
            for frame in frames.feed(content):
                match frame:
                    case Data():
                        self._note_carrier(stream)
                        self._receiving.arrived(frame)
                        self._news.set()
                    case Ack():
                        self._sending.acknowledged(frame)
                        self._room.set()
                    case End():
                        self._receiving.ended(frame.offset)
                        self._news.set()
                    case Ask():
                        self._answer()
            content = b""
        if not frames.is_between:
            raise PeerLost("the peer ended in the middle of a piece")

    def _note_carrier(self, stream: Stream) -> None:
        if stream is not self._base:
            self._peer_is_fast = True
        elif self._peer_is_fast and (fast := self._fast or self._next_carrier) is not None:
            # The peer has given it up, and could not say so there.
            self._start(self._drop(fast, "the peer does without it"), "the end of a faster stream")

    def _answer(self) -> None:
        """Acknowledge, in a task of its own: what comes in is read whatever cannot go out."""

        async def say() -> None:
            await self._say(ack_frame(self._receiving.ack()))

        if self._answering is None or self._answering.done():
            self._answering = self._start(say(), "an acknowledgement")

    # -- ends

    def _break(self, reason: str) -> None:
        self._broken = self._broken or reason
        self._news.set()
        self._room.set()

    def _check(self) -> None:
        if self._broken:
            raise ConnectionResetError(self._broken)

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        # When the conversation is lost, whoever reads or writes is told.
        if not isinstance(error, OSError):
            log.error("a conversation ends by a bug", exc_info=error)
            self._break("the node failed in its work")


class Carriages:
    """The conversations whose other side may bring a faster stream."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[NodeId, bytes], Carriage] = {}

    @asynccontextmanager
    async def served(
        self, peer: NodeId, framed: FramedStream[Any], token: bytes
    ) -> AsyncIterator[Link]:
        """The rest of a stream as a link, which the peer may speed up if it gave a token."""
        if not token:
            yield StreamBytes(framed)
            return
        if len(token) != TOKEN_BYTES or (peer, token) in self._waiting:
            raise PeerMisbehaved("that is no new name for a conversation")
        carriage = Carriage(framed.stream, framed.take_raw())
        self._waiting[peer, token] = carriage
        try:
            yield carriage
        finally:
            await carriage.close()
            del self._waiting[peer, token]

    async def carry_on(self, peer: NodeId, token: bytes, stream: Stream, rest: bytes) -> None:
        """Give a stream to its conversation. Raises PeerMisbehaved when there is none."""
        carriage = self._waiting.get((peer, token))
        if carriage is None:
            raise PeerMisbehaved("there is no such conversation")
        await carriage.carry_on(stream, rest)


def new_token() -> bytes:
    """Return what names a conversation to the other side alone."""
    return secrets.token_bytes(TOKEN_BYTES)
