"""Claims about notices: who can put out whom, what nobody can forge, and that all boards agree."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2prc.authority import Member, Rights, admit, found_network, verify_chain
from p2prc.errors import NotMember, WireError
from p2prc.model.identity import NodeId
from p2prc.model.notice import Revocation, SignedNotice, open_notice, sign_notice
from p2prc.protocol.messages import NoticeList, Notices, NoticeSummary, letter_codec
from p2prc.protocol.notices import (
    REFUSED,
    TOO_MANY,
    CheckedNotice,
    Effect,
    MessageReceived,
    NoticeBoard,
    NoticeConfig,
    OwnNotice,
    PeerConnected,
    Posted,
    Send,
    Tick,
)
from p2prc.wire.codec import encode
from p2prc.wire.signed import Envelope, public_key_of, sign

FOUNDER, ADMIN, GUEST, OTHER, STRANGER = (bytes([number]) * 32 for number in range(1, 6))


def node_of(secret: bytes) -> NodeId:
    return NodeId(public_key_of(secret).hex())


NETWORK = node_of(FOUNDER)
FOUNDERS_CHAIN = found_network(FOUNDER)


def let_in(chain: bytes, giver: bytes, joiner: bytes, *, may_invite: bool = False) -> bytes:
    rights = Rights(may_invite=may_invite)
    return admit(chain, network=NETWORK, secret=giver, joiner=node_of(joiner), rights=rights)


ADMINS_CHAIN = let_in(FOUNDERS_CHAIN, FOUNDER, ADMIN, may_invite=True)
GUESTS_CHAIN = let_in(ADMINS_CHAIN, ADMIN, GUEST)


def member_of(chain: bytes) -> Member:
    return verify_chain(chain, network=NETWORK)


def check(envelope: Envelope) -> CheckedNotice:
    """What a node checks: the same as in `node.revocations`, without its disk."""
    signed = open_notice(envelope)
    if signed.notice.network != NETWORK:
        raise NotMember
    author = verify_chain(signed.notice.membership, network=NETWORK)
    if author.node != signed.author or not author.rights.may_invite:
        raise NotMember
    return CheckedNotice(signed, author.depth)


def revocation(author: bytes, chain: bytes, node: NodeId, reason: str = "") -> SignedNotice:
    return sign_notice(Revocation(NETWORK, node, chain, issued_at=1, reason=reason), author)


def board(config: NoticeConfig | None = None) -> NoticeBoard:
    return NoticeBoard(check=check, rng=Random(1), now=0.0, config=config)


def told(at: NoticeBoard, *notices: SignedNotice, peer: NodeId | None = None) -> list[Effect]:
    sender = peer or node_of(OTHER)
    at.handle(PeerConnected(sender), 0.0)
    message = Notices(tuple(notice.envelope for notice in notices))
    return at.handle(MessageReceived(sender, message), 0.0)


def test_who_let_somebody_in_puts_it_out_with_all_that_came_through_it() -> None:
    here = board()
    told(here, revocation(FOUNDER, FOUNDERS_CHAIN, node_of(ADMIN)))
    assert here.revoker_in(member_of(ADMINS_CHAIN).line) == NETWORK
    assert here.revoker_in(member_of(GUESTS_CHAIN).line) == NETWORK
    assert here.revoker_in(member_of(FOUNDERS_CHAIN).line) is None


def test_an_admin_puts_out_nobody_that_another_let_in_not_even_by_admitting_it_anew() -> None:
    here = board()
    others_chain = let_in(FOUNDERS_CHAIN, FOUNDER, OTHER)
    let_in(ADMINS_CHAIN, ADMIN, OTHER)
    told(here, revocation(ADMIN, ADMINS_CHAIN, node_of(OTHER)))
    assert here.revoker_in(member_of(others_chain).line) is None
    assert here.names(node_of(OTHER))


def test_who_was_put_out_by_an_admin_may_be_let_in_by_the_founder() -> None:
    here = board()
    told(here, revocation(ADMIN, ADMINS_CHAIN, node_of(GUEST)))
    assert here.revoker_in(member_of(GUESTS_CHAIN).line) == node_of(ADMIN)
    again = let_in(FOUNDERS_CHAIN, FOUNDER, GUEST)
    assert here.revoker_in(member_of(again).line) is None


FOREIGN = Revocation(NodeId("ab" * 32), node_of(GUEST), ADMINS_CHAIN)
BAD = {
    "of a stranger": revocation(STRANGER, found_network(STRANGER), node_of(GUEST)).envelope,
    "with a stolen chain": revocation(STRANGER, ADMINS_CHAIN, node_of(GUEST)).envelope,
    "of a member that may not invite": revocation(GUEST, GUESTS_CHAIN, node_of(OTHER)).envelope,
    "of another network": sign_notice(FOREIGN, ADMIN).envelope,
    "against the founder": revocation(ADMIN, ADMINS_CHAIN, NETWORK).envelope,
    "against its own author": revocation(ADMIN, ADMINS_CHAIN, node_of(ADMIN)).envelope,
    "for another purpose": sign(
        ADMIN, "p2prc record 1", encode(Revocation(NETWORK, node_of(GUEST), ADMINS_CHAIN))
    ),
    "with a changed word": Envelope(
        public_key_of(ADMIN),
        revocation(ADMIN, ADMINS_CHAIN, node_of(GUEST)).envelope.payload[:-1] + b"x",
        revocation(ADMIN, ADMINS_CHAIN, node_of(GUEST)).envelope.signature,
    ),
    "too large": sign(ADMIN, "p2prc notice 1", b"x" * 6000),
    "empty": Envelope(b"", b"", b""),
}


@pytest.mark.parametrize("name", BAD)
def test_a_notice_that_counts_for_nothing_is_refused_and_counted(name: str) -> None:
    here = board()
    here.handle(PeerConnected(node_of(OTHER)), 0.0)
    effects = here.handle(MessageReceived(node_of(OTHER), Notices((BAD[name],))), 0.0)
    assert effects == []
    assert here.notices == []
    assert here.refusals[REFUSED] == 1


def test_news_is_pushed_once_before_it_is_acted_on_and_a_replay_is_no_news() -> None:
    here = board()
    peers = [node_of(ADMIN), node_of(GUEST), node_of(OTHER)]
    for peer in peers:
        here.handle(PeerConnected(peer), 0.0)
    notice = revocation(FOUNDER, FOUNDERS_CHAIN, node_of(GUEST))
    effects = told(here, notice)
    sent = [effect.peer for effect in effects if isinstance(effect, Send)]
    assert sorted(sent) == sorted(set(peers) - {node_of(OTHER)})
    assert isinstance(effects[-1], Posted)
    assert told(here, notice) == []
    # The same said again in other words changes nothing either.
    again = told(here, revocation(FOUNDER, FOUNDERS_CHAIN, node_of(GUEST), "once more"))
    assert not any(isinstance(effect, Posted | Send) for effect in again)


def test_whoever_was_away_catches_up_by_the_summary() -> None:
    old, new = board(), board()
    for number in range(150):
        target = NodeId(f"{number:064x}")
        signed = revocation(FOUNDER, FOUNDERS_CHAIN, target)
        old.handle(OwnNotice(CheckedNotice(signed, 0)), 0.0)
    talk(old, new)
    assert old.digest() == new.digest()
    assert len(new.notices) == 150
    # Then there is nothing left to say.
    assert new.handle(MessageReceived(node_of(ADMIN), NoticeSummary(old.digest())), 9.0) == []


def test_a_board_without_notices_says_nothing() -> None:
    here = board()
    assert here.handle(PeerConnected(node_of(ADMIN)), 0.0) == []
    assert here.handle(Tick(), 100.0) == []


def test_a_flood_is_bounded_and_the_founder_still_gets_through() -> None:
    config = NoticeConfig(limit=20, limit_per_author=12, notices_burst=40.0)
    here = board(config)
    second = let_in(ADMINS_CHAIN, ADMIN, OTHER, may_invite=True)
    for author, chain in ((ADMIN, ADMINS_CHAIN), (OTHER, second)):
        flood = [revocation(author, chain, NodeId(f"{number:064x}")) for number in range(30)]
        told(here, *flood, peer=node_of(author))
    assert len(here.notices) <= 20
    assert here.refusals[TOO_MANY] > 0
    told(here, revocation(FOUNDER, FOUNDERS_CHAIN, node_of(ADMIN)), peer=node_of(GUEST))
    assert here.revoker_in(member_of(second).line) == NETWORK
    assert len(here.notices) <= 20


def test_a_peer_is_checked_so_often_and_no_more() -> None:
    here = board(NoticeConfig(notices_burst=5.0))
    bad = tuple(Envelope(public_key_of(ADMIN), bytes([number]), b"\0" * 64) for number in range(50))
    here.handle(PeerConnected(node_of(OTHER)), 0.0)
    here.handle(MessageReceived(node_of(OTHER), Notices(bad)), 0.0)
    assert here.refusals[REFUSED] == 5
    lists = [
        here.handle(MessageReceived(node_of(OTHER), NoticeSummary(bytes(32))), 0.0)
        for _ in range(50)
    ]
    assert sum(map(len, lists)) < 10


def test_a_peer_that_is_not_connected_is_not_heard() -> None:
    here = board()
    notice = revocation(FOUNDER, FOUNDERS_CHAIN, node_of(GUEST))
    assert here.handle(MessageReceived(node_of(OTHER), Notices((notice.envelope,))), 0.0) == []
    assert here.notices == []


POOL = [
    revocation(author, chain, NodeId(f"{number:064x}"), reason)
    for author, chain in ((FOUNDER, FOUNDERS_CHAIN), (ADMIN, ADMINS_CHAIN))
    for number in range(8)
    for reason in ("", "twice")
]


@settings(max_examples=30, deadline=None)
@given(st.permutations(POOL), st.permutations(POOL))
def test_the_order_of_notices_does_not_matter(
    first: list[SignedNotice], second: list[SignedNotice]
) -> None:
    config = NoticeConfig(limit=12, limit_per_author=7, notices_burst=1000.0)
    boards = board(config), board(config)
    told(boards[0], *first)
    told(boards[1], *second)
    assert boards[0].digest() == boards[1].digest()


@given(st.binary(max_size=300))
def test_no_bytes_break_what_reads_them(content: bytes) -> None:
    with pytest.raises(WireError):
        open_notice(sign(ADMIN, "p2prc notice 1", content))
    with pytest.raises(WireError):
        letter_codec.decode(content)


def talk(first: NoticeBoard, second: NoticeBoard) -> None:
    """Carry messages between two boards until neither has more to say."""
    names = {node_of(ADMIN): first, node_of(GUEST): second}
    pending: list[tuple[NodeId, Effect]] = [
        (here, effect)
        for here, there in ((node_of(ADMIN), node_of(GUEST)), (node_of(GUEST), node_of(ADMIN)))
        for effect in names[here].handle(PeerConnected(there), 0.0)
    ]
    for _ in range(1000):
        if not pending:
            return
        sender, effect = pending.pop(0)
        if isinstance(effect, Send):
            assert isinstance(effect.message, NoticeSummary | NoticeList | Notices)
            received = MessageReceived(sender, effect.message)
            receiver = effect.peer
            pending += [(receiver, more) for more in names[receiver].handle(received, 0.0)]
    raise AssertionError("they never stop talking")
