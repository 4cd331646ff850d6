"""Public ports that a node lends to others: who may have which, and when they end.

Times are UTC in seconds: what is granted outlives restarts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from p2prc.errors import PeerBusy, PolicyRefuses, PortTaken
from p2prc.model.identity import NodeId
from p2prc.protocol.domains import PROVED, DomainBook, DomainGrants
from p2prc.protocol.forwarding import Protocol

ABSENCE_S = 3600.0
"""So long a port waits for an owner that says nothing."""
DAY_S = 86400
OWNER_CONNECTIONS_LIMIT = 2304
"""An owner serves 2,560 streams of its gateway: other conversations with it need some too."""
_TRIES = 200
_PRIME = 7919


@dataclass(frozen=True, slots=True)
class GatewayRules:
    """The owner's word; by default nobody gets a port.

    `to` None is every member. `ports` are ranges. `traffic_bytes` binds one peer over one day in
    UTC, `rate_bytes_s` one mapping, both ways together; None is no bound. A connection on which
    nothing moves ends after `idle_s`, any one after `total_s`.
    """

    to: frozenset[NodeId] | None = frozenset()
    denied: frozenset[NodeId] = frozenset()
    ports: tuple[tuple[int, int], ...] = ((20000, 29999),)
    per_peer_mappings: int = 10
    per_peer_connections: int = 256
    per_mapping_connections: int = 256
    traffic_bytes: int | None = None
    rate_bytes_s: int | None = None
    idle_s: float = 3600.0
    total_s: float | None = None
    domains: DomainGrants = field(default_factory=DomainGrants)

    def allows(self, peer: NodeId, own: NodeId) -> bool:
        """Say whether this node gives this peer ports at all; its own owner always may."""
        return peer == own or (peer not in self.denied and (self.to is None or peer in self.to))

    def has_port(self, port: int) -> bool:
        """Say whether the port is among those that are lent."""
        return any(first <= port <= last for first, last in self.ports)


class Granted(msgspec.Struct, frozen=True):
    """A port of this node that is lent. `id` is its owner's word for it."""

    id: str
    owner: NodeId
    protocol: Protocol
    port: int
    created_at: float
    seen_at: float
    expires_at: float | None = None
    domain: str = ""
    is_tls: bool = False
    """With a domain there is no port, which is 0: the gateway's own ports lead to it."""

    @property
    def key(self) -> tuple[NodeId, str]:
        """What names it among all."""
        return self.owner, self.id


