"""Claims about membership chains: who is a member, and what nobody can forge."""

from __future__ import annotations

import pytest
from biscuit_auth import Biscuit, BiscuitBuilder, BlockBuilder, KeyPair, PrivateKey, PublicKey
from hypothesis import given
from hypothesis import strategies as st

from p2prc.authority import (
    ADMISSIONS_LIMIT,
    CHAIN_LIMIT_BYTES,
    Member,
    Rights,
    admit,
    found_network,
    verify_chain,
)
from p2prc.errors import NotMember, RightMissing
from p2prc.model.identity import NodeId
from p2prc.wire.signed import public_key_of

FOUNDER, ALICE, BOB, CAROL, DAVE, ERIN = (bytes([number]) * 32 for number in range(1, 7))
ADMIN = Rights(may_invite=True)
GUEST = Rights()


def node_of(secret: bytes) -> NodeId:
    return NodeId(public_key_of(secret).hex())


NETWORK = node_of(FOUNDER)


def chain_of(*secrets: bytes, rights: Rights = ADMIN) -> bytes:
    """The founder's chain, then one admission for each secret; the last gets `rights`."""
    chain, giver = found_network(FOUNDER), FOUNDER
    for secret in secrets:
        given_rights = rights if secret == secrets[-1] else ADMIN
        chain = admit(
            chain, network=NETWORK, secret=giver, joiner=node_of(secret), rights=given_rights
        )
        giver = secret
    return chain


def append_block(chain: bytes, signer: bytes, source: str, *, root: bytes = FOUNDER) -> bytes:
    """What a hostile member does by hand: any source, signed by its own key."""
    biscuit = Biscuit.from_bytes(chain, PublicKey(f"ed25519/{node_of(root)}"))
    key = PrivateKey(f"ed25519-private/{signer.hex()}")
    block = biscuit.third_party_request().create_block(key, BlockBuilder(source))
    return bytes(
        biscuit.append_third_party(KeyPair.from_private_key(key).public_key, block).to_bytes()
    )


def admission(joiner: bytes, *rights: str, network: NodeId = NETWORK) -> str:
    lines = [f'network("{network}");', f'member("{node_of(joiner)}");']
    return "\n".join(lines + [f'right("{right}");' for right in rights])


def test_the_founder_is_a_member_that_may_invite() -> None:
    member = verify_chain(found_network(FOUNDER), network=NETWORK)
    assert member == Member(NETWORK, ADMIN, depth=0, admitted_by=None)


def test_a_joiner_is_a_member_with_the_rights_it_was_given_and_no_more() -> None:
    chain = chain_of(ALICE, BOB, rights=GUEST)
    member = verify_chain(chain, network=NETWORK)
    assert member == Member(node_of(BOB), GUEST, depth=2, admitted_by=node_of(ALICE))


def test_the_network_stays_open_without_its_founder() -> None:
    alice = chain_of(ALICE)
    bob = admit(alice, network=NETWORK, secret=ALICE, joiner=node_of(BOB), rights=ADMIN)
    carol = admit(bob, network=NETWORK, secret=BOB, joiner=node_of(CAROL), rights=GUEST)
    assert verify_chain(carol, network=NETWORK).node == node_of(CAROL)


def test_a_member_without_the_right_cannot_admit() -> None:
    bob = chain_of(ALICE, BOB, rights=GUEST)
    with pytest.raises(RightMissing):
        admit(bob, network=NETWORK, secret=BOB, joiner=node_of(CAROL), rights=GUEST)


def test_an_admission_made_by_hand_without_the_right_is_refused() -> None:
    chain = append_block(chain_of(BOB, rights=GUEST), BOB, admission(CAROL))
    with pytest.raises(NotMember, match="may not invite"):
        verify_chain(chain, network=NETWORK)


def test_rights_only_shrink() -> None:
    chain = append_block(chain_of(BOB), BOB, admission(CAROL, "invite", "rule"))
    with pytest.raises(NotMember, match="more rights"):
        verify_chain(chain, network=NETWORK)


def test_four_admissions_are_the_longest_chain() -> None:
    longest = chain_of(ALICE, BOB, CAROL, DAVE)
    assert verify_chain(longest, network=NETWORK).depth == ADMISSIONS_LIMIT
    assert len(longest) <= CHAIN_LIMIT_BYTES
    with pytest.raises(RightMissing):
        admit(longest, network=NETWORK, secret=DAVE, joiner=node_of(ERIN), rights=GUEST)
    with pytest.raises(NotMember, match="more than 4"):
        verify_chain(append_block(longest, DAVE, admission(ERIN)), network=NETWORK)


