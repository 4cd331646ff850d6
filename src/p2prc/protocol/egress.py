"""Where a tenant may connect to through the node's proxy: names, ports, addresses and amounts.

Deny by default: an address must lie in the public part of its family and in none of the lists.
The lists follow IANA's registries of special-purpose addresses (RFC 6890), with the ranges that
carry an IPv4 address inside an IPv6 one: what such an address leads to cannot be known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

NONE, PROXY, BRIDGE = "none", "proxy", "bridge"
NETWORKS = (NONE, PROXY, BRIDGE)
OPEN_TIERS = frozenset({"none", "landlock"})
"""Tiers that have no network of their own, so nothing could hold them to a proxy."""

REFUSED: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # this network; 0.0.0.0 is the machine itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, and where clouds serve their metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and the broadcast address
        "168.63.129.16/32",  # the wire server of one cloud's machines
        "::/8",  # loopback, unspecified, IPv4-mapped and -compatible, NAT64 (64:ff9b::/96)
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "100::/8",  # discard-only
        "2001::/23",  # Teredo, ORCHID, benchmarking
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",  # local
        "fe80::/10",  # link-local
        "fec0::/10",  # site-local
        "ff00::/8",  # multicast
    )
)
_PUBLIC_6 = IPv6Network("2000::/3")
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_NAME_LIMIT = 253
_OCTETS = 4
_NOT_PUBLIC = "that is not on the public internet"

NO_NETWORK_TEXT = "this place has no network; for HTTP and HTTPS ask for it with `--network proxy`"
"""For whoever meets a place without a network unaware: a banner, or a hint after a failure."""
_SIGNS = (
    b"temporary failure in name resolution",
    b"network is unreachable",
    b"could not resolve host",
    b"name or service not known",
    b"unable to resolve host",
    b"could not translate host name",
    b"nodename nor servname",
    b"bad address '",
    b"getaddrinfo eai_again",
    b"dial tcp: lookup",
    b"enetunreach",
    b"unknownhostexception",
)
_SIGN_OF_CURL = re.compile(rb"\(7\) failed to connect to (?!localhost|127\.|::1)")


@dataclass(frozen=True, slots=True)
class EgressTerms:
    """What the owner allows each lease: ports, bytes both ways together, bytes a second.

    `total_bytes` and `rate_bytes_s` None mean no bound.
    """

    ports: frozenset[int] = frozenset({80, 443})
    total_bytes: int | None = 10 << 30
    rate_bytes_s: int | None = None
    connections: int = 64
    head_bytes: int = 16 * 1024
    head_s: float = 10.0
    resolve_s: float = 10.0
    connect_s: float = 10.0
    idle_s: float = 120.0
    total_s: float = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class Target:
    """A host that was asked for, in one spelling only, and a port."""

    host: str | Address
    port: int

    def __str__(self) -> str:
        shown = f"[{self.host}]" if isinstance(self.host, IPv6Address) else str(self.host)
        return f"{shown}:{self.port}"


class EgressRefused(ValueError):
    """The proxy does not do this, and why: a sentence for the tenant. `status` is HTTP's."""

    def __init__(self, reason: str, *, status: int = 403) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


def parse_target(authority: str, *, default_port: int | None = None) -> Target:
    """Read `host:port`, with an IPv6 address in brackets. Raises EgressRefused.

    Every other spelling of an address (decimal, octal, hexadecimal, short, percent-encoded, with
    a zone, with a user) is refused: libraries do not agree about what those mean.
    """
    host, port_text = _split(authority)
    if not port_text and default_port is not None and not authority.endswith(":"):
        port = default_port
    elif _PORT.fullmatch(port_text) and int(port_text) < 1 << 16:
        port = int(port_text)
    else:
        raise EgressRefused("a port is a number from 1 to 65535", status=400)
    return Target(_host(host), port)


def _split(authority: str) -> tuple[str, str]:
    if authority.startswith("["):
        host, bracket, rest = authority.partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise EgressRefused("that is no host and port", status=400)
        return f"{host}]", rest[1:]
    host, _, port = authority.partition(":")
    if ":" in port:
        raise EgressRefused("an IPv6 address goes into brackets", status=400)
    return host, port


