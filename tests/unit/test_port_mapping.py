"""The packets and texts with which a router is asked for a port."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.errors import WireError
from p2prc.protocol.port_mapping import (
    Protocol,
    Unwilling,
    pcp_request,
    pmp_address_request,
    pmp_request,
    read_pcp,
    read_pmp,
    read_pmp_address,
)
from p2prc.protocol.upnp import at_gateway, mapping_fields, read_location, search, soap
from p2prc.reachability.xml_values import read_xml

NONCE = b"123456789012"
ports = st.integers(1, 65535)
protocols = st.sampled_from(["udp", "tcp"])


def pcp_answer(
    request: bytes, *, result: int = 0, outer: int = 4242, host: str = "11.0.0.1"
) -> bytes:
    """What a router says to a request (RFC 6887, 7.2 and 11.1)."""
    packed = bytes(10) + b"\xff\xff" + bytes(map(int, host.split(".")))
    head = struct.pack("!BBBBII12s", 2, 0x81, 0, result, 7200, 1, bytes(12))
    return head + request[24:42] + struct.pack("!H", outer) + packed


@given(protocols, ports, ports)
def test_a_router_that_speaks_pcp_is_understood(protocol: Protocol, port: int, outer: int) -> None:
    request = pcp_request(protocol, port, port, client="192.168.1.5", nonce=NONCE, lifetime_s=7200)
    assert len(request) == 60
    opened = read_pcp(pcp_answer(request, outer=outer), protocol, port, nonce=NONCE)
    assert (opened.host, opened.port, opened.lifetime_s) == ("11.0.0.1", outer, 7200)


def test_pcp_answers_to_others_and_refusals() -> None:
    request = pcp_request("udp", 80, 80, client="10.0.0.2", nonce=NONCE, lifetime_s=60)
    answer = pcp_answer(request)
    for protocol, port, nonce in (("tcp", 80, NONCE), ("udp", 81, NONCE), ("udp", 80, b"x" * 12)):
        with pytest.raises(WireError, match="somebody else"):
            read_pcp(answer, protocol, port, nonce=nonce)  # type: ignore[arg-type]
    with pytest.raises(Unwilling, match="refuses"):
        read_pcp(pcp_answer(request, result=2), "udp", 80, nonce=NONCE)
    with pytest.raises(Unwilling, match="NAT-PMP"):
        read_pcp(b"\0\x81\0\1" + bytes(4), "udp", 80, nonce=NONCE)


@given(protocols, ports, ports)
def test_a_router_that_speaks_nat_pmp_is_understood(
    protocol: Protocol, port: int, outer: int
) -> None:
    _, operation, _, inner, _, _ = struct.unpack(
        "!BBHHHI", pmp_request(protocol, port, port, lifetime_s=60)
    )
    answer = struct.pack("!BBHIHHI", 0, operation | 0x80, 0, 1, inner, outer, 60)
    opened = read_pmp(answer, protocol, port)
    assert (opened.port, opened.lifetime_s) == (outer, 60)


def test_nat_pmp_tells_the_outer_address() -> None:
    assert pmp_address_request() == b"\0\0"
    assert read_pmp_address(struct.pack("!BBHI4B", 0, 128, 0, 1, 100, 64, 0, 7)) == "100.64.0.7"
    with pytest.raises(Unwilling, match="network failed"):
        read_pmp_address(struct.pack("!BBHI", 0, 128, 3, 1))
    with pytest.raises(WireError, match="cut short"):
        read_pmp_address(struct.pack("!BBHI", 0, 128, 0, 1))


@given(st.binary(max_size=1200))
def test_anything_else_is_refused(content: bytes) -> None:
    for read in (
        lambda: read_pcp(content, "udp", 8088, nonce=NONCE),
        lambda: read_pmp(content, "tcp", 8088),
        lambda: read_pmp_address(content),
        lambda: read_location(content, "192.168.1.1"),
        lambda: read_xml(content),
    ):
        with pytest.raises(WireError):
            read()


# -- UPnP ---------------------------------------------------------------------------------------


def test_only_the_gateway_says_where_it_is_described() -> None:
    answer = b"HTTP/1.1 200 OK\r\nST: x\r\nLocation: http://192.168.1.1:5000/root.xml\r\n\r\n"
    assert read_location(answer, "192.168.1.1") == "http://192.168.1.1:5000/root.xml"
    with pytest.raises(WireError, match="somewhere else"):
        read_location(answer, "192.168.1.2")


@pytest.mark.parametrize(
    "url",
    [
        "http://evil.example/x",
        "https://192.168.1.1/",
        "file:///etc/passwd",
        "//10.0.0.9/x",
        "http://a@192.168.1.1/",
        "http://[::1",
        "http://192.168.1.1:99999/",
    ],
)
def test_an_action_never_leaves_the_gateway(url: str) -> None:
    with pytest.raises(WireError):
        at_gateway(url, "192.168.1.1", "http://192.168.1.1:5000/root.xml")


def test_a_path_is_taken_as_the_gateways() -> None:
    base = "http://192.168.1.1:5000/root.xml"
    assert at_gateway("/ctl/IPConn", "192.168.1.1", base) == "http://192.168.1.1:5000/ctl/IPConn"


def test_a_bomb_is_noread_xml() -> None:
    bomb = b'<!DOCTYPE a [<!ENTITY b "x"><!ENTITY c "&b;&b;&b;">]><a>&c;</a>'
    with pytest.raises(WireError):
        read_xml(bomb)


def test_what_is_sent_is_text_that_routers_read() -> None:
    assert search("urn:x").endswith(b"ST: urn:x\r\n\r\n")
    fields = mapping_fields("udp", 1, 2, client="<b>&", lifetime_s=3)
    assert b"&lt;b&gt;&amp;" in soap("urn:s", "AddPortMapping", fields)


@pytest.mark.parametrize(
    "content",
    [b"<a>" * 40 + b"</a>" * 40, b"<a>" + b"<b/>" * 5000 + b"</a>", b"<a>" + b"x" * 5000 + b"</a>"],
    ids=["deep", "many", "long"],
)
def test_xml_beyond_what_a_router_needs_is_refused(content: bytes) -> None:
    with pytest.raises(WireError, match="router needs"):
        read_xml(content)


def test_xml_is_read_without_namespaces() -> None:
    root = read_xml(b'<s:a xmlns:s="urn:s"><u:b xmlns:u="urn:u"> one </u:b><c><d>2</d></c></s:a>')
    assert root.value("b") == "one"
    assert [each.value("d") for each in root.every("c")] == ["2"]
    assert root.leaves() == {"b": " one ", "d": "2"}
