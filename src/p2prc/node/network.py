"""This node's membership: its standing, its own record, tickets in and out, who else is there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from p2prc.authority import (
    Member,
    admit,
    check_fresh,
    check_ticket,
    found_network,
    read_ticket,
    verify_chain,
    write_ticket,
)
from p2prc.errors import (
    AlreadyInNetwork,
    NotMember,
    P2prcError,
    PeerError,
    PeerUnreachable,
    RightMissing,
    WireError,
)
from p2prc.model.identity import NodeId
from p2prc.model.record import NodeRecord, SignedRecord, open_record, sign_record
from p2prc.model.resources import Capacity, RuntimeOffer
from p2prc.model.ticket import NONCE_BYTES, Bootstrap, Reach, Ticket
from p2prc.node.gossip import Gossip
from p2prc.node.links import Links
from p2prc.node.machine import platform_name, python_version, read_gpus
from p2prc.node.standing import Standing
from p2prc.node.tasks import Tasks
from p2prc.protocol.membership import Membership, NodeView
from p2prc.protocol.messages import Join
from p2prc.storage.schema import StoredRecord
from p2prc.storage.state import State
from p2prc.wire.codec import Codec, encode
from p2prc.wire.signed import Envelope

PUBLISH_DELAY_S = 0.25
"""Changes of free capacity are gathered this long before our record is signed anew."""
SAVE_DELAY_S = 5.0
SAVE_NEWCOMER_DELAY_S = 0.1
"""Soon, unlike news of a known node: who restarts finds the network by the addresses it kept."""
ADDRESSES_IN_RECORD = 8
RELAYS_IN_RECORD = 4
ADDRESSES_IN_TICKET = 4
ADDRESSES_OF_ADMIN = 2
ADMINS_IN_TICKET = 2
HEARSAY_PATIENCE_S = 5.0

log = logging.getLogger(__name__)
_envelopes: Codec[Envelope] = Codec(Envelope, limit_bytes=16 << 10)


@dataclass(frozen=True, slots=True)
class SelfDescription:
    """What our record says that does not change while we run."""

    name: str
    software: str
    cpus: int
    memory_bytes: int
    lent: Capacity
    runtimes: tuple[RuntimeOffer, ...]
    addresses: tuple[str, ...]
    is_public: bool = False


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What our record says of how to reach us, best first; it changes as we move."""

    addresses: tuple[str, ...]
    relays: tuple[str, ...] = ()
    is_public: bool = False


@dataclass(frozen=True, slots=True)
class Lent:
    """What our record says that changes all the time."""

    is_lending: bool
    free: Capacity