def _host(text: str) -> str | Address:
    if text.startswith("["):
        inside = text[1:-1]
        if "%" in inside:
            raise EgressRefused("an address with a zone is not public")
        try:
            return IPv6Address(inside)
        except ValueError:
            raise EgressRefused("that is no IPv6 address", status=400) from None
    name = text.removesuffix(".").lower()
    labels = name.split(".")
    if len(name) > _NAME_LIMIT or not all(_LABEL.fullmatch(label) for label in labels):
        raise EgressRefused("that is no host's name", status=400)
    if labels[-1][0].isdigit() or re.fullmatch(r"0x[0-9a-f]*", labels[-1]):
        return _plain_address(text)
    if len(labels) == 1:
        # Only a machine's own lists and search domains know such a name.
        raise EgressRefused(_NOT_PUBLIC)
    return name


def _plain_address(text: str) -> IPv4Address:
    try:
        found = IPv4Address(text)
    except ValueError:
        found = None
    if found is None or str(found) != text or text.count(".") != _OCTETS - 1:
        raise EgressRefused("an address is written like 93.184.216.34", status=400)
    return found


def check_port(target: Target, terms: EgressTerms) -> None:
    """Raise EgressRefused unless the owner allows the port."""
    if target.port not in terms.ports:
        allowed = ", ".join(str(port) for port in sorted(terms.ports))
        raise EgressRefused(f"port {target.port} is not allowed, only {allowed}")


def is_allowed(address: Address, own: Iterable[Network] = ()) -> bool:
    """Say whether an address is public and none of ours; `own` are the node's and its links'."""
    if isinstance(address, IPv6Address) and address not in _PUBLIC_6:
        return False
    return not any(
        address in network for network in (*REFUSED, *own) if network.version == address.version
    )


def allowed_of(found: Iterable[str | Address], own: Iterable[Network] = ()) -> list[Address]:
    """Return those addresses of a name that may be connected to. Raises EgressRefused for none.

    The private ones among them are left out: what is connected to is one of the rest, and no
    name is asked for twice. The sentence names no address: it would tell a tenant of our LAN.
    """
    kept = list(own)
    allowed: list[Address] = []
    for one in found:
        try:
            address = ip_address(one) if isinstance(one, str) else one
        except ValueError:
            continue
        if is_allowed(address, kept) and address not in allowed:
            allowed.append(address)
    if not allowed:
        raise EgressRefused(_NOT_PUBLIC)
    return allowed


class Allowance:
    """How much may still go through, and how fast. Pure; instants are given, in seconds.

    `packet_bytes` is what the last packet may be short of the total: of packets whole ones go.
    """

    def __init__(self, terms: EgressTerms, *, packet_bytes: int = 0) -> None:
        self._packet = packet_bytes
        self._total = terms.total_bytes
        self._rate = terms.rate_bytes_s
        self._free_at = 0.0
        self.received_bytes = 0
        self.sent_bytes = 0

    @property
    def total_bytes(self) -> int | None:
        """How much may go through in all, None without bound."""
        return self._total

    @property
    def is_used_up(self) -> bool:
        """Whether nothing more may go through."""
        moved = self.received_bytes + self.sent_bytes + self._packet
        return self._total is not None and moved >= self._total

    @property
    def reason(self) -> str:
        """The sentence for a tenant that has used all."""
        allowed = "" if self._total is None else f"{self._total / (1 << 20):.0f} MiB"
        return f"traffic: all {allowed} that this node allows are used"

    def count(self, *, received: int = 0, sent: int = 0) -> None:
        """Note bytes that came from the internet, or went there."""
        self.received_bytes += received
        self.sent_bytes += sent

    def delay_s(self, count: int, now: float) -> float:
        """Return how long to wait before going on after `count` bytes: the rate, over time."""
        if self._rate is None:
            return 0.0
        # A second's worth may go at once after a pause, never more.
        self._free_at = max(self._free_at, now - 1.0) + count / self._rate
        return max(0.0, self._free_at - now)


def tried_the_network(tail: bytes) -> bool:
    """Say whether a failed command's last words tell that it looked for a network."""
    lowered = tail.lower()
    return any(sign in lowered for sign in _SIGNS) or bool(_SIGN_OF_CURL.search(lowered))
