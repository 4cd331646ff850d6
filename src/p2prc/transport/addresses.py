"""Addresses as `host:port` text: what a socket's wildcard stands for, and what may be dialled."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
from collections.abc import Iterable, Sequence

import psutil

from p2prc.errors import SettingInvalid

ADDRESSES_LIMIT = 32
"""How many addresses of one peer are tried: they come from the peer itself."""

NAMES_LIMIT = 4
LOOKUP_S = 3.0
_NAMED = re.compile(r"(?=[^:]*[A-Za-z])[A-Za-z0-9]([A-Za-z0-9.-]{0,250}[A-Za-z0-9])?:\d{1,5}")

log = logging.getLogger(__name__)
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse(text: str) -> tuple[_Address, int]:
    """Return host and port of `203.0.113.5:4433` or `[2001:db8::5]:4433`; raise ValueError."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        if "%" in host:
            # A scope is another machine's word, and may be any text.
            raise ValueError(f"`{host[:80]}` names an interface")
        return ipaddress.IPv6Address(host[1:-1]), _port(port)
    return ipaddress.IPv4Address(host), _port(port)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 16):
        raise ValueError(f"`{text}` is not a port")
    return int(text)


def listening_address(text: str) -> str:
    """Return the text when a socket can be asked to listen there; raise SettingInvalid."""
    try:
        parse(text)
    except ValueError as error:
        raise SettingInvalid(f"`{text}` is not an address to listen on: {error}") from error
    return text


def dialable(addresses: Sequence[str]) -> list[str]:
    """Return those that name one host and one port. A peer may have published anything."""
    return [text for text in addresses[:ADDRESSES_LIMIT] if _is_dialable(text)]


async def resolved(addresses: Sequence[str]) -> list[str]:
    """Return the addresses with host names looked up; a name nobody knows is left out.

    Waits at most `LOOKUP_S` for all of them together.
    """
    named = [text for text in addresses[:ADDRESSES_LIMIT] if _NAMED.fullmatch(text)]
    found = list(addresses[:ADDRESSES_LIMIT])
    try:
        async with asyncio.timeout(LOOKUP_S):
            for text in named[:NAMES_LIMIT]:
                host, _, port = text.rpartition(":")
                found += await _look_up(host, int(port))
    except TimeoutError:
        log.info("looking up a peer's name takes too long", extra={"names": named})
    return found


async def _look_up(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        answers = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, ValueError, OverflowError):
        # A name with an empty or overlong label is not even asked for: UnicodeError.
        return []
    return [join(str(answer[4][0]), port) for answer in answers]


def _is_dialable(text: str) -> bool:
    try:
        host, port = parse(text)
    except ValueError:
        return False
    return port != 0 and not host.is_unspecified and not host.is_multicast


def of_sockets(bound: Iterable[str], *, with_loopback: bool = False) -> tuple[str, ...]:
    """Return where bound sockets can be reached, wildcards spelled out.

    A wildcard means loopback too, which is told only if asked for or where there is nothing else:
    at another machine the same address is another node.
    """
    found: dict[tuple[_Address, int], None] = {}
    by_wildcard: dict[tuple[_Address, int], None] = {}
    for text in bound:
        host, port = parse(text)
        if host.is_unspecified:
            hosts = _hosts_of_machine(host.version)
            by_wildcard.update(dict.fromkeys((each, port) for each in hosts))
        else:
            found[host, port] = None
    away = [each for each in by_wildcard if not each[0].is_loopback]
    found.update(dict.fromkeys(by_wildcard if with_loopback or not (away or found) else away))
    ordered = sorted(found, key=lambda address: address[0].is_loopback)
    return tuple(join(str(host), port) for host, port in ordered)


def join(host: str, port: int) -> str:
    """Return the text of an address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def can_bind(host: str) -> bool:
    """Whether this machine has the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def _hosts_of_machine(version: int) -> list[_Address]:
    """Return the addresses of interfaces that are up, but for those that need a scope."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    hosts = []
    for name, addresses in psutil.net_if_addrs().items():
        for address in addresses if name in up else ():
            host = _host(address.address)
            if host is not None and host.version == version and not host.is_link_local:
                hosts.append(host)
    return hosts


def _host(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