class Network:
    """Our place in the network and our picture of it."""

    def __init__(
        self,
        secret: bytes,
        own: NodeId,
        description: SelfDescription,
        *,
        links: Links,
        state: State,
        tasks: Tasks,
        rng: Random,
        lent: Callable[[], Lent],
        changed: Callable[[NodeId], None],
    ) -> None:
        self.own = own
        self.description = description
        self.whereabouts = Whereabouts(description.addresses, is_public=description.is_public)
        self._secret = secret
        self._links = links
        self._state = state
        self._tasks = tasks
        self._rng = rng
        self._lent = lent
        self._changed = changed
        self._gpus = tuple(reading.card for reading in read_gpus())
        self._standing: Standing | None = None
        self._gossip: Gossip | None = None
        self._version = 0
        self._publishing: asyncio.TimerHandle | None = None
        self._saving: asyncio.TimerHandle | None = None
        self._unsaved: set[NodeId] = set()
        self._kept: set[NodeId] = set()
        self._news = asyncio.Event()

    # -- where we stand --

    @property
    def standing(self) -> Standing:
        """Our place in the network. Raises NotMember before there is one."""
        if self._standing is None:
            raise NotMember("this node has no network yet")
        return self._standing

    @property
    def gossip(self) -> Gossip:
        """The network as seen from here. Raises NotMember before there is one."""
        if self._gossip is None:
            raise NotMember("this node has no network yet")
        return self._gossip

    def nodes(self) -> list[NodeView]:
        """Return every node known, ourselves included."""
        return self.gossip.nodes()

    def start(self) -> None:
        """Enter the network of the last run, or found one."""
        self._enter(self._stored_standing() or self._new_network())

    def stop(self) -> None:
        """Tell the others that we are down, and say nothing more."""
        for timer in (self._publishing, self._saving):
            if timer is not None:
                timer.cancel()
        if self._gossip is not None:
            self._gossip.publish(self._own_record(is_down=True))
            self._gossip.stop()
            self._save()

    # -- our own record --

    def record_changed(self) -> None:
        """Something that we tell has changed: sign a new record soon."""
        if self._publishing is None and self._gossip is not None:
            loop = asyncio.get_running_loop()
            self._publishing = loop.call_later(PUBLISH_DELAY_S, self._publish)

    def moved(self, to: Whereabouts) -> None:
        """Let the others know where we can be reached from now on."""
        if to != self.whereabouts:
            self.whereabouts = to
            self.record_changed()

    def _publish(self) -> None:
        self._publishing = None
        self.gossip.publish(self._own_record(has_left=False))

    def _own_record(self, *, has_left: bool = False, is_down: bool = False) -> SignedRecord:
        # Wall-clock milliseconds: a node that lost its disk still issues newer versions.
        self._version = max(self._version + 1, int(time.time() * 1000))
        told, lent = self.description, self._lent()
        standing = self.standing
        record = NodeRecord(
            node=self.own,
            network=standing.network,
            version=self._version,
            name=told.name,
            membership=standing.chain,
            addresses=self.whereabouts.addresses[:ADDRESSES_IN_RECORD],
            relays=self.whereabouts.relays[:RELAYS_IN_RECORD],
            is_public=self.whereabouts.is_public,
            has_left=has_left,
            is_down=is_down,
            is_lending=lent.is_lending,
            software=told.software,
            platform=platform_name(),
            python=python_version(),
            cpus=told.cpus,
            memory_bytes=told.memory_bytes,
            lent=told.lent,
            free=lent.free,
            gpus=self._gpus,
            runtimes=told.runtimes,
        )
        return sign_record(record, self._secret)

    def _outnumbered(self, version: int) -> None:
        self._version = max(self._version, version)
        self.record_changed()

    # -- tickets --

    def invite(self, *, expires_s: float, may_invite: bool, reach: Reach) -> tuple[str, float]:
        """Write a ticket; return it and when it expires (UTC seconds). Raises RightMissing."""
        standing = self.standing
        if not standing.member.rights.may_invite:
            raise RightMissing("this node was not given the right to invite others")
        expires_at = time.time() + expires_s
        ticket = Ticket(
            network=standing.network,
            issuer=self.own,
            addresses=self.whereabouts.addresses[:ADDRESSES_IN_TICKET],
            expires_at=int(expires_at),
            admins=self._other_admins(),
            may_invite=may_invite,
            nonce=self._rng.randbytes(NONCE_BYTES),
            reach=reach,
        )
        return write_ticket(ticket, secret=self._secret), expires_at

    def _other_admins(self) -> tuple[Bootstrap, ...]:
        """Return members that may admit too, for when we are away."""
        found = []
        for view in self.nodes():
            issuer = None if view.is_self else self._issuer(view.record.node)
            if issuer is not None and issuer.rights.may_invite and view.state == "alive":
                addresses = view.record.addresses[:ADDRESSES_OF_ADMIN]
                found.append(Bootstrap(view.record.node, addresses))
        return tuple(found[:ADMINS_IN_TICKET])

    def admit(self, joiner: NodeId, request: Join) -> bytes:
        """Make the chain of a newcomer with a good ticket; raises why not."""
        standing = self.standing
        if not standing.member.rights.may_invite:
            raise RightMissing(
                "this member may not admit others",
                hint="use a ticket of a member who may invite",
            )
        ticket = read_ticket(request.ticket)
        rights = check_ticket(
            ticket,
            network=standing.network,
            issuer=self._issuer(ticket.issuer),
            now=time.time(),
        )
        return admit(
            standing.chain,
            network=standing.network,
            secret=self._secret,
            joiner=joiner,
            rights=rights,
        )

    def _issuer(self, node: NodeId) -> Member | None:
        if node == self.own:
            return self.standing.member
        record = self.gossip.record_of(node)
        if record is None:
            return None
        return verify_chain(record.membership, network=self.standing.network)

    async def join(self, text: str) -> Standing:
        """Enter the network of a ticket. Raises TicketInvalid and its kin, AlreadyInNetwork."""
        ticket = read_ticket(text)
        check_fresh(ticket, now=time.time())
        if ticket.network == self.standing.network:
            # A member of it already: the ticket's addresses may be newer than what we know.
            await self._meet(ticket)
            return self.standing
        if any(view.record.node != self.own and not view.record.has_left for view in self.nodes()):
            raise AlreadyInNetwork("this node is in a network with other members")
        host, chain = await self._ask_in(ticket, text)
        member = verify_chain(chain, network=ticket.network)
        if member.node != self.own:
            raise NotMember("the chain that we were given names another node")
        await self._change_network(Standing(ticket.network, chain, member))
        addresses = dict(ticket.bootstraps)[host]
        await self._links.reach_at(host, addresses)
        await self._hear_of(host)
        # Whoever reads "joined" may pull the plug: a restart must find the others again.
        self._save()
        return self.standing

    async def _meet(self, ticket: Ticket) -> None:
        for node, addresses in ticket.bootstraps:
            if node == self.own or not addresses:
                continue
            try:
                await self._links.reach_at(node, addresses)
            except PeerError as error:
                log.info("a member does not answer", extra={"peer": node, "why": error.message})
            else:
                return await self._hear_of(node)
        return None

    async def _ask_in(self, ticket: Ticket, text: str) -> tuple[NodeId, bytes]:
        """Knock at the ticket's members in turn; return who opened, and our chain."""
        unreachable: P2prcError = PeerUnreachable("the ticket names no address")
        for node, addresses in ticket.bootstraps:
            if node == self.own or not addresses:
                continue
            try:
                chain = await self._links.join(
                    Bootstrap(node, addresses),
                    text,
                    network=ticket.network,
                    name=self.description.name,
                )
            except PeerError as error:
                unreachable = error
            else:
                return node, chain
        raise unreachable

    async def _hear_of(self, peer: NodeId) -> None:
        # The picture is worth printing once the member that admitted us is in it.
        try:
            async with asyncio.timeout(HEARSAY_PATIENCE_S):
                while self.gossip.record_of(peer) is None:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            log.info("joined, but nothing heard yet", extra={"peer": peer})

    async def leave(self) -> None:
        """Leave the network and found one of our own."""
        self.gossip.publish(self._own_record(has_left=True))
        await self._links.leave_all(farewell=True)
        await self._change_network(self._new_network())

    async def _change_network(self, standing: Standing) -> None:
        # First of all what may fail: on a full disk everything stays as it was.
        self._remember(standing)
        if self._gossip is not None:
            self._gossip.stop()
        await self._links.leave_all(farewell=False)
        self._state.forget_records([stored.node for stored in self._state.records()])
        self._kept.clear()
        self._enter(standing)

    def _remember(self, standing: Standing) -> None:
        values = {"network": standing.network.encode(), "membership": standing.chain}
        # A node whose disk is full can start again: it writes nothing that is there.
        if any(self._state.value(key) != content for key, content in values.items()):
            self._state.set_values(values)

    def _enter(self, standing: Standing) -> None:
        self._remember(standing)
        self._standing = standing
        machine = Membership(
            own=self._own_record(has_left=False),
            is_member=self._is_member,
            rng=self._rng,
            now=asyncio.get_running_loop().time(),
            known=self._stored_records(),
        )
        self._gossip = Gossip(
            machine,
            links=self._links,
            tasks=self._tasks,
            changed=self._node_changed,
            own_version_behind=self._outnumbered,
        )
        self._gossip.start()

    def _is_member(self, record: NodeRecord) -> bool:
        try:
            member = verify_chain(record.membership, network=self.standing.network)
        except NotMember:
            return False
        return member.node == record.node and record.network == self.standing.network

    # -- what is kept for the next start --

    def _node_changed(self, node: NodeId) -> None:
        self._news.set()
        self._unsaved.add(node)
        self._save_within(SAVE_DELAY_S if node in self._kept else SAVE_NEWCOMER_DELAY_S)
        self._changed(node)

    def _save_within(self, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        if self._saving is not None:
            if self._saving.when() <= loop.time() + delay_s:
                return
            self._saving.cancel()
        self._saving = loop.call_later(delay_s, self._save)

    def _save(self) -> None:
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        changed, self._unsaved = self._unsaved, set()
        kept = []
        for node in sorted(changed):
            envelope = self.gossip.envelope_of(node)
            if envelope is not None and node != self.own:
                kept.append(StoredRecord(node, encode(envelope), time.time()))
        try:
            self._state.save_records(kept)
        except P2prcError as error:
            self._unsaved |= changed
            log.warning("the table of nodes was not saved", extra={"reason": error.message})
        else:
            self._kept |= changed

    def _stored_records(self) -> list[SignedRecord]:
        found = []
        for stored in self._state.records():
            try:
                found.append(open_record(_envelopes.decode(stored.envelope)))
            except WireError as error:
                log.info("a stored record is unusable", extra={"reason": error.message})
        return found

    def _stored_standing(self) -> Standing | None:
        network, chain = self._state.value("network"), self._state.value("membership")
        if network is None or chain is None:
            return None
        try:
            name = NodeId(network.decode())
            member = verify_chain(chain, network=name)
        except (P2prcError, UnicodeDecodeError) as error:
            log.warning("the stored membership is unusable", extra={"reason": str(error)})
            return None
        if member.node != self.own:
            log.warning("the stored membership is another node's")
            return None
        return Standing(name, chain, member)

    def _new_network(self) -> Standing:
        chain = found_network(self._secret)
        return Standing(self.own, chain, verify_chain(chain, network=self.own))
