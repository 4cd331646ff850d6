"""Public ports of this machine, lent to other nodes: what connects there is handed to them.

They are remembered, so that after a restart the same ports listen again before their owners ask.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import msgspec

from p2prc.errors import (
    InvalidInput,
    MachineCannot,
    NotFound,
    P2prcError,
    PeerBusy,
    PolicyRefuses,
    PortTaken,
)
from p2prc.model.identity import NodeId
from p2prc.node.counted import CountedLink, Traffic, until_idle
from p2prc.node.domain_proof import DomainProofs
from p2prc.node.inside import Inside
from p2prc.node.link import Answer
from p2prc.node.pace import Pace, PacedLink
from p2prc.node.public_datagrams import UDP_IDLE_S, PublicDatagrams
from p2prc.node.splicing import SocketBytes, splice
from p2prc.protocol.domains import read_domain
from p2prc.protocol.forwarding import UDP
from p2prc.protocol.gateways import GatewayBook, GatewayRules, Granted
from p2prc.protocol.messages import Done, EndMapping, MappingOpened, OpenMapping, Refused
from p2prc.runtime.port import Link
from p2prc.storage.state import State

LOOK_S = 5.0
KEPT_AGAIN_S = 300.0
"""So often, not with each asking, the disk is told that an owner was there."""
_KEY = "gateway:"
_DAY_KEY = "gateway-day"
_ENDED_KEY = "gateway-ended:"
_ENDED_LIMIT = 1000
_BACKLOG = 1024
"""Clients that come all at once wait this many deep; the rest knock again after a second."""
_EVERYWHERE = ("::", "0.0.0.0")  # noqa: S104 - a public port is for everybody

log = logging.getLogger(__name__)


class _Day(msgspec.Struct, frozen=True):
    number: int
    bytes: dict[NodeId, int]


@dataclass(slots=True, eq=False)
class Lent:
    """A lent port now; `trouble` says why it does not listen, or what kept its last connection."""

    granted: Granted
    pace: Pace = field(default_factory=Pace)
    traffic: Traffic = field(default_factory=Traffic)
    connections: int = 0
    trouble: str = ""
    kept_at: float = 0.0
    close: Callable[[], Awaitable[None]] | None = None
    carrying: set[asyncio.Task[None]] = field(default_factory=set)


class Gateway:
    """The public ports that this node lends. `hosts` are those by which it is reached."""

    def __init__(
        self,
        own: NodeId,
        inside: Inside,
        state: State,
        *,
        hosts: Callable[[], tuple[str, ...]],
        is_put_out: Callable[[NodeId], bool],
    ) -> None:
        self._is_put_out = is_put_out
        self._book = GatewayBook(own)
        self._inside = inside
        self._state = state
        self._hosts = hosts
        self._lent: dict[tuple[NodeId, str], Lent] = {}
        self._open: Counter[NodeId] = Counter()
        self._ended = _ended_before(state)
        self._asking = asyncio.Lock()
        self._counted = 0
        self.listen: str | None = None
        """The address where ports listen; None is all of this machine's."""
        self.host: str | None = None
        """The host that people are told; None is what this node knows of itself."""
        self.proofs = DomainProofs()
        self.address_of: Callable[[Granted], MappingOpened] = _no_domains
        """Where a domain is reached. Raises PolicyRefuses, MachineCannot."""

    def change_rules(self, rules: GatewayRules) -> None:
        """Go by other rules; what they forbid ends at the next look."""
        self._book.rules = rules
        for lent in self._lent.values():
            lent.pace.bytes_s = rules.rate_bytes_s

    @property
    def rules(self) -> GatewayRules:
        """What this node's owner allows."""
        return self._book.rules

    def all(self) -> list[Lent]:
        """Return what is lent, the oldest first."""
        return sorted(self._lent.values(), key=lambda each: each.granted.created_at)

    # -- its life

    async def run(self) -> None:
        """Take up what was lent, then end what is over, and write down what was moved."""
        day = self._state.value(_DAY_KEY)
        if day is not None:
            kept = msgspec.json.decode(day, type=_Day)
            self._book.take_up_day(kept.number, kept.bytes)
        for key, content in self._state.values().items():
            if key.startswith(_KEY):
                await self._take_up(msgspec.json.decode(content, type=Granted))
        while True:
            await asyncio.sleep(LOOK_S)
            over = self._book.overdue(time.time())
            over += [each for each in self._book.all() if self._is_put_out(each.owner)]
            # A full disk is no reason to let what is over go on.
            for granted in over:
                with suppress(MachineCannot):
                    await self._end(granted, "it is over")
            with suppress(MachineCannot):
                self._write_day()

    async def stop(self) -> None:
        """Hang up; the ports listen again with the next start."""
        self._write_day()
        for lent in self._lent.values():
            await _hang_up(lent)

    async def _take_up(self, granted: Granted) -> None:
        self._book.take_up(granted)
        lent = self._lent[granted.key] = self._new(granted)
        try:
            await self._listen(lent)
        except P2prcError as error:
            lent.trouble = error.message

    # -- what its owners ask

    async def answer(self, peer: NodeId, body: OpenMapping | EndMapping, answer: Answer) -> None:
        """Answer a peer about its own ports: it cannot name another's."""
        try:
            if isinstance(body, OpenMapping) and body.domain:
                await self._look_for_proof(peer, read_domain(body.domain))
            # One at a time: what is asked again is not opened twice.
            async with self._asking:
                match body:
                    case OpenMapping() if body.domain:
                        answer(await self._claimed(peer, body))
                    case OpenMapping():
                        lent = await self._opened(peer, body)
                        hosts = (self.host,) if self.host else self._hosts()[:8]
                        answer(MappingOpened(lent.granted.port, hosts))
                    case EndMapping():
                        granted = self._book.get(peer, body.mapping)
                        if granted is not None:
                            await self._end(granted, "its owner ended it")
                        answer(Done())
        except P2prcError as error:
            answer(Refused(error.code, error.message[:500], (error.hint or "")[:500]))

    async def _look_for_proof(self, peer: NodeId, domain: str) -> None:
        """Ask DNS whose a name is, where that counts; its silence changes nothing."""
        if self._book.needs_proof(domain) and peer not in self._book.rules.denied:
            is_there = await self.proofs.has_proved(domain, peer)
            if is_there is not None:
                self._book.note_proof(domain, peer, is_there=is_there)

    async def _claimed(self, peer: NodeId, request: OpenMapping) -> MappingOpened:
        """Give the peer a domain: for the first time, or again."""
        now = time.time()
        if (peer, request.mapping) in self._ended:
            raise PolicyRefuses("this node's owner ended that tunnel")
        if request.protocol == UDP or request.port:
            raise InvalidInput("a domain has the gateway's own ports, and no datagrams")
        domain = read_domain(request.domain)
        self._book.check_domain(peer, request.mapping, domain)
        expires_at = None if request.lifetime_s is None else now + request.lifetime_s
        known = self._book.renew(peer, request.mapping, request.protocol, expires_at, now)
        if known is not None and (known.domain, known.is_tls) == (domain, request.is_tls):
            lent = self._lent[known.key]
            lent.granted = known
            if now >= lent.kept_at + KEPT_AGAIN_S:
                self._keep(lent)
            return self.address_of(known)
        if known is not None:
            await self._end(known, "it was asked for anew")
        granted = Granted(
            request.mapping,
            peer,
            request.protocol,
            0,
            now,
            now,
            expires_at,
            domain=domain,
            is_tls=request.is_tls,
        )
        opened = self.address_of(granted)
        lent = self._lent[granted.key] = self._new(granted)
        self._book.take_up(granted)
        self._keep(lent)
        log.info("a domain is lent", extra={"domain": domain, "peer": peer})
        return opened

    def find(self, host: str) -> Lent | None:
        """Return the mapping that answers for a host."""
        granted = self._book.find(host)
        return None if granted is None else self._lent.get(granted.key)

    async def _opened(self, peer: NodeId, request: OpenMapping) -> Lent:
        now = time.time()
        if (peer, request.mapping) in self._ended:
            raise PolicyRefuses("this node's owner ended that public port")
        expires_at = None if request.lifetime_s is None else now + request.lifetime_s
        self._book.check(peer, request.port)
        known = self._book.renew(peer, request.mapping, request.protocol, expires_at, now)
        if known is not None and known.port and request.port in (0, known.port):
            lent = self._lent[known.key]
            lent.granted = known
            if lent.close is None:
                await self._listen(lent)
            if now >= lent.kept_at + KEPT_AGAIN_S:
                self._keep(lent)
            return lent
        if (other := self._book.get(peer, request.mapping)) is not None:
            await self._end(other, "it was asked for anew")
        return await self._first(peer, request, expires_at, now)

    async def _first(
        self, peer: NodeId, request: OpenMapping, expires_at: float | None, now: float
    ) -> Lent:
        identity, protocol = request.mapping, request.protocol
        for port in self._book.candidates(peer, identity, protocol, request.port):
            granted = Granted(identity, peer, protocol, port, now, now, expires_at)
            lent = self._new(granted)
            try:
                await self._listen(lent)
            except PortTaken:
                if request.port:
                    raise
                continue
            self._book.take_up(granted)
            self._lent[granted.key] = lent
            self._keep(lent)
            log.info("a public port is lent", extra={"port": port, "peer": peer})
            return lent
        raise PortTaken("none of the ports that this node lends is free")

    async def end(self, owner: NodeId, identity: str) -> None:
        """End it at the word of this node's owner; its owner does not get it again."""
        granted = self._book.get(owner, identity)
        if granted is None:
            raise NotFound("that public port is lent no more")
        key, now = _ENDED_KEY + ":".join(granted.key), time.time()
        changes: dict[str, bytes | None] = {key: msgspec.json.encode(now)}
        self._ended[granted.key] = now
        while len(self._ended) > _ENDED_LIMIT:
            oldest = min(self._ended, key=lambda each: self._ended[each])
            del self._ended[oldest]
            changes[_ENDED_KEY + ":".join(oldest)] = None
        self._state.set_values(changes)
        await self._end(granted, "this node's owner ended it")

    async def _end(self, granted: Granted, reason: str) -> None:
        self._book.forget(granted)
        lent = self._lent.pop(granted.key, None)
        if lent is not None:
            await _hang_up(lent)
        self._state.set_values({_name(granted): None})
        log.info("a public port ends", extra={"port": granted.port, "reason": reason})

    def _keep(self, lent: Lent) -> None:
        granted = lent.granted
        lent.kept_at = granted.seen_at
        self._state.set_values({_name(granted): msgspec.json.encode(granted)})

    def _new(self, granted: Granted) -> Lent:
        return Lent(granted, Pace(self._book.rules.rate_bytes_s))

    # -- listening

    async def _listen(self, lent: Lent) -> None:
        port = lent.granted.port
        if lent.granted.domain:
            return
        try:
            if lent.granted.protocol == UDP:
                lent.close = await self._bind_udp(lent, port)
            else:
                server = await asyncio.start_server(
                    self._on_client(lent), self.listen, port, backlog=_BACKLOG
                )
                lent.close = _closing(server)
        except PermissionError as error:
            raise MachineCannot(
                f"that node may not listen on port {port}",
                hint="ports below 1024 need a right that its owner has not given it",
            ) from error
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(f"port {port} is taken there", hint="let it choose one") from error
            reason = error.strerror or str(error)
            raise MachineCannot(f"that node cannot listen on port {port}: {reason}") from error
        lent.trouble = ""

    async def _bind_udp(self, lent: Lent, port: int) -> Callable[[], Awaitable[None]]:
        loop = asyncio.get_running_loop()

        def protocol() -> PublicDatagrams:
            return PublicDatagrams(lambda link, name: self._carry_soon(lent, link, name))

        for host in (self.listen,) if self.listen else _EVERYWHERE:
            try:
                transport, _ = await loop.create_datagram_endpoint(
                    protocol, local_addr=(host, port)
                )
            except OSError as error:
                if host != "::" or error.errno in (errno.EADDRINUSE, errno.EACCES):
                    raise
            else:
                break

        async def close() -> None:
            transport.close()

        return close

    # -- carrying

    def _on_client(
        self, lent: Lent
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            name = _text(writer.get_extra_info("peername"))
            self._carry_soon(lent, SocketBytes(reader, writer), name)

        return on_client

    def _carry_soon(self, lent: Lent, client: Link, name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self._carry(lent, client, name), name="a public connection")
        lent.carrying.add(task)
        task.add_done_callback(lent.carrying.discard)
        return task

    async def _carry(self, lent: Lent, client: Link, name: str) -> None:
        try:
            await self.carry(lent, client, name)
        except (P2prcError, TimeoutError) as error:
            lent.trouble = str(error) or "a connection took longer than this node allows"
        finally:
            await client.close()

    async def carry(self, lent: Lent, client: Link, name: str) -> None:
        """Take a connection to who has the mapping, to its end. Raises P2prcError, TimeoutError."""
        rules, own = self._book.rules, Traffic()
        idle_s = min(rules.idle_s, UDP_IDLE_S) if lent.granted.protocol == UDP else rules.idle_s
        async with self.handed(lent, name, own) as far, asyncio.timeout(rules.total_s):
            await until_idle(splice(client, far), own, idle_s=idle_s)

    @asynccontextmanager
    async def handed(self, lent: Lent, name: str, own: Traffic) -> AsyncIterator[Link]:
        """Yield a link to what the owner serves, counted and bounded as its rules say.

        The task that does this ends with the mapping. Raises PeerBusy, PortClosed, PeerError.
        """
        owner, task = lent.granted.owner, asyncio.current_task()
        lent.trouble = self._no_room(lent, owner)
        if lent.trouble:
            raise PeerBusy(lent.trouble)
        if task is not None:
            lent.carrying.add(task)
        lent.connections += 1
        self._open[owner] += 1
        try:
            far = await self._inside.hand_over(owner, lent.granted.id, name)
            try:
                meter = _Meter(self._book, owner)
                yield CountedLink(PacedLink(far, lent.pace), own, lent.traffic, meter)
            finally:
                await far.close()
        except P2prcError as error:
            lent.trouble = error.message
            raise
        finally:
            lent.connections -= 1
            self._open[owner] -= 1
            if not self._open[owner]:
                del self._open[owner]
            if task is not None:
                lent.carrying.discard(task)

    def _no_room(self, lent: Lent, owner: NodeId) -> str:
        """Return why there is no connection more; "" when there may be one."""
        rules = self._book.rules
        if lent.connections >= rules.per_mapping_connections:
            return f"{lent.connections} connections at once: more are refused"
        if self._open[owner] >= rules.per_peer_connections:
            return "its owner has as many connections through this node as one may have"
        if not self._book.has_traffic_left(owner, time.time()):
            return "its owner moved as much through this node today as one may"
        return ""

    def _write_day(self) -> None:
        number, moved = self._book.day()
        total = sum(moved.values())
        if total != self._counted:
            self._counted = total
            self._state.set_values({_DAY_KEY: msgspec.json.encode(_Day(number, moved))})


class _Meter(Traffic):
    """Counts against what a peer may move in a day; breaks the link that goes beyond."""

    def __init__(self, book: GatewayBook, owner: NodeId) -> None:
        super().__init__()
        self._book = book
        self._owner = owner

    def note_read(self, amount: int) -> None:
        """Bytes came. Raises OSError when there is nothing left."""
        super().note_read(amount)
        self._note(amount)

    def note_written(self, amount: int) -> None:
        """Bytes went. Raises OSError when there is nothing left."""
        super().note_written(amount)
        self._note(amount)

    def _note(self, amount: int) -> None:
        now = time.time()
        self._book.count(self._owner, amount, now)
        if not self._book.has_traffic_left(self._owner, now):
            raise ConnectionAbortedError("no traffic is left for today")


async def _hang_up(lent: Lent) -> None:
    if lent.close is not None:
        with suppress(OSError):
            await lent.close()
        lent.close = None
    tasks = list(lent.carrying)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _closing(server: asyncio.Server) -> Callable[[], Awaitable[None]]:
    async def close() -> None:
        server.close()

    return close


def _no_domains(granted: Granted) -> MappingOpened:
    raise PolicyRefuses("this node routes no domains")


def _ended_before(state: State) -> dict[tuple[NodeId, str], float]:
    """Return what this node's owner ended in its lives before, and when."""
    ended: dict[tuple[NodeId, str], float] = {}
    for key, content in state.values().items():
        if key.startswith(_ENDED_KEY):
            owner, _, identity = key.removeprefix(_ENDED_KEY).partition(":")
            ended[NodeId(owner), identity] = msgspec.json.decode(content, type=float)
    return ended


def _name(granted: Granted) -> str:
    return f"{_KEY}{granted.owner}:{granted.id}"


def _text(address: object) -> str:
    if isinstance(address, tuple) and len(address) >= 2:
        host = str(address[0]).removeprefix("::ffff:")
        return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"
    return ""
