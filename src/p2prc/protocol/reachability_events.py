"""What `reachability` hears and asks for, and the addresses that it speaks of."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache

from p2prc.model.identity import NodeId
from p2prc.protocol.diagnosis import NatKind

_INSIDE = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16",
        "127.0.0.0/8", "0.0.0.0/8", "224.0.0.0/3",
        "::1/128", "::/128", "fc00::/7", "fe80::/10", "ff00::/8",
    )
)  # fmt: skip
_Host = ipaddress.IPv4Address | ipaddress.IPv6Address


_KNOWN = 4096
"""Reading addresses costs, and the same few are read again and again."""


@lru_cache(_KNOWN)
def split(address: str) -> tuple[str, int] | None:
    """Return host and port of a numeric address without a scope, None for anything else."""
    host, _, port = address.rpartition(":")
    if "%" in host:
        return None
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        return None
    return host.removeprefix("[").removesuffix("]"), int(port)


def join(host: str, port: int) -> str:
    """Return the text of an address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_of(address: str) -> str:
    """Return the numeric host of an address, "" when it has none."""
    found = split(address)
    return "" if found is None else found[0]


@lru_cache(_KNOWN)
def is_outside(host: str) -> bool:
    """Whether a numeric host is none that private networks or carriers give out."""
    try:
        number: _Host = ipaddress.ip_address(host)
    except ValueError:
        return False
    return not any(number.version == net.version and number in net for net in _INSIDE)


def is_address_outside(address: str) -> bool:
    """Whether an address, or a name given by hand, is one of the internet."""
    host = host_of(address)
    return is_outside(host) if host else True


# -- events -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LocalChanged:
    """Our interfaces have these addresses, with the port that we listen on."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PathSeen:
    """A link to the peer takes this way; `remote` is the peer's address when direct."""

    peer: NodeId
    is_direct: bool
    remote: str = ""
    is_public: bool = False
    """The peer calls itself public: a way to it without a relay is there for whoever has UDP."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The peer sees us at this address; "" when it sees us through a relay."""

    peer: NodeId
    address: str


@dataclass(frozen=True, slots=True)
class ObservedBeside:
    """At a second port of its own the peer sees us at this address."""

    peer: NodeId
    address: str


@dataclass(frozen=True, slots=True)
class PeerGone:
    """No link to the peer is left."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class Mapped:
    """The router has opened a port: `address` is its outside; "" and why when it has not."""

    address: str
    method: str = ""
    trouble: str = ""
    nat: NatKind = "unknown"
    """`double` or `carrier` when the router itself has no address of the internet."""


@dataclass(frozen=True, slots=True)
class ProbeEnded:
    """A peer tried to dial us at the address."""

    peer: NodeId
    address: str
    by_tcp: bool
    by_udp: bool


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """The peer could not be asked, or would not try."""

    peer: NodeId
    address: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


ReachEvent = (
    LocalChanged
    | PathSeen
    | Observed
    | ObservedBeside
    | PeerGone
    | Mapped
    | ProbeEnded
    | ProbeFailed
    | Tick
)


# -- effects ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AddExternal:
    """Tell the transport that peers see us here too."""

    address: str


@dataclass(frozen=True, slots=True)
class RemoveExternal:
    """Tell it no more."""

    address: str


@dataclass(frozen=True, slots=True)
class AskProbe:
    """Ask the peer to dial us afresh at the host where it sees us, at this port."""

    peer: NodeId
    address: str


@dataclass(frozen=True, slots=True)
class Moved:
    """Where we can be reached is something else now."""


ReachEffect = AddExternal | RemoveExternal | AskProbe | Moved
