"""The network interfaces of this machine: names, addresses, whether up, and the routers behind."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

import psutil

PROC = Path("/proc/net")
_UP_AND_GATEWAY = 0x1 | 0x2
_NOWHERE = "0" * 32


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface. `gateways` are default routers; only Linux tells them."""

    name: str
    is_up: bool
    addresses: tuple[str, ...]
    gateways: tuple[str, ...] = ()


def read_interfaces(proc: Path = PROC) -> list[Interface]:
    """Return all interfaces by name, those with a default router first."""
    states = psutil.net_if_stats()
    gateways = default_gateways(proc)
    found = []
    for name, addresses in psutil.net_if_addrs().items():
        hosts = [
            each.address.partition("%")[0]
            for each in addresses
            if each.family in (socket.AF_INET, socket.AF_INET6)
        ]
        is_up = name in states and states[name].isup
        found.append(Interface(name, is_up, tuple(hosts), tuple(gateways.get(name, ()))))
    return sorted(found, key=lambda each: (not each.gateways, not each.is_up, each.name))


def default_gateways(proc: Path = PROC) -> dict[str, list[str]]:
    """Return the default routers by interface, each family by the metric of its route."""
    routes = sorted(_four(_rows(proc / "route"))) + sorted(_six(_rows(proc / "ipv6_route")))
    found: dict[str, list[str]] = {}
    for _, interface, host in routes:
        known = found.setdefault(interface, [])
        if host not in known:
            known.append(host)
    return found


def _rows(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    return [line.split() for line in text.splitlines()]


def _four(rows: list[list[str]]) -> list[tuple[int, str, str]]:
    found = []
    for row in rows[1:]:
        is_default = len(row) >= 8 and row[1] == row[7] == "00000000"
        if is_default and int(row[3], 16) & _UP_AND_GATEWAY == _UP_AND_GATEWAY:
            host = socket.inet_ntoa(struct.pack("=I", int(row[2], 16)))
            found.append((int(row[6]), row[0], host))
    return found


def _six(rows: list[list[str]]) -> list[tuple[int, str, str]]:
    found = []
    for row in rows:
        is_default = len(row) >= 10 and row[0] == _NOWHERE and row[1] == "00"
        if is_default and int(row[8], 16) & _UP_AND_GATEWAY == _UP_AND_GATEWAY:
            found.append((int(row[5], 16), row[9], str(IPv6Address(int(row[4], 16)))))
    return found
