"""Second attempts of one task: a late one's on another node, of which the first good end counts.

One more at most for each task, and only when no task is left that has not begun. The attempt that
is not needed any more is cancelled and counts as no failure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from p2prc.model.identity import NodeId
from p2prc.protocol.jobs.attempts import TaskKey
from p2prc.protocol.jobs.flights import Flight, Flights
from p2prc.protocol.jobs.pace import Pace


@dataclass(frozen=True, slots=True)
class Wish:
    """One more attempt of a task that runs already, on none of these nodes.

    With `within_s` a node that is known to take longer is of no use.
    """

    key: TaskKey
    without: tuple[NodeId, ...]
    within_s: float | None = None


class Backups:
    """Which tasks are late and have no second attempt."""

    def __init__(self, flights: Flights, pace: Pace) -> None:
        self._flights = flights
        self._pace = pace
        self._done: dict[TaskKey, None] = {}

    def wishes(self, step: int, now: float) -> list[Wish]:
        """Return a wish for each late task, the latest first."""
        late_s = self._pace.late_after_s
        if late_s is None:
            return []
        late = [flight for flight in self._eligible(step) if flight.started_at + late_s <= now]
        late.sort(key=lambda flight: flight.started_at)
        return [
            Wish(flight.key, self._nodes_of(flight.key), within_s=self._pace.mean_s(flight.node))
            for flight in late
        ]

    def began(self, key: TaskKey) -> None:
        """The task has its second attempt."""
        self._done[key] = None

    def wakes(self, step: int) -> Iterator[float]:
        """Yield when each task becomes late."""
        late_s = self._pace.late_after_s
        if late_s is not None:
            yield from (flight.started_at + late_s for flight in self._eligible(step))

    def _nodes_of(self, key: TaskKey) -> tuple[NodeId, ...]:
        return tuple(flight.node for flight in self._flights.of_task(key))

    def _eligible(self, step: int) -> Iterator[Flight]:
        for flight in self._flights:
            if flight.key.step != step or flight.is_storing or flight.key in self._done:
                continue
            if sum(not one.is_storing for one in self._flights.of_task(flight.key)) == 1:
                yield flight
