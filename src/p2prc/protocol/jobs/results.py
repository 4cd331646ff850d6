"""What becomes of attempts: judged, their outputs stored, accepted or failed.

A slot is free as soon as its attempt has ended; its outputs may still be on their way here. What
the node may forget is acknowledged only in the same breath as the fact that makes it durable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from random import Random

from p2prc.errors import WireError
from p2prc.model.identity import AttemptId, LeaseId, NodeId
from p2prc.model.job import Job
from p2prc.model.workload import Outcome
from p2prc.protocol.jobs.attempts import TaskKey, parse_attempt_id
from p2prc.protocol.jobs.checking import Check, Checks, rule
from p2prc.protocol.jobs.events import (
    Acknowledge,
    AttemptEnded,
    CancelAttempt,
    CompareOutputs,
    Made,
    OutputsCompared,
    OutputsFailed,
    StoreOutputs,
)
from p2prc.protocol.jobs.facts import AttemptFailed, NodeCaught, TaskChecked, TaskSucceeded
from p2prc.protocol.jobs.flights import Flight, Flights
from p2prc.protocol.jobs.outbox import Outbox
from p2prc.protocol.jobs.pace import Pace
from p2prc.protocol.jobs.settings import CoordinatorSettings
from p2prc.protocol.jobs.slots import Slots, Standing
from p2prc.protocol.jobs.step_ledger import HOPELESS, TaskState
from p2prc.protocol.jobs.verdict import is_connection_lost, is_fault_of_work, is_lacking, is_passing

_OUTPUT_BYTES_LIMIT = 1 << 60


class Results:
    """Follows every attempt from its start to its fact. `requeue` puts a task back in the queue.

    `caught` is called after results were taken back, because their node lied.
    """

    def __init__(
        self,
        outbox: Outbox,
        slots: Slots,
        settings: CoordinatorSettings,
        *,
        requeue: Callable[[TaskKey, float], None],
        caught: Callable[[float], None],
        rng: Random,
        is_submitter: bool = True,
    ) -> None:
        self._is_submitter = is_submitter
        self.flights = Flights()
        self.pace = Pace()
        self.checks = Checks(self.flights, rng, lambda step: self._job.steps[step].verify)
        self._caught = caught
        # Why outputs cannot be stored on our own disk at present.
        self.storage_trouble: str | None = None
        # Finished attempts that a node reported and whose outcome has not come yet.
        self.awaited: dict[AttemptId, float] = {}
        self._job: Job = outbox.ledger.job
        self._job_id = outbox.ledger.job_id
        self._outbox = outbox
        self._slots = slots
        self._settings = settings
        self._requeue = requeue
        self._store_later: dict[AttemptId, Flight] = {}

    def settle(self, now: float) -> None:
        """Give up outcomes that do not come; try again to store what did not fit."""
        for attempt, until in list(self.awaited.items()):
            flight = self.flights.get(attempt)
            if until <= now and flight is not None:
                self.fail(flight, "peer-lost", "the node did not tell the outcome", now)
        for flight in list(self._store_later.values()):
            if flight.store_again_at is not None and flight.store_again_at <= now:
                self.store(flight)

    def wakes(self) -> Iterator[float]:
        """Yield when `settle` has something to do."""
        yield from self.awaited.values()
        for flight in self._store_later.values():
            if flight.store_again_at is not None:
                yield flight.store_again_at

    def drop_all(self) -> None:
        """Stop everything that is still going on: the job has ended."""
        for flight in self.flights:
            self._outbox.say(CancelAttempt(flight.node, flight.attempt))
            self.drop(flight)

    def ended(self, event: AttemptEnded, now: float) -> None:
        flight = self.flights.get(event.attempt)
        if flight is None:
            self._late(event, now)
        elif flight.node == event.node and not flight.is_storing:
            self.awaited.pop(event.attempt, None)
            self._release(flight)
            if event.outcome.is_success:
                self.pace.took(flight.node, max(0.0, now - flight.started_at))
            self._judge(flight, event.outcome, now)

    def _late(self, event: AttemptEnded, now: float) -> None:
        """An attempt that was given up has an end after all: take its result if none is there."""
        try:
            job, key, number = parse_attempt_id(event.attempt)
        except WireError:
            return
        is_trusted = event.node not in self._outbox.ledger.caught
        is_ours = job == self._job_id and is_trusted
        if not is_ours or not self._was_given(key, number, event.node):
            self._outbox.say(Acknowledge(event.node, event.attempt))
            return
        state = self._outbox.ledger.steps[key.step].state(key.task)
        is_wanted = (
            state in (TaskState.QUEUED, TaskState.RUNNING) and not self._outbox.ledger.is_ended
        )
        if not is_wanted or not event.outcome.is_success:
            self._outbox.say(Acknowledge(event.node, event.attempt))
            return
        lifetime_s = self._job.steps[key.step].workload.limits.lasts_s
        flight = Flight(event.attempt, key, number, event.node, LeaseId(""), now - lifetime_s)
        self.flights.add(flight)
        self._judge(flight, event.outcome, now)

    def _was_given(self, key: TaskKey, number: int, node: NodeId) -> bool:
        steps = self._outbox.ledger.steps
        if key.step >= len(steps) or key.task >= steps[key.step].total:
            return False
        failures = steps[key.step].failures(key.task)
        return any(
            failure.attempt == number
            and failure.node == node
            and not failure.counts_against_retries
            for failure in failures
        )

    def _release(self, flight: Flight) -> None:
        """Let the slot of an attempt that has ended take the next task."""
        slot = self._slots.get(flight.node, flight.lease)
        if slot is not None and slot.attempt == flight.attempt:
            self._slots.release(slot)

    def _judge(self, flight: Flight, outcome: Outcome, now: float) -> None:
        is_asked_for_outputs = bool(self._job.steps[flight.key.step].command.outputs)
        if not outcome.is_success:
            self._outbox.say(Acknowledge(flight.node, flight.attempt))
            self.fail(flight, outcome.code, outcome.reason, now, log_tail=outcome.log_tail)
        elif not is_asked_for_outputs:
            self._accept(flight, outcome, now)
        elif outcome.outputs is None:
            self._outbox.say(Acknowledge(flight.node, flight.attempt))
            self.fail(flight, "output-missing", "the node sent no outputs", now)
        elif self.checks.wants(flight):
            self._hold(flight, outcome, now)
        else:
            flight.outcome = outcome
            self._begin_storing(flight)

    def _begin_storing(self, flight: Flight) -> None:
        flight.is_held = False
        self._slots.standing(flight.node).storing += 1
        self.store(flight)

    # -- results that are compared

    def _hold(self, flight: Flight, outcome: Outcome, now: float) -> None:
        """Keep a result until another node's says that it is right."""
        if self.checks.is_chosen(flight):
            # Its node was away while it was being stored.
            if outcome.outputs != flight.compared:
                self.fail(flight, "peer-misbehaved", "the node changed its result", now)
                return
            flight.outcome = outcome
            self._begin_storing(flight)
        elif self.checks.add(flight, now):
            flight.outcome, flight.is_held, flight.compared = outcome, True, outcome.outputs
            self.weigh(flight.key, now)
        else:
            self._abandon(flight)

    def weigh(self, key: TaskKey, now: float) -> None:
        """See what the results of a task say together."""
        check = self.checks.get(key)
        if check is None or check.decided:
            return
        ruling = rule(list(check.opinions.values()), partial(self._is_same, check))
        if ruling is None:
            return
        if not ruling.right:
            self._differ(check, f"{len(check.opinions)} nodes gave as many different results", now)
            return
        check.decided = list(ruling.right)
        for flight in ruling.wrong:
            self._catch(flight, ruling.right, now)
        self._store_decided(check)

    def _is_same(self, check: Check, one: Flight, other: Flight) -> bool | None:
        within = self._job.steps[one.key.step].pictures_within
        if one.compared == other.compared or not within:
            return one.compared == other.compared
        if one.compared is None or other.compared is None:
            return False
        pair = min(one.attempt, other.attempt), max(one.attempt, other.attempt)
        if pair not in check.compared:
            check.compared[pair] = None
            self._outbox.say(
                CompareOutputs(
                    Made(one.node, one.attempt, one.compared),
                    Made(other.node, other.attempt, other.compared),
                    within,
                )
            )
        return check.compared[pair]

    def compared(self, event: OutputsCompared, now: float) -> None:
        """Two results were looked at."""
        flight = self.flights.get(event.first)
        check = None if flight is None else self.checks.get(flight.key)
        pair = min(event.first, event.second), max(event.first, event.second)
        if flight is None or check is None or pair not in check.compared or check.decided:
            return
        lost = None if event.lost is None else self.flights.get(event.lost)
        if lost is not None:
            self._outbox.say(CancelAttempt(lost.node, lost.attempt))
            self.fail(lost, "peer-lost", event.reason, now, counts=False)
        elif event.is_same is None:
            check.decided, check.reason = list(check.opinions.values())[:1], event.reason[:2000]
            self._store_decided(check)
        else:
            check.compared[pair] = event.is_same
            self.weigh(flight.key, now)

    def cannot_compare(self, key: TaskKey, reason: str, now: float) -> None:
        """There is no other node to ask: take the only result, but none of two that differ."""
        check = self.checks.get(key)
        if check is None or check.decided:
            return
        if len(check.opinions) > 1:
            names = " and ".join(self._name(node) for node in check.opinions)
            self._differ(check, f"{names} gave different results, and {reason}", now)
            return
        check.decided, check.reason = list(check.opinions.values()), reason
        self._store_decided(check)

    def _store_decided(self, check: Check) -> None:
        """Bring the first of those that were found right, or the next when that one is lost."""
        if check.decided and all(one.is_held for one in check.decided):
            self._begin_storing(check.decided[0])

    def _differ(self, check: Check, reason: str, now: float) -> None:
        why = (
            f"{reason}: it cannot be said which is right. Work that gives another result "
            "each time (instants, random numbers, threads) cannot be verified"
        )
        for flight in list(check.opinions.values()):
            self._outbox.say(CancelAttempt(flight.node, flight.attempt))
            self.fail(flight, "results-differ", why, now)

    def _catch(self, flight: Flight, right: Sequence[Flight], now: float) -> None:
        """Let nothing count that came from a node which lied."""
        names = " and ".join(self._name(other.node) for other in right)
        reason = (
            f"its result of task {flight.key.task} is not what {names} made of it: "
            "none of its results counts, they are done again"
        )
        self._outbox.add(
            NodeCaught(flight.node, flight.key.step, flight.key.task, reason, self._outbox.at(now))
        )
        self._slots.standing(flight.node).left_out = reason
        for theirs in self.flights.of_node(flight.node):
            self._outbox.say(CancelAttempt(theirs.node, theirs.attempt))
            self.fail(theirs, "peer-misbehaved", reason, now)
        self._caught(now)

    def _name(self, node: NodeId) -> str:
        return self._slots.standing(node).name

    def store(self, flight: Flight) -> None:
        assert flight.outcome is not None
        assert flight.outcome.outputs is not None
        flight.store_tries += 1
        flight.store_again_at = None
        self._store_later.pop(flight.attempt, None)
        self._outbox.say(
            StoreOutputs(flight.node, flight.attempt, flight.key, flight.outcome.outputs)
        )

    def stored(self, attempt: AttemptId, now: float) -> None:
        flight = self.flights.get(attempt)
        if flight is None or flight.outcome is None:
            return
        self.storage_trouble = None
        for waiting in list(self._store_later.values()):
            self.store(waiting)
        self._accept(flight, flight.outcome, now)

    def store_failed(self, event: OutputsFailed, now: float) -> NodeId | None:
        """Return the node when it has to be asked whether it still has the outcome."""
        flight = self.flights.get(event.attempt)
        if flight is None or flight.outcome is None:
            return None
        is_same_soon = is_passing(event.code) and flight.store_tries < self._settings.store_tries
        if event.is_peer_fault and is_connection_lost(event.code) and is_same_soon:
            # The node keeps a finished attempt until we acknowledge it: ask again once it is back.
            self._stop_storing(flight)
            return flight.node
        if not event.is_peer_fault and is_same_soon:
            pause_s = min(2.0 * flight.store_tries, 30.0)
            flight.store_again_at = now + pause_s
            self._store_later[flight.attempt] = flight
            self.storage_trouble = f"outputs cannot be stored here: {event.reason}"
        else:
            self._outbox.say(Acknowledge(flight.node, flight.attempt))
            is_fault_of_node = event.is_peer_fault or is_lacking(event.code)
            self.fail(flight, event.code, event.reason, now, counts=not is_fault_of_node)
        return None

    def _stop_storing(self, flight: Flight) -> None:
        if flight.is_storing:
            flight.outcome = None
            if not flight.is_held:
                self._slots.standing(flight.node).storing -= 1
            flight.is_held = False
            self._store_later.pop(flight.attempt, None)

    def _accept(self, flight: Flight, outcome: Outcome, now: float) -> None:
        standing = self._slots.standing(flight.node)
        elapsed_s = max(0.0, now - flight.started_at)
        is_plausible = 0 <= outcome.duration_s <= elapsed_s
        wants_outputs = bool(self._job.steps[flight.key.step].command.outputs)
        self._outbox.add(
            TaskSucceeded(
                step=flight.key.step,
                task=flight.key.task,
                attempt=flight.number,
                node=flight.node,
                at=self._outbox.at(now),
                duration_s=outcome.duration_s if is_plausible else elapsed_s,
                outputs=outcome.outputs if wants_outputs else None,
                output_bytes=min(max(outcome.output_bytes, 0), _OUTPUT_BYTES_LIMIT)
                if wants_outputs
                else 0,
                is_collected=self._is_submitter,
            )
        )
        check = self.checks.pop(flight.key)
        if check is not None and check.decided:
            key, at = flight.key, self._outbox.at(now)
            self._outbox.add(TaskChecked(key.step, key.task, at, check.reason))
        self._outbox.say(Acknowledge(flight.node, flight.attempt))
        self.drop(flight)
        for sibling in self.flights.of_task(flight.key):
            self._abandon(sibling)
        standing.failures_in_row = standing.strikes = 0
        standing.successes += 1

    def give_up_others(self, step: int, now: float) -> None:
        """Stop what is not of this step: an earlier one is done again, of which it was made."""
        for flight in self.flights:
            if flight.key.step != step and self.flights.get(flight.attempt) is flight:
                self._outbox.say(CancelAttempt(flight.node, flight.attempt))
                self.fail(flight, "lease-ended", "an earlier step is done again", now)

    def abandon_succeeded(self) -> None:
        """Stop attempts of tasks that succeeded elsewhere."""
        for flight in self.flights:
            state = self._outbox.ledger.steps[flight.key.step].state(flight.key.task)
            if state is TaskState.SUCCEEDED:
                self._abandon(flight)

    def _abandon(self, flight: Flight) -> None:
        """Another attempt was faster: stop this one."""
        self._outbox.say(CancelAttempt(flight.node, flight.attempt))
        slot = self._slots.get(flight.node, flight.lease)
        if slot is not None and slot.attempt == flight.attempt:
            # The lease may be busy with dying for a moment: a new one waits for that by itself.
            self._outbox.close(slot)
        self.drop(flight)

    def drop(self, flight: Flight) -> None:
        self._release(flight)
        self._stop_storing(flight)
        self.awaited.pop(flight.attempt, None)
        self.flights.remove(flight)
        self.checks.lost(flight)

    def fail(
        self,
        flight: Flight,
        code: str,
        reason: str,
        now: float,
        *,
        log_tail: bytes = b"",
        counts: bool | None = None,
    ) -> None:
        is_counted = is_fault_of_work(code) or code in HOPELESS if counts is None else counts
        self._outbox.add(
            AttemptFailed(
                step=flight.key.step,
                task=flight.key.task,
                attempt=flight.number,
                node=flight.node,
                code=code[:200],
                reason=reason[:2000],
                at=self._outbox.at(now),
                counts_against_retries=is_counted,
                log_tail=log_tail[-16 * 1024 :],
            )
        )
        self.drop(flight)
        check = self.checks.get(flight.key)
        if check is not None:
            self._store_decided(check)
        self._requeue(flight.key, now)
        standing = self._slots.standing(flight.node)
        if is_counted:
            self._count_failure(standing, flight.key)
        elif code != "lease-ended":
            self._slots.rest(standing, now)
            standing.avoid_until = standing.rest_until

    def _count_failure(self, standing: Standing, key: TaskKey) -> None:
        """Leave out a node where one task after another fails, as long as others do better."""
        standing.failures_in_row += 1
        if standing.failures_in_row < self._settings.failures_in_row_limit or standing.left_out:
            return
        is_any_better = any(
            other.slots and other.successes and not other.failures_in_row and not other.left_out
            for other in self._slots.standings()
            if other is not standing
        )
        if is_any_better:
            standing.left_out = (
                f"{standing.failures_in_row} tasks failed there one after another, "
                f"the last one was {key.task}; other nodes do better"
            )
