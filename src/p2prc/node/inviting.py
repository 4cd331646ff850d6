"""Letting others in: tickets are written here, and looked at when somebody shows one."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from p2prc.authority import (
    Rights,
    admit,
    check_ticket,
    commitment_to,
    read_ticket,
    verify_chain,
    write_ticket,
)
from p2prc.errors import Revoked, RightMissing
from p2prc.model.identity import NodeId, short
from p2prc.model.ticket import OPENER_BYTES, RELAYS_IN_TICKET, Bootstrap, Reach, Ticket
from p2prc.node.network import Network
from p2prc.protocol.messages import Join
from p2prc.protocol.reachability_events import is_address_outside

ADDRESSES_IN_TICKET = 4
ADDRESSES_OF_ADMIN = 2
ADMINS_IN_TICKET = 2


class Inviting:
    """What a member with the right to invite does for newcomers."""

    def __init__(self, network: Network, secret: bytes) -> None:
        self._network = network
        self._secret = secret

    def check_may_invite(self) -> None:
        """Raise RightMissing or Revoked unless this node may let others in."""
        if not self._network.standing.member.rights.may_invite:
            raise RightMissing("this node was not given the right to invite others")
        self._network.revocations.judge(self._network.standing.member)

    def invite(
        self, *, expires_s: float, may_invite: bool, reach: Reach, relays: Sequence[str] = ()
    ) -> tuple[str, float]:
        """Write a ticket; return it and when it expires (UTC seconds). Raises RightMissing."""
        self.check_may_invite()
        standing = self._network.standing
        expires_at = time.time() + expires_s
        opener = secrets.token_bytes(OPENER_BYTES)
        ticket = Ticket(
            network=standing.network,
            issuer=self._network.own,
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
        found = list(self._network.told.whereabouts.addresses)
        return sorted(found, key=is_address_outside) if reach == "lan" else found

    def _other_admins(self) -> tuple[Bootstrap, ...]:
        """Return members that may admit too, for when we are away."""
        found = []
        for view in self._network.nodes():
            issuer = None if view.is_self else self._network.member_of(view.record.node)
            if issuer is not None and issuer.rights.may_invite and view.state == "alive":
                addresses = view.record.addresses[:ADDRESSES_OF_ADMIN]
                found.append(Bootstrap(view.record.node, addresses))
        return tuple(found[:ADMINS_IN_TICKET])

    def admins(self) -> list[NodeId]:
        """Return other members that are there and may let others in, those linked first."""
        found = []
        for view in self._network.nodes():
            member = None if view.is_self else self._network.member_of(view.record.node)
            if member is not None and member.rights.may_invite and view.state == "alive":
                found.append(view)
        return [view.record.node for view in sorted(found, key=lambda each: not each.is_connected)]

    def admit(self, joiner: NodeId, request: Join) -> bytes:
        """Make the chain of a newcomer with a good ticket; raises why not."""
        standing = self._network.standing
        if not standing.member.rights.may_invite:
            raise RightMissing(
                "this member may not admit others",
                hint="use a ticket of a member who may invite",
            )
        ticket = read_ticket(request.ticket)
        issuer = self._network.member_of(ticket.issuer)
        rights = check_ticket(ticket, network=standing.network, issuer=issuer, now=time.time())
        if issuer is not None:
            # Who was put out can write tickets still, and name us as a door.
            self._network.judge(issuer)
        if self._network.revocations.is_named(joiner):
            raise Revoked(
                "this node was put out of the network, and a ticket does not bring it back",
                hint="ask to be let in: `p2prc join HOST`, for a member to approve",
            )
        return self.make_chain(joiner, rights)

    def make_chain(self, joiner: NodeId, rights: Rights) -> bytes:
        """Let somebody in. Raises RightMissing, and Revoked where it was put out for good."""
        standing = self._network.standing
        self._network.revocations.judge(standing.member)
        chain = admit(
            standing.chain,
            network=standing.network,
            secret=self._secret,
            joiner=joiner,
            rights=rights,
        )
        revoker = self._network.revocations.revoker_of(
            verify_chain(chain, network=standing.network)
        )
        if revoker is not None:
            raise Revoked(
                f"{short(joiner)} was put out for good by {short(revoker)}",
                hint="it comes back with a key of its own making: a new home there, "
                "`p2prc --home DIR up`",
            )
        return chain
