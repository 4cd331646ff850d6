"""Who is counted together."""

from __future__ import annotations

import pytest

from p2prc.protocol.asking import source_of
from p2prc.protocol.crowd import crowd_of


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "", True),
    ],
)
def test_a_subscriber_is_one(one: str, other: str, are_one: bool) -> None:
    assert (crowd_of(one) == crowd_of(other)) is are_one


def test_a_source_is_read_from_an_address() -> None:
    assert source_of("192.0.2.1:5") == source_of("192.0.2.1:6")
    assert source_of("[2001:db8::1]:5") == source_of("[2001:db8::2]:6")
    assert source_of("") == "unknown"
