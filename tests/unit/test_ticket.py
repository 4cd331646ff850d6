"""Claims about tickets: one word, short enough, and refused with the right reason."""

from __future__ import annotations

import base64
import re
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from p2prc.authority import (
    Member,
    Rights,
    check_fresh,
    check_ticket,
    commitment_to,
    read_shown_half,
    read_ticket,
    shown_half,
)
from p2prc.authority import write_ticket as write_with_opener
from p2prc.authority.ticket_bytes import pack_ticket
from p2prc.errors import (
    NotMember,
    RightMissing,
    SettingInvalid,
    TicketExpired,
    TicketForeign,
    TicketInvalid,
    TicketVersionUnsupported,
)
from p2prc.model.identity import NodeId
from p2prc.model.ticket import OPENER_BYTES, TICKET_LIMIT_CHARACTERS, Bootstrap, Ticket
from p2prc.wire.signed import public_key_of, sign

FOUNDER, ALICE, BOB, CAROL = (bytes([number]) * 32 for number in range(1, 5))
OPENER = bytes(range(OPENER_BYTES))


def node_of(secret: bytes) -> NodeId:
    return NodeId(public_key_of(secret).hex())


NETWORK = node_of(FOUNDER)
EXPIRES_AT = 1_800_000_000
PLAIN = Ticket(
    network=NETWORK,
    issuer=NETWORK,
    expires_at=EXPIRES_AT,
    commitment=commitment_to(OPENER),
    addresses=("192.0.2.7:8088", "127.0.0.1:8088"),
)
FULL = Ticket(
    network=NETWORK,
    issuer=node_of(ALICE),
    expires_at=EXPIRES_AT,
    commitment=commitment_to(OPENER),
    addresses=("192.0.2.7:8088", "10.1.2.3:8088", "[2001:db8::17]:8088", "127.0.0.1:8088"),
    relays=("https://euw1-1.relay.example.org./", "https://use1-1.relay.example.org./"),
    admins=(Bootstrap(NETWORK, ("198.51.100.9:8088",)), Bootstrap(node_of(BOB))),
    may_invite=True,
    reach="internet",
)
OF_VERSION_1 = (
    "p2prc1aaeivchd3v2at4mv7vjnwlj4xjoxfsthbg7r3fasdpzxjcabwqhw6xaanne5eadon5xggzjbw7"
    "ffj4dwbg36ugm6wpbq6mp7oobdny26ju2cxaiiqu62tirr2ewaesvo5cfat64icgvprwcco2iwlru5xy"
    "qsrey5egfeee6kwq6uyaq"
)
ISSUER = Member(node_of(ALICE), Rights(may_invite=True), depth=1, admitted_by=NETWORK)


def write_ticket(ticket: Ticket, *, secret: bytes) -> str:
    return write_with_opener(ticket, secret=secret, opener=OPENER)


def ticket_with(**changes: Any) -> Ticket:
    return msgspec.structs.replace(FULL, **changes)


def test_a_ticket_says_what_was_written() -> None:
    assert read_ticket(write_ticket(PLAIN, secret=FOUNDER)) == PLAIN


def test_a_ticket_is_one_short_word_that_a_double_click_selects() -> None:
    text = write_ticket(FULL, secret=ALICE)
    assert re.fullmatch(r"p2prc[0-9a-z]+", text)
    assert len(text) <= TICKET_LIMIT_CHARACTERS
    read = read_ticket(text)
    assert read.addresses == FULL.addresses
    assert read.relays == FULL.relays


def test_addresses_stay_when_further_admins_do_not_fit() -> None:
    wordy = ticket_with(
        addresses=tuple(f"[2001:db8:1:2:3:4:5:{last:x}]:65535" for last in range(1, 5)),
        admins=(
            Bootstrap(node_of(BOB), ("[2001:db8::1]:1", "[2001:db8::2]:1")),
            Bootstrap(node_of(CAROL), ("[2001:db8::1]:1", "[2001:db8::2]:1")),
        ),
    )
    text = write_ticket(wordy, secret=ALICE)
    assert len(text) <= TICKET_LIMIT_CHARACTERS
    read = read_ticket(text)
    assert (read.addresses, read.relays) == (wordy.addresses, wordy.relays)


def test_two_further_admins_fit_beside_four_addresses() -> None:
    ticket = ticket_with(
        relays=(),
        addresses=("192.0.2.1:1", "192.0.2.2:2", "192.0.2.3:3", "192.0.2.4:4"),
        admins=(
            Bootstrap(node_of(BOB), ("198.51.100.1:8088",)),
            Bootstrap(node_of(CAROL), ("198.51.100.2:8088", "198.51.100.3:8088")),
        ),
    )
    read = read_ticket(write_ticket(ticket, secret=ALICE))
    assert read == ticket
    assert [node for node, _ in read.bootstraps] == [node_of(ALICE), node_of(BOB), node_of(CAROL)]


