"""Whom a node's relay serves: members of its network, and for a minute those who hold a ticket.

A member's bearer is its membership chain, whose last member must be the key that the relay's
handshake proved: somebody else's bearer is worth nothing. A newcomer's bearer is the half of its
ticket that may be shown, which whoever listens on the way may use too: it opens a slow way to the
ticket's issuer alone, for a minute, to few at once, and nobody joins by it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, field

from blake3 import blake3

from p2prc.authority import SHOWN_PREFIX, Member, check_ticket, read_shown_half, verify_chain
from p2prc.errors import NotMember, PeerBusy
from p2prc.model.identity import NodeId, short
from p2prc.protocol.relay_events import RelayTerms

MEMBER_BYTES_PER_S = 64 << 20
JOINER_BYTES_PER_S = 256 << 10
JOINER_S = 60.0
JOINERS_PER_TICKET = 8
JOINERS_LIMIT = 64
"""How many newcomers, with whatever tickets, are served at once."""

_BASE64_GROUP = 4


def member_bearer(chain: bytes) -> str:
    """Return what a member shows to the relays of its network."""
    return base64.urlsafe_b64encode(chain).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class Household:
    """What admission asks of the node; each call gives the state of the moment.

    `network` may raise NotMember. `issuer` is what is known of a member, None when it is not one.
    `judge` raises Revoked for a member that was put out, NotMember for one whose chain is void
    otherwise. `now` is in unix seconds.
    """

    network: Callable[[], NodeId]
    issuer: Callable[[NodeId], Member | None]
    judge: Callable[[Member], None]
    now: Callable[[], float]


@dataclass(slots=True)
class RelayAdmission:
    """Call it with a proved key and a bearer."""

    household: Household
    _joiners: dict[tuple[bytes, NodeId], float] = field(default_factory=dict)
    """When the way ends of each newcomer and its ticket."""

    def __call__(self, key: NodeId, bearer: str) -> RelayTerms:
        """Return on which terms the holder of the key is served.

        Raises NotMember, Revoked, RightMissing, TicketInvalid and its kin, PeerBusy.
        """
        if not bearer:
            raise NotMember("this relay serves the members of its network alone")
        if bearer.startswith(SHOWN_PREFIX):
            return self._admit_joiner(key, bearer)
        return self._admit_member(key, bearer)

    def _admit_member(self, key: NodeId, bearer: str) -> RelayTerms:
        member = verify_chain(_from_base64(bearer), network=self.household.network())
        if member.node != key:
            raise NotMember(f"the chain was made for another node than {short(key)}")
        self.household.judge(member)
        # It has joined: its place is another newcomer's.
        self._joiners = {who: at for who, at in self._joiners.items() if who[1] != key}
        return RelayTerms(bytes_per_s=MEMBER_BYTES_PER_S)

    def _admit_joiner(self, key: NodeId, text: str) -> RelayTerms:
        home, ticket = self.household, read_shown_half(text)
        now = home.now()
        issuer = home.issuer(ticket.issuer)
        check_ticket(ticket, network=home.network(), issuer=issuer, now=now)
        if issuer is not None:
            home.judge(issuer)
        ends_at = self._place(blake3(text.encode()).digest(), key, now)
        return RelayTerms(
            expires_in_s=ends_at - now, only_to=ticket.issuer, bytes_per_s=JOINER_BYTES_PER_S
        )

    def _place(self, ticket: bytes, key: NodeId, now: float) -> float:
        """Find room for a newcomer; one that comes again within its minute keeps its end."""
        # A clock that was set back must not hold places for longer than they last.
        self._joiners = {who: at for who, at in self._joiners.items() if now < at <= now + JOINER_S}
        if (ends_at := self._joiners.get((ticket, key))) is not None:
            return ends_at
        of_ticket = sum(held == ticket for held, _ in self._joiners)
        if of_ticket >= JOINERS_PER_TICKET or len(self._joiners) >= JOINERS_LIMIT:
            raise PeerBusy("too many newcomers at once", hint="try again in a minute")
        self._joiners[ticket, key] = now + JOINER_S
        return now + JOINER_S


def _from_base64(bearer: str) -> bytes:
    """Return the chain; there is one text for it."""
    try:
        chain = base64.b64decode(
            bearer + "=" * (-len(bearer) % _BASE64_GROUP), altchars=b"-_", validate=True
        )
    except (binascii.Error, ValueError) as error:
        raise NotMember("the bearer is neither a membership chain nor half a ticket") from error
    if member_bearer(chain) != bearer:
        raise NotMember("the bearer is neither a membership chain nor half a ticket")
    return chain
