"""When certificates are asked for: seldom enough for an authority that counts failures."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

FIRST_WAIT_S = 120.0
LONGEST_WAIT_S = 12 * 3600.0
_FACTOR = 4
ORDERS_LIMIT = 50
"""Orders in `ORDERS_OVER_S` for all domains together: authorities bound an account."""
ORDERS_OVER_S = 86400.0
_RENEWED_AFTER = 2 / 3
"""Of a certificate's life, as its authorities advise: a third is left to be told of a failure."""


@dataclass(slots=True)
class _Failed:
    why: str
    times: int
    again_at: float


class RenewalBook:
    """Which domain is to be asked for next. Times are seconds since 1970."""

    def __init__(self) -> None:
        self._failed: dict[str, _Failed] = {}
        self._orders: deque[float] = deque()

    def due(
        self, wanted: Iterable[str], lives: Mapping[str, tuple[float, float]], now: float
    ) -> str | None:
        """Return a domain to order a certificate for; what has none goes first.

        `lives` are when those that are had begin and end.
        """
        names = sorted(set(wanted), key=lambda name: (name in lives, name))
        for gone in set(self._failed) - set(names):
            del self._failed[gone]
        while self._orders and self._orders[0] <= now - ORDERS_OVER_S:
            self._orders.popleft()
        if len(self._orders) >= ORDERS_LIMIT:
            return None
        for name in names:
            failed = self._failed.get(name)
            if failed is not None and now < failed.again_at:
                continue
            life = lives.get(name)
            if life is None or now >= life[0] + (life[1] - life[0]) * _RENEWED_AFTER:
                return name
        return None

    def ordered(self, now: float) -> None:
        """Note that one was asked for."""
        self._orders.append(now)

    def succeeded(self, domain: str) -> None:
        """Note that it is there."""
        self._failed.pop(domain, None)

    def failed(self, domain: str, why: str, now: float) -> None:
        """Note why it is not: each time it is asked for later."""
        before = self._failed.get(domain)
        times = 1 if before is None else before.times + 1
        # Bounded before it is raised to a power: failures may go on for years.
        wait_s = min(FIRST_WAIT_S * _FACTOR ** min(times - 1, 10), LONGEST_WAIT_S)
        self._failed[domain] = _Failed(why, times, now + wait_s)

    def trouble(self, domain: str) -> str:
        """Say why the last order failed; "" where none did."""
        failed = self._failed.get(domain)
        return "" if failed is None else failed.why

    def troubles(self) -> dict[str, str]:
        """Return the same for every domain that has one."""
        return {domain: failed.why for domain, failed in self._failed.items()}
