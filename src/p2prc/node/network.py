"""This node's membership: its standing, its own record, tickets in and out, who else is there."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from p2prc.authority import (
    Member,
    Rights,
    admit,
    check_fresh,
    check_ticket,
    commitment_to,
    found_network,
    read_ticket,
    shown_half,
    verify_chain,
    write_ticket,
)
from p2prc.errors import (
    AlreadyInNetwork,
    InvalidInput,
    NodeUnknown,
    NotMember,
    P2prcError,
    PeerError,
    PeerUnreachable,
    Revoked,
    RightMissing,
    SettingInvalid,
    TicketExpired,
    TicketForeign,
    WireError,
)
from p2prc.model.identity import NodeId, short
from p2prc.model.metadata import METADATA_LIMIT_BYTES, check_metadata
from p2prc.model.record import NodeRecord, SignedRecord, open_record, sign_record
from p2prc.model.resources import Capacity, RuntimeOffer
from p2prc.model.testimony import testify
from p2prc.model.ticket import OPENER_BYTES, Bootstrap, Reach, Ticket
from p2prc.node.gossip import Gossip
from p2prc.node.links import Links
from p2prc.node.lookup import Doorplate, look_up
from p2prc.node.machine import platform_name, python_version, read_gpus
from p2prc.node.revocations import Revocations
from p2prc.node.standing import Standing
from p2prc.node.tasks import Tasks
from p2prc.protocol.asking import fingerprint
from p2prc.protocol.membership import Membership, NodeView
from p2prc.protocol.messages import NOTICES_SINCE_VERSION, PROTOCOL_VERSION, Join
from p2prc.protocol.reachability_events import is_address_outside
from p2prc.relay.admission import member_bearer
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
RELAYS_IN_TICKET = 2
ADDRESSES_OF_ADMIN = 2
ADMINS_IN_TICKET = 2
HEARSAY_PATIENCE_S = 3.0

BorrowRelays = Callable[[Ticket, str], Awaitable[tuple[str, ...]]]
"""Make ready to dial through a ticket's relays, showing members' this bearer; return their URLs."""

log = logging.getLogger(__name__)
METADATA = "metadata"
RELAYS = "relays-of-ticket"
_metadata: Codec[dict[str, str]] = Codec(dict[str, str], limit_bytes=2 * METADATA_LIMIT_BYTES)
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


async def _borrow_none(_: Ticket, __: str) -> tuple[str, ...]:
    return ()


def _read_relays(state: State) -> tuple[str, ...]:
    stored = state.value(RELAYS) or b""
    return tuple(stored.decode("ascii", "replace").split())[:RELAYS_IN_TICKET]


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
        entered: Callable[[], None],
        put_out: Callable[[], None],
        is_open: bool = False,
    ) -> None:
        self.own = own
        self.description = description
        self.whereabouts = Whereabouts(description.addresses, is_public=description.is_public)
        self.borrow_relays: BorrowRelays = _borrow_none
        self.relays_of_ticket: tuple[str, ...] = _read_relays(state)
        """Relays that no member serves, as the ticket told them by which we came."""
        self._secret = secret
        self._links = links
        self._state = state
        self._tasks = tasks
        self._rng = rng
        self._lent = lent
        self._changed = changed
        self._entered = entered
        self._put_out = put_out
        self._founds_open = is_open
        self._revocations: Revocations | None = None
        self._metadata = self._stored_metadata()
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

    @property
    def revocations(self) -> Revocations:
        """Who was put out. Raises NotMember before there is a network."""
        if self._revocations is None:
            raise NotMember("this node has no network yet")
        return self._revocations

    def nodes(self) -> list[NodeView]:
        """Return every node known that was not put out, ourselves included."""
        return [view for view in self.gossip.nodes() if self._is_shown(view)]

    def _is_shown(self, view: NodeView) -> bool:
        return view.is_self or not self.is_put_out(view.record.node)

    def member_of(self, node: NodeId) -> Member | None:
        """Return what a node's chain says, None while we know no record of it."""
        return self._issuer(node)

    def is_put_out(self, node: NodeId) -> bool:
        """Whether the node's membership, as far as we know it, is void."""
        member = self._issuer(node)
        return member is not None and self.revocations.revoker_of(member) is not None

    def revoke(self, node: NodeId, *, reason: str) -> None:
        """Put a member out, with all that came in through it. Raises RightMissing, NodeUnknown."""
        member = self._issuer(node)
        if member is None:
            raise NodeUnknown(f"nothing is known of {short(node)}")
        self.revocations.revoke(member, self.standing, secret=self._secret, reason=reason)

    def was_put_out(self, node: NodeId) -> bool:
        """Whether anybody ever put out this key: a person decides whether it comes back."""
        return self.revocations.is_named(node)

    def start(self) -> None:
        """Enter the network of the last run, or found one. Raises AlreadyInNetwork."""
        stored = self._stored_standing()
        if stored is not None and self._founds_open and not stored.member.is_open:
            if stored.network != self.own or self._state.records():
                raise AlreadyInNetwork(
                    "this node is in a network, and only one that is founded can be made open",
                    hint="start it without `--open`, `p2prc leave` and `p2prc down`, "
                    "then `p2prc up --open`",
                )
            stored = None
        self._enter(stored or self._new_network(is_open=self._founds_open))

    def stop(self) -> None:
        """Tell the others that we are down, and say nothing more."""
        for timer in (self._publishing, self._saving):
            if timer is not None:
                timer.cancel()
        if self._gossip is not None:
            self._gossip.publish(self._own_record(is_down=True))
            self._gossip.stop()
            self.revocations.stop()
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
            metadata=self._metadata,
            protocol=PROTOCOL_VERSION,
        )
        return sign_record(record, self._secret)

    def _outnumbered(self, version: int) -> None:
        self._version = max(self._version, version)
        self.record_changed()

    @property
    def metadata(self) -> dict[str, str]:
        """What the owner tells the others in words of their own."""
        return dict(self._metadata)

    def change_metadata(self, changes: Mapping[str, str]) -> None:
        """Set values, and remove those that are empty. Raises SettingInvalid."""
        changed = {key: text for key, text in {**self._metadata, **changes}.items() if text}
        check_metadata(changed)
        before, self._metadata = self._metadata, changed
        try:
            self._own_record()
            self._state.set_values({METADATA: encode(changed)})
        except P2prcError:
            self._metadata = before
            raise
        self.record_changed()

    def _stored_metadata(self) -> dict[str, str]:
        try:
            found = _metadata.decode(self._state.value(METADATA) or b"\x80")
            check_metadata(found)
        except (WireError, SettingInvalid) as error:
            log.warning("the stored metadata is unusable", extra={"reason": error.message})
            return {}
        return found

    # -- tickets --

    def check_may_invite(self) -> None:
        """Raise RightMissing or Revoked unless this node may let others in."""
        if not self.standing.member.rights.may_invite:
            raise RightMissing("this node was not given the right to invite others")
        self.revocations.judge(self.standing.member)

    def invite(
        self, *, expires_s: float, may_invite: bool, reach: Reach, relays: Sequence[str] = ()
    ) -> tuple[str, float]:
        """Write a ticket; return it and when it expires (UTC seconds). Raises RightMissing."""
        self.check_may_invite()
        standing = self.standing
        expires_at = time.time() + expires_s
        opener = secrets.token_bytes(OPENER_BYTES)
        ticket = Ticket(
            network=standing.network,
            issuer=self.own,
            addresses=tuple(self._addresses_for(reach))[:ADDRESSES_IN_TICKET],
            relays=tuple(relays)[:RELAYS_IN_TICKET],
            expires_at=int(expires_at),
            admins=self._other_admins(),
            may_invite=may_invite,
            commitment=commitment_to(opener),
            reach=reach,
        )
        return write_ticket(ticket, secret=self._secret, opener=opener), expires_at

    def _addresses_for(self, reach: Reach) -> list[str]:
        """Return where we are reached; for the same local network, first what is only there."""
        found = list(self.whereabouts.addresses)
        return sorted(found, key=is_address_outside) if reach == "lan" else found

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
        issuer = self._issuer(ticket.issuer)
        rights = check_ticket(ticket, network=standing.network, issuer=issuer, now=time.time())
        if issuer is not None:
            # Who was put out can write tickets still, and name us as a door.
            self.revocations.judge(issuer)
        if self.revocations.is_named(joiner):
            raise Revoked(
                "this node was put out of the network, and a ticket does not bring it back",
                hint="ask to be let in: `p2prc join HOST`, for a member to approve",
            )
        return self.make_chain(joiner, rights)

    def make_chain(self, joiner: NodeId, rights: Rights) -> bytes:
        """Let somebody in. Raises RightMissing, and Revoked where it was put out for good."""
        standing = self.standing
        self.revocations.judge(standing.member)
        chain = admit(
            standing.chain,
            network=standing.network,
            secret=self._secret,
            joiner=joiner,
            rights=rights,
        )
        revoker = self.revocations.revoker_of(verify_chain(chain, network=standing.network))
        if revoker is not None:
            raise Revoked(
                f"{short(joiner)} was put out for good by {short(revoker)}",
                hint="it comes back with a key of its own making: a new home there, "
                "`p2prc --home DIR up`",
            )
        return chain

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
        try:
            return await self._join(ticket, text)
        except PeerUnreachable:
            # The member that admits has the last word, by its own clock: ours may be wrong. When
            # nobody answers, an old ticket is the likelier reason.
            check_fresh(ticket, now=time.time())
            raise

    async def _join(self, ticket: Ticket, text: str) -> Standing:
        if ticket.network == self.standing.network:
            if ticket.issuer == self.own:
                raise TicketForeign(
                    "this node made that ticket itself",
                    hint="it is for another machine: there, `p2prc up --detach`, then"
                    " `p2prc join TICKET`",
                )
            # A member of it already: the ticket's addresses may be newer than what we know.
            self._keep_relays(ticket.relays)
            await self._meet(ticket, await self._relays_as_member(ticket))
            return self.standing
        self._refuse_second_network()
        relays = await self.borrow_relays(ticket, shown_half(text))
        host, chain = await self._ask_in(ticket, "".join(text.split()), relays)
        member = verify_chain(chain, network=ticket.network)
        if member.node != self.own:
            raise NotMember("the chain that we were given names another node")
        await self._change_network(Standing(ticket.network, chain, member))
        self._keep_relays(ticket.relays)
        addresses = dict(ticket.bootstraps)[host]
        await self._links.reach_at(host, addresses, await self._relays_as_member(ticket))
        await self._hear_of(host)
        # Whoever reads "joined" may pull the plug: a restart must find the others again.
        self._save()
        return self.standing

    async def _relays_as_member(self, ticket: Ticket) -> tuple[str, ...]:
        # A guest's way through a member's relay is slow, and ends within a minute.
        return await self.borrow_relays(ticket, member_bearer(self.standing.chain))

    async def look_up(self, address: str) -> Doorplate:
        """Return who is at an address, to be asked. Raises AlreadyInNetwork, PeerError."""
        found = await look_up(address)
        if found.node == self.own:
            raise InvalidInput(
                f"that is this node ({fingerprint(self.own)})", hint="the address of another one"
            )
        self._refuse_second_network()
        return found

    async def ask(self, door: Doorplate, *, waiting: Callable[[], None]) -> Standing:
        """Ask to be let in and wait; enter. Cancelling this withdraws the request."""
        network, chain = await self._links.ask_in(
            door.node, door.addresses, name=self.description.name, waiting=waiting
        )
        member = verify_chain(chain, network=network)
        if member.node != self.own:
            raise NotMember("the chain that we were given names another node")
        self._refuse_second_network()
        await self._change_network(Standing(network, chain, member))
        await self._links.reach_at(door.node, door.addresses)
        await self._hear_of(door.node)
        self._save()
        return self.standing

    def _refuse_second_network(self) -> None:
        if self.revocations.revoker_of(self.standing.member) is not None:
            # Put out: there is nothing to leave.
            return
        if any(view.record.node != self.own and not view.record.has_left for view in self.nodes()):
            raise AlreadyInNetwork("this node is in a network with other members")

    def admins(self) -> list[NodeId]:
        """Return other members that are there and may let others in, those linked first."""
        found = []
        for view in self.nodes():
            member = None if view.is_self else self._issuer(view.record.node)
            if member is not None and member.rights.may_invite and view.state == "alive":
                found.append(view)
        return [view.record.node for view in sorted(found, key=lambda each: not each.is_connected)]

    async def _meet(self, ticket: Ticket, relays: Sequence[str]) -> None:
        for node, addresses in ticket.bootstraps:
            if node == self.own or not (addresses or relays):
                continue
            try:
                await self._links.reach_at(node, addresses, relays)
            except PeerError as error:
                log.info("a member does not answer", extra={"peer": node, "why": error.message})
            else:
                return await self._hear_of(node)
        return None

    async def _ask_in(
        self, ticket: Ticket, text: str, relays: Sequence[str]
    ) -> tuple[NodeId, bytes]:
        """Knock at the ticket's members in turn; return who opened, and our chain."""
        unreachable: P2prcError = PeerUnreachable("the ticket names no address")
        for node, addresses in ticket.bootstraps:
            if node == self.own or not (addresses or relays):
                continue
            try:
                chain = await self._links.join(
                    Bootstrap(node, addresses),
                    text,
                    network=ticket.network,
                    name=self.description.name,
                    relays=relays,
                )
            except (PeerError, TicketExpired) as error:
                # Expired by that member's clock; by another's perhaps not.
                unreachable = error
            else:
                return node, chain
        raise unreachable

    async def _hear_of(self, peer: NodeId) -> None:
        # The picture is worth printing once all are in it whom the member that admitted us knows.
        try:
            async with asyncio.timeout(HEARSAY_PATIENCE_S):
                while not self.gossip.has_caught_up(peer):
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
        self.revocations.forget(but_of=self.own)
        await self._links.leave_all(farewell=False)
        self._state.forget_records([stored.node for stored in self._state.records()])
        self._kept.clear()
        self._keep_relays(())
        self._enter(standing)

    def _keep_relays(self, relays: Sequence[str]) -> None:
        """Go on using what the ticket named, after a restart too."""
        found = tuple(url for url in relays if url.startswith(("http://", "https://")))
        if found != self.relays_of_ticket:
            self.relays_of_ticket = found
            self._state.set_values({RELAYS: "\n".join(found).encode() or None})

    def _remember(self, standing: Standing) -> None:
        values = {"network": standing.network.encode(), "membership": standing.chain}
        # A node whose disk is full can start again: it writes nothing that is there.
        if any(self._state.value(key) != content for key, content in values.items()):
            self._state.set_values(values)

    def _enter(self, standing: Standing) -> None:
        self._remember(standing)
        self._standing = standing
        self._revocations = Revocations(
            standing.network,
            state=self._state,
            rng=self._rng,
            tell=self._links.tell,
            posted=self._put_out,
        )
        machine = Membership(
            own=self._own_record(has_left=False),
            is_member=self._is_member,
            testify=lambda lives: testify(self._secret, lives),
            sponsor_of=self._sponsor_of,
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
        self._revocations.start()
        self._entered()

    def link_up(self, peer: NodeId) -> None:
        """A link to the peer exists."""
        link = self._links.get(peer)
        version = PROTOCOL_VERSION if link is None else min(link.version, PROTOCOL_VERSION)
        self.gossip.link_up(peer, version)
        if version >= NOTICES_SINCE_VERSION:
            self.revocations.link_up(peer)

    def link_down(self, peer: NodeId, *, on_purpose: bool) -> None:
        """The last link to the peer is gone; `on_purpose` when one of us hung up."""
        self.gossip.link_down(peer, on_purpose=on_purpose)
        self.revocations.link_down(peer)

    def _is_member(self, record: NodeRecord) -> bool:
        try:
            member = verify_chain(record.membership, network=self.standing.network)
        except NotMember:
            return False
        if self._revocations is not None and self._revocations.revoker_of(member) is not None:
            return False
        return member.node == record.node and record.network == self.standing.network

    def _sponsor_of(self, record: NodeRecord) -> NodeId | None:
        """Return the founder's guest by whose invitations this member is here, at any remove."""
        try:
            line = verify_chain(record.membership, network=self.standing.network).line
        except NotMember:
            return None
        return line[1] if len(line) > 2 else None

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
        kept, gone = [], []
        for node in sorted(changed):
            envelope = self.gossip.envelope_of(node)
            if envelope is None:
                gone.append(node)
            elif node != self.own:
                kept.append(StoredRecord(node, encode(envelope), time.time()))
        try:
            self._state.save_records(kept)
            self._state.forget_records(gone)
        except P2prcError as error:
            self._unsaved |= changed
            log.warning("the table of nodes was not saved", extra={"reason": error.message})
        else:
            self._kept = (self._kept | changed).difference(gone)

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

    def _new_network(self, *, is_open: bool = False) -> Standing:
        chain = found_network(self._secret, is_open=is_open)
        return Standing(self.own, chain, verify_chain(chain, network=self.own))
