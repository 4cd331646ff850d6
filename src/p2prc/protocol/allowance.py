"""How much a peer may make us do: a bucket that fills with time and empties with use."""

from __future__ import annotations

from p2prc.protocol.membership_events import MembershipConfig


class Allowance:
    """At most `burst` at once, and `rate_per_s` over time."""

    def __init__(self, *, rate_per_s: float, burst: float, now: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._left = burst
        self._counted_at = now

    def take(self, amount: float, now: float) -> bool:
        """Use up some of it; False, and nothing is used, when not enough is left."""
        gained = max(0.0, now - self._counted_at) * self._rate_per_s
        self._left = min(self._burst, self._left + gained)
        self._counted_at = max(now, self._counted_at)
        if amount > self._left:
            return False
        self._left -= amount
        return True


class PeerAllowances:
    """What one connected peer may still make us send, check and doubt."""

    def __init__(self, config: MembershipConfig, now: float) -> None:
        self.answers = Allowance(
            rate_per_s=config.answer_bytes_per_s, burst=config.answer_burst_bytes, now=now
        )
        self.records = Allowance(
            rate_per_s=config.records_per_s, burst=config.records_burst, now=now
        )
        self.doubts = Allowance(rate_per_s=config.doubts_per_s, burst=config.doubts_burst, now=now)
