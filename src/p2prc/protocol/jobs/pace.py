"""How fast this job's tasks go on each node, and from when on one of them is late.

Measured here, from the start of an attempt to its end as we hear of it: what it took to bring the
inputs there is part of it, and no node can claim to be faster than it is. Older samples count less
and less. A late task is one that takes much longer than what most others took, in the manner of
MapReduce's backup tasks (Dean and Ghemawat, OSDI 2004) and of Spark's rule for speculation.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from p2prc.model.identity import NodeId

WEIGHT = 0.3
"""How much the newest sample counts in a node's mean."""
SAMPLES = 200
LEAST_SAMPLES = 3
LEAST_OF_NODE = 2
"""A node's first task also waits for what later ones find there: it alone says little."""
LATE_BY_MEDIAN = 2.0
LATE_BY_QUARTILE = 1.5
LEAST_LATE_S = 2.0
WORTHWHILE_S = 2.0
"""A node is left without work only where waiting for a faster one saves more than this."""


class Pace:
    """The durations of the present step's tasks."""

    def __init__(self) -> None:
        self._means: dict[NodeId, float] = {}
        self._counts: Counter[NodeId] = Counter()
        self._samples: deque[float] = deque(maxlen=SAMPLES)
        self._late_after_s: float | None = None

    def clear(self) -> None:
        """Begin with other tasks, which may take longer or less long."""
        self._means.clear()
        self._counts.clear()
        self._samples.clear()
        self._late_after_s = None

    def took(self, node: NodeId, elapsed_s: float) -> None:
        """A task ended well on the node."""
        held = self._means.get(node)
        mean_s = elapsed_s if held is None else held + WEIGHT * (elapsed_s - held)
        self._means[node] = mean_s
        self._counts[node] += 1
        self._samples.append(elapsed_s)
        self._late_after_s = None

    def mean_s(self, node: NodeId) -> float | None:
        """Return how long a task takes on the node, None when none has ended there."""
        return self._means.get(node)

    @property
    def late_after_s(self) -> float | None:
        """After how long a task is late, None while too few have ended to tell."""
        if len(self._samples) < LEAST_SAMPLES:
            return None
        if self._late_after_s is None:
            ordered = sorted(self._samples)
            median = ordered[len(ordered) // 2]
            quartile = ordered[min(len(ordered) - 1, len(ordered) * 3 // 4)]
            late_s = max(LATE_BY_MEDIAN * median, LATE_BY_QUARTILE * quartile, LEAST_LATE_S)
            self._late_after_s = late_s
        return self._late_after_s

    def expected_s(self, node: NodeId, *, brings_s: float = 0.0) -> float | None:
        """Return how long the next task would take there; `brings_s` is for inputs not there yet.

        None when too little is known: such a node is tried.
        """
        mean_s = self._means.get(node)
        if mean_s is not None:
            return mean_s if self._counts[node] >= LEAST_OF_NODE else None
        if brings_s <= 0 or not self._means:
            return None
        return brings_s + min(self._means.values())

    def is_better_left(
        self, expected_s: float, queued: int, places: Iterable[tuple[NodeId, int]]
    ) -> bool:
        """Say whether other places would have done all queued tasks before this one did one.

        `places` are the other nodes and how many tasks each runs at once.
        """
        rate, slowest_s = 0.0, 0.0
        for node, slots in places:
            mean_s = self._means.get(node)
            if mean_s is None or mean_s >= expected_s:
                continue
            rate += slots / max(mean_s, 1e-3)
            slowest_s = max(slowest_s, mean_s)
        # Each of them ends what it has first, at worst a whole task of the slowest.
        return rate > 0 and queued / rate + slowest_s + WORTHWHILE_S < expected_s
