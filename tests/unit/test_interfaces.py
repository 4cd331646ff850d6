"""Interfaces: what the kernel says of routes, and what this machine has."""

from __future__ import annotations

from pathlib import Path

from p2prc.reachability.interfaces import default_gateways, read_interfaces

FOUR = """Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
tun0\t00000000\t00000000\t0001\t0\t0\t50\t00000000\t0\t0\t0
broken
"""
NOWHERE = "0" * 32
SIX = f"""{NOWHERE} 00 {NOWHERE} 00 fe800000000000000000000000000001 00000400 1 0 00000003 eth0
fe80{"0" * 28} 40 {NOWHERE} 00 {NOWHERE} 00000100 1 0 00000001 eth0
{NOWHERE} 00 {NOWHERE} 00 {NOWHERE} ffffffff 1 0 00200200 lo
"""


def test_routers_are_those_of_default_routes_by_interface(tmp_path: Path) -> None:
    (tmp_path / "route").write_text(FOUR)
    (tmp_path / "ipv6_route").write_text(SIX)
    assert default_gateways(tmp_path) == {
        "eth0": ["192.168.2.1", "fe80::1"],
        "wlan0": ["192.168.1.1"],
    }


def test_a_system_that_tells_no_routes_has_interfaces_all_the_same(tmp_path: Path) -> None:
    assert default_gateways(tmp_path) == {}
    loopback = [each for each in read_interfaces(tmp_path) if "127.0.0.1" in each.addresses]
    assert len(loopback) == 1
    assert loopback[0].is_up
    assert loopback[0].gateways == ()
