"""How often each peer may ask for leases: a bucket of tokens for each that asked lately."""

from __future__ import annotations

from p2prc.model.identity import NodeId

BURST_S = 5.0
"""So many seconds' worth may come at once: a job asks for all its slots together."""
SMALLEST_BURST = 8.0
PEERS_LIMIT = 1000


class RequestRates:
    """Counts requests of each peer; who is silent for `BURST_S` is forgotten."""

    def __init__(self) -> None:
        self._buckets: dict[NodeId, tuple[float, float]] = {}

    def is_allowed(self, peer: NodeId, rate_per_s: float, now: float) -> bool:
        """Take one token of this peer; False when it has none."""
        burst = max(SMALLEST_BURST, BURST_S * rate_per_s)
        tokens, then = self._buckets.pop(peer, (burst, now))
        tokens = min(burst, tokens + (now - then) * rate_per_s)
        is_allowed = tokens >= 1
        # The dict's order is that of the last request: the first is silent for longest.
        self._buckets[peer] = (tokens - 1 if is_allowed else tokens, now)
        while len(self._buckets) > PEERS_LIMIT:
            del self._buckets[next(iter(self._buckets))]
        return is_allowed
