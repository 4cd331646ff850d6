"""Where tenants may connect to: only what is public, in one spelling."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.protocol.egress import (
    Allowance,
    EgressRefused,
    EgressTerms,
    allowed_of,
    check_port,
    is_allowed,
    parse_target,
    tried_the_network,
)

ADDRESSES_4 = st.integers(0, 2**32 - 1).map(IPv4Address)
ADDRESSES_6 = st.integers(0, 2**128 - 1).map(IPv6Address)
PUBLIC_4 = IPv4Address("93.184.216.34")
PUBLIC_6 = IPv6Address("2606:2800:220:1:248:1893:25c8:1946")


@given(ADDRESSES_4)
def test_what_is_allowed_is_global(address: IPv4Address) -> None:
    # The other way round does not hold: our lists are the stricter ones.
    if is_allowed(address):
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved


@given(ADDRESSES_6)
def test_what_is_allowed_is_global_in_version_6_too(address: IPv6Address) -> None:
    if is_allowed(address):
        assert address.is_global
        assert address in ip_network("2000::/3")
        assert address.ipv4_mapped is None
        assert address.sixtofour is None
        assert address.teredo is None


@given(ADDRESSES_4)
def test_no_form_that_holds_an_address_of_version_4_is_allowed(inner: IPv4Address) -> None:
    number = int(inner)
    for form in (
        IPv6Address((0xFFFF << 32) | number),  # mapped
        IPv6Address(number),  # compatible
        IPv6Address((0x0064FF9B << 96) | number),  # NAT64
        IPv6Address((0x0064FF9B0001 << 80) | number),  # local NAT64
        IPv6Address((0x2002 << 112) | (number << 80) | 1),  # 6to4
        IPv6Address((0x20010000 << 96) | (number ^ 0xFFFFFFFF)),  # Teredo
    ):
        assert not is_allowed(form), form


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.0.1",
        "169.254.169.254", "168.63.129.16", "172.16.0.1", "172.31.255.255", "192.168.1.1",
        "198.18.0.1", "198.51.100.7", "224.0.0.251", "239.255.255.250", "255.255.255.255",
        "::", "::1", "fe80::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "fec0::1", "4000::1",
    ],
)  # fmt: skip
def test_known_dangers_are_refused(address: str) -> None:
    with pytest.raises(EgressRefused, match="public internet"):
        allowed_of([address])


def test_the_edges_of_the_lists_are_where_they_should_be() -> None:
    for text in ("9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.255.255",
                 "172.32.0.0", "192.167.255.255", "192.169.0.0", "223.255.255.255"):  # fmt: skip
        assert is_allowed(IPv4Address(text)), text
    assert is_allowed(PUBLIC_6)


def test_our_own_addresses_and_links_are_refused() -> None:
    own = [ip_network("93.184.216.0/24"), ip_network("2606:2800::/32")]
    assert not is_allowed(PUBLIC_4, own)
    assert not is_allowed(PUBLIC_6, own)
    assert is_allowed(IPv4Address("93.184.217.1"), own)


def test_of_several_addresses_only_the_public_ones_are_left() -> None:
    found = ["10.0.0.1", "93.184.216.34", "::1", "93.184.216.34", "nonsense", "fe80::1%eth0"]
    assert allowed_of(found) == [PUBLIC_4]


@pytest.mark.parametrize(
    "text",
    [
        "2130706433:80", "0x7f000001:80", "0x7f.1:80", "0177.0.0.1:80", "127.1:80", "127.0.1:80",
        "010.0.0.1:80", "1.2.3.4.:80", "1.2.3.256:80", "1.2.3.4.5:80", "[::1:80", "[::1]x:80",
        "[fe80::1%eth0]:80", "[1.2.3.4]:80", "::1:80", "user@host:80", "a b:80", "host:", "host",
        "host:0", "host:65536", "host:080", "host:+80", "host:8_0", "host:٨٠", "ho%2est:80",
        "höst:80", "\uff11\uff12\uff17.0.0.1:80", ".:80", "..:80", ":80", "a..b:80",
        "localhost:80", "printer.:80", "-a.b:80", "host\0:80",
        "h\nost:80", "a" * 64 + ".org:80", "a." * 127 + "toolong:80", "",
    ],
)  # fmt: skip
def test_odd_spellings_are_refused(text: str) -> None:
    with pytest.raises(EgressRefused):
        parse_target(text)


@given(st.text(max_size=40))
def test_whatever_is_said_is_read_in_one_way_or_refused(text: str) -> None:
    try:
        target = parse_target(text)
    except EgressRefused:
        return
    assert parse_target(str(target)) == target


@given(st.one_of(ADDRESSES_4, ADDRESSES_6), st.integers(1, 65535))
def test_plain_addresses_are_read(address: IPv4Address | IPv6Address, port: int) -> None:
    shown = f"[{address}]" if address.version == 6 else str(address)
    target = parse_target(f"{shown}:{port}")
    assert (target.host, target.port) == (address, port)


def test_names_are_read() -> None:
    assert str(parse_target("Files.Example.ORG.:443")) == "files.example.org:443"
    assert parse_target("example.org", default_port=80).port == 80


def test_only_the_owners_ports_are_allowed() -> None:
    check_port(parse_target("example.org:443"), EgressTerms())
    with pytest.raises(EgressRefused, match="port 25 is not allowed, only 80, 443"):
        check_port(parse_target("example.org:25"), EgressTerms())


@given(st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 3)), max_size=60))
def test_the_rate_is_kept_over_time(steps: list[tuple[int, float]]) -> None:
    allowance = Allowance(EgressTerms(rate_bytes_s=1000))
    began = now = 50.0
    passed = 0
    for count, pause_s in steps:
        now += pause_s
        now += allowance.delay_s(count, now)
        passed += count
        assert passed <= 1000 * (now - began) + 1000 + 1e-6


def test_the_total_counts_both_ways() -> None:
    allowance = Allowance(EgressTerms(total_bytes=1 << 20))
    allowance.count(received=1 << 19)
    assert not allowance.is_used_up
    allowance.count(sent=1 << 19)
    assert allowance.is_used_up
    assert allowance.reason == "traffic: all 1 MiB that this node allows are used"


def test_failures_for_want_of_a_network_are_known() -> None:
    assert tried_the_network(b"curl: (6) Could not resolve host: pypi.org\n")
    assert tried_the_network(b"[Errno -3] Temporary failure in name resolution")
    assert not tried_the_network(b"ValueError: math domain error")