def test_a_stranger_cannot_extend_a_chain_it_has_seen() -> None:
    seen = chain_of(ALICE)
    with pytest.raises(NotMember):
        admit(seen, network=NETWORK, secret=CAROL, joiner=node_of(CAROL), rights=GUEST)
    with pytest.raises(NotMember, match="not signed by the member"):
        verify_chain(append_block(seen, CAROL, admission(CAROL)), network=NETWORK)


def test_a_block_without_a_signer_admits_nobody() -> None:
    biscuit = Biscuit.from_bytes(chain_of(ALICE), PublicKey(f"ed25519/{NETWORK}"))
    chain = bytes(biscuit.append(BlockBuilder(admission(CAROL))).to_bytes())
    with pytest.raises(NotMember, match="not signed by the member"):
        verify_chain(chain, network=NETWORK)


def test_a_chain_of_another_network_admits_nobody_here() -> None:
    foreign = found_network(ALICE)
    with pytest.raises(NotMember):
        verify_chain(foreign, network=NETWORK)
    assert verify_chain(foreign, network=node_of(ALICE)).node == node_of(ALICE)
    # What was found to be good there, and is remembered, is still not good here.
    with pytest.raises(NotMember):
        verify_chain(foreign, network=NETWORK)


def test_an_admission_to_another_network_is_no_admission_here() -> None:
    source = admission(CAROL, network=node_of(ALICE))
    with pytest.raises(NotMember, match="another network"):
        verify_chain(append_block(chain_of(ALICE), ALICE, source), network=NETWORK)


def test_a_founder_block_must_name_the_founder() -> None:
    key = PrivateKey(f"ed25519-private/{FOUNDER.hex()}")
    chain = bytes(BiscuitBuilder(admission(ALICE, "invite")).build(key).to_bytes())
    with pytest.raises(NotMember, match="start at the founder"):
        verify_chain(chain, network=NETWORK)


@pytest.mark.parametrize(
    "extra",
    [
        "check if time($t), $t < 2030-01-01T00:00:00Z;",
        "right($r) <- member($m), right($r);",
        'note("hello");',
        f'member("{node_of(DAVE)}");',
        'right("Invite");',
        'right("invite", "everything");',
    ],
)
def test_extra_datalog_is_refused(extra: str) -> None:
    chain = append_block(chain_of(ALICE), ALICE, admission(CAROL) + "\n" + extra)
    with pytest.raises(NotMember):
        verify_chain(chain, network=NETWORK)


def test_facts_out_of_order_are_refused() -> None:
    swapped = f'member("{node_of(CAROL)}"); network("{NETWORK}");'
    unsorted = admission(CAROL, "lend", "invite")
    for source in (swapped, unsorted):
        with pytest.raises(NotMember, match=r"writes|order"):
            verify_chain(append_block(chain_of(ALICE), ALICE, source), network=NETWORK)


def test_an_oversized_chain_is_refused_before_it_is_read() -> None:
    with pytest.raises(NotMember, match="4096 bytes"):
        verify_chain(bytes(CHAIN_LIMIT_BYTES + 1), network=NETWORK)


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_never_makes_another_member(position: int, change: int) -> None:
    chain = bytearray(_TWO_ADMISSIONS)
    chain[position % len(chain)] ^= change
    try:
        member = verify_chain(bytes(chain), network=NETWORK)
    except NotMember:
        return
    assert member == verify_chain(_TWO_ADMISSIONS, network=NETWORK)


@given(st.binary(max_size=600))
def test_garbage_is_refused_with_a_reason(chain: bytes) -> None:
    with pytest.raises(NotMember, match=r"\w+ \w+"):
        verify_chain(chain, network=NETWORK)


@given(st.integers(0, 10**6))
def test_a_cut_chain_names_nobody(length: int) -> None:
    with pytest.raises(NotMember):
        verify_chain(_TWO_ADMISSIONS[: length % len(_TWO_ADMISSIONS)], network=NETWORK)


_TWO_ADMISSIONS = chain_of(ALICE, BOB)
