"""Addresses of peers: what may be dialled, and names that are looked up."""

from __future__ import annotations

import pytest

from p2prc.transport.addresses import dialable, resolved


async def test_a_name_is_looked_up_and_a_literal_is_left_alone() -> None:
    found = await resolved(["localhost:4433", "203.0.113.5:4433"])
    assert "127.0.0.1:4433" in found
    assert dialable(found)[0] == "203.0.113.5:4433"


@pytest.mark.parametrize(
    "published",
    [
        "no-such-host.invalid:1", "-bad:1", "a b:1", "x" * 300 + ":1", "host", ":1", "",
        "a..b:1", "x" * 70 + ".example:1", "localhost:99999",
        "[fe80::1%eth0]:1", f"[fe80::1%{'x' * 100}]:1", "[fe80::1%..]:1",
    ],
)  # fmt: skip
async def test_what_a_peer_publishes_is_never_more_than_left_out(published: str) -> None:
    assert dialable(await resolved([published])) == []
