"""What a service is told about who connects: the PROXY protocol's second version."""

from __future__ import annotations

import ipaddress
import struct

from hypothesis import given
from hypothesis import strategies as st

from p2prc.protocol.proxy_header import proxy_header

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")


def test_an_address_of_each_family() -> None:
    four = proxy_header("192.0.2.7:50000", 443)
    assert four == SIGNATURE + bytes.fromhex("2111000c c0000207 00000000 c350 01bb")
    six = proxy_header("[2001:db8::1]:50000", 443)
    source = ipaddress.ip_address("2001:db8::1").packed
    assert six == SIGNATURE + bytes.fromhex("21210024") + source + bytes(16) + b"\xc3\x50\x01\xbb"


@given(st.text(max_size=80), st.integers(0, 65535))
def test_whatever_a_gateway_says_is_an_address_or_nobody(client: str, port: int) -> None:
    header = proxy_header(client, port)
    assert header.startswith(SIGNATURE)
    command, family, length = struct.unpack("!BBH", header[12:16])
    assert len(header) == 16 + length
    assert (command, family, length) in {(0x20, 0, 0), (0x21, 0x11, 12), (0x21, 0x21, 36)}


def test_what_is_no_address_is_nobody() -> None:
    for odd in ("", "friend", "192.0.2.7", "192.0.2.7:0", "192.0.2.7:70000", "fe80::1%eth0:5"):
        assert proxy_header(odd, 80) == SIGNATURE + b"\x20\x00\x00\x00"
