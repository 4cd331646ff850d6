"""The packet filter's rules for the network `bridge`, as text for `nft`. Pure.

One table holds everything: what a lease sends is judged on its way through (forward) and where
it is meant for this machine (input). Whatever is not allowed is refused there; nothing is decided
by rules of others, which can only refuse more. IPv6 is refused whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

from p2prc.protocol.egress import REFUSED, Network

PROBE_SLOT = 0
SLOTS_LIMIT = 127
CONNECTIONS_LIMIT = 512
"""How many connections one lease may have on their way: the machine's table of them is finite."""
OUTSIDE = IPv4Address("203.0.113.113")
"""What stands for the internet while the rules are tried: an address for documentation."""
OUTSIDE_NEAR = IPv4Address("203.0.113.112")
_MAIL = 25
_LEAST_LAN = 2
_POOLS = tuple(
    IPv4Network(text)
    for text in ("10.213.0.0/16", "172.29.0.0/16", "192.168.0.0/16", "10.77.0.0/16")
)
_REFUSE = "counter name refused goto refuse"


@dataclass(frozen=True, slots=True)
class Bridged:
    """A lease with a bridge. `left_bytes` None has no bound, 0 is used up; both ways together."""

    slot: int
    left_bytes: int | None = None
    rate_bytes_s: int | None = None


@dataclass(frozen=True, slots=True)
class BridgeNames:
    """What the parts of one node's bridges are called: several nodes can share a machine."""

    tag: str
    pool: IPv4Network

    @property
    def table(self) -> str:
        """The table's name, family `inet`."""
        return f"p2prc_{self.tag}"

    @property
    def prefix(self) -> str:
        """How the names of the machine's ends of the leases' interfaces begin."""
        return f"p2b{self.tag}-"

    @property
    def outside(self) -> str:
        """The machine's end of the interface to what stands for the internet in the trial."""
        return f"p2o{self.tag}"

    def interface(self, slot: int) -> str:
        """The machine's end of one lease's interface."""
        return f"{self.prefix}{slot}"

    def near(self, slot: int) -> IPv4Address:
        """The address of the machine's end."""
        return self.pool[2 * slot]

    def far(self, slot: int) -> IPv4Address:
        """The lease's address."""
        return self.pool[2 * slot + 1]


def tag_of(home: str) -> str:
    """Return what tells this home's bridges from those of others on the machine."""
    return hashlib.sha256(home.encode("utf-8", "surrogateescape")).hexdigest()[:5]


def names_for(tag: str, taken: Iterable[Network]) -> BridgeNames | None:
    """Choose addresses that no network of the machine has; None when all are taken."""
    used = [network for network in taken if isinstance(network, IPv4Network)]
    start = int(tag, 16)
    for pool in _POOLS:
        for turn in range(256):
            first = int(pool.network_address) + ((start + turn) % 256 << 8)
            chosen = IPv4Network((first, 24))
            if not any(chosen.overlaps(network) for network in used):
                return BridgeNames(tag, chosen)
    return None


def refused_networks(own: Iterable[Network]) -> list[IPv4Network]:
    """Return what no lease reaches by IPv4: all that is not public, and what is ours."""
    found = [*REFUSED, *own]
    return list(collapse_addresses(each for each in found if isinstance(each, IPv4Network)))


def rules_text(names: BridgeNames, leases: Sequence[Bridged], own: Iterable[Network]) -> str:
    """Return the whole table, to be put in place of the one before in one step."""
    refused = ", ".join(str(each) for each in refused_networks(own))
    ours = f'"{names.prefix}*"'
    lines = [
        f"table inet {names.table} {{}}",
        f"delete table inet {names.table}",
        f"table inet {names.table} {{",
        "counter refused {}",
        f"set refused_networks {{ type ipv4_addr; flags interval; elements = {{ {refused} }}; }}",
        "set connections { type ipv4_addr; size 256; flags dynamic; }",
        *(line for lease in leases for line in _objects(lease)),
        # At once: other words to the sender are rationed by the kernel.
        "chain refuse {",
        "meta l4proto tcp reject with tcp reset",
        "reject with icmpx type admin-prohibited",
        "}",
        *(line for lease in leases for line in _chains(names, lease)),
        "chain out {",
        f"meta nfproto != ipv4 {_REFUSE}",
        f"fib daddr type != unicast {_REFUSE}",
        f'iifname "{names.interface(PROBE_SLOT)}" oifname "{names.outside}" '
        f"ip daddr {OUTSIDE} accept",
        f"ip daddr @refused_networks {_REFUSE}",
        f"tcp dport {_MAIL} {_REFUSE}",
        f"ct state new add @connections {{ ip saddr ct count over {CONNECTIONS_LIMIT} }} {_REFUSE}",
        *(f'iifname "{names.interface(each.slot)}" goto out{each.slot}' for each in leases),
        _REFUSE,
        "}",
        "chain back {",
        "ct state != { established, related } counter name refused drop",
        "ct direction original counter name refused drop",
        *(f'oifname "{names.interface(each.slot)}" goto back{each.slot}' for each in leases),
        "counter name refused drop",
        "}",
        "chain forward { type filter hook forward priority -10; policy accept;",
        f"iifname {ours} jump out",
        f"oifname {ours} jump back",
        "}",
        "chain input { type filter hook input priority -10; policy accept;",
        f"iifname {ours} {_REFUSE}",
        "}",
        "chain nat { type nat hook postrouting priority 100; policy accept;",
        f"ip saddr {names.pool} oifname != {ours} masquerade",
        "}",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _objects(lease: Bridged) -> list[str]:
    if not lease.left_bytes:
        return []
    return [f"quota left{lease.slot} {{ over {lease.left_bytes} bytes }}"]


def _chains(names: BridgeNames, lease: Bridged) -> list[str]:
    slot = lease.slot
    bounds: list[str] = []
    if lease.left_bytes == 0:
        bounds.append(_REFUSE)
    elif lease.left_bytes is not None:
        bounds.append(f'quota name "left{slot}" {_REFUSE}')
    if lease.rate_bytes_s is not None:
        rate = max(1, lease.rate_bytes_s)
        bounds.append(f"limit rate over {rate} bytes/second burst {max(rate, 65536)} bytes drop")
    return [
        f"chain out{slot} {{",
        f"ip saddr != {names.far(slot)} counter name refused drop",
        *bounds,
        "accept",
        "}",
        f"chain back{slot} {{",
        f"ip daddr != {names.far(slot)} counter name refused drop",
        *(bound.replace(_REFUSE, "counter name refused drop") for bound in bounds),
        "accept",
        "}",
    ]


def refused_samples(own: Iterable[Network]) -> list[str]:
    """Return an address of each kind that must be refused, for the trial of the rules."""
    chosen = ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254"]
    chosen += ["168.63.129.16", "198.18.0.1"]
    # The last that a machine could have there: a neighbour of ours in the LAN.
    chosen += [
        str(network[-2])
        for network in own
        if isinstance(network, IPv4Network)
        and network.num_addresses > _LEAST_LAN
        and not network.is_loopback
    ]
    return chosen
