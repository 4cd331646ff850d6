"""The network between simulated nodes: ways and latencies, loss, cuts, and links that break.

A link is what the transport calls a connection: a reliable stream in each direction. A lost packet
is sent again, as QUIC does it (RFC 9002: after a probe timeout that doubles), so that loss shows as
delay, and what was said later waits for what was said before. Only a run of losses that outlasts
the pulse of the link breaks it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from random import Random
from typing import Protocol

from msgspec import Struct as Message

from p2prc.simulation import wire_costs
from p2prc.simulation.clock import VirtualClock
from p2prc.simulation.paths import Place, Way, way_between
from p2prc.simulation.scenario import Scenario
from p2prc.simulation.traffic import Traffic
from p2prc.wire.codec import encode

_DIAL_TIMEOUT_S = 4.0
_FIRST_PROBE_S = 1.0
"""A handshake knows no round trip yet: QUIC then waits a second before it tries again."""
_ACK_DELAY_S = 0.025
_PULSE_S = 1.5
_PULSE_LIMIT_S = 4.0
_HANDSHAKE_FLIGHTS = 4


class Host(Protocol):
    """Who is at the end of a link. A host's `life` grows with each start."""

    @property
    def life(self) -> int: ...

    @property
    def is_up(self) -> bool: ...

    def link_up(self, other: int) -> None: ...

    def link_down(self, other: int, *, on_purpose: bool = False) -> None: ...

    def receive(self, other: int, message: Message) -> None: ...


class _Link:
    """A connection between two lives of two hosts; `relay` is -1 when it is direct."""

    __slots__ = ("ends", "is_open", "latency_s", "lives", "quiet_until", "relay")

    def __init__(
        self, ends: tuple[int, int], lives: tuple[int, int], *, latency_s: float, relay: int
    ) -> None:
        self.ends = ends
        self.lives = lives
        self.latency_s = latency_s
        self.relay = relay
        self.is_open = True
        self.quiet_until = [0.0, 0.0]


