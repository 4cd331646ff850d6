"""How much others may make us do: buckets that fill with time and empty with use."""

from __future__ import annotations

from collections import OrderedDict

from p2prc.model.identity import NodeId
from p2prc.protocol.membership_events import MembershipConfig

DOUBTERS_LIMIT = 1_024
_RELAYED = 3


class Allowance:
    """At most `burst` at once, and `rate_per_s` over time."""

    __slots__ = ("_burst", "_counted_at", "_left", "_rate_per_s")

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
    """What one connected peer may still make us send, check and hear, and get wrong.

    `faults` outlives the link, so that hanging up wins a liar nothing.
    """

    __slots__ = ("answers", "checks", "messages")

    def __init__(self, config: MembershipConfig, now: float) -> None:
        self.answers = Allowance(
            rate_per_s=config.answer_bytes_per_s, burst=config.answer_burst_bytes, now=now
        )
        self.checks = Allowance(rate_per_s=config.checks_per_s, burst=config.checks_burst, now=now)
        self.messages = Allowance(
            rate_per_s=config.messages_per_s, burst=config.messages_burst, now=now
        )


class Conduct:
    """Who was caught at what honest nodes do not do, and for how long it is shunned."""

    def __init__(self, config: MembershipConfig) -> None:
        self._config = config
        self._faults: OrderedDict[NodeId, Allowance] = OrderedDict()
        self._shunned: dict[NodeId, float] = {}
        self._doubts: OrderedDict[NodeId, Allowance] = OrderedDict()

    def is_shunned(self, node: NodeId, now: float) -> bool:
        until = self._shunned.get(node)
        if until is not None and until <= now:
            del self._shunned[node]
            return False
        return until is not None

    def blame(self, peer: NodeId, weight: float, now: float) -> bool:
        """Count a fault; True when that was one too many and the peer is shunned from now on."""
        faults = self._faults.get(peer)
        if faults is None:
            faults = Allowance(
                rate_per_s=self._config.faults_per_s, burst=self._config.faults_burst, now=now
            )
            self._faults[peer] = faults
            if len(self._faults) > DOUBTERS_LIMIT:
                self._faults.popitem(last=False)
        if faults.take(weight, now) or self.is_shunned(peer, now):
            return False
        self._shunned[peer] = now + self._config.shun_s
        return True

    def may_doubt(self, doubter: NodeId, nodes: int, now: float, *, is_direct: bool) -> bool:
        """Take one doubt of this author, from itself or brought by another.

        When two halves of a network meet again, one node may rightly doubt everybody once. Its
        peers measure it. What one of them let pass all others must too, or a doubt would spread
        but half way and its answer not come back: so others' measure is larger.
        """
        doubts = self._doubts.get(doubter)
        if doubts is None:
            config = self._config
            doubts = Allowance(
                rate_per_s=(config.doubts_per_s + nodes / 600) * _RELAYED,
                burst=(config.doubts_burst + nodes / 2) * _RELAYED,
                now=now,
            )
            self._doubts[doubter] = doubts
            if len(self._doubts) > DOUBTERS_LIMIT:
                self._doubts.popitem(last=False)
        return doubts.take(_RELAYED if is_direct else 1, now)
