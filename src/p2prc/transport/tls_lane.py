"""One TCP connection with TLS on it, which carries streams one after another.

Theory of operation. Each direction is a row of records: four bytes of length, then so many bytes.
A record of no bytes finishes the direction; once both are finished, the next stream may begin. So
an end is told apart from a cut, and nobody needs TLS's own way to close one half. A length of all
ones says that whoever sends it closes the whole connection.

What arrives is decrypted straight into a buffer, of which a read is the only copy. A full buffer
pauses reading: TCP then holds up the sender.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from p2prc.errors import PeerError, PeerLost, PeerMisbehaved
from p2prc.transport.port import READ_SIZE_BYTES

RECORD_LIMIT_BYTES = READ_SIZE_BYTES
LINGER_S = 30.0
"""A stream that we finished, and on which nothing moves, ends its lane after this long."""
DIALLED_BUFFER_BYTES = 512 << 10
SERVED_BUFFER_BYTES = 64 << 10
"""Who serves reads little but requests."""
_HEADER_BYTES = 4
_FINISH = (0).to_bytes(_HEADER_BYTES, "big")
_GOODBYE_LENGTH = 0xFFFFFFFF
_GOODBYE = _GOODBYE_LENGTH.to_bytes(_HEADER_BYTES, "big")
_ENDS = (_FINISH, _GOODBYE)


def _nothing() -> None:
    """Do nothing."""


class Lane(asyncio.BufferedProtocol):
    """What asyncio's TLS calls; streams read and write through it, one at a time."""

    def __init__(self, *, is_served: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        size = SERVED_BUFFER_BYTES if is_served else DIALLED_BUFFER_BYTES
        self._view = memoryview(bytearray(size))
        self._is_served = is_served
        self._start = 0
        self._end = 0
        self._record_left = 0
        self._is_paused = False
        self._is_blocked = False
        self._waiting: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._error: PeerError | None = None
        self._is_cut = False
        self._moved_bytes = 0
        self._linger: asyncio.TimerHandle | None = None
        self._has_finished = False
        self._is_finished = False
        self._is_idle = False
        self._is_begun = False
        self._turn = 0
        self.said_goodbye = False
        self.over: Callable[[], None] = _nothing
        """Called when both sides have finished a stream."""
        self.begun: Callable[[], None] = _nothing
        """Called where we serve, when the peer has begun the next stream."""
        self.lost: Callable[[], None] = _nothing
        """Called once, when nothing more can come or go."""

    def attach(self, transport: asyncio.Transport) -> None:
        """Take the transport that TLS made. Raises PeerLost when it is gone already."""
        self._transport = transport
        if self._error is not None:
            transport.abort()
            raise self._error

    @property
    def is_lost(self) -> bool:
        """Whether nothing more can come or go."""
        return self._error is not None

    # -- asyncio's side --

    def get_buffer(self, sizehint: int) -> memoryview:
        size = len(self._view)
        if self._start == self._end:
            self._start = self._end = 0
        elif size - self._end < size // 4:
            held = self._end - self._start
            if held > size // 2:
                # Before the transport is known it cannot be paused: only then is this needed.
                self._view, old = memoryview(bytearray(2 * size)), self._view
                self._view[:held] = old[self._start : self._end]
            else:
                self._view[:held] = self._view[self._start : self._end]
            self._start, self._end = 0, held
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        self._end += nbytes
        self._moved_bytes += nbytes
        if self._is_idle:
            self._look_while_idle()
        elif self._has_finished:
            self._look_for_end()
        if self._end - self._start > len(self._view) // 2:
            self._pause()
        _wake(self._waiting)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(PeerLost(f"the bulk connection broke: {exc or 'the peer closed it'}"))

    def pause_writing(self) -> None:
        self._is_blocked = True

    def resume_writing(self) -> None:
        self._is_blocked = False
        _wake(self._room)

    # -- before the first stream --

    async def read_exactly(self, size_bytes: int) -> bytes:
        """Return the first bytes of all, which belong to no stream. Raises PeerError."""
        while self._end - self._start < size_bytes:
            self._check()
            await self._wait()
        return self._take_bytes(size_bytes)

    def write_plain(self, content: bytes) -> None:
        """Say something that belongs to no stream."""
        if self._transport is not None and self._error is None:
            self._transport.write(content)

    def be_idle(self) -> None:
        """Carry no stream for now: the first one, or the next, may begin."""
        self._is_idle = True
        self._look_while_idle()

    # -- streams --

    def begin(self) -> int:
        """Carry the next stream; return its number, by which it reads."""
        self._is_idle = self._is_begun = self._has_finished = self._is_finished = False
        self._turn += 1
        return self._turn

    async def read(self, limit_bytes: int, turn: int) -> bytes:
        """Return some bytes, b"" at the end; what came before a loss comes first."""
        while self._turn == turn and not self._is_finished:
            if self._is_cut:
                self._check()
            if self._record_left or self._next_record():
                if self._start < self._end:
                    size = min(limit_bytes, self._record_left, self._end - self._start)
                    self._record_left -= size
                    return self._take_bytes(size)
            elif self._is_finished:
                break
            self._check()
            await self._wait()
        return b""

    async def write(self, payload: memoryview) -> None:
        """Hand over all bytes, waiting for room. Raises PeerError."""
        for start in range(0, len(payload), RECORD_LIMIT_BYTES):
            piece = payload[start : start + RECORD_LIMIT_BYTES]
            self._check()
            assert self._transport is not None
            self._transport.writelines((len(piece).to_bytes(_HEADER_BYTES, "big"), piece))
            self._moved_bytes += len(piece)
            while self._is_blocked:
                self._check()
                self._room = self._loop.create_future()
                await self._room
        self._check()

    def finish(self) -> None:
        """Say that nothing more comes on this stream. Raises PeerError."""
        self._check()
        self.write_plain(_FINISH)
        self._has_finished = True
        self._linger = self._loop.call_later(LINGER_S, self._see_moving, self._moved_bytes)
        self._see_over()
        if not self._is_idle:
            self._look_for_end()

    def abort(self, reason: str, turn: int | None = None) -> None:
        """Drop everything at once, unread too; a stream that is over (`turn`) drops nothing."""
        if turn is not None and (turn != self._turn or self._is_idle):
            return
        self._is_cut = True
        self._lose(PeerLost(reason))

    def close(self, reason: str) -> None:
        """Tell the peer, if it reads, that the connection ends; then drop everything."""
        if not self._is_blocked:
            self.write_plain(_GOODBYE)
        self.abort(reason)

    # -- inside --

    def _next_record(self) -> bool:
        """Read a length if it is here; say whether content follows."""
        if self._end - self._start < _HEADER_BYTES:
            return False
        length = int.from_bytes(self._take_bytes(_HEADER_BYTES), "big")
        if length == 0:
            self._is_finished = True
            self._see_over()
        elif length == _GOODBYE_LENGTH:
            self.said_goodbye = True
            self._lose(PeerLost("the peer closed the bulk connection"))
        elif length > RECORD_LIMIT_BYTES:
            self._lose(PeerMisbehaved("a bulk record that is too large"))
        else:
            self._record_left = length
        return self._record_left > 0

    def _look_while_idle(self) -> None:
        held = self._end - self._start
        if held < _HEADER_BYTES or self._is_begun:
            return
        if self._view[self._start : self._start + _HEADER_BYTES] == _GOODBYE:
            self._next_record()
        elif self._is_served:
            self._is_begun = True
            self.begun()
        else:
            self._lose(PeerMisbehaved("content on a bulk lane that carries no stream"))

    def _look_for_end(self) -> None:
        # Whoever finished may care no longer for what the peer says: its end is looked for here.
        if self._is_finished or self._record_left:
            return
        if self._view[self._start : min(self._end, self._start + _HEADER_BYTES)] in _ENDS:
            self._next_record()

    def _see_over(self) -> None:
        if not (self._has_finished and self._is_finished) or self._error is not None:
            return
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self.over()
        self.be_idle()

    def _see_moving(self, moved_bytes: int) -> None:
        if moved_bytes == self._moved_bytes:
            self._linger = None
            self.abort("the peer never ended a stream")
            return
        self._linger = self._loop.call_later(LINGER_S, self._see_moving, self._moved_bytes)

    def _take_bytes(self, size_bytes: int) -> bytes:
        piece = bytes(self._view[self._start : self._start + size_bytes])
        self._start += size_bytes
        if self._is_paused and self._end - self._start < len(self._view) // 4:
            self._is_paused = False
            if self._transport is not None and self._error is None:
                self._transport.resume_reading()
        return piece

    def _pause(self) -> None:
        if not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def _lose(self, error: PeerError) -> None:
        if self._error is not None:
            return
        self._error = error
        if self._linger is not None:
            self._linger.cancel()
        if self._transport is not None:
            # Also where the peer closed it: the transport then knows that it is closed.
            self._transport.abort()
        _wake(self._waiting)
        _wake(self._room)
        self.lost()

    def _check(self) -> None:
        if self._error is not None:
            raise type(self._error)(self._error.message)

    async def _wait(self) -> None:
        self._waiting = self._loop.create_future()
        await self._waiting


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


class LaneStream:
    """A stream of the port, for as long as its lane carries it."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._turn = lane.begin()
        self._is_torn = False
        self._has_finished = False
        self._lost = ""

    async def read(self, limit_bytes: int = READ_SIZE_BYTES) -> bytes:
        self._check_whole()
        return await self._lane.read(limit_bytes, self._turn)

    async def write(self, payload: bytes | bytearray | memoryview) -> None:
        self._check_whole(writing=True)
        try:
            await self._lane.write(memoryview(payload).cast("B"))
        except asyncio.CancelledError:
            self._is_torn = True
            raise

    async def finish(self) -> None:
        if self._has_finished and not self._lost:
            return
        self._check_whole(writing=True)
        self._has_finished = True
        self._lane.finish()

    async def abort(self) -> None:
        self._lost = self._lost or "the stream was aborted"
        self._lane.abort(self._lost, self._turn)

    def _check_whole(self, *, writing: bool = False) -> None:
        if self._lost:
            raise PeerLost(self._lost)
        if writing and self._is_torn:
            raise PeerLost("an earlier write was cancelled")
        if writing and self._has_finished:
            raise PeerLost("nothing more may be written")