def test_white_space_line_breaks_and_capitals_do_no_harm() -> None:
    text = write_ticket(FULL, secret=ALICE)
    pasted = f"  \n{text[:100].upper()}\r\n {text[100:]}\t\n"
    assert read_ticket(pasted) == read_ticket(text)


@given(st.integers(0, 10**6))
def test_a_ticket_cut_short_is_invalid(length: int) -> None:
    text = write_ticket(PLAIN, secret=FOUNDER)
    with pytest.raises(TicketInvalid):
        read_ticket(text[: length % len(text)])


@given(st.integers(6, 10**6), st.sampled_from("abcdefghijklmnopqrstuvwxyz0123456789"))
def test_a_changed_character_makes_it_invalid(position: int, letter: str) -> None:
    text = TEXTS[position % len(TEXTS)]
    position = 6 + position % (len(text) - 6)
    changed = text[:position] + letter + text[position + 1 :]
    if changed == text:
        return
    with pytest.raises(TicketInvalid):
        read_ticket(changed)


@given(st.text(max_size=600))
def test_any_other_text_is_refused_as_a_ticket(text: str) -> None:
    for candidate in (text, "p2prc2" + text):
        with pytest.raises((TicketInvalid, TicketVersionUnsupported)):
            read_ticket(candidate)


def test_a_ticket_of_another_version_says_so() -> None:
    text = write_ticket(PLAIN, secret=FOUNDER)
    for version in "13":
        with pytest.raises(TicketVersionUnsupported, match=f"version {version}"):
            read_ticket(text[:5] + version + text[6:])


def test_a_ticket_of_version_1_says_so() -> None:
    with pytest.raises(TicketVersionUnsupported, match="a ticket of version 1, this is 2"):
        read_ticket(OF_VERSION_1)


def test_a_far_too_long_text_is_refused() -> None:
    with pytest.raises(TicketInvalid, match="too long"):
        read_ticket("p2prc2" + "a" * 10_000)
    with pytest.raises(TicketInvalid, match="too long"):
        read_ticket("p2prc2" + "a" * 510)


def test_only_the_issuer_can_sign_its_ticket() -> None:
    with pytest.raises(SettingInvalid):
        write_ticket(FULL, secret=BOB)


@pytest.mark.parametrize(
    "addresses", [("with space:1",), ("",), ("é:1",), ("a" * 201,), ("a:1",) * 5, ("new\nline:1",)]
)
def test_a_malformed_ticket_is_never_written(addresses: tuple[str, ...]) -> None:
    with pytest.raises(SettingInvalid):
        write_ticket(ticket_with(addresses=addresses), secret=ALICE)


def test_an_admitting_member_gives_what_the_ticket_says() -> None:
    rights = check_ticket(FULL, network=NETWORK, issuer=ISSUER, now=EXPIRES_AT - 1)
    assert rights == Rights(may_invite=True)
    guest = ticket_with(may_invite=False)
    assert check_ticket(guest, network=NETWORK, issuer=ISSUER, now=0) == Rights()


def test_an_expired_ticket_says_so_at_both_ends() -> None:
    with pytest.raises(TicketExpired):
        check_fresh(FULL, now=EXPIRES_AT)
    with pytest.raises(TicketExpired):
        check_ticket(FULL, network=NETWORK, issuer=ISSUER, now=EXPIRES_AT)
    check_fresh(FULL, now=EXPIRES_AT - 0.1)


def test_a_ticket_of_another_network_says_so() -> None:
    with pytest.raises(TicketForeign):
        check_ticket(FULL, network=node_of(CAROL), issuer=ISSUER, now=0)


def test_a_ticket_gives_no_more_than_its_issuer_has() -> None:
    guest = Member(node_of(ALICE), Rights(), depth=1, admitted_by=NETWORK)
    for ticket in (FULL, ticket_with(may_invite=False)):
        with pytest.raises(RightMissing):
            check_ticket(ticket, network=NETWORK, issuer=guest, now=0)


def test_a_ticket_by_a_stranger_admits_nobody() -> None:
    stranger = Member(node_of(BOB), Rights(may_invite=True), depth=0, admitted_by=None)
    for issuer in (None, stranger):
        with pytest.raises(NotMember):
            check_ticket(FULL, network=NETWORK, issuer=issuer, now=0)


def test_every_last_character_counts() -> None:
    # Base32 of most lengths has bits to spare in its last character.
    for text in TEXTS:
        for letter in set("abcdefghijklmnopqrstuvwxyz234567") - {text[-1]}:
            with pytest.raises(TicketInvalid):
                read_ticket(text[:-1] + letter)


@pytest.mark.parametrize("extra", [b"\0", b"more"])
def test_well_signed_bytes_that_say_more_than_a_ticket_are_invalid(extra: bytes) -> None:
    payload = pack_ticket(PLAIN) + extra
    body = payload + sign(FOUNDER, "p2prc ticket 2", payload).signature + OPENER
    text = "p2prc2" + base64.b32encode(body).decode().rstrip("=").lower()
    with pytest.raises(TicketInvalid):
        read_ticket(text)


