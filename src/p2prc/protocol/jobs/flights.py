"""Attempts in flight: given to a node and not yet accepted or failed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from p2prc.model.identity import AttemptId, BlobId, LeaseId, NodeId
from p2prc.model.workload import Outcome
from p2prc.protocol.jobs.attempts import TaskKey


@dataclass(slots=True)
class Flight:
    """One attempt: running on its node, or with `outcome` set, its outputs being stored here.

    `store_again_at` is set while storing waits for room on our own disk. One that `is_held` is not
    being stored: it waits for another node's result of the same task. `compared` is what it then
    was seen to be.
    """

    attempt: AttemptId
    key: TaskKey
    number: int
    node: NodeId
    lease: LeaseId
    started_at: float
    outcome: Outcome | None = None
    store_tries: int = 0
    store_again_at: float | None = None
    is_held: bool = False
    compared: BlobId | None = None

    @property
    def is_storing(self) -> bool:
        """Whether the work itself is done."""
        return self.outcome is not None


class Flights:
    """Every attempt in flight, by id and by task."""

    def __init__(self) -> None:
        self._flights: dict[AttemptId, Flight] = {}
        self._by_task: dict[TaskKey, dict[AttemptId, None]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __iter__(self) -> Iterator[Flight]:
        return iter(list(self._flights.values()))

    def get(self, attempt: AttemptId) -> Flight | None:
        """Return the flight, if it is one."""
        return self._flights.get(attempt)

    def of_node(self, node: NodeId) -> list[Flight]:
        """Return what the node has in hand."""
        return [flight for flight in self._flights.values() if flight.node == node]

    def of_task(self, key: TaskKey) -> list[Flight]:
        """Return the task's attempts: one, rarely two."""
        return [self._flights[attempt] for attempt in self._by_task.get(key, ())]

    def has_task(self, key: TaskKey) -> bool:
        """Whether anybody works on the task."""
        return key in self._by_task

    def add(self, flight: Flight) -> None:
        """Begin to follow it."""
        self._flights[flight.attempt] = flight
        self._by_task.setdefault(flight.key, {})[flight.attempt] = None

    def remove(self, flight: Flight) -> None:
        """Stop following it."""
        del self._flights[flight.attempt]
        siblings = self._by_task[flight.key]
        del siblings[flight.attempt]
        if not siblings:
            del self._by_task[flight.key]
