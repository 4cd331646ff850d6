"""iroh's names for relays: one connection for each token, and the same relay for people."""

from __future__ import annotations

from p2prc.transport.iroh_relays import is_relay_url, name_of, shown_url
from p2prc.transport.port import RelayAccess

URL = "http://11.0.0.1:8088/"


def test_another_token_is_another_connection_to_the_same_host() -> None:
    guest, member = (name_of(RelayAccess(URL, token)) for token in ("ticket", "chain"))
    assert len({guest, member, URL}) == 3
    assert guest == name_of(RelayAccess(URL, "ticket"))
    assert {shown_url(guest), shown_url(member)} == {URL}
    assert is_relay_url(guest)


def test_without_a_token_a_relay_keeps_its_name() -> None:
    for url in (URL, "https://use1-1.relay.example./"):
        assert name_of(RelayAccess(url)) == url
