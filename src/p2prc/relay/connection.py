"""One TCP connection to the relay: its request, and after `/relay` a line of frames.

The only importer of `websockets`, whose sans-I/O parser reads the request and the frames.

Routes: `/relay` (iroh's relay protocol), `/ping` and `/generate_204` (by which iroh's clients
measure a relay and find captive portals), `/.well-known/p2prc`. Everything else is not found, but
for what the host of the relay takes over as soon as the request is answered (`Upgrade`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from websockets.datastructures import Headers, MultipleValuesError
from websockets.exceptions import PayloadTooBig
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN, Event
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from p2prc.protocol.crowd import crowd_of
from p2prc.protocol.relay_events import (
    Blocked,
    Closed,
    Connected,
    Received,
    RelayEvent,
    Writable,
)
from p2prc.protocol.relay_frames import CHALLENGE_BYTES, FRAME_LIMIT_BYTES, VERSIONS

RELAY_PATH = "/relay"
WELL_KNOWN_PATH = "/.well-known/p2prc"
HEAD_LIMIT_BYTES = 16 << 10
"""A request's first line and headers together; the bearer of a member is the largest of them."""
BEARER_LIMIT = 8000
HEAD_TIMEOUT_S = 5.0
LINGER_S = 2.0
"""How long an ended connection may take to hear why."""
WRITE_BUFFER_BYTES = 128 << 10

