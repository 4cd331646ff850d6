"""How fast bytes come over the path to each peer, as transfers showed; older ones count less."""

from __future__ import annotations

from collections import OrderedDict

from p2prc.model.identity import NodeId

WEIGHT = 0.3
LEAST_BYTES = 256 * 1024
"""What is smaller says more of the path's delay than of its width."""
PEERS_LIMIT = 1000


class PathSpeeds:
    """Bytes a second by peer; of very many peers those that were measured last."""

    def __init__(self) -> None:
        self._speeds: OrderedDict[NodeId, float] = OrderedDict()

    def took(self, peer: NodeId, size_bytes: int, elapsed_s: float) -> None:
        """So many bytes came in so many seconds."""
        if size_bytes < LEAST_BYTES or elapsed_s <= 0:
            return
        speed = size_bytes / elapsed_s
        held = self._speeds.pop(peer, speed)
        self._speeds[peer] = held + WEIGHT * (speed - held)
        if len(self._speeds) > PEERS_LIMIT:
            self._speeds.popitem(last=False)

    def bytes_per_s(self, peer: NodeId) -> float | None:
        """Return the path's speed, None when nothing large ever came over it."""
        return self._speeds.get(peer)

    def brings_s(self, peer: NodeId, size_bytes: int) -> float:
        """Return about how long so many bytes take, 0 where nothing is known.

        In powers of two: a little more or less is no news.
        """
        speed = self._speeds.get(peer)
        if not speed or size_bytes <= 0:
            return 0.0
        seconds = 1.0
        while seconds < size_bytes / speed and seconds < 1 << 20:
            seconds *= 2
        return seconds if seconds > 1 else 0.0
