"""Where we can be reached: decided from what our interfaces, peers and router say.

Theory of operation. Each peer with a direct path to us tells the address that it sees (RFC 5389
calls it reflexive). One that is none of our own is told to the transport, so that paths can be
punched, unless the NAT is symmetric: then it is of no use to anybody else (`nat_kind`).

Nobody is believed that we are reachable: a peer that sees us under an address that is not private
is asked to dial it afresh, by TCP and by UDP. Only when both arrive do we call ourselves public.
It is asked again now and then; one failure is asked about elsewhere, two end it.

Everything is bounded: `PEERS_LIMIT` observers, `EXTERNAL_LIMIT` addresses believed at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import assert_never

from p2prc.model.identity import NodeId
from p2prc.protocol.diagnosis import NatKind
from p2prc.protocol.nat_kind import Sighting, kind_at, kind_of
from p2prc.protocol.reachability_events import (
    AddExternal,
    AskProbe,
    LocalChanged,
    Mapped,
    Moved,
    Observed,
    ObservedBeside,
    PathSeen,
    PeerGone,
    ProbeEnded,
    ProbeFailed,
    ReachEffect,
    ReachEvent,
    RemoveExternal,
    Tick,
    host_of,
    is_outside,
    join,
    split,
)

PEERS_LIMIT = 64
EXTERNAL_LIMIT = 4
ADDRESSES_LIMIT = 8
MEMORY_S = 30.0
"""An observation outlives its observer's last link this long: links flap."""
PROBE_SOON_S = 0.2
PROBE_TIMEOUT_S = 15.0
PROBE_AGAIN_S = 20.0
"""After a failure; doubled with each one, up to `PROBE_RARELY_S`."""
PROBE_RARELY_S = 600.0
RECHECK_S = 300.0
BLOCKED_AFTER_S = 15.0
"""So long may all links be relayed before we say that UDP does not get out."""

# -- state ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Observer:
    """What one peer sees of us, and where we see it."""

    is_direct: bool = False
    remote: str = ""
    is_public: bool = False
    address: str = ""
    beside: str = ""
    """Where it sees us from its second port."""
    gone_at: float | None = None
    relayed_since: float | None = None


@dataclass(slots=True)
class _Candidate:
    """An address that may be public, and what those who tried it found."""

    by_tcp: bool = False
    by_udp: bool = False
    failures: int = 0
    next_at: float = 0.0
    asked: NodeId | None = None
    is_lonely: bool = False
    """Nobody was there to be asked."""
    refused_by: dict[NodeId, None] = field(default_factory=dict)

    @property
    def is_public(self) -> bool:
        return self.by_tcp and self.by_udp


