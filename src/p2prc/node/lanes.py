"""Bulk over TCP and TLS where two nodes reach each other so; whoever cannot uses iroh as before.

Over the control link the fetcher asks for the door: a port, a certificate, a token. It tries TCP
at the address where it sees the peer, and at those the peer tells, for a moment; after a failure
it leaves that peer alone for some minutes. No lane outlives the control links of its peer.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from p2prc.errors import NotAllowed, P2prcError, PeerUnreachable
from p2prc.model.identity import NodeId, short
from p2prc.node.link import Answer, Link
from p2prc.node.tasks import Tasks, Work
from p2prc.protocol.bulk_tokens import TOKEN_BYTES, BulkTokens
from p2prc.protocol.messages import BULK_DOOR_SINCE_VERSION, AskBulkDoor, BulkDoor, Refused
from p2prc.transport import addresses as address_text
from p2prc.transport.port import Path
from p2prc.transport.tls_connection import DialledConnection, ServedConnection
from p2prc.transport.tls_door import SESSION_BYTES, TlsDoor, dial_lane
from p2prc.transport.tls_lane import Lane

ASK_S = 3.0
TRY_S = 1.0
"""A person may wait for the bytes: longer only where the peer is far away."""
ROUND_TRIPS = 6
FAR_S = 1.0
STAGGER_S = 0.15
WAYS_LIMIT = 4
PAUSE_S = 180.0
PAUSE_LIMIT_S = 3600.0
DOOR_FRESH_S = 20.0
DOOR_USES = 12
OPENING_LIMIT = 4
"""How many lanes are opened to one peer at once: its door has room for few."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What lanes need of the links."""

    link_of: Callable[[NodeId], Link | None]
    addresses_of: Callable[[NodeId], tuple[str, ...]]
    serve: Callable[[ServedConnection], Awaitable[None]]
    refused: Callable[[str], None]


@dataclass(slots=True)
class _Known:
    """A peer's door, as it was last told."""

    door: BulkDoor
    asked_at: float
    uses: int = 0
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    opening: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(OPENING_LIMIT))


@dataclass(frozen=True, slots=True)
class _Failure:
    until: float
    pause_s: float


class Lanes:
    """Both sides of bulk over TCP."""

    def __init__(self, around: Surroundings, tasks: Tasks) -> None:
        self._around = around
        self._tasks = tasks
        self._port: int | None = None
        self._tokens = BulkTokens()
        self._door = TlsDoor(self._redeem, self._entered, refused=around.refused)
        self._dialled: dict[NodeId, DialledConnection] = {}
        self._dials: dict[NodeId, Work[DialledConnection | None]] = {}
        self._failures: dict[NodeId, _Failure] = {}

    # -- the door --

    def door_opened(self, port: int | None) -> None:
        """Peers find our door at this TCP port; None: there is none."""
        self._port = port

    def knocked(self, transport: asyncio.Transport, address: str) -> None:
        """Somebody asked for the door, and was answered."""
        if self._door.make_room(address):
            self._tasks.start_for_peer(self._door.receive(transport, address), "bulk door")
        else:
            transport.abort()

    def asked(self, peer: NodeId, answer: Answer) -> None:
        """Tell a member where the door is, and let it in for some seconds."""
        if self._port is None:
            answer(Refused("unsupported", "this node has no door for bulk"))
            return
        token = secrets.token_bytes(TOKEN_BYTES)
        self._tokens.issue(peer, token, _now())
        answer(BulkDoor(self._port, self._door.certificate, token))

    def _redeem(self, token: bytes) -> NodeId:
        peer = self._tokens.redeem(token, _now())
        if self._around.link_of(peer) is None:
            raise NotAllowed("no control link to whom the token was told")
        return peer

    def _entered(self, connection: ServedConnection) -> None:
        async def serve() -> None:
            await self._around.serve(connection)

        self._tasks.start_for_peer(serve(), f"bulk lanes of {short(connection.peer)}")

    # -- dialling --

    async def connection(self, peer: NodeId) -> DialledConnection | None:
        """Return a connection over TCP, or None where there is no such way at present."""
        known = self._dialled.get(peer)
        failure = self._failures.get(peer)
        if failure is not None and _now() < failure.until:
            return None
        if known is not None and not known.is_closed:
            return known
        dial = self._dials.get(peer)
        if dial is None:
            dial = self._tasks.start_for_peer(self._dial(peer), f"bulk over TCP to {short(peer)}")
            self._dials[peer] = dial
            dial.add_done_callback(lambda _: self._dials.pop(peer, None))
        return await asyncio.shield(dial)

    def give_up(self, peer: NodeId, reason: str) -> None:
        """Try no TCP for a while, longer each time."""
        before = self._failures.get(peer)
        pause_s = PAUSE_S if before is None else min(2 * before.pause_s, PAUSE_LIMIT_S)
        self._failures[peer] = _Failure(_now() + pause_s, pause_s)
        log.info("no bulk over TCP", extra={"peer": peer, "reason": reason})

    async def _dial(self, peer: NodeId) -> DialledConnection | None:
        link = self._around.link_of(peer)
        if link is None or link.version < BULK_DOOR_SINCE_VERSION:
            return None
        session = secrets.token_bytes(SESSION_BYTES)
        try:
            known = await _ask(link)
            path = await link.connection.path()
            ways = await _ways(path, self._around.addresses_of(peer), known.door.port)
            address, lane = await _first(ways, known.door, session, patience_s=_patience(link))
        except P2prcError as error:
            self.give_up(peer, error.message)
            return None
        if self._around.link_of(peer) is None:
            lane.abort("the peer is lost")
            return None
        self._failures.pop(peer, None)
        connection = DialledConnection(
            peer,
            address,
            first=lane,
            open_lane=lambda: self._next_lane(peer, address, session, known),
        )
        self._dialled[peer] = connection
        log.info("bulk goes over TCP", extra={"peer": peer, "address": address})
        return connection

    async def _next_lane(self, peer: NodeId, address: str, session: bytes, known: _Known) -> Lane:
        link = self._around.link_of(peer)
        if link is None:
            raise PeerUnreachable(f"no link to {short(peer)}")
        async with known.opening:
            async with known.asking:
                if known.uses >= DOOR_USES or _now() - known.asked_at > DOOR_FRESH_S:
                    fresh = await _ask(link)
                    known.door, known.asked_at, known.uses = fresh.door, fresh.asked_at, 0
                known.uses += 1
                door = known.door
            return (await _first([address], door, session, patience_s=_patience(link)))[1]

    # -- ends --

    def drop(self, peer: NodeId, reason: str) -> None:
        """Let the peer in no longer, and end every lane with it."""
        self._tokens.forget(peer)
        self._failures.pop(peer, None)
        if (dialled := self._dialled.pop(peer, None)) is not None:
            dialled.end(reason)
        self._door.end_of(peer, reason)

    def close(self, reason: str) -> None:
        """End every lane."""
        self._tokens.clear()
        dialled, self._dialled = self._dialled, {}
        for connection in dialled.values():
            connection.end(reason)
        self._door.end_all(reason)


