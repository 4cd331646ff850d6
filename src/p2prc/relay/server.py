"""The relay on a TCP port: plain HTTP and WebSocket, and a small page that says what is here.

Theory of operation. Each TCP connection is a `RelayConnection`, an asyncio protocol that hands
the frames found to one `RelaySession`; what the session decides is performed before the callback
returns. No task exists for a connection or a frame. Back-pressure is asyncio's: a transport whose
buffer is full makes its line `Blocked`, and the session queues or drops.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import SystemRandom

import msgspec

from p2prc.errors import MachineCannot, P2prcError, PortTaken
from p2prc.model.identity import NodeId
from p2prc.protocol.relay_events import (
    Admitted,
    Ask,
    Close,
    Hold,
    NodeBarred,
    NotAdmitted,
    RelayConfig,
    RelayEffect,
    RelayEvent,
    RelayStats,
    RelayTerms,
    Restarting,
    Send,
    Tick,
)
from p2prc.protocol.relay_session import RelaySession
from p2prc.relay.connection import RELAY_PATH, RelayConnection, Upgrade

BACKLOG = 128
CLOSE_PATIENCE_S = 0.3
RECONNECT_IN_S = 1.0
TRY_FOR_S = 10.0

_ADDRESS_TAKEN = (errno.EADDRINUSE, errno.EACCES)
_WILDCARDS = ("", "0.0.0.0")  # noqa: S104 - to recognise it

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WellKnown:
    """What the relay says of itself to anybody."""

    node: NodeId
    protocol_version: int
    serves_relay: bool = True

    def as_json(self) -> bytes:
        """Return the page at `/.well-known/p2prc`."""
        relay = RELAY_PATH if self.serves_relay else ""
        fields = {"id": self.node, "relay": relay, "protocol": self.protocol_version}
        return msgspec.json.encode(fields)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many TCP connections are open at once; `unproven` are those of nobody in particular."""

    total: int = 1024
    per_address: int = 256
    unproven: int = 256
    unproven_per_address: int = 64


Admit = Callable[[NodeId, str], RelayTerms]
"""Say on which terms the holder of this key, who shows this bearer, is served; raises P2prcError.

Its key is proved already. Called between two reads: it may compute, and not wait.
"""


async def open_relay(
    host: str,
    port: int,
    *,
    identity: WellKnown,
    admit: Admit,
    limits: ConnectionLimits | None = None,
    config: RelayConfig | None = None,
    upgrades: Mapping[str, Upgrade] | None = None,
) -> RelayServer:
    """Listen on TCP; port 0 is any. Raises PortTaken, MachineCannot. Whoever opens it closes it.

    Where the identity says that this is no relay, the page and the upgrades alone are served.
    """
    relay = RelayServer(identity, admit, limits or ConnectionLimits(), config)
    relay.upgrades = upgrades or {}
    await relay.listen(host, port)
    return relay