class SimulatedNetwork:
    """Carries messages between hosts, or not."""

    def __init__(
        self, scenario: Scenario, clock: VirtualClock, rng: Random, places: Sequence[Place]
    ) -> None:
        self.hosts: Sequence[Host] = ()
        self.traffic = Traffic(scenario.nodes, clock)
        self.linked: Callable[[int, int, bool], None] = lambda _one, _other, _is_up: None
        self._clock = clock
        self._rng = rng
        self._places = places
        self._loss = scenario.loss
        self._latency_mu = log(scenario.latency_median_ms / 1000)
        self._latency_sigma = scenario.latency_sigma
        self._jitter = scenario.latency_jitter
        self._bytes_per_s = scenario.bandwidth_mbit_per_s * 125_000
        self._notice_s = scenario.notice_s
        self._is_apart: list[bool] | None = None
        # One number, so that latencies depend on the pair and the seed, not on who dials first.
        self._salt = rng.getrandbits(32)
        self._relays = scenario.relays
        self._homes = [rng.randrange(max(1, scenario.relays.count)) for _ in places]
        self._lonely = self._find_lonely()
        self._links: list[dict[int, _Link]] = [{} for _ in places]
        self._size_of: tuple[Message | None, int] = (None, 0)

    # -- what is there --

    def can_talk(self, one: int, other: int) -> bool:
        """Say whether the two are in one network at this moment, though not always directly."""
        hosts = self.hosts
        if not (hosts[one].is_up and hosts[other].is_up):
            return False
        if self._lonely and (self._lonely[one] or self._lonely[other]):
            return False
        apart = self._is_apart
        return apart is None or apart[one] == apart[other]

    def links_of(self, host: int) -> list[int]:
        """Return who the host has a link with."""
        return list(self._links[host])

    def count_links(self) -> tuple[int, int]:
        """Return how many links there are, and how many of them go through a relay."""
        found = [link for own in self._links for link in own.values()]
        return len(found) // 2, sum(link.relay >= 0 for link in found) // 2

    # -- what hosts do --

    def dial(self, caller: int, callee: int, failed: Callable[[], None]) -> None:
        """Make a link, or call `failed` when that takes too long."""
        life = self.hosts[caller].life
        relay = self._relay_for(caller, callee)
        way = way_between(self._places[caller], self._places[callee], has_relay=relay >= 0)
        if way is not Way.NONE and self.can_talk(caller, callee):
            relay = relay if way is Way.RELAYED else -1
            latency_s = self._latency_between(caller, callee, relay)
            takes_s = self._handshake_s(latency_s)
            if takes_s < _DIAL_TIMEOUT_S:
                self._clock.call_later(
                    takes_s, self._answered, (caller, callee), life, latency_s, relay
                )
                return
        self.traffic.send(caller, wire_costs.UNANSWERED_CALL_BYTES)
        self._clock.call_later(_DIAL_TIMEOUT_S, self._gave_up, caller, life, failed)

    def send(self, sender: int, receiver: int, message: Message) -> None:
        """Send on the link between the two; without a link nothing is sent."""
        link = self._links[sender].get(receiver)
        if link is None:
            return
        size_bytes = self._measured(message)
        packets = wire_costs.packets_of(size_bytes)
        repeats, delay_s = self._repeats(packets, 3.0 * link.latency_s + _ACK_DELAY_S)
        self._charge(link, sender, receiver, size_bytes, packets + repeats)
        delay_s += link.latency_s * (1.0 + self._jitter * self._rng.random())
        delay_s += size_bytes / self._bytes_per_s
        side = 0 if sender == link.ends[0] else 1
        arrives_at = max(self._clock.now + delay_s, link.quiet_until[side])
        link.quiet_until[side] = arrives_at
        self._clock.call_at(arrives_at, self._arrived, link, sender, receiver, message)

    def hang_up(self, one: int, other: int, *, on_purpose: bool) -> None:
        """Close the link between the two; the other end knows whether it was meant kindly."""
        link = self._links[one].get(other)
        if link is not None:
            self._clock.call_later(0.0, self._close, link, on_purpose)

    # -- what befalls hosts --

    def cut(self, apart: list[bool] | None) -> None:
        """Separate those marked from the others; None heals."""
        self._is_apart = apart
        self._watch_all(range(len(self._places)))

    def notice_crash(self, host: int) -> None:
        """The host stopped: those linked with it will notice its silence."""
        self._watch_all((host,))
        if self._relays.are_members and host < self._relays.count:
            for own in self._links:
                for link in list(own.values()):
                    if link.relay == host:
                        self._watch(link)

    def unlink(self, host: int) -> None:
        """Break the host's links; both ends notice at once."""
        for link in list(self._links[host].values()):
            self._break(link)

    # -- a link's life --

    def _answered(self, ends: tuple[int, int], life: int, latency_s: float, relay: int) -> None:
        caller, callee = ends
        if self.hosts[caller].life != life or not self.can_talk(caller, callee):
            return
        self.traffic.send(caller, wire_costs.CALLER_HANDSHAKE_BYTES)
        self.traffic.send(callee, wire_costs.CALLEE_HANDSHAKE_BYTES)
        existing = self._links[caller].get(callee)
        if existing is not None and not self._is_sound(existing):
            self._forget(existing)
            existing = None
        if existing is None:
            lives = (self.hosts[caller].life, self.hosts[callee].life)
            link = _Link((caller, callee), lives, latency_s=latency_s, relay=relay)
            self._links[caller][callee] = self._links[callee][caller] = link
            self.traffic.link_opened(caller, callee)
            self.linked(caller, callee, True)
            if (rate := self._break_rate(latency_s)) > 1e-9:
                self._clock.call_later(self._rng.expovariate(rate), self._close, link, False)
        self.hosts[caller].link_up(callee)
        self.hosts[callee].link_up(caller)

    def _gave_up(self, caller: int, life: int, failed: Callable[[], None]) -> None:
        if self.hosts[caller].life == life and self.hosts[caller].is_up:
            failed()

    def _arrived(self, link: _Link, sender: int, receiver: int, message: Message) -> None:
        # A crash or a cut is noticed later; until then what is sent is lost.
        if link.is_open and self._is_sound(link) and self._carries(link):
            self.hosts[receiver].receive(sender, message)

    def _watch_all(self, hosts: Sequence[int]) -> None:
        for host in hosts:
            for other, link in list(self._links[host].items()):
                if host < other or len(hosts) == 1:
                    self._watch(link)

    def _watch(self, link: _Link) -> None:
        """Break the link when its ends still cannot talk after the time it takes to notice."""
        if not (self._is_sound(link) and self._carries(link)):
            self._clock.call_later(self._rng.uniform(*self._notice_s), self._noticed, link)

    def _noticed(self, link: _Link) -> None:
        if link.is_open and not (self._is_sound(link) and self._carries(link)):
            self._break(link)

    def _close(self, link: _Link, on_purpose: bool) -> None:  # noqa: FBT001  called by the clock
        if link.is_open:
            self.traffic.send(link.ends[0], wire_costs.CLOSING_BYTES)
            self._break(link, on_purpose=on_purpose)

    def _break(self, link: _Link, *, on_purpose: bool = False) -> None:
        self._forget(link)
        for end, life, other in zip(link.ends, link.lives, reversed(link.ends), strict=True):
            if self.hosts[end].is_up and self.hosts[end].life == life:
                self.hosts[end].link_down(other, on_purpose=on_purpose)

    def _forget(self, link: _Link) -> None:
        one, other = link.ends
        link.is_open = False
        del self._links[one][other], self._links[other][one]
        self.traffic.link_closed(one, other)
        self.linked(one, other, False)

    def _is_sound(self, link: _Link) -> bool:
        (one, other), hosts = link.ends, self.hosts
        return hosts[one].life == link.lives[0] and hosts[other].life == link.lives[1]

    def _carries(self, link: _Link) -> bool:
        is_relay_up = link.relay < 0 or self._is_relay_up(link.relay)
        return is_relay_up and self.can_talk(*link.ends)

    # -- what it costs --

    def _measured(self, message: Message) -> int:
        # One message goes to many peers, one after another.
        if self._size_of[0] is not message:
            self._size_of = (message, len(encode(message)))
        return self._size_of[1]

    def _charge(
        self, link: _Link, sender: int, receiver: int, size_bytes: int, packets: int
    ) -> None:
        traffic = self.traffic
        traffic.messages_sent += 1
        sent = wire_costs.sent_bytes(size_bytes, packets)
        if link.relay >= 0:
            sent += packets * wire_costs.RELAY_FRAME_BYTES
            traffic.relayed_bytes += sent
            if self._relays.are_members:
                traffic.send(link.relay, sent)
        traffic.send(sender, sent)
        traffic.send(receiver, wire_costs.acknowledgement_bytes(packets))

    # -- time --

    def _repeats(self, packets: int, probe_s: float) -> tuple[int, float]:
        """Return how many packets had to be sent again, and how long the slowest waited."""
        loss = self._loss
        if not loss:
            return 0, 0.0
        random = self._rng.random
        repeats, waited_s = 0, 0.0
        for _ in range(packets):
            patience_s, late_s = probe_s, 0.0
            while random() < loss:
                repeats += 1
                late_s += patience_s
                patience_s *= 2.0
            waited_s = max(waited_s, late_s)
        return repeats, waited_s

    def _handshake_s(self, latency_s: float) -> float:
        takes_s = _HANDSHAKE_FLIGHTS * latency_s
        for _ in range(_HANDSHAKE_FLIGHTS):
            takes_s += self._repeats(1, _FIRST_PROBE_S)[1]
        return takes_s

    def _break_rate(self, latency_s: float) -> float:
        """Return how often in a second loss alone outlasts the pulse of a link.

        That takes as many losses in a row as packets are tried meanwhile: the pulses, and two
        probes at each timeout.
        """
        if not self._loss:
            return 0.0
        probe_s, waited_s, tries = 3.0 * latency_s + _ACK_DELAY_S, 0.0, 1
        while (waited_s := waited_s + probe_s) < _PULSE_LIMIT_S:
            tries += 2
            probe_s *= 2.0
        tries += int(_PULSE_LIMIT_S / _PULSE_S)
        rate: float = self._loss**tries * 2.0 / _PULSE_S
        return rate

    def _latency_between(self, one: int, other: int, relay: int) -> float:
        if relay < 0:
            return self._latency_of(min(one, other), max(one, other))
        station = relay if self._relays.are_members else len(self._places) + relay
        return sum(self._latency_of(end, station) for end in (one, other) if end != station)

    def _latency_of(self, low: int, high: int) -> float:
        pair = Random((self._salt << 40) ^ (low << 20) ^ high)  # noqa: S311  it must repeat
        return pair.lognormvariate(self._latency_mu, self._latency_sigma)

    # -- relays --

    def _relay_for(self, caller: int, callee: int) -> int:
        """Return the relay at which the callee can be reached; -1 when there is none."""
        count = self._relays.count
        if not count:
            return -1
        for offset in range(count):
            relay = (self._homes[callee] + offset) % count
            if self._is_relay_up(relay) and self._sees_relay(relay, caller, callee):
                return relay
        return -1

    def _is_relay_up(self, relay: int) -> bool:
        return not self._relays.are_members or self.hosts[relay].is_up

    def _sees_relay(self, relay: int, caller: int, callee: int) -> bool:
        apart = self._is_apart
        if apart is None or not self._relays.are_members:
            return True
        return apart[relay] == apart[caller] == apart[callee]

    def _find_lonely(self) -> list[bool]:
        """Mark those that find a way to nobody; empty when there are none."""
        if self._relays.count or set(self._places) == {Place.PUBLIC}:
            return []
        is_anybody_public = Place.PUBLIC in self._places
        lonely = [
            place is Place.BLOCKED or (place is not Place.PUBLIC and not is_anybody_public)
            for place in self._places
        ]
        return lonely if any(lonely) else []
