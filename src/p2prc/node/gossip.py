"""Drives the membership machine: who is there, what they tell, whom we keep links with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from p2prc.errors import P2prcError
from p2prc.model.identity import NodeId, short
from p2prc.model.record import NodeRecord, SignedRecord
from p2prc.node.drive import Driver
from p2prc.node.links import Links
from p2prc.node.tasks import Tasks
from p2prc.protocol import membership, messages
from p2prc.protocol.membership import Membership, NodeView
from p2prc.protocol.previous_version import FIRST_SIGNING_VERSION

log = logging.getLogger(__name__)


class Gossip:
    """The network as seen from here, kept up to date."""

    def __init__(
        self,
        machine: Membership,
        *,
        links: Links,
        tasks: Tasks,
        changed: Callable[[NodeId], None],
        own_version_behind: Callable[[int], None],
    ) -> None:
        self._machine = machine
        self._links = links
        self._tasks = tasks
        self._changed = changed
        self._own_version_behind = own_version_behind
        self._driver = Driver(machine, self._perform, tick=membership.Tick)
        self._known_to: dict[NodeId, int] = {}

    def start(self) -> None:
        """Begin: the first deadline is set."""
        self._driver.feed(membership.Tick())

    def stop(self) -> None:
        """Hear and say nothing more."""
        self._driver.stop()

    def nodes(self) -> list[NodeView]:
        """Return every node known, ourselves included."""
        return self._machine.nodes(asyncio.get_running_loop().time())

    def record_of(self, node: NodeId) -> NodeRecord | None:
        """Return the newest record of a node."""
        return self._machine.record_of(node)

    def signed_of(self, node: NodeId) -> SignedRecord | None:
        """Return the newest record of a node as its author signed it."""
        return self._machine.signed_of(node)

    def refusals(self) -> dict[str, int]:
        """Return how often what was refused."""
        return dict(self._machine.refusals)

    def publish(self, record: SignedRecord) -> None:
        """Tell the network our new record."""
        self._driver.feed(membership.OwnRecordChanged(record))

    def members_barred(self) -> None:
        """Somebody was put out."""
        self._driver.feed(membership.MembersBarred())

    def link_up(self, peer: NodeId, version: int) -> None:
        """A link to the peer exists; it speaks this version of the protocol."""
        self._driver.feed(membership.PeerConnected(peer, version))

    def has_caught_up(self, peer: NodeId) -> bool:
        """Whether we know the peer, and as many nodes as it last said that it knows."""
        if self._machine.record_of(peer) is None:
            return False
        link = self._links.get(peer)
        if link is None or link.version < FIRST_SIGNING_VERSION:
            # It tells no number.
            return True
        return peer in self._known_to and self._machine.known_count >= self._known_to[peer]

    def link_down(self, peer: NodeId, *, on_purpose: bool) -> None:
        """The last link to the peer is gone."""
        self._known_to.pop(peer, None)
        self._driver.feed(membership.PeerLost(peer, on_purpose=on_purpose))

    def heard(self, peer: NodeId, message: messages.Gossip) -> None:
        """Take a peer's letter."""
        if isinstance(message, messages.Summary | messages.Leaves):
            self._known_to[peer] = message.known
        self._driver.feed(membership.MessageReceived(peer, message))

    def _perform(self, effect: membership.Effect) -> None:
        match effect:
            case membership.Send():
                self._links.tell(effect.peer, effect.message)
            case membership.Dial():
                self._tasks.start_for_peer(
                    self._dial(effect.node), f"gossip dials {short(effect.node)}"
                )
            case membership.HangUp():
                self._links.release(effect.peer)
            case membership.Shun():
                log.warning(
                    "a peer is shunned", extra={"peer": effect.peer, "reason": effect.reason}
                )
                self._tasks.start_for_peer(
                    self._links.drop(effect.peer, effect.reason), f"shun {short(effect.peer)}"
                )
            case membership.NodeChanged():
                self._changed(effect.node)
            case membership.OwnVersionBehind():
                self._own_version_behind(effect.version)

    async def _dial(self, node: NodeId) -> None:
        try:
            await self._links.reach(node)
        except P2prcError as error:
            log.debug("could not dial", extra={"peer": node, "reason": error.message})
            self._driver.feed(membership.DialFailed(node))
