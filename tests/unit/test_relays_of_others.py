"""Relays that others name in their records: what is never taken for one."""

from __future__ import annotations

import pytest

from p2prc.node.relay_urls import leads_away, served_by
from tests.unit.membership_room import BERT, record


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "127.8.9.1", "localhost", "LOCALHOST", "a.localhost", "localhost.",
        "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "0", "0x7f000001", "2130706433", "[::]",
        "169.254.1.1", "[fe80::1]", "224.0.0.1", "",
    ],
)  # fmt: skip
def test_nobody_elses_relay_is_at_our_own_machine(host: str) -> None:
    url = f"http://{host}:8088/"
    assert not leads_away(url)
    told = record(BERT, addresses=(f"{host}:8088",), relays=(url,), is_public=True)
    assert served_by(told.record) == []


@pytest.mark.parametrize("host", ["11.0.0.1", "192.168.1.2", "[2001:db8::1]", "relay.example.org"])
def test_relays_elsewhere_are_looked_at(host: str) -> None:
    url = f"http://{host}:8088/"
    assert leads_away(url)
    told = record(BERT, addresses=(f"{host}:8088",), relays=(url,), is_public=True)
    assert served_by(told.record) == [url]