class Reachability:
    """Our addresses, what of them is public, and what our NAT is like."""

    def __init__(self, *, given: Sequence[str] = (), can_be_public: bool = True) -> None:
        """`given` are addresses named by hand, believed; without a TCP port nobody is public."""
        self.given = tuple(given)
        self._can_be_public = can_be_public
        self.local: tuple[str, ...] = ()
        self._observers: dict[NodeId, _Observer] = {}
        self._candidates: dict[str, _Candidate] = {}
        self._mapped = Mapped("")
        self._external: tuple[str, ...] = ()
        self._shown: object = None
        self.deadline: float | None = None

    # -- what was decided --

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return where peers may dial us, the most widely usable first."""
        local = sorted(self.local, key=_width)
        outside = [each for each in local if is_outside(host_of(each))]
        mapped = (self._mapped.address,) if self._mapped.address else ()
        ordered = (*self.given, *self.verified, *mapped, *outside, *self._external, *local)
        return tuple(dict.fromkeys(ordered))[:ADDRESSES_LIMIT]

    @property
    def external(self) -> tuple[str, ...]:
        """Return where peers see us that is none of our own addresses."""
        return self._external

    @property
    def verified(self) -> tuple[str, ...]:
        """Return the addresses at which a peer's fresh dials arrived, by TCP and UDP."""
        return tuple(each for each, found in self._candidates.items() if found.is_public)

    @property
    def is_public(self) -> bool:
        """Whether whoever is outside can dial us."""
        return bool(self.given or self.verified)

    @property
    def nat(self) -> NatKind:
        """Return what is between us and the others, as far as they can tell."""
        if self._mapped.nat in ("double", "carrier"):
            return self._mapped.nat
        return kind_of(self._sightings(), self.local)

    @property
    def mapping(self) -> Mapped:
        """Return what the router said."""
        return self._mapped

    def onlookers(self) -> list[tuple[NodeId, str]]:
        """Return the peers, and where they are, that see us through a NAT at this moment.

        Public ones, where there are: when our address changes, the others' NATs shut us out.
        """
        local = {host_of(each) for each in self.local}
        found = [
            (peer, observer)
            for peer, observer in sorted(self._observers.items())
            if observer.gone_at is None
            and observer.is_direct
            and (not observer.address or host_of(observer.address) not in local)
        ]
        public = [(peer, observer) for peer, observer in found if observer.is_public]
        return [(peer, observer.remote) for peer, observer in public or found]

    def wants_second_look(self) -> list[tuple[NodeId, str]]:
        """Return the peers, and where they are, that can tell what our NAT is like alone."""
        if self.nat != "unknown":
            return []
        return [each for each in self.onlookers() if not self._observers[each[0]].beside]

    def is_udp_blocked(self, now: float) -> bool:
        """Whether every link is relayed though some peer could be dialled by UDP."""
        live = [each for each in self._observers.values() if each.gone_at is None]
        return (
            bool(live)
            and not any(each.is_direct for each in live)
            and any(
                each.is_public
                and each.relayed_since is not None
                and now - each.relayed_since >= BLOCKED_AFTER_S
                for each in live
            )
        )

    # -- the door --

    def handle(self, event: ReachEvent, now: float) -> list[ReachEffect]:
        """Take an event; return what to do."""
        self._forget(now)
        match event:
            case LocalChanged():
                self._local_changed(event.addresses)
            case PathSeen():
                self._path_seen(event, now)
            case Observed():
                self._observed(event)
            case ObservedBeside():
                if (observer := self._observers.get(event.peer)) is not None:
                    observer.beside = event.address if split(event.address) else ""
            case PeerGone():
                if (observer := self._observers.get(event.peer)) is not None:
                    observer.gone_at = now
            case Mapped():
                self._mapped = event if split(event.address) else _without_address(event)
            case ProbeEnded():
                self._probe_ended(event, now)
            case ProbeFailed():
                self._probe_failed(event.peer, event.address, now)
            case Tick():
                pass
            case _:
                assert_never(event)
        return self._settle(now)

    def _local_changed(self, addresses: tuple[str, ...]) -> None:
        if self.local and set(addresses) != set(self.local):
            # Whatever was seen was seen of a path that may be gone.
            for observer in self._observers.values():
                observer.address = observer.beside = ""
            self._candidates.clear()
        self.local = addresses

    def _path_seen(self, event: PathSeen, now: float) -> None:
        observer = self._observer(event.peer)
        if observer is None:
            return
        observer.gone_at = None
        observer.is_public = event.is_public
        if event.is_direct:
            observer.relayed_since = None
        elif observer.relayed_since is None:
            observer.relayed_since = now
        observer.is_direct = event.is_direct
        observer.remote = event.remote if event.is_direct else ""

    def _observed(self, event: Observed) -> None:
        observer = self._observer(event.peer)
        if observer is None:
            return
        before = observer.address
        observer.gone_at = None
        observer.address = event.address if self._leads_here(event.address) else ""
        if observer.address != before:
            observer.beside = ""
        if before and observer.address and before != observer.address:
            # The NAT has another address or port for us now; the others will see that later.
            for other in self._observers.values():
                if other.address == before:
                    other.address = ""

    def _leads_here(self, address: str) -> bool:
        """Whether others may find us there: a peer on this machine sees our loopback."""
        if not split(address):
            return False
        return not _is_loopback(address) or all(map(_is_loopback, self.local))

    def _observer(self, peer: NodeId) -> _Observer | None:
        if peer not in self._observers and len(self._observers) >= PEERS_LIMIT:
            gone = next((n for n, o in self._observers.items() if o.gone_at is not None), None)
            if gone is None:
                return None
            del self._observers[gone]
        return self._observers.setdefault(peer, _Observer())

    def _forget(self, now: float) -> None:
        for peer, observer in list(self._observers.items()):
            if observer.gone_at is not None and now - observer.gone_at >= MEMORY_S:
                del self._observers[peer]

    # -- probes --

    def _probe_ended(self, event: ProbeEnded, now: float) -> None:
        found = self._candidates.get(event.address)
        if found is None or found.asked != event.peer:
            return
        if not (event.by_tcp and event.by_udp):
            self._probe_failed(event.peer, event.address, now)
            if found.failures > 1 or not found.is_public:
                found.by_tcp, found.by_udp = event.by_tcp, event.by_udp
            return
        found.asked, found.failures = None, 0
        found.refused_by.clear()
        found.by_tcp = found.by_udp = True
        found.next_at = now + RECHECK_S

    def _probe_failed(self, peer: NodeId, address: str, now: float) -> None:
        found = self._candidates.get(address)
        if found is None or found.asked != peer:
            return
        found.asked = None
        found.failures += 1
        found.refused_by[peer] = None
        if found.failures > 1:
            found.by_tcp = found.by_udp = False
        elsewhere = self._whom_to_ask(address, found) is not None
        pause_s = min(PROBE_RARELY_S, PROBE_AGAIN_S * 2.0 ** min(found.failures, 6))
        found.next_at = now + (PROBE_SOON_S if elsewhere else pause_s)

    def _whom_to_ask(self, address: str, found: _Candidate) -> NodeId | None:
        host = host_of(address)
        # Another node of this machine is not outside, by whichever address it talks to us.
        own = {host_of(each) for each in self.local}
        return next(
            (
                peer
                for peer, observer in sorted(self._observers.items())
                if observer.gone_at is None
                and observer.is_direct
                and host_of(observer.address) == host
                and host_of(observer.remote) not in {host, *own}
                and not _is_loopback(observer.remote)
                and peer not in found.refused_by
            ),
            None,
        )

    def _due_probes(self, now: float) -> list[ReachEffect]:
        effects: list[ReachEffect] = []
        for address, found in self._candidates.items():
            if found.is_lonely and self._whom_to_ask(address, found) is not None:
                found.next_at = now
            if found.next_at > now:
                continue
            if found.asked is not None:
                self._probe_failed(found.asked, address, now)
                continue
            peer = self._whom_to_ask(address, found)
            if peer is None and found.refused_by:
                # Everybody has tried: after the pause they may try again.
                found.refused_by.clear()
                peer = self._whom_to_ask(address, found)
            if peer is None:
                found.is_lonely, found.next_at = True, now + PROBE_AGAIN_S
                continue
            found.asked, found.next_at = peer, now + PROBE_TIMEOUT_S
            found.is_lonely = False
            effects.append(AskProbe(peer, address))
        return effects

    # -- consequences --

    def _settle(self, now: float) -> list[ReachEffect]:
        external = self._external_now()
        effects: list[ReachEffect] = [
            RemoveExternal(each) for each in self._external if each not in external
        ]
        effects += [AddExternal(each) for each in external if each not in self._external]
        self._external = external
        if self._can_be_public:
            self._watch_candidates(now)
            effects += self._due_probes(now)
        shown = (self.addresses, self.is_public, self.nat, self.is_udp_blocked(now))
        if shown != self._shown:
            self._shown = shown
            effects.append(Moved())
        self._set_deadline(now)
        return effects

    def _external_now(self) -> tuple[str, ...]:
        local, found = {host_of(each) for each in self.local}, dict[str, int]()
        sightings = self._sightings()
        for observer in self._observers.values():
            host = host_of(observer.address)
            if host and host not in local and kind_at(host, sightings) != "symmetric":
                found[observer.address] = found.get(observer.address, 0) + 1
        agreed = sorted(found, key=lambda each: (-found[each], each))
        return tuple(agreed[:EXTERNAL_LIMIT])

    def _watch_candidates(self, now: float) -> None:
        """Keep one candidate for each address under which we may be dialled from outside."""
        wanted: dict[str, None] = {}
        ports = {(":" in found[0], found[1]) for each in self.local if (found := split(each))}
        for observer in self._observers.values():
            seen = split(observer.address)
            if seen is None or not is_outside(seen[0]):
                continue
            for is_six, port in sorted(ports):
                if is_six == (":" in seen[0]):
                    wanted[join(seen[0], port)] = None
        mapped = split(self._mapped.address)
        if mapped is not None and is_outside(mapped[0]):
            wanted[self._mapped.address] = None
        for address in list(self._candidates):
            if address not in wanted:
                del self._candidates[address]
        for address in list(wanted)[:EXTERNAL_LIMIT]:
            self._candidates.setdefault(address, _Candidate(next_at=now + PROBE_SOON_S))

    def _set_deadline(self, now: float) -> None:
        times = [found.next_at for found in self._candidates.values()]
        times += [
            each.gone_at + MEMORY_S for each in self._observers.values() if each.gone_at is not None
        ]
        times += [
            each.relayed_since + BLOCKED_AFTER_S
            for each in self._observers.values()
            if each.relayed_since is not None and now < each.relayed_since + BLOCKED_AFTER_S
        ]
        self.deadline = min(times, default=None)

    def _sightings(self) -> list[Sighting]:
        return [
            Sighting(each.address, each.remote, each.beside) for each in self._observers.values()
        ]


def _width(address: str) -> int:
    """Sort the loopback last."""
    return int(_is_loopback(address))


def _is_loopback(address: str) -> bool:
    host = host_of(address)
    return host in ("::1", "") or host.startswith("127.")


def _without_address(event: Mapped) -> Mapped:
    return Mapped("", event.method, event.trouble, event.nat)
