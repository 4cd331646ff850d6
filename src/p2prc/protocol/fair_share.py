"""How a machine is shared between peers that want more of it than there is.

Nobody is cut off in the middle of a task. When a task of a peer ends that holds more than an equal
part, while another peer was turned away lately, its lease ends with it; and who holds its part gets
no more for as long as the other may come back. Of several resources that one counts of which a peer
holds the largest part (Ghodsi et al.: "Dominant Resource Fairness", NSDI 2011).

Who wants more than the fuller peer holds is not waited for: room that it could not use would lie
idle.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from p2prc.model.identity import NodeId
from p2prc.model.resources import Capacity, Limits

WANTING_S = 20.0
"""So long after it was turned away a peer counts as wanting; it asks again more often."""
HELD_AT_LEAST_S = 5.0
"""A lease younger than this is not given up: making the next one costs something."""
WANTING_LIMIT = 64
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class _Wish:
    """A peer that was turned away: first when, until when that counts, and how large a part."""

    since: float
    until: float
    part: float


class FairShare:
    """Who was turned away lately, and who has to make way for them.

    `holds` says what part of the machine each peer holds, 0.0 to 1.0.
    """

    def __init__(self) -> None:
        self._wishes: dict[NodeId, _Wish] = {}

    def turned_away(self, peer: NodeId, part: float, now: float) -> None:
        """Note that the peer asked for this part of the machine and did not get it."""
        before = self._wishes.pop(peer, None)
        if len(self._wishes) >= WANTING_LIMIT:
            del self._wishes[next(iter(self._wishes))]
        is_new = before is None or before.until <= now
        since = now if is_new or before is None else before.since
        self._wishes[peer] = _Wish(since, now + WANTING_S, part)

    def served(self, peer: NodeId) -> None:
        """The peer got what it asked for."""
        self._wishes.pop(peer, None)

    def makes_way(self, peer: NodeId, *, holds: Mapping[NodeId, float], now: float) -> bool:
        """Whether a peer has more than an equal part, and somebody with less waits."""
        mine = holds.get(peer, 0.0)
        return self._is_more_than_due(peer, mine, holds, now) and any(
            holds.get(other, 0.0) < mine - _ROUNDING for other in self._others(peer, mine)
        )

    def lets_pass(
        self, peer: NodeId, part: float, *, holds: Mapping[NodeId, float], now: float
    ) -> bool:
        """Whether a peer that would hold this part must leave the room to one that waits.

        That is one that holds less, or as little and has waited for longer.
        """
        if not self._is_more_than_due(peer, part, holds, now):
            return False
        mine = holds.get(peer, 0.0)
        own = self._wishes.get(peer)
        since = math.inf if own is None else own.since
        return any(
            theirs < mine - _ROUNDING
            or (theirs <= mine + _ROUNDING and self._wishes[other].since < since)
            for other in self._others(peer, part)
            for theirs in (holds.get(other, 0.0),)
        )

    def _others(self, peer: NodeId, part: float) -> list[NodeId]:
        return [
            other
            for other, wish in self._wishes.items()
            if other != peer and wish.part <= part + _ROUNDING
        ]

    def _is_more_than_due(
        self, peer: NodeId, part: float, holds: Mapping[NodeId, float], now: float
    ) -> bool:
        for other, wish in list(self._wishes.items()):
            if wish.until <= now:
                del self._wishes[other]
        parties = {*holds, *self._wishes, peer}
        return part > 1 / len(parties) + _ROUNDING


def part_of(capacity: Capacity, held: Iterable[Limits]) -> float:
    """Return the largest part of any resource that these leases take together, 0.0 to 1.0."""
    several = list(held)
    parts = [
        (sum(limits.cpu_millis for limits in several), capacity.cpu_millis),
        (sum(limits.memory_bytes for limits in several), capacity.memory_bytes),
        (sum(limits.disk_bytes for limits in several), capacity.disk_bytes),
        (sum(limits.gpus for limits in several), capacity.gpus),
    ]
    return max((min(1.0, taken / there) for taken, there in parts if there), default=0.0)