class RelayServer:
    """Made by `open_relay`."""

    url_path = RELAY_PATH

    def __init__(
        self,
        identity: WellKnown,
        admit: Admit,
        limits: ConnectionLimits,
        config: RelayConfig | None,
    ) -> None:
        self.identity = identity
        self.port = 0
        self._admit = admit
        self._limits = limits
        self._session = RelaySession(rng=SystemRandom(), config=config)
        self._loop = asyncio.get_running_loop()
        self._servers: list[asyncio.Server] = []
        self._connections: dict[int, RelayConnection] = {}
        self._lines = itertools.count(1)
        self._strangers: dict[int, RelayConnection] = {}
        self._per_address: Counter[str] = Counter()
        self._unproven: Counter[str] = Counter()
        self._alarm: asyncio.TimerHandle | None = None
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self.page = identity.as_json()
        self.serves_relay = identity.serves_relay
        self.upgrades: Mapping[str, Upgrade] = {}

    async def listen(self, host: str, port: int) -> None:
        """Bind; where all addresses are meant, IPv6 too if the machine has it."""
        self._servers.append(await self._bind(host or _WILDCARDS[1], port))
        self.port = int(self._servers[0].sockets[0].getsockname()[1])
        if host in _WILDCARDS and socket.has_ipv6:
            try:
                self._servers.append(await self._bind("::", self.port))
            except MachineCannot as error:
                log.info("the relay has no IPv6", extra={"reason": error.message})

    async def _bind(self, host: str, port: int) -> asyncio.Server:
        try:
            return await self._loop.create_server(
                lambda: RelayConnection(self), host, port, backlog=BACKLOG
            )
        except OSError as error:
            if error.errno in _ADDRESS_TAKEN:
                raise PortTaken(f"TCP port {port} is in use") from error
            raise MachineCannot(f"cannot listen on TCP {host}: {error.strerror}") from error

    @property
    def stats(self) -> RelayStats:
        """What the relay has done so far."""
        return self._session.stats

    @property
    def connections(self) -> int:
        """How many TCP connections are open."""
        return sum(self._per_address.values())

    def clients(self) -> list[NodeId]:
        """Return who is served."""
        return self._session.clients()

    def drop(self, nodes: Iterable[NodeId]) -> None:
        """End every line of these nodes at once; asking `admit` again is their way back."""
        for node in nodes:
            self.feed(NodeBarred(node, "barred"))

    async def close(self) -> None:
        """Tell the clients to come back later, and stop listening. Calling twice is safe."""
        servers, self._servers = self._servers, []
        if not servers:
            return
        for server in servers:
            server.close()
        self.feed(Restarting(RECONNECT_IN_S, TRY_FOR_S))
        if self._alarm is not None:
            self._alarm.cancel()
        for connection in list(self._connections.values()):
            connection.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_PATIENCE_S):
                await self._is_empty.wait()
        for connection in list(self._connections.values()):
            connection.abort()

    # -- connections come and go --

    def enter(self, connection: RelayConnection) -> int | None:
        """Number a new connection, or None when there are too many."""
        address, limits = connection.address, self._limits
        is_full = (
            self.connections >= limits.total
            or self._per_address[address] >= limits.per_address
            or self._unproven[address] >= limits.unproven_per_address
        )
        if is_full or not self._servers:
            self._session.refused("too-many-connections")
            return None
        if len(self._strangers) >= limits.unproven:
            # The oldest goes: a member proves itself within moments, so that strangers who come
            # from many addresses cannot keep members out.
            oldest = self._strangers.pop(next(iter(self._strangers)))
            self._session.refused("too-many-connections")
            oldest.abort()
        self._per_address[address] += 1
        self._unproven[address] += 1
        line = next(self._lines)
        self._strangers[line] = connection
        self._connections[line] = connection
        self._is_empty.clear()
        return line

    def leave(self, connection: RelayConnection) -> None:
        """Forget a connection that is closed."""
        self._connections.pop(connection.line, None)
        self._strangers.pop(connection.line, None)
        if not self._connections:
            self._is_empty.set()
        _count_down(self._per_address, connection.address)
        if not connection.is_proven:
            _count_down(self._unproven, connection.address)

    def refused(self, code: str) -> None:
        """Count what was not even a line."""
        self._session.refused(code)

    # -- the machine --

    def feed(self, event: RelayEvent) -> None:
        """Give the machine an event and perform what it decides."""
        for effect in self._session.handle(event, self._loop.time()):
            self._perform(effect)
        self._arm()

    def _perform(self, effect: RelayEffect) -> None:
        if (connection := self._connections.get(effect.line)) is None:
            return
        match effect:
            case Send():
                connection.send(effect.frames)
            case Ask():
                self._ask(effect, connection)
            case Hold():
                connection.hold(effect.for_s)
            case Close():
                connection.end()

    def _ask(self, asked: Ask, connection: RelayConnection) -> None:
        try:
            terms = self._admit(asked.node, asked.bearer)
        except P2prcError as error:
            log.info("not admitted", extra={"peer": asked.node, "reason": error.message})
            self.feed(NotAdmitted(asked.line, error.code, error.message))
            return
        if not connection.is_proven:
            connection.is_proven = True
            self._strangers.pop(connection.line, None)
            _count_down(self._unproven, connection.address)
        self.feed(Admitted(asked.line, terms))

    def _arm(self) -> None:
        deadline = self._session.deadline
        if self._alarm is not None:
            if deadline is not None and self._alarm.when() <= deadline:
                return
            self._alarm.cancel()
            self._alarm = None
        if deadline is not None:
            at = max(deadline, self._loop.time() + 0.001)
            self._alarm = self._loop.call_at(at, self._wake)

    def _wake(self) -> None:
        self._alarm = None
        self.feed(Tick())


def _count_down(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
