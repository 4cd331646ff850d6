"""When to ask the router for our port: at once, at half of what it promised, and after failures.

A renewal that fails does not end what was promised: it is tried again at half of what is left, as
RFC 6887 (11.2.1) wants it, until the promise is over. A router that opens nothing is asked ever
more rarely; another router, or another address of ours, begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

RETRY_S = 60.0
RETRY_LIMIT_S = 900.0
AGAIN_LEAST_S = 5.0
LIFETIME_LEAST_S = 20.0
LIFETIME_LIMIT_S = 86400.0
"""What a router promises is believed within these."""


@dataclass(frozen=True, slots=True)
class RouteChanged:
    """The way out is another one; `has_router` when there is somebody to ask."""

    has_router: bool


@dataclass(frozen=True, slots=True)
class Opened:
    """The router opened our port, or renewed it, for so long."""

    lifetime_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """It did not."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the router now; `Opened` or `Failed` follows."""


@dataclass(frozen=True, slots=True)
class Lost:
    """What the router promised is over."""


MappingEvent = RouteChanged | Opened | Failed | Tick
MappingEffect = Ask | Lost


class MappingSchedule:
    """Our promise from the router, and when to speak to it."""

    def __init__(self) -> None:
        self._expires_at: float | None = None
        self._failures = 0
        self.deadline: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether the router holds our port open, by its word."""
        return self._expires_at is not None

    def handle(self, event: MappingEvent, now: float) -> list[MappingEffect]:
        """Take an event; return what to do."""
        effects = self._expire(now)
        match event:
            case RouteChanged():
                effects += self._begin(has_router=event.has_router)
            case Opened():
                life_s = min(max(event.lifetime_s, LIFETIME_LEAST_S), LIFETIME_LIMIT_S)
                self._failures, self._expires_at = 0, now + life_s
                self.deadline = now + life_s / 2
            case Failed():
                self._failures += 1
                self.deadline = now + self._pause(now)
            case Tick():
                if self.deadline is not None and now >= self.deadline:
                    self.deadline = None
                    effects.append(Ask())
            case _:
                assert_never(event)
        return effects

    def _expire(self, now: float) -> list[MappingEffect]:
        if self._expires_at is None or now < self._expires_at:
            return []
        self._expires_at = None
        self._failures = 0
        return [Lost()]

    def _begin(self, *, has_router: bool) -> list[MappingEffect]:
        effects: list[MappingEffect] = [Lost()] if self._expires_at is not None else []
        self._expires_at = self.deadline = None
        self._failures = 0
        return [*effects, Ask()] if has_router else effects

    def _pause(self, now: float) -> float:
        if self._expires_at is not None:
            return max(AGAIN_LEAST_S, (self._expires_at - now) / 2)
        return min(RETRY_LIMIT_S, RETRY_S * 2.0 ** min(self._failures - 1, 6))
