"""This node's membership: its standing, its picture of who else is there, and what it tells them.

How it comes into a network is `joining`'s, how others come in is `inviting`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from random import Random

from p2prc.authority import Member, found_network, verify_chain
from p2prc.errors import AlreadyInNetwork, NodeUnknown, NotMember
from p2prc.model.identity import NodeId, short
from p2prc.model.record import NodeRecord, SignedRecord
from p2prc.model.testimony import testify
from p2prc.node.gossip import Gossip
from p2prc.node.kept_network import KeptNetwork
from p2prc.node.links import Links
from p2prc.node.own_record import OwnRecord, Whereabouts
from p2prc.node.revocations import Revocations
from p2prc.node.standing import Standing
from p2prc.node.tasks import Tasks
from p2prc.protocol.membership import Membership, NodeView
from p2prc.protocol.messages import NOTICES_SINCE_VERSION, PROTOCOL_VERSION
from p2prc.storage.state import State

PUBLISH_DELAY_S = 0.25
"""Changes of free capacity are gathered this long before our record is signed anew."""
HEARSAY_PATIENCE_S = 3.0

log = logging.getLogger(__name__)


class Network:
    """Our place in the network and our picture of it."""

    def __init__(
        self,
        secret: bytes,
        own: NodeId,
        told: OwnRecord,
        *,
        links: Links,
        state: State,
        tasks: Tasks,
        rng: Random,
        changed: Callable[[NodeId], None],
        entered: Callable[[], None],
        put_out: Callable[[], None],
        is_open: bool = False,
    ) -> None:
        self.own = own
        self.told = told
        self.kept = KeptNetwork(own, state, self._signed_of)
        self._secret = secret
        self._links = links
        self._state = state
        self._tasks = tasks
        self._rng = rng
        self._changed = changed
        self._entered = entered
        self._put_out = put_out
        self._founds_open = is_open
        self._revocations: Revocations | None = None
        self._standing: Standing | None = None
        self._gossip: Gossip | None = None
        self._publishing: asyncio.TimerHandle | None = None
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
        views = self.gossip.nodes()
        if self.revocations.is_empty:
            return views
        return [view for view in views if self._is_shown(view)]

    def _is_shown(self, view: NodeView) -> bool:
        return view.is_self or not self.is_put_out(view.record.node)

    def member_of(self, node: NodeId) -> Member | None:
        """Return what a node's chain says, None while we know no record of it."""
        if node == self.own:
            return self.standing.member
        record = self.gossip.record_of(node)
        if record is None:
            return None
        return verify_chain(record.membership, network=self.standing.network)

    def is_put_out(self, node: NodeId) -> bool:
        """Whether the node's membership, as far as we know it, is void."""
        if self.revocations.is_empty:
            return False
        member = self.member_of(node)
        return member is not None and self.revocations.revoker_of(member) is not None

    def revoke(self, node: NodeId, *, reason: str) -> None:
        """Put a member out, with all that came in through it. Raises RightMissing, NodeUnknown."""
        member = self.member_of(node)
        if member is None:
            raise NodeUnknown(f"nothing is known of {short(node)}")
        self.revocations.revoke(member, self.standing, secret=self._secret, reason=reason)

    def judge(self, member: Member) -> None:
        """Raise Revoked or NotMember when a chain that was checked is void all the same."""
        self.revocations.judge(member)
        if member.is_open != self.standing.member.is_open:
            # One key names one network, founded open or not: whom one let in, the other did not.
            raise NotMember("a member of the network that its founder ended, to begin anew")

    def was_put_out(self, node: NodeId) -> bool:
        """Whether anybody ever put out this key: a person decides whether it comes back."""
        return self.revocations.is_named(node)

    def start(self) -> None:
        """Enter the network of the last run, or found one. Raises AlreadyInNetwork."""
        stored = self.kept.standing()
        if stored is not None and self._founds_open and not stored.member.is_open:
            if stored.network != self.own or self.kept.has_records():
                raise AlreadyInNetwork(
                    "this node is in a network, and only one that is founded can be made open",
                    hint="start it without `--open`, `p2prc leave` and `p2prc down`, "
                    "then `p2prc up --open`",
                )
            stored = None
        self._enter(stored or self._new_network(is_open=self._founds_open))

    def stop(self) -> None:
        """Tell the others that we are down, and say nothing more."""
        if self._publishing is not None:
            self._publishing.cancel()
        if self._gossip is not None:
            self._gossip.publish(self._own_record(is_down=True))
            self._gossip.stop()
            self.revocations.stop()
        self.kept.close()

    # -- what we tell --

    def record_changed(self) -> None:
        """Something that we tell has changed: sign a new record soon."""
        if self._publishing is None and self._gossip is not None:
            loop = asyncio.get_running_loop()
            self._publishing = loop.call_later(PUBLISH_DELAY_S, self._publish)

    def moved(self, to: Whereabouts) -> None:
        """Let the others know where we can be reached from now on."""
        if to != self.told.whereabouts:
            self.told.whereabouts = to
            self.record_changed()

    def change_metadata(self, changes: Mapping[str, str]) -> None:
        """Set values, and remove those that are empty. Raises SettingInvalid."""
        self.told.change_metadata(changes, self.standing)
        self.record_changed()

    def _publish(self) -> None:
        self._publishing = None
        # Everybody checks every version: one that says nothing new would cost them all.
        if self.told.has_news(self.standing):
            self.gossip.publish(self._own_record())

    def _own_record(self, *, has_left: bool = False, is_down: bool = False) -> SignedRecord:
        return self.told.sign(self.standing, has_left=has_left, is_down=is_down)

    def _outnumbered(self, version: int) -> None:
        self.told.outnumbered(version)
        self.record_changed()

    # -- another network --

    async def hear_of(self, peer: NodeId) -> None:
        """Wait a little for what the member knows that let us in."""
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
        await self.change(self._new_network())

    async def change(self, standing: Standing) -> None:
        """Be in another network from now on. Raises MachineCannot, and nothing has changed."""
        # First of all what may fail: on a full disk everything stays as it was.
        self.kept.remember(standing)
        if self._gossip is not None:
            self._gossip.stop()
        self.revocations.forget(but_of=self.own)
        await self._links.leave_all(farewell=False)
        self.kept.forget()
        self._enter(standing)

    def _enter(self, standing: Standing) -> None:
        self.kept.remember(standing)
        self._standing = standing
        self._revocations = Revocations(
            standing.network,
            state=self._state,
            rng=self._rng,
            tell=self._links.tell,
            posted=self._put_out,
        )
        machine = Membership(
            own=self._own_record(),
            is_member=self._is_member,
            testify=lambda lives: testify(self._secret, lives),
            sponsor_of=self._sponsor_of,
            rng=self._rng,
            now=asyncio.get_running_loop().time(),
            known=self.kept.records(),
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

    # -- what others say --

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
        if member.is_open != self.standing.member.is_open:
            return False
        return member.node == record.node and record.network == self.standing.network

    def _sponsor_of(self, record: NodeRecord) -> NodeId | None:
        """Return the founder's guest by whose invitations this member is here, at any remove."""
        try:
            line = verify_chain(record.membership, network=self.standing.network).line
        except NotMember:
            return None
        return line[1] if len(line) > 2 else None

    def _signed_of(self, node: NodeId) -> SignedRecord | None:
        return self.gossip.signed_of(node)

    def _node_changed(self, node: NodeId) -> None:
        self._news.set()
        self.kept.changed(node)
        self._changed(node)

    def _new_network(self, *, is_open: bool = False) -> Standing:
        chain = found_network(self._secret, is_open=is_open)
        return Standing(self.own, chain, verify_chain(chain, network=self.own))
