"""Entering a network: by a ticket, or by asking a member to be let in."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from p2prc.authority import check_fresh, read_ticket, shown_half, verify_chain
from p2prc.errors import (
    AlreadyInNetwork,
    InvalidInput,
    NotMember,
    P2prcError,
    PeerError,
    PeerUnreachable,
    TicketExpired,
    TicketForeign,
)
from p2prc.model.identity import NodeId
from p2prc.model.ticket import Bootstrap, Ticket
from p2prc.node.links import Links, Meeting
from p2prc.node.lookup import Doorplate, look_up
from p2prc.node.network import Network
from p2prc.node.standing import Standing
from p2prc.protocol.asking import fingerprint
from p2prc.relay.admission import member_bearer

BorrowRelays = Callable[[Ticket, Callable[[], str]], Awaitable[tuple[str, ...]]]
"""Make ready to dial through a ticket's relays, showing members' this bearer; return their URLs."""

log = logging.getLogger(__name__)


class Joining:
    """Takes this node into another network."""

    def __init__(self, network: Network, links: Links, borrow_relays: BorrowRelays) -> None:
        self._network = network
        self._links = links
        self._borrow_relays = borrow_relays

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
        if ticket.network == self._network.standing.network:
            if ticket.issuer == self._network.own:
                raise TicketForeign(
                    "this node made that ticket itself",
                    hint="it is for another machine: there, `p2prc up --detach`, then"
                    " `p2prc join TICKET`",
                )
            # A member of it already: the ticket's addresses may be newer than what we know.
            self._network.kept.keep_relays(ticket.relays)
            await self._meet(ticket, await self._relays_as_member(ticket))
            return self._network.standing
        self._refuse_second_network()
        relays = await self._borrow_relays(ticket, lambda: shown_half(text))
        host, chain, meeting = await self._ask_in(ticket, "".join(text.split()), relays)
        try:
            await self._network.change(self._standing_of(ticket.network, chain))
            self._network.kept.keep_relays(ticket.relays)
        except BaseException:
            await meeting.connection.close("not joined")
            raise
        relays = await self._relays_as_member(ticket)
        if not await self._links.keep(meeting):
            await self._links.reach_at(host, dict(ticket.bootstraps)[host], relays)
        await self._network.hear_of(host)
        # Whoever reads "joined" may pull the plug: a restart must find the others again.
        self._network.kept.save()
        return self._network.standing

    async def _relays_as_member(self, ticket: Ticket) -> tuple[str, ...]:
        # A guest's way through a member's relay is slow, and ends within a minute.
        return await self._borrow_relays(
            ticket, lambda: member_bearer(self._network.standing.chain)
        )

    async def _meet(self, ticket: Ticket, relays: Sequence[str]) -> None:
        for node, addresses in ticket.bootstraps:
            if node == self._network.own or not (addresses or relays):
                continue
            try:
                await self._links.reach_at(node, addresses, relays)
            except PeerError as error:
                log.info("a member does not answer", extra={"peer": node, "why": error.message})
            else:
                return await self._network.hear_of(node)
        return None

    async def _ask_in(
        self, ticket: Ticket, text: str, relays: Sequence[str]
    ) -> tuple[NodeId, bytes, Meeting]:
        """Knock at the ticket's members in turn; return who opened, our chain, the connection."""
        unreachable: P2prcError = PeerUnreachable("the ticket names no address")
        for node, addresses in ticket.bootstraps:
            if node == self._network.own or not (addresses or relays):
                continue
            try:
                chain, meeting = await self._links.join(
                    Bootstrap(node, addresses),
                    text,
                    network=ticket.network,
                    name=self._network.told.description.name,
                    relays=relays,
                )
            except (PeerError, TicketExpired) as error:
                # Expired by that member's clock; by another's perhaps not.
                unreachable = error
            else:
                return node, chain, meeting
        raise unreachable

    async def look_up(self, address: str) -> Doorplate:
        """Return who is at an address, to be asked. Raises AlreadyInNetwork, PeerError."""
        found = await look_up(address)
        if found.node == self._network.own:
            raise InvalidInput(
                f"that is this node ({fingerprint(self._network.own)})",
                hint="the address of another one",
            )
        self._refuse_second_network()
        return found

    async def ask(self, door: Doorplate, *, waiting: Callable[[], None]) -> Standing:
        """Ask to be let in and wait; enter. Cancelling this withdraws the request."""
        network, chain = await self._links.ask_in(
            door.node, door.addresses, name=self._network.told.description.name, waiting=waiting
        )
        standing = self._standing_of(network, chain)
        self._refuse_second_network()
        await self._network.change(standing)
        await self._links.reach_at(door.node, door.addresses)
        await self._network.hear_of(door.node)
        self._network.kept.save()
        return self._network.standing

    def _standing_of(self, network: NodeId, chain: bytes) -> Standing:
        member = verify_chain(chain, network=network)
        if member.node != self._network.own:
            raise NotMember("the chain that we were given names another node")
        return Standing(network, chain, member)

    def _refuse_second_network(self) -> None:
        if self._network.revocations.revoker_of(self._network.standing.member) is not None:
            # Put out: there is nothing to leave.
            return
        if any(
            view.record.node != self._network.own and not view.record.has_left
            for view in self._network.nodes()
        ):
            raise AlreadyInNetwork("this node is in a network with other members")