_CHALLENGE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NORMAL_CLOSURE = 1000
_VERSIONS = [Subprotocol(version) for version in VERSIONS]
_parser_log = logging.getLogger(f"{__name__}.parser")
_parser_log.setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Another protocol that begins on a connection after `101`.

    `take` is given the transport, which reads nothing until it is told to, and where it is from.
    The connection is the taker's from then on: it bounds and closes it.
    """

    protocol: str
    take: Callable[[asyncio.Transport, str], None]


class Host(Protocol):
    """What a connection knows of its relay."""

    @property
    def serves_relay(self) -> bool:
        """Whether it is a relay, and not only a port with a page and upgrades."""
        ...

    @property
    def upgrades(self) -> Mapping[str, Upgrade]:
        """What else may begin here, by path."""
        ...

    @property
    def page(self) -> bytes:
        """What `/.well-known/p2prc` says."""
        ...

    def enter(self, connection: RelayConnection) -> int | None:
        """Number a new connection; None turns it away."""
        ...

    def leave(self, connection: RelayConnection) -> None:
        """Forget a closed connection."""
        ...

    def refused(self, code: str) -> None:
        """Count what a connection did wrong."""
        ...

    def feed(self, event: RelayEvent) -> None:
        """Hand an event to the session."""
        ...


class RelayConnection(asyncio.Protocol):
    """Made by the relay for each connection that it accepts."""

    def __init__(self, relay: Host) -> None:
        self._relay = relay
        self._parser = ServerProtocol(
            subprotocols=_VERSIONS, max_size=FRAME_LIMIT_BYTES, logger=_parser_log
        )
        self._transport: asyncio.Transport | None = None
        self._head_bytes = 0
        self._is_line = False
        self._is_ending = False
        self._is_blocked = False
        self._timer: asyncio.TimerHandle | None = None
        self.address = ""
        self.line = 0
        self.is_proven = False

    # -- asyncio's side --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        peer = transport.get_extra_info("peername") or ("",)
        self.address = crowd_of(str(peer[0]))
        line = self._relay.enter(self)
        if line is None:
            transport.abort()
            return
        self.line = line
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._timer = asyncio.get_running_loop().call_later(HEAD_TIMEOUT_S, self._too_slow)

    def data_received(self, data: bytes) -> None:
        if self._is_ending or not self.line:
            return
        if not self._is_line:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_LIMIT_BYTES:
                self._refuse("head-too-large")
                return
        self._parser.receive_data(data)
        events = self._parser.events_received()
        if events and isinstance(events[0], Request):
            # Nobody speaks again before our answer; and the parser takes what follows for frames.
            if len(events) > 1 or self._parser.parser_exc is not None:
                self._refuse("bad-request")
                return
            self._answer(events[0])
            return
        if self._parser.handshake_exc is not None:
            self._relay.refused("bad-request")
            self._write()
            self.end()
            return
        if events:
            self._hear(events)
        self._write()
        if self._is_line and self._parser.parser_exc is not None:
            self._refuse(self._fault())

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        if not self.line:
            return
        if self._is_line:
            self._relay.feed(Closed(self.line))
        self._relay.leave(self)
        self._transport = None

    def pause_writing(self) -> None:
        self._is_blocked = True
        if self._is_line:
            self._relay.feed(Blocked(self.line))

    def resume_writing(self) -> None:
        self._is_blocked = False
        if self._is_line:
            self._relay.feed(Writable(self.line))

    # -- the session's side --

    def send(self, frames: Sequence[bytes]) -> None:
        """Write frames in order."""
        if self._parser.state is not OPEN:
            return
        for frame in frames:
            self._parser.send_binary(frame)
        self._write()

    def hold(self, for_s: float) -> None:
        """Read nothing for a while."""
        if self._transport is None or self._is_ending:
            return
        self._transport.pause_reading()
        self._cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(for_s, self._read_on)

    def end(self) -> None:
        """Close once what was written is sent, or after `LINGER_S`."""
        if self._is_ending or self._transport is None:
            return
        self._is_ending = True
        self._is_line = False
        if self._parser.state is OPEN:
            self._parser.send_close(1000)
            self._write()
        self._transport.close()
        self._cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, self.abort)

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()

    # -- the request --

    def _answer(self, request: Request) -> None:
        path = request.path.partition("?")[0]
        is_relay = self._relay.serves_relay
        if is_relay and path == RELAY_PATH:
            self._upgrade(request)
            return
        if (upgrade := self._relay.upgrades.get(path)) and _asks_for(request, upgrade.protocol):
            self._hand_over(upgrade)
            return
        headers, body, status = Headers(), b"", HTTPStatus.OK
        if request.method not in ("GET", "HEAD"):
            status = HTTPStatus.METHOD_NOT_ALLOWED
        elif not is_relay and path != WELL_KNOWN_PATH:
            status = HTTPStatus.NOT_FOUND
        elif path == "/ping":
            headers["Access-Control-Allow-Origin"] = "*"
        elif path == "/generate_204":
            status = HTTPStatus.NO_CONTENT
            challenge = _header(request, "X-Iroh-Challenge")
            if _CHALLENGE.fullmatch(challenge):
                headers["X-Iroh-Response"] = f"response {challenge}"
        elif path == WELL_KNOWN_PATH:
            body = self._relay.page
            headers["Content-Type"] = "application/json"
        else:
            status = HTTPStatus.NOT_FOUND
        if status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
            self._relay.refused("not-found")
        self._respond(status, headers, b"" if request.method == "HEAD" else body)

    def _respond(self, status: HTTPStatus, headers: Headers, body: bytes) -> None:
        headers["Connection"] = "close"
        if status is not HTTPStatus.NO_CONTENT:
            headers["Content-Length"] = str(len(body))
        self._parser.send_response(Response(status.value, status.phrase, headers, body))
        self._write()
        self.end()

    def _hand_over(self, upgrade: Upgrade) -> None:
        """Answer, and have nothing to do with the connection any more."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        # What the client says next is not for us, and must wait for who it is for.
        transport.pause_reading()
        transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
            b"Upgrade: " + upgrade.protocol.encode("ascii") + b"\r\n\r\n"
        )
        self._cancel_timer()
        self._transport = None
        self._relay.leave(self)
        self.line = 0
        upgrade.take(transport, self.address)

    def _upgrade(self, request: Request) -> None:
        self._parser.send_response(self._parser.accept(request))
        if self._parser.state is not OPEN:
            self._relay.refused("bad-upgrade")
        self._write()
        if self._is_ending:
            return
        bearer = _header(request, "Authorization").removeprefix("Bearer ").strip()
        if len(bearer) > BEARER_LIMIT:
            self._refuse("head-too-large")
            return
        # From here on the session's own time-out runs.
        self._cancel_timer()
        self._is_line = True
        version = str(self._parser.subprotocol)
        challenge = os.urandom(CHALLENGE_BYTES)
        self._relay.feed(Connected(self.line, version, bearer, challenge))

    # -- frames --

    def _hear(self, events: Sequence[Event]) -> None:
        frames = []
        for event in events:
            if not isinstance(event, Frame) or event.opcode in (Opcode.PING, Opcode.PONG):
                continue
            if event.opcode is Opcode.CLOSE:
                break
            # iroh's clients send each frame as one unfragmented binary message.
            if event.opcode is not Opcode.BINARY or not event.fin:
                self._refuse("not-binary")
                return
            frames.append(bytes(event.data))
        if frames:
            self._relay.feed(Received(self.line, frames))

    def _write(self) -> None:
        """Hand over what the parser has ready."""
        if self._transport is None or self._transport.is_closing():
            return
        writes = self._parser.data_to_send()
        if not writes:
            return
        if not writes[-1]:  # The parser's way to say that it is done.
            writes.pop()
            self._transport.writelines(writes)
            self._finish()
            return
        self._transport.writelines(writes)
        if self._is_blocked and self._transport.get_write_buffer_size() > 4 * WRITE_BUFFER_BYTES:
            self._refuse("never-reads")

    def _refuse(self, code: str) -> None:
        """Count what the client did wrong, once, and end the connection."""
        if self._is_ending:
            return
        if self._is_line:
            self._is_line = False
            self._relay.feed(Closed(self.line, code))
        else:
            self._relay.refused(code)
        self.end()

    def _finish(self) -> None:
        if self._is_line:
            self._is_line = False
            self._relay.feed(Closed(self.line, self._fault()))
        self.end()

    def _fault(self) -> str:
        """Return what the client did against WebSocket, "" for nothing."""
        error = self._parser.parser_exc
        if error is None:
            return ""
        if isinstance(error, EOFError):
            return "cut-off"
        return "frame-too-large" if isinstance(error, PayloadTooBig) else "not-websocket"

    def _too_slow(self) -> None:
        self._timer = None
        self._relay.refused("slow-request")
        self.abort()

    def _read_on(self) -> None:
        self._timer = None
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _asks_for(request: Request, protocol: str) -> bool:
    options = [word.strip().lower() for word in _header(request, "Connection").split(",")]
    return (
        request.method == "GET"
        and "upgrade" in options
        and _header(request, "Upgrade").lower() == protocol
    )


def _header(request: Request, name: str) -> str:
    try:
        return request.headers.get(name) or ""
    except MultipleValuesError:
        return ""
