"""One internet with every usual way to be connected to it, and which pairs must see each other.

Which paths must become direct follows from the NATs (RFC 5128, section 3): whoever is public, or
behind a full cone, is reached by all whose UDP gets out; two that show everybody one address meet
halfway; a symmetric NAT and one that filters by port do not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.nat.lab import Host, Lab, Line
from tests.nat.nodes import RUNS_AT_ONCE, LabNode, Way, commands_between, join_all, path_to
from tests.nat.rules import Nat
from tests.system.nodes import stop_all, up_all, wait_until


class Kind(Enum):
    """How a host is connected, as far as it matters for a direct path."""

    PUBLIC = "public"
    OPEN = "full cone"
    CONE = "port-restricted cone"
    UNSURE = "shares a cone's port with a neighbour"
    SYMMETRIC = "symmetric"
    NO_UDP = "no UDP"


@dataclass(frozen=True, slots=True)
class Member:
    """A host with how it is connected."""

    host: Host
    kind: Kind
    home: str = ""
    """Those of one home are in one LAN."""


_MEETING = {Kind.PUBLIC, Kind.OPEN, Kind.CONE}
_REACHED = {Kind.PUBLIC, Kind.OPEN}


def must_be_direct(one: Member, other: Member) -> bool:
    """Say whether the NATs between two allow a direct path for sure."""
    if one.home and one.home == other.home:
        return True
    kinds = {one.kind, other.kind}
    if Kind.NO_UDP in kinds:
        return False
    return bool(kinds & _REACHED) or kinds <= _MEETING


def must_be_relayed(one: Member, other: Member) -> bool:
    """Say whether no direct path can exist."""
    if one.home and one.home == other.home:
        return False
    kinds = {one.kind, other.kind}
    return Kind.NO_UDP in kinds or kinds in ({Kind.SYMMETRIC}, {Kind.SYMMETRIC, Kind.CONE})


def build(lab: Lab) -> list[Member]:
    """Add all hosts to a lab; the first is public."""

    def home(name: str, nat: Nat, *, ipv6: bool = False, blocks_udp: bool = False) -> Host:
        router = lab.router(f"{name}-nat", nat, ipv6=ipv6, blocks_udp=blocks_udp)
        return lab.host(name, behind=router, ipv6=ipv6)

    shared = lab.router("flat", Nat.PORT_RESTRICTED)
    outer = lab.router("outer", Nat.PORT_RESTRICTED, inside="192.168.0")
    inner = lab.router("inner", Nat.PORT_RESTRICTED, behind=outer)
    carrier = lab.router("carrier", Nat.PORT_RESTRICTED, inside="100.64.0")
    customer = lab.router("customer", Nat.PORT_RESTRICTED, behind=carrier)
    return [
        Member(lab.host("public"), Kind.PUBLIC),
        Member(lab.host("far", line=Line(delay_s=0.05, loss=0.02)), Kind.PUBLIC),
        Member(home("open", Nat.FULL_CONE), Kind.OPEN),
        Member(home("cone", Nat.PORT_RESTRICTED), Kind.CONE),
        Member(home("cone2", Nat.PORT_RESTRICTED), Kind.CONE),
        Member(home("random", Nat.SYMMETRIC), Kind.SYMMETRIC),
        Member(home("random2", Nat.SYMMETRIC), Kind.SYMMETRIC),
        Member(lab.host("room", behind=shared), Kind.UNSURE, "flat"),
        Member(lab.host("room2", behind=shared), Kind.UNSURE, "flat"),
        Member(lab.host("double", behind=inner), Kind.CONE),
        Member(lab.host("carried", behind=customer), Kind.CONE),
        Member(home("noudp", Nat.PORT_RESTRICTED, blocks_udp=True), Kind.NO_UDP),
        Member(home("six", Nat.PORT_RESTRICTED, ipv6=True), Kind.CONE),
    ]


@dataclass(frozen=True, slots=True)
class Found:
    """What became of one pair: its first command, and the path some seconds later."""

    way: Way
    one: Member
    other: Member
    path: str

    @property
    def trouble(self) -> str:
        """What is not as it must be, "" when nothing."""
        if not self.way.is_there:
            return str(self.way)
        if must_be_direct(self.one, self.other) and self.path != "direct":
            return f"{self.way}; now {self.path}: must be direct"
        if must_be_relayed(self.one, self.other) and self.path != "relayed":
            return f"{self.way}; now {self.path}: how can that be direct?"
        return ""


def try_pairs(
    members: Sequence[Member],
    nodes: Sequence[LabNode],
    pairs: Sequence[tuple[LabNode, LabNode]],
    *,
    patience_s: float,
    at_once: int = RUNS_AT_ONCE,
) -> list[Found]:
    """Run a command for each pair, then wait for the paths that must become direct."""
    member_of = {node.name: member for node, member in zip(nodes, members, strict=True)}
    found = []
    ways = commands_between(pairs, at_once=at_once)
    for (asker, lender), way in zip(pairs, ways, strict=True):
        one, other = member_of[asker.name], member_of[lender.name]
        path = way.path
        if way.is_there and must_be_direct(one, other):
            until = time.monotonic() + patience_s
            while path != "direct" and time.monotonic() < until:
                time.sleep(0.3)
                path = path_to(asker, lender) or path
        found.append(Found(way, one, other, path))
    return found


def nodes_on(folder: Path, members: Sequence[Member]) -> list[LabNode]:
    """Return a node for each host."""
    return [LabNode(folder, member.host) for member in members]


@contextmanager
def running(nodes: list[LabNode]) -> Iterator[list[LabNode]]:
    """Start the nodes and make them one network, founded by the first; all have a way in."""
    try:
        up_all(nodes)
        join_all(nodes)
        wait_until(lambda: all(_has_way(node) for node in nodes), "everybody has a way in")
        yield nodes
    finally:
        stop_all(nodes)


def _has_way(node: LabNode) -> bool:
    status = node.json("status")
    return bool(status["public"] or status["relays"])
