"""Drives where we can be reached: watches interfaces and paths, asks peers, tells the network."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from p2prc.errors import NoWayIn, P2prcError, PeerError
from p2prc.model.identity import NodeId
from p2prc.model.ticket import Reach, Ticket
from p2prc.node.dial_back import DialBack, Probe
from p2prc.node.drive import Driver
from p2prc.node.link import Answer, Link
from p2prc.node.links import Links
from p2prc.node.mapping import PortMapping
from p2prc.node.network import Network
from p2prc.node.own_record import Whereabouts
from p2prc.node.relay_urls import from_ticket, own_in_ticket, served_url
from p2prc.node.relays import MAKERS, Ping, Relays
from p2prc.node.second_look import SecondLook
from p2prc.node.tasks import Tasks
from p2prc.protocol.diagnosis import NatKind
from p2prc.protocol.messages import (
    PROBES_SINCE_VERSION,
    Probed,
    ProbeMe,
    Refused,
    SeenAt,
    SeenBeside,
)
from p2prc.protocol.reachability import Reachability
from p2prc.protocol.reachability_events import (
    AddExternal,
    AskProbe,
    LocalChanged,
    Mapped,
    Moved,
    Observed,
    ObservedBeside,
    PathSeen,
    PeerGone,
    ProbeEnded,
    ProbeFailed,
    ReachEffect,
    RemoveExternal,
    Tick,
    host_of,
    is_outside,
    split,
)
from p2prc.transport.port import Channel, Endpoint

SERVED_LIMIT = 2
WATCH_S = 2.0
REFRESH_WITHIN_S = 0.2
REFRESH_PAUSE_S = 1.0
REFRESH_PAUSE_PER_NODE_S = 0.02
"""While many come their table is looked at less often: it costs the more the longer it is."""
INTERFACES_EVERY = 3
"""Interfaces are looked at in every third round."""
FRESH_S = (0.0, 0.3, 0.7, 1.5)
"""A new link is looked at this often at first: its path changes within the first second or two."""
PROBE_TIMEOUT_S = 10.0
AFRESH_EVERY = 4
"""Behind a NAT, in every fourth round a peer says anew where it sees us: the NAT may have moved."""
AFRESH_PAUSE_S = 1.0
AFRESH_TIMEOUT_S = 3.0
WAY_IN_PATIENCE_S = 9.0

_NATS: dict[NatKind, str] = {
    "cone": "behind a NAT",
    "symmetric": "behind a NAT that shows every peer another port",
    "double": "behind two NATs",
    "carrier": "behind the provider's NAT",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReachConfig:
    """What our owner said, and what touches the world for it.

    `public` are addresses given by hand. Without `probe` nobody is dialled for others, without
    `ping` no relay is chosen, without `mapping_nonce` the router is not asked for a port.
    """

    relay: str = "none"
    foreign: tuple[str, ...] = ()
    foreign_name: str = MAKERS
    public: tuple[str, ...] = ()
    probe: Probe | None = None
    ping: Ping | None = None
    mapping_nonce: bytes = b""


class ReachDriver:
    """How others reach us: our part of it."""

    def __init__(
        self,
        config: ReachConfig,
        *,
        endpoint: Endpoint,
        links: Links,
        network: Network,
        tasks: Tasks,
    ) -> None:
        self._endpoint = endpoint
        self._links = links
        self._network = network
        self._tasks = tasks
        self._machine = Reachability(given=config.public)
        self._driver = Driver(self._machine, self._perform, tick=Tick)
        self._dial_back = DialBack(config.probe)
        self._second_look = SecondLook(endpoint, links, tasks)
        self._told: dict[NodeId, tuple[Link, str]] = {}
        self._afresh: dict[NodeId, tuple[Link, str, str]] = {}
        self._asked_afresh_at = -AFRESH_PAUSE_S
        self._turn = 0
        self._relay_port: int | None = None
        self._is_invited = False
        self._ports: PortMapping | None = None
        if config.mapping_nonce:
            self._ports = PortMapping(endpoint, config.mapping_nonce, tell=self.mapped)
        self._has_asked_router = self._ports is None
        self._is_stopped = False
        self._refreshing: asyncio.TimerHandle | None = None
        self._refresh_again_at = 0.0
        self.relays = Relays(
            config.relay,
            config.foreign,
            foreign_name=config.foreign_name,
            endpoint=endpoint,
            network=network,
            tasks=tasks,
            ping=config.ping,
            measured=self._publish_soon,
        )

    def start(self) -> None:
        """Begin to watch."""
        self._tasks.start(self._watch(), "watch paths")
        if self._ports is not None:
            self._tasks.start(self._ports.run(), "port at the router")

    def stop(self) -> None:
        """Tell nothing more."""
        self._is_stopped = True
        if self._refreshing is not None:
            self._refreshing.cancel()
        self._driver.stop()
        self.relays.stop()

    async def close(self) -> None:
        """Give back what others hold for us: the port at the router."""
        if self._ports is not None:
            await self._ports.close()

    def relay_opened(self, port: int | None) -> None:
        """Our own relay listens on this TCP port; None: there is none."""
        self._relay_port = port
        self._publish()

    def mapped(self, mapped: Mapped) -> None:
        """The router has opened our port, or would not."""
        self._has_asked_router = True
        self._driver.feed(mapped)

    # -- what people are told --

    @property
    def machine(self) -> Reachability:
        """What was decided, for those who show it."""
        return self._machine

    @property
    def is_udp_blocked(self) -> bool:
        """Whether UDP does not get out."""
        return self._machine.is_udp_blocked(asyncio.get_running_loop().time())

    def sentence(self) -> str:
        """Say in one sentence from where we can be reached."""
        if self._machine.is_public:
            return "reachable from outside: others may use this node as a relay"
        if self.is_udp_blocked:
            return "UDP is blocked here: everything goes through a relay"
        relays = self.relays.used
        unknown = "not known to be reachable from outside"
        if self.untried():
            unknown = "at an address of the internet, which nobody outside has tried yet"
        where = _NATS.get(self._machine.nat, unknown)
        if not relays:
            return where
        return f"{where}; through {len(relays)} relay{'s' if len(relays) > 1 else ''}"

    def notices(self) -> list[str]:
        """Say what a person should know of how packets go."""
        notice = self.relays.notice()
        return [notice] if notice else []

    async def way_in(self, *, is_lan: bool) -> Reach:
        """Return from where a ticket written now can be used. Raises NoWayIn."""
        if is_lan:
            return "lan"
        self._is_invited = True
        until = asyncio.get_running_loop().time() + WAY_IN_PATIENCE_S
        self._refresh()
        self.relays.measure_anew()
        while (reach := self._way_in_now()) is None:
            self._refresh()
            is_hopeful = self.relays.is_hopeful or not self._has_asked_router
            if not is_hopeful or asyncio.get_running_loop().time() > until:
                raise NoWayIn
            await asyncio.sleep(0.2)
        return reach

    def _way_in_now(self) -> Reach | None:
        if self._machine.is_public or self.untried():
            return "internet"
        return "relay" if self.relays.used else None

    def untried(self) -> tuple[str, ...]:
        """Return addresses of the internet that no peer has dialled: there may be no peer yet."""
        if self._machine.is_public:
            return ()
        mapped = self._machine.mapping.address
        return (mapped,) * bool(mapped) + self._public_interfaces()

    def _has_public_ipv4(self) -> bool:
        known = (*self._machine.given, *self._machine.verified)
        return any(":" not in host_of(address) for address in known)

    def _public_interfaces(self) -> tuple[str, ...]:
        # Nobody has tried it yet; an IPv4 address of our own with a firewall before it is rare.
        # With IPv6 it is usual in homes: that is believed only where there is nothing else.
        local = self._machine.local
        outside = tuple(each for each in local if is_outside(host_of(each)))
        four = tuple(each for each in outside if ":" not in host_of(each))
        return four if any(":" not in host_of(each) for each in local) else outside

    def ticket_relays(self) -> tuple[str, ...]:
        """Return the relays that a newcomer finds us at."""
        own = tuple(own_in_ticket(address) for address in self._served_at())
        return own + self.relays.in_ticket()

    async def ready_relays(self, relays: Sequence[str]) -> tuple[str, ...]:
        """Make ready to dial through a peer's relays; return what to dial through."""
        own = [served_url(address) for address in self._served_at()]
        return await self.relays.lend(relays, own=own)

    async def borrow(self, ticket: Ticket, bearer: Callable[[], str]) -> tuple[str, ...]:
        """Make ready to dial through the ticket's relays; return their URLs."""
        relays = from_ticket(ticket, bearer()) if ticket.relays else ()
        if relays:
            await self.relays.borrow(relays)
        return tuple(each.url for each in relays)

    # -- what the links tell --

    def link_up(self, peer: NodeId) -> None:
        """There is a link to the peer."""
        self._tasks.start_for_peer(self._look_at_fresh(peer), "look at a fresh path")

    def link_down(self, peer: NodeId) -> None:
        """The last link to the peer is gone."""
        self._told.pop(peer, None)
        self._afresh.pop(peer, None)
        self._driver.feed(PeerGone(peer))
        self._ask_afresh()

    def seen_at(self, peer: NodeId, body: SeenAt) -> None:
        """A peer says where it sees us."""
        self._driver.feed(Observed(peer, body.address))

    def seen_beside(self, peer: NodeId, body: SeenBeside) -> None:
        """A peer says where it saw us from a second port."""
        self._driver.feed(ObservedBeside(peer, body.address))

    def look_asked(self, peer: NodeId, answer: Answer) -> None:
        """A peer asks to be looked at from a second port."""
        link = self._links.get(peer)
        if link is not None:
            self._tasks.start_for_peer(self._look_from_beside(link, answer), "look from beside")

    async def _look_from_beside(self, link: Link, answer: Answer) -> None:
        try:
            await self._second_look.look(link, await self._seen(link), answer)
        except P2prcError as error:
            answer(Refused(error.code, error.message[:500], error.hint[:500]))

    def seen_afresh(self, peer: NodeId, address: str) -> None:
        """The peer dialled us a moment ago, from this address: that is where it is now."""
        link = self._links.get(peer)
        if link is not None and split(address) is not None:
            self._tasks.start_for_peer(self._note_afresh(link, address), "note an address")

    async def _note_afresh(self, link: Link, address: str) -> None:
        path = await link.connection.path()
        if path.kind == "direct":
            self._afresh[link.peer] = (link, path.remote, address)
            # It may have forgotten what it was told, having moved in between.
            self._told.pop(link.peer, None)
            await self._look_at(link.peer)

    async def _seen(self, link: Link) -> str:
        """Return where we see the peer now, "" through a relay.

        What iroh tells of a path is where it began: a peer that moves keeps it, and is seen there.
        """
        path = await link.connection.path()
        if path.kind != "direct":
            return ""
        of, began, afresh = self._afresh.get(link.peer, (None, "", ""))
        return afresh if of is link and began == path.remote else path.remote

    def probe_asked(self, peer: NodeId, body: ProbeMe, answer: Answer) -> None:
        """A peer asks to be dialled afresh."""
        link = self._links.get(peer)
        if link is not None:
            self._tasks.start_for_peer(self._try_out(link, body.port, answer), "dial back")

    async def _try_out(self, link: Link, port: int, answer: Answer) -> None:
        try:
            answer(await self._dial_back.try_out(link.peer, await self._seen(link), port))
        except P2prcError as error:
            answer(Refused(error.code, error.message[:500], error.hint[:500]))

    def table_changed(self) -> None:
        """Some node tells something new: perhaps that it serves as a relay."""
        if self._refreshing is None:
            loop = asyncio.get_running_loop()
            due_at = max(loop.time() + REFRESH_WITHIN_S, self._refresh_again_at)
            self._refreshing = loop.call_at(due_at, self._refresh)

    # -- watching --

    async def _watch(self) -> None:
        rounds = 0
        while True:
            if rounds % INTERFACES_EVERY == 0:
                await self._look_at_interfaces()
            for peer in self._links.peers():
                await self._look_at(peer)
            self._refresh()
            self._publish()
            self._second_look.ask_one(self._machine.wants_second_look())
            rounds += 1
            if rounds % AFRESH_EVERY == 0:
                self._ask_afresh()
            await asyncio.sleep(WATCH_S)

    async def _look_at_interfaces(self) -> None:
        before, addresses = self._machine.local, await self._endpoint.addresses()
        self._driver.feed(LocalChanged(addresses))
        if before and set(before) != set(addresses):
            self.relays.measure_anew()
            self._ask_afresh()

    async def _look_at_fresh(self, peer: NodeId) -> None:
        for pause_s in FRESH_S:
            await asyncio.sleep(pause_s)
            if await self._look_at(peer):
                return
        link = self._links.get(peer)
        if link is not None and (await link.connection.path()).kind == "relayed":
            # It may be so because others look for us where we were before.
            self._ask_afresh()

    async def _look_at(self, peer: NodeId) -> bool:
        """See by which path we talk to the peer; whether it is a direct one."""
        link = self._links.get(peer)
        if link is None:
            return False
        seen = await self._seen(link)
        record = self._network.gossip.record_of(peer)
        is_public = record is not None and record.is_public
        self._driver.feed(PathSeen(peer, bool(seen), seen, is_public))
        if link.version >= PROBES_SINCE_VERSION and self._told.get(peer) != (link, seen):
            self._told[peer] = (link, seen)
            link.tell(SeenAt(seen))
        return bool(seen)

    def _ask_afresh(self) -> None:
        """Let a peer outside see our packets anew: it tells us where they come from."""
        peers = self._machine.onlookers()
        now = asyncio.get_running_loop().time()
        if self._is_stopped or not peers or now - self._asked_afresh_at < AFRESH_PAUSE_S:
            return
        self._asked_afresh_at = now
        self._turn = (self._turn + 1) % len(peers)
        self._tasks.start_for_peer(self._be_seen(*peers[self._turn]), "be seen")

    async def _be_seen(self, peer: NodeId, remote: str) -> None:
        try:
            connection = await self._endpoint.connect(
                peer, (remote,), Channel.PROBE, timeout_s=AFRESH_TIMEOUT_S
            )
        except P2prcError as error:
            log.debug("a peer does not see us", extra={"peer": peer, "why": error.message})
            return
        try:
            # It hangs up as soon as it has looked.
            async with asyncio.timeout(AFRESH_TIMEOUT_S):
                await connection.accept_stream()
        except (PeerError, TimeoutError):
            log.debug("a peer has looked", extra={"peer": peer})
        finally:
            with suppress(PeerError):
                await connection.close("seen")

    def _refresh(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            self._refreshing = None
        known = len(self._network.nodes())
        pause_s = min(REFRESH_PAUSE_S, known * REFRESH_PAUSE_PER_NODE_S)
        self._refresh_again_at = asyncio.get_running_loop().time() + pause_s
        self.relays.refresh(
            # Who is public by IPv6 alone is so for nobody that has IPv4 alone.
            is_public=self._machine.is_public and self._has_public_ipv4(),
            is_foreign_wanted=not self._machine.is_public and (known > 1 or self._is_invited),
        )

    # -- consequences --

    def _perform(self, effect: ReachEffect) -> None:
        match effect:
            case AddExternal():
                log.info("seen from outside", extra={"address": effect.address})
                self._tasks.start(
                    self._endpoint.add_external_address(effect.address), "tell an address"
                )
            case RemoveExternal():
                self._tasks.start(
                    self._endpoint.remove_external_address(effect.address), "forget an address"
                )
            case AskProbe():
                self._tasks.start_for_peer(
                    self._ask_probe(effect.peer, effect.address), "ask to be dialled"
                )
            case Moved():
                self._publish()

    async def _ask_probe(self, peer: NodeId, address: str) -> None:
        link = self._links.get(peer)
        port = int(address.rpartition(":")[2])
        try:
            if link is None or link.version < PROBES_SINCE_VERSION:
                raise NoWayIn
            said = await link.ask(ProbeMe(port), Probed, timeout_s=PROBE_TIMEOUT_S)
        except P2prcError as error:
            log.debug("a peer did not dial us", extra={"peer": peer, "why": error.message})
            self._driver.feed(ProbeFailed(peer, address))
        else:
            log.info(
                "a peer dialled us",
                extra={"address": address, "by_tcp": said.by_tcp, "by_udp": said.by_udp},
            )
            self._driver.feed(ProbeEnded(peer, address, said.by_tcp, said.by_udp))

    def _publish_soon(self) -> None:
        # A relay that was chosen just now knows us a moment later.
        asyncio.get_running_loop().call_later(REFRESH_WITHIN_S, self._publish)
        self._publish()

    def _publish(self) -> None:
        if self._is_stopped:
            return
        machine = self._machine
        served = tuple(served_url(address) for address in self._served_at())
        self.relays.serve(self._relay_port if served else None)
        relays = (*served, *(each.url for each in self.relays.used))
        if machine.addresses:
            self._network.moved(
                Whereabouts(machine.addresses, tuple(dict.fromkeys(relays)), machine.is_public)
            )

    def _served_at(self) -> tuple[str, ...]:
        """Return where our own relay is reached: at the port of our public addresses.

        Before anybody could try it, an interface of the internet is taken for one: others use the
        relay for themselves only when we are public, but come to us through it.
        """
        if self._relay_port is None:
            return ()
        public = (*self._machine.given, *self._machine.verified) or self._public_interfaces()
        return public[:SERVED_LIMIT]
