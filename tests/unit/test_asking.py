"""Claims about the list of those who ask to be let in: bounded, and readable by people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.errors import PeerBusy
from p2prc.model.identity import NodeId
from p2prc.protocol.asking import AskConfig, RequestBook, fingerprint, usable_name


def node(number: int) -> NodeId:
    return NodeId(f"{number:064x}")


def ask(book: RequestBook, number: int, *, address: str = "192.0.2.1:5", now: float = 0.0) -> None:
    book.add(node(number), name="ada", address=address, door=None, now=now)


def test_the_same_key_asks_once_and_its_newest_request_counts() -> None:
    book = RequestBook()
    ask(book, 1)
    ask(book, 1, address="192.0.2.9:7")
    assert [asked.address for asked in book.requests()] == ["192.0.2.9:7"]


def test_one_address_takes_a_few_places() -> None:
    book = RequestBook(AskConfig(limit=6, per_source=4, asks_burst=100))
    for number in range(4):
        ask(book, number)
    with pytest.raises(PeerBusy):
        ask(book, 9)


def test_a_few_addresses_that_fill_the_list_make_room_for_another() -> None:
    book = RequestBook(AskConfig(limit=6, per_source=4, asks_burst=100))
    for number in range(4):
        ask(book, number)
    ask(book, 10, address="192.0.2.2:1")
    ask(book, 11, address="192.0.2.3:1")
    ask(book, 12, address="192.0.2.4:1")
    assert [int(asked.joiner, 16) for asked in book.requests()] == [0, 1, 2, 10, 11, 12]
    # Now the first has three; who has one takes no place of theirs for a second and a third.
    ask(book, 13, address="192.0.2.4:1")
    with pytest.raises(PeerBusy):
        ask(book, 14, address="192.0.2.4:1")
    assert len(book.requests()) == 6


def test_a_list_full_of_single_requests_takes_no_more() -> None:
    book = RequestBook(AskConfig(limit=6, per_source=4, asks_burst=100))
    for number in range(6):
        ask(book, number, address=f"192.0.2.{number}:1")
    with pytest.raises(PeerBusy):
        ask(book, 9, address="192.0.2.9:1")


@pytest.mark.parametrize("of", ["", "[2001:db8::{:x}]:1"])
def test_who_may_be_one_takes_the_places_of_one(of: str) -> None:
    book = RequestBook(AskConfig(limit=60, per_source=4, asks_burst=100))
    for number in range(4):
        ask(book, number, address=of.format(number))
    with pytest.raises(PeerBusy):
        ask(book, 9, address=of.format(9))


def test_asking_again_and_again_is_refused_for_a_while() -> None:
    book = RequestBook(AskConfig(asks_burst=3, asks_per_s=1.0))
    for _ in range(3):
        ask(book, 1)
    with pytest.raises(PeerBusy, match="too often"):
        ask(book, 1)
    ask(book, 1, now=2.0)


def test_an_old_request_cannot_take_away_the_one_that_replaced_it() -> None:
    book = RequestBook()
    ask(book, 1)
    old = book.requests()[0]
    ask(book, 1)
    assert not book.remove(old)
    assert len(book.requests()) == 1


def test_a_fingerprint_is_the_beginning_of_the_id_in_groups() -> None:
    assert fingerprint(NodeId("0123456789abcdef" * 4)) == "0123-4567-89ab-cdef"


@given(st.text())
def test_a_strangers_name_is_plain_and_short(name: str) -> None:
    usable = usable_name(name)
    assert usable.isascii()
    assert usable.isprintable()
    assert len(usable) <= 63
    assert not usable.startswith("-")
    assert " " not in usable
