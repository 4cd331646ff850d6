"""The network between simulated nodes: latency, loss, cuts, and links that break when nobody hears.

A link is what the transport calls a connection: a reliable stream, on which a lost packet is a
message that comes later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from random import Random
from typing import Protocol

from p2prc.protocol.messages import Gossip
from p2prc.simulation.clock import VirtualClock
from p2prc.simulation.scenario import Scenario
from p2prc.wire.codec import encode

_DIAL_TIMEOUT_S = 3.0
_RETRANSMISSION_S = 0.2
_LETTER_OVERHEAD_BYTES = 12
"""The frame's length and the letter around a message."""


class Host(Protocol):
    """Who is at the end of a link. A host's `life` grows with each start."""

    @property
    def life(self) -> int: ...

    @property
    def is_up(self) -> bool: ...

    def link_up(self, other: int) -> None: ...

    def link_down(self, other: int, *, on_purpose: bool = False) -> None: ...

    def receive(self, other: int, message: Gossip) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Link:
    """A connection between two lives of two hosts."""

    ends: tuple[int, int]
    lives: tuple[int, int]


class SimulatedNetwork:
    """Carries messages between hosts, or not."""

    def __init__(self, scenario: Scenario, clock: VirtualClock, rng: Random) -> None:
        self.bytes_sent = 0
        self.messages_sent = 0
        self.hosts: list[Host] = []
        self._clock = clock
        self._rng = rng
        self._loss = scenario.loss
        self._latency_mu = log(scenario.latency_median_ms / 1000)
        self._latency_sigma = scenario.latency_sigma
        self._notice_s = scenario.notice_s
        self._first_side: int | None = None
        self._links: dict[tuple[int, int], _Link] = {}

    def can_talk(self, one: int, other: int) -> bool:
        """Say whether packets get from one host to the other at this moment."""
        if not (self.hosts[one].is_up and self.hosts[other].is_up):
            return False
        side = self._first_side
        return side is None or (one < side) == (other < side)

    def links_of(self, host: int) -> list[int]:
        """Return who the host has a link with."""
        return [a + b - host for a, b in self._links if host in (a, b)]

    def dial(self, caller: int, callee: int, failed: Callable[[], None]) -> None:
        """Make a link, or call `failed` when that takes too long."""
        life = self.hosts[caller].life

        def arrive() -> None:
            if self.hosts[caller].life == life and self.can_talk(caller, callee):
                self._link(caller, callee)

        def give_up() -> None:
            if self.hosts[caller].life == life and self.hosts[caller].is_up:
                failed()

        if self.can_talk(caller, callee) and self._rng.random() >= self._loss:
            self._clock.call_later(self._latency_s() + self._latency_s(), arrive)
        else:
            self._clock.call_later(_DIAL_TIMEOUT_S, give_up)

    def send(self, sender: int, receiver: int, message: Gossip) -> None:
        """Send on the link between the two; without a link nothing is sent."""
        link = self._links.get(_ends(sender, receiver))
        if link is None:
            return
        self.messages_sent += 1
        self.bytes_sent += len(encode(message)) + _LETTER_OVERHEAD_BYTES
        delay_s = self._latency_s()
        # A link is a reliable stream: what is lost is sent again, and comes later.
        while self._rng.random() < self._loss:
            delay_s += _RETRANSMISSION_S

        def arrive() -> None:
            is_same_link = self._links.get(link.ends) is link and self._is_sound(link)
            if is_same_link and self.can_talk(sender, receiver):
                self.hosts[receiver].receive(sender, message)

        self._clock.call_later(delay_s, arrive)

    def cut(self, first_side: int | None) -> None:
        """Separate the first so many hosts from the others; None heals."""
        self._first_side = first_side
        for link in list(self._links.values()):
            self._watch(link)

    def notice_crash(self, host: int) -> None:
        """The host stopped: those linked with it will notice its silence."""
        for link in list(self._links.values()):
            if host in link.ends:
                self._watch(link)

    def unlink(self, host: int) -> None:
        """Break the host's links; both ends notice at once."""
        for link in list(self._links.values()):
            if host in link.ends:
                self._break(link)

    def hang_up(self, one: int, other: int, *, on_purpose: bool) -> None:
        """Close the link between the two; the other end knows whether it was meant kindly."""
        link = self._links.get(_ends(one, other))
        if link is not None:
            self._clock.call_later(0.0, lambda: self._close(link, on_purpose=on_purpose))

    def _close(self, link: _Link, *, on_purpose: bool) -> None:
        if self._links.get(link.ends) is link:
            self._break(link, on_purpose=on_purpose)

    def _watch(self, link: _Link) -> None:
        """Break the link when its ends still cannot talk after the time it takes to notice."""
        if self._is_sound(link) and self.can_talk(*link.ends):
            return

        def check() -> None:
            is_current = self._links.get(link.ends) is link
            if is_current and not (self._is_sound(link) and self.can_talk(*link.ends)):
                self._break(link)

        self._clock.call_later(self._rng.uniform(*self._notice_s), check)

    def _link(self, one: int, other: int) -> None:
        ends = _ends(one, other)
        existing = self._links.get(ends)
        if existing is None or not self._is_sound(existing):
            self._links[ends] = _Link(ends, (self.hosts[ends[0]].life, self.hosts[ends[1]].life))
        self.hosts[one].link_up(other)
        self.hosts[other].link_up(one)

    def _break(self, link: _Link, *, on_purpose: bool = False) -> None:
        del self._links[link.ends]
        for end, life, other in zip(link.ends, link.lives, reversed(link.ends), strict=True):
            if self.hosts[end].is_up and self.hosts[end].life == life:
                self.hosts[end].link_down(other, on_purpose=on_purpose)

    def _is_sound(self, link: _Link) -> bool:
        return all(
            self.hosts[end].life == life for end, life in zip(link.ends, link.lives, strict=True)
        )

    def _latency_s(self) -> float:
        return self._rng.lognormvariate(self._latency_mu, self._latency_sigma)


def _ends(one: int, other: int) -> tuple[int, int]:
    return (one, other) if one < other else (other, one)
