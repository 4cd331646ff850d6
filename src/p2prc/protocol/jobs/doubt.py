"""Doubt: what do the nodes hold of this job? Asked after a start and after a broken connection.

Until a node has answered it gets nothing new. After a grace what it had counts as lost, but it is
still asked: what it then turns out to hold is cancelled, or taken if it is finished.
"""

from __future__ import annotations

from collections.abc import Iterator

from p2prc.model.identity import NodeId
from p2prc.protocol.jobs.attempts import TaskKey, attempt_id
from p2prc.protocol.jobs.events import AskAttempts, AttemptsReported, CancelAttempt, CloseSlot
from p2prc.protocol.jobs.flights import Flight
from p2prc.protocol.jobs.outbox import Outbox
from p2prc.protocol.jobs.results import Results
from p2prc.protocol.jobs.settings import CoordinatorSettings
from p2prc.protocol.jobs.slots import Slots, Standing
from p2prc.protocol.jobs.step_ledger import TaskState


class Doubt:
    """Which nodes have to say what they hold, and what follows from their answers."""

    def __init__(
        self, outbox: Outbox, slots: Slots, results: Results, settings: CoordinatorSettings
    ) -> None:
        self._outbox = outbox
        self._job_id = outbox.ledger.job_id
        self._slots = slots
        self._results = results
        self._settings = settings

    @property
    def is_over(self) -> bool:
        """Whether no answer is outstanding."""
        return all(standing.asked_at is None for standing in self._slots.standings())

    def settle(self, now: float, *, ended_at: float | None) -> None:
        """Give up what lost nodes had; ask again; leave off a while after the job's end."""
        for standing in self._slots.standings():
            if standing.asked_at is not None:
                self._settle_node(standing, now, ended_at=ended_at)

    def wakes(self) -> Iterator[float]:
        """Yield when `settle` has something to do."""
        for standing in self._slots.standings():
            if standing.asked_at is not None:
                yield standing.asked_at + self._settings.ask_again_s
                if standing.grace_until is not None:
                    yield standing.grace_until

    def take_up(self, now: float) -> None:
        """Ask every node that the ledger names what it holds; assume nothing.

        Again where others' facts were merged: only attempts that nobody follows are taken up.
        """
        if not self._outbox.ledger.is_ended:
            for number, ledger in enumerate(self._outbox.ledger.steps):
                for task in ledger.tasks_in(TaskState.RUNNING):
                    self._take_up_task(TaskKey(number, task), now)
        for node in self._outbox.ledger.nodes:
            self.ask(self._slots.standing(node), now)

    def _take_up_task(self, key: TaskKey, now: float) -> None:
        for fact in self._outbox.ledger.steps[key.step].open_attempts(key.task):
            attempt = attempt_id(self._job_id, key, fact.attempt)
            if self._results.flights.get(attempt) is not None:
                continue
            self._results.flights.add(
                Flight(
                    attempt=attempt,
                    key=key,
                    number=fact.attempt,
                    node=fact.node,
                    lease=fact.lease,
                    started_at=self._outbox.since(fact.at, now),
                )
            )

    def ask(self, standing: Standing, now: float) -> None:
        # Also when an earlier grace is over: what is in doubt only now has not been given up.
        if standing.grace_until is None:
            standing.grace_until = now + self._settings.grace_s
        standing.asked_at = now
        self._outbox.say(AskAttempts(standing.node))

    def node_lost(self, node: NodeId, now: float) -> None:
        standing = self._slots.standing(node)
        if not standing.slots and node not in self._outbox.ledger.nodes:
            return
        for slot in list(standing.slots.values()):
            if slot.opened_at is None:
                self._slots.remove(slot)
        self.ask(standing, now)

    def reported(self, event: AttemptsReported, step: int, now: float) -> None:
        """Compare what the node holds with what we think it holds; the node is right."""
        standing = self._slots.standing(event.node)
        if standing.asked_at is None:
            return
        standing.asked_at = standing.grace_until = None
        held, running = frozenset(event.leases), frozenset(event.running)
        for slot in list(standing.slots.values()):
            if slot.opened_at is not None and slot.lease not in held:
                self._slots.remove(slot)
        for flight in self._results.flights.of_node(event.node):
            if not flight.is_storing and flight.attempt not in running:
                self._reconcile_missing(flight, event, now)
        self._reconcile_running(event)
        self._reconcile_leases(event, step, now)

    def _reconcile_missing(self, flight: Flight, event: AttemptsReported, now: float) -> None:
        if flight.attempt in event.finished:
            self._results.awaited[flight.attempt] = now + self._settings.grace_s
        else:
            self._results.fail(flight, "peer-lost", "the node no longer knows the attempt", now)

    def _reconcile_running(self, event: AttemptsReported) -> None:
        for attempt in event.running:
            flight = self._results.flights.get(attempt)
            if flight is None or flight.node != event.node:
                self._outbox.say(CancelAttempt(event.node, attempt))

    def _reconcile_leases(self, event: AttemptsReported, step: int, now: float) -> None:
        flying = {
            flight.lease: flight.key.step for flight in self._results.flights.of_node(event.node)
        }
        busy = {
            flight.lease: flight.attempt
            for flight in self._results.flights.of_node(event.node)
            if flight.attempt in event.running
        }
        for lease in event.leases:
            if self._slots.get(event.node, lease) is not None:
                continue
            if flying.get(lease) == step:
                self._slots.adopt(event.node, lease, busy.get(lease), now)
            else:
                self._outbox.say(CloseSlot(event.node, lease))

    def _settle_node(self, standing: Standing, now: float, *, ended_at: float | None) -> None:
        if standing.grace_until is not None and standing.grace_until <= now:
            standing.grace_until = None
            for slot in list(standing.slots.values()):
                self._slots.remove(slot)
            for flight in self._results.flights.of_node(standing.node):
                if not flight.is_storing:
                    self._results.fail(flight, "peer-lost", "the node was lost", now)
        assert standing.asked_at is not None
        if ended_at is not None and ended_at + self._settings.farewell_s <= now:
            # The provider's own patience with us does the rest.
            standing.asked_at = None
        elif standing.asked_at + self._settings.ask_again_s <= now:
            standing.asked_at = now
            self._outbox.say(AskAttempts(standing.node))
