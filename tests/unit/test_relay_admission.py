"""Whom a relay admits: by chain, by ticket, and nobody else."""

from __future__ import annotations

import base64

import pytest

from p2prc.authority import (
    Member,
    Rights,
    admit,
    commitment_to,
    found_network,
    shown_half,
    verify_chain,
    write_ticket,
)
from p2prc.errors import (
    NotMember,
    P2prcError,
    PeerBusy,
    Revoked,
    TicketExpired,
    TicketForeign,
    TicketInvalid,
    TicketVersionUnsupported,
)
from p2prc.model.identity import NodeId
from p2prc.model.ticket import OPENER_BYTES, Ticket
from p2prc.relay.admission import (
    JOINER_BYTES_PER_S,
    JOINER_S,
    JOINERS_LIMIT,
    JOINERS_PER_TICKET,
    MEMBER_BYTES_PER_S,
    Household,
    RelayAdmission,
    member_bearer,
)
from p2prc.wire.signed import public_key_of

FOUNDER, MEMBER, STRANGER = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32


def node_of(secret: bytes) -> NodeId:
    return NodeId(public_key_of(secret).hex())


NETWORK = node_of(FOUNDER)
FOUNDERS = found_network(FOUNDER)
MEMBERS = admit(FOUNDERS, network=NETWORK, secret=FOUNDER, joiner=node_of(MEMBER), rights=Rights())


class Home:
    """A member's node, as admission sees it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.revoked: set[NodeId] = set()
        self.admission = RelayAdmission(
            Household(
                network=lambda: NETWORK,
                issuer=self.issuer,
                judge=self.judge,
                now=lambda: self.now,
            )
        )

    def issuer(self, node: NodeId) -> Member | None:
        known = {node_of(FOUNDER): FOUNDERS, node_of(MEMBER): MEMBERS}
        chain = known.get(node)
        return None if chain is None else verify_chain(chain, network=NETWORK)

    def judge(self, member: Member) -> None:
        if member.node in self.revoked:
            raise Revoked

    def refuses(self, key: bytes, bearer: str, error: type[P2prcError]) -> None:
        with pytest.raises(error):
            self.admission(node_of(key), bearer)


def whole(issuer: bytes, *, network: NodeId, number: int) -> str:
    opener = number.to_bytes(OPENER_BYTES, "big")
    made = Ticket(
        network=network,
        issuer=node_of(issuer),
        expires_at=1_000_600,
        commitment=commitment_to(opener),
    )
    return write_ticket(made, secret=issuer, opener=opener)


def ticket(issuer: bytes = FOUNDER, *, network: NodeId = NETWORK, number: int = 0) -> str:
    """Return what a newcomer shows of its ticket."""
    return shown_half(whole(issuer, network=network, number=number))


def joiner(number: int) -> NodeId:
    return NodeId(f"{number:064x}")


def test_a_member_shows_its_chain() -> None:
    home = Home()
    for secret, chain in ((FOUNDER, FOUNDERS), (MEMBER, MEMBERS)):
        terms = home.admission(node_of(secret), member_bearer(chain))
        assert (terms.expires_in_s, terms.only_to) == (None, None)
        assert terms.bytes_per_s == MEMBER_BYTES_PER_S


def test_another_s_bearer_is_worth_nothing() -> None:
    Home().refuses(STRANGER, member_bearer(MEMBERS), NotMember)


def test_a_member_of_another_network_is_a_stranger() -> None:
    Home().refuses(STRANGER, member_bearer(found_network(STRANGER)), NotMember)


@pytest.mark.parametrize(
    "bearer",
    [
        "",
        "x",
        "====",
        "ä" * 20,
        member_bearer(MEMBERS)[:-9],
        member_bearer(MEMBERS) + "==",
        " " + member_bearer(MEMBERS),
        base64.b64encode(b"\xff" * 99).decode(),
        "A" * 8000,
    ],
)
def test_anything_else_is_refused(bearer: str) -> None:
    Home().refuses(MEMBER, bearer, NotMember)


def test_a_revoked_member_is_refused() -> None:
    home = Home()
    home.revoked.add(node_of(MEMBER))
    home.refuses(MEMBER, member_bearer(MEMBERS), Revoked)


def test_a_ticket_opens_a_short_slow_way_to_its_issuer_alone() -> None:
    terms = Home().admission(joiner(1), ticket())
    assert terms.only_to == NETWORK
    assert terms.expires_in_s == JOINER_S
    assert terms.bytes_per_s == JOINER_BYTES_PER_S


def test_coming_again_does_not_prolong_it() -> None:
    home = Home()
    home.admission(joiner(1), ticket())
    home.now += 45.0
    assert home.admission(joiner(1), ticket()).expires_in_s == JOINER_S - 45.0
    home.now += 16.0
    assert home.admission(joiner(1), ticket()).expires_in_s == JOINER_S


def test_tickets_that_are_no_good() -> None:
    home = Home()
    home.refuses(STRANGER, ticket()[:-4], TicketInvalid)
    home.refuses(STRANGER, ticket(STRANGER, network=node_of(STRANGER)), TicketForeign)
    home.refuses(STRANGER, ticket(STRANGER), NotMember)
    home.refuses(STRANGER, "shown2", TicketInvalid)
    home.refuses(STRANGER, "shown1" + ticket()[6:], TicketVersionUnsupported)
    home.now += 601.0
    home.refuses(STRANGER, ticket(), TicketExpired)


def test_a_whole_ticket_opens_nothing() -> None:
    # Shown on the way in the clear, it is no secret any more: no relay makes that useful.
    Home().refuses(STRANGER, whole(FOUNDER, network=NETWORK, number=0), NotMember)


def test_a_ticket_of_one_who_may_not_invite_or_was_revoked_opens_nothing() -> None:
    home = Home()
    home.refuses(STRANGER, ticket(MEMBER), P2prcError)
    home.revoked.add(NETWORK)
    home.refuses(STRANGER, ticket(), Revoked)


def test_a_ticket_shown_by_many_serves_few_at_once() -> None:
    home = Home()
    for number in range(JOINERS_PER_TICKET):
        home.admission(joiner(number), ticket())
    home.refuses(STRANGER, ticket(), PeerBusy)
    home.admission(joiner(99), ticket(number=99_999))
    home.now += JOINER_S
    home.admission(joiner(98), ticket())


def test_who_has_joined_makes_room_for_the_next() -> None:
    home = Home()
    home.admission(node_of(MEMBER), ticket())
    for number in range(JOINERS_PER_TICKET - 1):
        home.admission(joiner(number), ticket())
    home.refuses(STRANGER, ticket(), PeerBusy)
    home.admission(node_of(MEMBER), member_bearer(MEMBERS))
    home.admission(node_of(STRANGER), ticket())


def test_many_tickets_serve_few_at_once() -> None:
    home = Home()
    for number in range(JOINERS_LIMIT):
        home.admission(joiner(number), ticket(number=number))
    home.refuses(STRANGER, ticket(number=99_999), PeerBusy)


def test_a_clock_set_back_frees_the_places() -> None:
    home = Home()
    for number in range(JOINERS_PER_TICKET):
        home.admission(joiner(number), ticket())
    home.now -= 86400.0
    home.admission(joiner(99), ticket())