async def _ask(link: Link) -> _Known:
    door = await link.ask(AskBulkDoor(), BulkDoor, timeout_s=ASK_S)
    return _Known(door, _now(), 1)


def _patience(link: Link) -> float:
    return TRY_S + ROUND_TRIPS * min(link.latency_s or 0.0, FAR_S)


async def _ways(path: Path, addresses: tuple[str, ...], port: int) -> list[str]:
    """Return where the door may be, most likely first. Raises PeerUnreachable for nowhere."""
    found: dict[str, None] = {}
    seen = address_text.dialable([path.remote]) if path.kind == "direct" else []
    is_here = False
    for text in seen:
        host, _ = address_text.parse(text)
        is_here = host.is_loopback
        found[address_text.join(str(host), port)] = None
    for text in address_text.dialable(await address_text.resolved(addresses)):
        host, _ = address_text.parse(text)
        # A private address seen through a relay is in another house, and loopback is only ours.
        is_near = bool(seen) and not host.is_link_local and (is_here or not host.is_loopback)
        if host.is_global or is_near:
            found[address_text.join(str(host), port)] = None
        if host.is_global:
            # A router may forward another port than the peer listens at.
            found[text] = None
    if not found:
        raise PeerUnreachable("no address where TCP could reach the peer")
    return list(found)[:WAYS_LIMIT]


async def _first(
    ways: list[str], door: BulkDoor, session: bytes, *, patience_s: float
) -> tuple[str, Lane]:
    """Return the first lane that opens, and where. Raises PeerUnreachable."""
    won: list[tuple[str, Lane]] = []
    reasons: list[str] = []
    attempts: list[asyncio.Task[None]] = []

    async def attempt(number: int, address: str) -> None:
        await asyncio.sleep(number * STAGGER_S)
        try:
            lane = await dial_lane(
                address, certificate=door.certificate, token=door.token, session=session
            )
        except PeerUnreachable as error:
            reasons.append(error.message)
            return
        if won:
            lane.abort("another way was faster")
            return
        won.append((address, lane))
        for other in attempts:
            if other is not asyncio.current_task():
                other.cancel()

    try:
        async with asyncio.timeout(patience_s), asyncio.TaskGroup() as group:
            attempts += [
                group.create_task(attempt(number, address)) for number, address in enumerate(ways)
            ]
    except TimeoutError as error:
        for _, lane in won:
            lane.abort("too late")
        raise PeerUnreachable("; ".join(reasons) or "nobody answers there over TCP") from error
    except BaseException:
        for _, lane in won:
            lane.abort("nobody waits any more")
        raise
    if not won:
        raise PeerUnreachable("; ".join(reasons))
    return won[0]


def _now() -> float:
    return asyncio.get_running_loop().time()