class GatewayBook:
    """Which ports are lent to whom."""

    def __init__(self, own: NodeId, rules: GatewayRules | None = None) -> None:
        self._own = own
        self._rules = GatewayRules() if rules is None else rules
        self._domains = DomainBook()
        self._granted: dict[tuple[NodeId, str], Granted] = {}
        self._traffic: dict[NodeId, int] = {}
        self._day = 0

    @property
    def rules(self) -> GatewayRules:
        """What the owner allows."""
        return self._rules

    @rules.setter
    def rules(self, rules: GatewayRules) -> None:
        self._rules = rules
        self._domains.grants = rules.domains

    def all(self) -> list[Granted]:
        """Return what is lent, the oldest first."""
        return sorted(self._granted.values(), key=lambda each: each.created_at)

    def get(self, owner: NodeId, identity: str) -> Granted | None:
        """Return what an owner calls so."""
        return self._granted.get((owner, identity))

    def take_up(self, granted: Granted) -> None:
        """Note that a port is lent: from now on, or in the life before."""
        self._granted[granted.key] = granted
        if granted.domain:
            # What was proved in the life before is asked about again with its owner's next word.
            self._domains.proofs.add((granted.domain, granted.owner))
            self._domains.hold(granted.domain, granted.key)

    def forget(self, granted: Granted) -> None:
        """It is over."""
        self._granted.pop(granted.key, None)
        if granted.domain:
            self._domains.proofs.discard((granted.domain, granted.owner))
            self._domains.free(granted.domain, granted.key)

    def find(self, host: str) -> Granted | None:
        """Return what answers for a host."""
        key = self._domains.find(host)
        return None if key is None else self._granted.get(key)

    def needs_proof(self, domain: str) -> bool:
        """Say whether a name is for who proves it."""
        return self.rules.domains.to(domain) == PROVED

    def note_proof(self, domain: str, peer: NodeId, *, is_there: bool) -> None:
        """Note what DNS says about whose a name is."""
        if is_there:
            self._domains.proofs.add((domain, peer))
        else:
            self._domains.proofs.discard((domain, peer))

    def check_domain(self, peer: NodeId, identity: str, domain: str) -> None:
        """Raise PolicyRefuses, DomainTaken, PeerBusy where the peer cannot have that name."""
        if peer in self.rules.denied:
            raise PolicyRefuses("this node lends you no domains")
        self._domains.check(domain, (peer, identity))
        if (peer, identity) not in self._granted:
            self._check_count(peer)

    def check(self, peer: NodeId, wanted: int) -> None:
        """Raise PolicyRefuses where the peer gets no port, or not that one (0 is any)."""
        if not self.rules.allows(peer, self._own):
            raise PolicyRefuses(
                "this node lends you no public ports",
                hint="its owner says who gets some: `p2prc policy set gateway.to ...`",
            )
        if wanted and not self.rules.has_port(wanted):
            raise PolicyRefuses(
                f"this node does not lend port {wanted}",
                hint=f"it lends {ranges_text(self.rules.ports)}; without a number it chooses one",
            )

    def renew(
        self, peer: NodeId, identity: str, protocol: Protocol, expires_at: float | None, now: float
    ) -> Granted | None:
        """Return what the peer has by this name already, seen now; None when it is new."""
        known = self._granted.get((peer, identity))
        if known is None or known.protocol != protocol:
            return None
        renewed = msgspec.structs.replace(known, seen_at=now, expires_at=expires_at)
        self._granted[renewed.key] = renewed
        return renewed

    def candidates(
        self, peer: NodeId, identity: str, protocol: Protocol, wanted: int
    ) -> Iterator[int]:
        """Yield ports to try for a new one: the wanted one alone, else free ones by its name.

        Raises PolicyRefuses, PeerBusy, PortTaken.
        """
        self.check(peer, wanted)
        self._check_count(peer)
        taken = {each.port for each in self._granted.values() if each.protocol == protocol}
        if wanted:
            if wanted in taken:
                raise PortTaken(f"port {wanted} is taken there", hint="let it choose one")
            return iter((wanted,))
        # The same name tries the same ports, whatever else changed.
        start = int.from_bytes(f"{peer}{identity}".encode()[-8:], "big")
        return (port for port in _spread(self.rules.ports, start) if port not in taken)

    def _check_count(self, peer: NodeId) -> None:
        held = sum(each.owner == peer for each in self._granted.values())
        if held >= self.rules.per_peer_mappings:
            raise PeerBusy(f"you have {held} public ports of this node, which is the most")

    def overdue(self, now: float) -> list[Granted]:
        """Return what is over: its time, its owner's absence, or the rules are others now."""
        return [
            each
            for each in self._granted.values()
            if (each.expires_at is not None and now >= each.expires_at)
            or now >= each.seen_at + ABSENCE_S
            or not self._is_allowed(each)
        ]

    def _is_allowed(self, granted: Granted) -> bool:
        rules = self.rules
        if granted.domain:
            # A grant of a name needs no grant of ports.
            is_denied = granted.owner in rules.denied
            return not is_denied and self._domains.allows(granted.domain, granted.owner)
        return rules.allows(granted.owner, self._own) and rules.has_port(granted.port)

    # -- traffic

    def count(self, peer: NodeId, amount: int, now: float) -> None:
        """Note bytes that went through for a peer."""
        self._turn(now)
        self._traffic[peer] = self._traffic.get(peer, 0) + amount

    def has_traffic_left(self, peer: NodeId, now: float) -> bool:
        """Say whether the peer may move more today."""
        self._turn(now)
        limit = self.rules.traffic_bytes
        return limit is None or self._traffic.get(peer, 0) < limit

    def day(self) -> tuple[int, dict[NodeId, int]]:
        """Return the day, counted from 1970, and what each peer moved on it."""
        return self._day, dict(self._traffic)

    def take_up_day(self, day: int, traffic: dict[NodeId, int]) -> None:
        """Know what was counted in the life before."""
        self._day, self._traffic = day, dict(traffic)

    def _turn(self, now: float) -> None:
        day = int(now // DAY_S)
        if day != self._day:
            self._day, self._traffic = day, {}


def _spread(ranges: Iterable[tuple[int, int]], start: int) -> Iterator[int]:
    ranges = tuple(ranges)
    count = sum(last - first + 1 for first, last in ranges)
    for number in range(min(count, _TRIES) if count else 0):
        # A step that is prime to the count visits each port once.
        step = _PRIME if count % _PRIME else 1
        at = (start + number * step) % count
        for first, last in ranges:
            if at <= last - first:
                yield first + at
                break
            at -= last - first + 1


def ranges_text(ranges: Iterable[tuple[int, int]]) -> str:
    """Return `20000-29999,443`; `no ports` for none."""
    shown = [f"{first}-{last}" if last > first else str(first) for first, last in ranges]
    return ",".join(shown) or "no ports"


class FlowBudget:
    """How much may be answered to one source of datagrams, which may be forged.

    Before it has proven itself a source gets at most `UNPROVEN_FACTOR` times the bytes that came
    from it (the factor of RFC 9000, section 8.1). Nothing in a datagram of a stranger's protocol
    proves an address; who goes on talking after several answers, over a while, is held for proven,
    and gets `PROVEN_FACTOR` times what it sends: enough for a download that is acknowledged.
    """

    UNPROVEN_FACTOR = 3
    PROVEN_FACTOR = 64
    EXCHANGES = 3
    PROOF_S = 1.0
    OVERHEAD_BYTES = 28

    def __init__(self, now: float) -> None:
        self._began = now
        self._exchanges = 0
        self._is_answered = False
        self._proof_at: float | None = None
        self._credit = 0

    @property
    def is_proven(self) -> bool:
        """Whether the source is held for real."""
        return self._proof_at is not None

    def came(self, size: int, now: float) -> None:
        """Note a datagram of the source."""
        if self._is_answered:
            self._exchanges += 1
            self._is_answered = False
        is_long = now >= self._began + self.PROOF_S
        if self._proof_at is None and self._exchanges >= self.EXCHANGES and is_long:
            self._proof_at = now
        factor = self.PROVEN_FACTOR if self.is_proven else self.UNPROVEN_FACTOR
        self._credit += factor * (size + self.OVERHEAD_BYTES)

    def may_answer(self, size: int) -> bool:
        """Take so much of what is left; False, and nothing is taken, where it is too much."""
        cost = size + self.OVERHEAD_BYTES
        if cost > self._credit:
            return False
        self._credit -= cost
        self._is_answered = True
        return True