@pytest.mark.parametrize(
    "address",
    ["192.0.2.1:080", "[2001:DB8::1]:1", "[2001:db8:0:0::1]:1", "192.0.2.1:65536", "::1:80", "a"],
)
def test_an_address_stays_as_it_was_written(address: str) -> None:
    ticket = ticket_with(addresses=(address,))
    assert read_ticket(write_ticket(ticket, secret=ALICE)).addresses == (address,)


@given(st.sampled_from([(PLAIN, FOUNDER), (FULL, ALICE)]))
def test_half_a_ticket_says_all_but_the_opener(case: tuple[Ticket, bytes]) -> None:
    ticket, secret = case
    text = write_ticket(ticket, secret=secret)
    shown = shown_half(f" {text[:50].upper()}\n{text[50:]} ")
    assert read_shown_half(shown) == read_ticket(text)
    assert len(shown) < len(text)
    assert OPENER not in _bytes_of(shown.removeprefix("shown2"))
    assert OPENER in _bytes_of(text.removeprefix("p2prc2"))


@given(st.sampled_from([b"", OPENER[:-1], bytes(OPENER_BYTES)]) | st.binary(max_size=64))
def test_nobody_joins_by_the_half_that_relays_are_shown(guess: bytes) -> None:
    shown = shown_half(write_ticket(PLAIN, secret=FOUNDER))
    signed = _bytes_of(shown.removeprefix("shown2"))
    assume(guess != OPENER)
    for candidate in (
        shown,
        "p2prc2" + shown.removeprefix("shown2"),
        "p2prc2" + _text_of(signed + guess),
    ):
        with pytest.raises(TicketInvalid):
            read_ticket(candidate)


def test_a_commitment_is_no_opener() -> None:
    signed = _bytes_of(shown_half(write_ticket(PLAIN, secret=FOUNDER)).removeprefix("shown2"))
    with pytest.raises(TicketInvalid):
        read_ticket("p2prc2" + _text_of(signed + PLAIN.commitment))


def test_only_the_opener_that_a_ticket_commits_to_is_written() -> None:
    for opener in (b"", OPENER[:-1], OPENER + b"\0", bytes(OPENER_BYTES)):
        with pytest.raises(SettingInvalid):
            write_with_opener(PLAIN, secret=FOUNDER, opener=opener)


@given(st.text(max_size=600))
def test_any_other_text_is_refused_as_half_a_ticket(text: str) -> None:
    for candidate in (text, "shown2" + text, "shown" + text):
        with pytest.raises((TicketInvalid, TicketVersionUnsupported)):
            read_shown_half(candidate)


@given(st.integers(0, 10**6), st.characters())
def test_a_change_in_what_is_shown_is_seen(position: int, letter: str) -> None:
    shown = shown_half(write_ticket(FULL, secret=ALICE))
    position %= len(shown)
    changed = shown[:position] + letter + shown[position + 1 :]
    if changed != shown:
        with pytest.raises((TicketInvalid, TicketVersionUnsupported)):
            read_shown_half(changed)
    with pytest.raises((TicketInvalid, TicketVersionUnsupported)):
        read_shown_half(shown[:position])


def test_a_whole_ticket_is_not_what_is_shown() -> None:
    text = write_ticket(PLAIN, secret=FOUNDER)
    for candidate in (text, "shown2" + text.removeprefix("p2prc2"), shown_half(text).upper()):
        with pytest.raises(TicketInvalid):
            read_shown_half(candidate)


def _bytes_of(text: str) -> bytes:
    return base64.b32decode(text.upper() + "=" * (-len(text) % 8))


def _text_of(content: bytes) -> str:
    return base64.b32encode(content).decode().rstrip("=").lower()


TEXTS = [
    write_ticket(msgspec.structs.replace(PLAIN, addresses=("a" * length + ":1",)), secret=FOUNDER)
    for length in range(5)
]

_hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda number: f"[{number}]"),
    st.from_regex(r"[a-z][a-z0-9.-]{0,15}", fullmatch=True),
)
_addresses = st.builds(lambda host, port: f"{host}:{port}", _hosts, st.integers(0, 65535))


@given(
    addresses=st.lists(_addresses, max_size=4).map(tuple),
    relays=st.lists(st.sampled_from(["https://a.b/", "http://c:1", "d"]), max_size=2).map(tuple),
    expires_at=st.integers(0, (1 << 40) - 1),
    may_invite=st.booleans(),
    reach=st.sampled_from(["internet", "relay", "lan"]),
    secret=st.sampled_from([FOUNDER, ALICE]),
)
def test_every_ticket_reads_back(secret: bytes, **fields: Any) -> None:
    ticket = ticket_with(issuer=node_of(secret), admins=(), **fields)
    read = read_ticket(write_ticket(ticket, secret=secret))
    relays = tuple("https://d" if relay == "d" else relay for relay in ticket.relays)
    assert read == msgspec.structs.replace(ticket, relays=relays)
