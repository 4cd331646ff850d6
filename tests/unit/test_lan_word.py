"""The word on the local network: members of the network can read it, others learn nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.errors import WireError
from p2prc.model.identity import NodeId
from p2prc.reachability.lan import WORD, near_addresses, read_announcement
from p2prc.reachability.lan_word import ForeignWord, seal, unseal

ADA, HOME, OTHER = (NodeId(digit * 64) for digit in "a12")
WORD_OF_ADA = seal(ADA, network=HOME, port=8088, nonce=b"n" * 12)

ids = st.binary(min_size=32, max_size=32).map(lambda key: NodeId(key.hex()))


@given(ids, ids, st.integers(1, 65535), st.binary(min_size=12, max_size=12))
def test_a_member_reads_who_is_there(
    node: NodeId, network: NodeId, port: int, nonce: bytes
) -> None:
    word = seal(node, network=network, port=port, nonce=nonce)
    assert len(word) < 200
    assert unseal(word, network=network, port=port) == node


def test_another_network_reads_nothing() -> None:
    with pytest.raises(ForeignWord):
        unseal(WORD_OF_ADA, network=OTHER, port=8088)


def test_neither_the_node_nor_the_network_is_in_the_word() -> None:
    told = WORD_OF_ADA.decode().lower()
    assert ADA[:8] not in told
    assert HOME[:8] not in told
    assert seal(ADA, network=HOME, port=8088, nonce=b"m" * 12)[16:] != WORD_OF_ADA[16:]


def test_a_word_at_another_port_is_no_word() -> None:
    with pytest.raises(ForeignWord):
        unseal(WORD_OF_ADA, network=HOME, port=8089)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(text: bytes) -> None:
    with pytest.raises(WireError):
        unseal(text, network=HOME, port=8088)


@pytest.mark.parametrize(
    ("properties", "port"),
    [({}, 8088), ({WORD.encode(): None}, 8088), ({WORD.encode(): WORD_OF_ADA}, 0)],
)
def test_an_announcement_without_word_or_port_is_refused(
    properties: dict[bytes, bytes | None], port: int
) -> None:
    with pytest.raises(WireError):
        read_announcement(properties, port, network=HOME)


def test_only_addresses_of_our_own_networks_are_taken() -> None:
    strange = ["8.8.8.8", "127.0.0.1", "0.0.0.0", "224.0.0.1", "fe80::1%eth0", "::1", "no address"]
    assert near_addresses(strange, 8088) == ()
