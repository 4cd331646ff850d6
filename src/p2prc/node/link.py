"""A live conversation with one member: letters both ways, replies, and a pulse.

One stream carries all control letters. Writes are gathered: whatever was said while the last write
was under way leaves in one piece. A peer that says nothing for `SILENCE_LIMIT_S` is lost, whatever
the transport still believes (its own time-out is 30 s).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar, get_args

from p2prc.errors import P2prcError, PeerLost, PeerMisbehaved, WireError, from_fields
from p2prc.errors import PeerRefused as _PeerRefused
from p2prc.model.identity import NodeId, short
from p2prc.node.handshake import Introduction
from p2prc.node.room import Room
from p2prc.protocol.messages import (
    AskClock,
    Clock,
    Control,
    Goodbye,
    Gossip,
    Letter,
    LookAtMe,
    Looking,
    NoticeList,
    Notices,
    NoticeSummary,
    Ping,
    Pong,
    Probed,
    ProbeMe,
    Refused,
    SeenAt,
    SeenBeside,
    letter_codec,
)
from p2prc.transport.port import Connection
from p2prc.wire.codec import encode
from p2prc.wire.framing import frame

PULSE_S = 1.5
MEASURE_EVERY_S = 15.0
STALL_S = 0.5
SILENCE_LIMIT_S = 4.0
OUTBOX_LIMIT_BYTES = 16 << 20
READ_LIMIT_BYTES = 32 * 1024
"""As much as is taken from one peer before everybody else has a turn: some hundred letters."""
REQUEST_TIMEOUT_S = 30.0
FAREWELL_S = 0.5
_LATENCY_WEIGHT = 0.2
_UPKEEP = (
    Ping,
    Pong,
    Goodbye,
    NoticeSummary,
    NoticeList,
    Notices,
    SeenAt,
    ProbeMe,
    Probed,
    LookAtMe,
    Looking,
    SeenBeside,
    AskClock,
    Clock,
    *get_args(Gossip),
)
"""What two nodes say when neither works for the other."""

log = logging.getLogger(__name__)
Reply = TypeVar("Reply")
Answer = Callable[[Control], None]
"""Say the reply to one request; may be kept and called later, once."""
Receive = Callable[["Link", Control, Answer | None], None]
"""Take a letter and return at once; the answer is None for a notice."""


class Link:
    """One control connection after its handshake."""

    def __init__(
        self, connection: Connection, introduction: Introduction, receive: Receive
    ) -> None:
        self.peer: NodeId = introduction.peer.node
        self.member = introduction.peer
        self.version = introduction.version
        self.connection = connection
        self.latency_s: float | None = None
        self.is_used = False
        self._stream = introduction.stream
        self._reader = introduction.reader
        self._receive = receive
        self.room = Room()
        """For the streams that the peer opens on this connection."""
        self._outbox: list[bytes] = []
        self._outbox_bytes = 0
        self._has_mail = asyncio.Event()
        self._is_over = asyncio.Event()
        self._awaited: dict[int, asyncio.Future[Control]] = {}
        self._next_number = 1
        self._heard_at = asyncio.get_running_loop().time()
        self._lost: P2prcError | None = None

    @property
    def is_lost(self) -> bool:
        """Whether the conversation is over."""
        return self._lost is not None

    @property
    def lost_by(self) -> P2prcError | None:
        """Why the conversation is over; None while it goes on."""
        return self._lost

    async def run(self) -> None:
        """Carry letters until the peer is lost or misbehaves; returns, never raises PeerError."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(), name=f"read {short(self.peer)}")
                group.create_task(self._write(), name=f"write {short(self.peer)}")
                group.create_task(self._pulse(), name=f"pulse {short(self.peer)}")
                group.create_task(self._end(), name=f"end {short(self.peer)}")
        except* P2prcError as errors:
            self._lose(_first(errors))
        finally:
            self._lose(PeerLost(f"the connection to {short(self.peer)} ended"))
            await self.connection.close(str(self._lost))

    def tell(self, body: Control) -> None:
        """Send a notice; a lost link drops it."""
        self._post(Letter(0, False, body))

    async def ask(
        self, body: Control, expected: type[Reply], *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> Reply:
        """Send a request and wait for its reply.

        Raises PeerLost, PeerMisbehaved, and what the peer refuses with.
        """
        if self._lost is not None:
            raise PeerLost(str(self._lost))
        number = self._next_number
        self._next_number += 1
        reply: asyncio.Future[Control] = asyncio.get_running_loop().create_future()
        self._awaited[number] = reply
        try:
            self._post(Letter(number, False, body))
            async with asyncio.timeout(timeout_s):
                return expect(await reply, expected)
        except TimeoutError as error:
            raise PeerLost(f"{short(self.peer)} did not answer within {timeout_s:.3g} s") from error
        finally:
            del self._awaited[number]

    async def measure_s(self, *, timeout_s: float) -> float:
        """Return the seconds of one round trip."""
        started = asyncio.get_running_loop().time()
        await self.ask(Ping(), Pong, timeout_s=timeout_s)
        return self._measured(asyncio.get_running_loop().time() - started)

    def _measured(self, seconds: float) -> float:
        known = self.latency_s if self.latency_s is not None else seconds
        self.latency_s = known + _LATENCY_WEIGHT * (seconds - known)
        return seconds

    async def close(self, reason: str) -> None:
        """End the conversation; `run` returns."""
        self._lose(PeerLost(reason))
        await self.connection.close(reason)

    async def wait_heard(self) -> None:
        """Wait until the peer, told goodbye, hangs up: then it has read all that was said.

        Closing at once could overtake what is still on its way. Raises TimeoutError.
        """
        async with asyncio.timeout(FAREWELL_S):
            await self._is_over.wait()

    def _post(self, letter: Letter) -> None:
        if self._lost is not None:
            return
        self.is_used = self.is_used or not isinstance(letter.body, _UPKEEP)
        piece = frame(encode(letter))
        self._outbox_bytes += len(piece)
        if self._outbox_bytes > OUTBOX_LIMIT_BYTES:
            self._lose(PeerLost(f"{short(self.peer)} does not read what it is sent"))
        self._outbox.append(piece)
        self._has_mail.set()

    async def _write(self) -> None:
        while True:
            await self._has_mail.wait()
            if self._lost is not None:
                raise self._lost
            self._has_mail.clear()
            pieces, self._outbox, self._outbox_bytes = self._outbox, [], 0
            await self._stream.write(b"".join(pieces))

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for payload in self._reader.drain():
                self._take(letter_codec.decode(payload))
            received = await self._stream.read(READ_LIMIT_BYTES)
            if not received:
                raise PeerLost(f"{short(self.peer)} ended the connection")
            self._heard_at = loop.time()
            self._reader.feed(received)
            # What is there already is read without waiting: a peer that never stops talking
            # would have the loop for itself.
            await asyncio.sleep(0)

    def _take(self, letter: Letter) -> None:
        if letter.is_reply:
            # A late reply to a request that timed out finds nobody waiting.
            if (waiting := self._awaited.get(letter.number)) is not None and not waiting.done():
                waiting.set_result(letter.body)
            return
        if isinstance(letter.body, Ping):
            self._post(Letter(letter.number, True, Pong()))
            return
        self.is_used = self.is_used or not isinstance(letter.body, _UPKEEP)
        answer = self._answer_to(letter.number) if letter.number else None
        self._receive(self, letter.body, answer)

    def _answer_to(self, number: int) -> Answer:
        return lambda body: self._post(Letter(number, True, body))

    async def _pulse(self) -> None:
        """Ask when the peer has been silent for a pulse; its own pulse spares us ours."""
        loop = asyncio.get_running_loop()
        # Two that have just met have more to say than how far apart they are.
        measured_at = loop.time() - MEASURE_EVERY_S + PULSE_S
        while True:
            quiet_s = loop.time() - self._heard_at
            if quiet_s < PULSE_S and loop.time() - measured_at < MEASURE_EVERY_S:
                due_at = loop.time() + PULSE_S - quiet_s + 0.01
                await asyncio.sleep(due_at - loop.time())
                self._forgive(loop.time() - due_at)
                continue
            silent_s = loop.time() - self._heard_at
            if silent_s > SILENCE_LIMIT_S:
                raise PeerLost(f"{short(self.peer)} said nothing for {silent_s:.1f} s")
            due_at = loop.time() + PULSE_S
            try:
                await self.measure_s(timeout_s=PULSE_S)
            except PeerLost:
                if self._lost is not None:
                    # Asking again would fail at once, again and again, and nobody else had a turn.
                    raise self._lost from None
                self._forgive(loop.time() - due_at)
                continue
            measured_at = loop.time()

    def _forgive(self, late_s: float) -> None:
        # While this process did not run, what the peer said waited to be read.
        if late_s > STALL_S:
            self._heard_at += late_s

    async def _end(self) -> None:
        # A writer that waits for a peer who does not read would never see that it is over.
        await self._is_over.wait()
        assert self._lost is not None
        raise self._lost

    def _lose(self, error: P2prcError) -> None:
        if self._lost is not None:
            return
        self._lost = error
        self._is_over.set()
        self._has_mail.set()
        if isinstance(error, WireError | PeerMisbehaved):
            log.warning("peer misbehaved", extra={"peer": self.peer, "reason": error.message})
        for waiting in self._awaited.values():
            if not waiting.done():
                waiting.set_exception(PeerLost(error.message))


def expect(body: Control, expected: type[Reply]) -> Reply:
    """Return the reply when it is of the expected kind; raise what it refuses with."""
    if isinstance(body, Refused):
        raise from_fields(body.code, body.message, hint=body.hint, otherwise=_PeerRefused)
    if not isinstance(body, expected):
        raise PeerMisbehaved(f"the peer answered with {type(body).__name__}")
    return body


def _first(errors: BaseExceptionGroup[P2prcError]) -> P2prcError:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return _first(error)
        return error
    return PeerLost()
