"""How much a peer may have this node send and take for nothing but a measurement."""

from __future__ import annotations

from collections import OrderedDict

from p2prc.errors import PeerBusy
from p2prc.model.identity import NodeId

BUDGET_BYTES = 1 << 30
"""Six measurements over a fast line."""
REFILL_BYTES_S = BUDGET_BYTES / 600
_PEERS_LIMIT = 1000


class FillerBudget:
    """A bucket for each peer, which fills again in ten minutes."""

    def __init__(self) -> None:
        self._left: OrderedDict[NodeId, tuple[float, float]] = OrderedDict()

    def take(self, peer: NodeId, size_bytes: int, now: float) -> None:
        """Let the peer have so many bytes. Raises PeerBusy when it had too many."""
        left, seen_at = self._left.pop(peer, (float(BUDGET_BYTES), now))
        left = min(BUDGET_BYTES, left + (now - seen_at) * REFILL_BYTES_S)
        is_allowed = left >= size_bytes
        self._left[peer] = (left - size_bytes if is_allowed else left, now)
        if len(self._left) > _PEERS_LIMIT:
            self._left.popitem(last=False)
        if not is_allowed:
            raise PeerBusy("the way was measured very often just now", hint="try in ten minutes")
