"""The submitter's side of one job: which task runs where, until every one has an end.

Theory of operation. `handle` settles what is overdue, takes the event, then carries on: it gives
idle slots their next tasks, opens slots where there is room, and closes those without work. Every
decision that must survive a crash is a fact, and facts come first among the effects. A coordinator
built from a ledger asks the nodes that the ledger names what became of its attempts; the same
question settles a broken connection. Until a node has answered it gets nothing new, and after a
grace what it had is placed elsewhere. A result that arrives later all the same is still taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import assert_never

from p2prc.errors import WireError
from p2prc.model.identity import AttemptId, LeaseId, NodeId, random_id
from p2prc.model.job import Job, Step
from p2prc.model.workload import Outcome
from p2prc.protocol.jobs.attempts import TaskKey, attempt_id, parse_attempt_id
from p2prc.protocol.jobs.events import (
    Acknowledge,
    AppendFacts,
    AskAttempts,
    AttemptEnded,
    AttemptsReported,
    CancelAttempt,
    CancelRequested,
    CloseSlot,
    Effect,
    Event,
    JobBlocked,
    JobEnded,
    NodeLost,
    OffersChanged,
    OpenSlot,
    OutputsFailed,
    OutputsStored,
    RetryRequested,
    SlotEnded,
    SlotOpened,
    SlotRefused,
    StartAttempt,
    StartRefused,
    StoreOutputs,
    Tick,
)
from p2prc.protocol.jobs.expansion import expand
from p2prc.protocol.jobs.facts import (
    AttemptFailed,
    Fact,
    JobCancelled,
    TaskAssigned,
    TaskSucceeded,
)
from p2prc.protocol.jobs.flights import Flight, Flights
from p2prc.protocol.jobs.ledger import Ledger
from p2prc.protocol.jobs.parameters import TaskSpace
from p2prc.protocol.jobs.queue import TaskQueue
from p2prc.protocol.jobs.slots import Slot, Slots, Standing
from p2prc.protocol.jobs.step_ledger import HOPELESS, TaskState
from p2prc.protocol.jobs.verdict import is_connection_lost, is_fault_of_work, is_passing
from p2prc.protocol.placement import NodeOffer, explain

_OUTPUT_BYTES_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class CoordinatorSettings:
    """How patient a coordinator is."""

    grace_s: float = 10.0
    ask_again_s: float = 5.0
    farewell_s: float = 60.0
    blocked_after_s: float = 10.0
    storing_per_slot: int = 2
    store_tries: int = 20
    failures_in_row_limit: int = 5
    avoid_s: float = 15.0
    owner_rest_s: float = 30.0


class Coordinator:
    """Carries one job on. `utc_offset_s` added to `now` gives seconds since 1970 in UTC."""

    def __init__(
        self,
        ledger: Ledger,
        rng: Random,
        *,
        utc_offset_s: float = 0.0,
        settings: CoordinatorSettings | None = None,
    ) -> None:
        self._ledger = ledger
        self._job: Job = ledger.job
        self._job_id = ledger.job.id
        self._rng = rng
        self._utc_offset_s = utc_offset_s
        self._settings = settings or CoordinatorSettings()
        self._slots = Slots(rng)
        self._flights = Flights()
        self._offers: tuple[NodeOffer, ...] = ()
        self._step_number = -1
        self._enter_step(ledger.current_step or 0)
        self._facts: list[Fact] = []
        self._effects: list[Effect] = []
        # Finished attempts that a node reported and whose outcome has not come yet.
        self._awaited: dict[AttemptId, float] = {}
        self._store_later: dict[AttemptId, Flight] = {}
        self._storage_trouble: str | None = None
        self._last_refusal: str | None = None
        self._idle_since: float | None = None
        self._blocked_reason: str | None = None
        self._has_started = False
        self._ended_at: float | None = None
        self._wake_at: float | None = None

    # -- what others see

    @property
    def deadline(self) -> float | None:
        """When `handle` wants a Tick."""
        return self._wake_at

    @property
    def ledger(self) -> Ledger:
        """The job's facts and state."""
        return self._ledger

    @property
    def blocked_reason(self) -> str | None:
        """Why nothing runs although there is work, or None."""
        return self._blocked_reason

    @property
    def is_settled(self) -> bool:
        """Whether the job has ended and no node has to be told: the coordinator may be dropped."""
        is_asking = any(standing.asked_at is not None for standing in self._slots.standings())
        return self._ended_at is not None and not is_asking

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Settle what is overdue, then the event; then carry on. Facts come first."""
        self._facts, self._effects = [], []
        if not self._has_started:
            self._take_up(now)
        self._settle_overdue(now)
        self._take(event, now)
        self._carry_on(now)
        self._wake_at = self._next_wake(now)
        effects, self._effects = self._effects, []
        return [AppendFacts(tuple(self._facts)), *effects] if self._facts else effects

    def _take(self, event: Event, now: float) -> None:
        match event:
            case OffersChanged():
                self._set_offers(event.offers)
            case SlotOpened():
                self._slot_opened(event, now)
            case SlotRefused():
                self._slot_refused(event, now)
            case SlotEnded():
                self._slot_ended(event, now)
            case StartRefused():
                self._start_refused(event, now)
            case AttemptEnded():
                self._attempt_ended(event, now)
            case OutputsStored():
                self._outputs_stored(event.attempt, now)
            case OutputsFailed():
                self._outputs_failed(event, now)
            case AttemptsReported():
                self._reported(event, now)
            case NodeLost():
                self._node_lost(event.node, now)
            case CancelRequested():
                self._cancel(now)
            case RetryRequested():
                self._retry(now)
            case Tick():
                pass
            case _:
                assert_never(event)

    # -- starting, and after a crash

    def _take_up(self, now: float) -> None:
        """Ask every node that the ledger names what it holds; assume nothing."""
        self._has_started = True
        if not self._ledger.is_ended:
            for number, step in enumerate(self._ledger.steps):
                for task in step.tasks_in(TaskState.RUNNING):
                    self._take_up_task(TaskKey(number, task), now)
        for node in self._ledger.nodes:
            self._ask(self._slots.standing(node), now)

    def _take_up_task(self, key: TaskKey, now: float) -> None:
        for fact in self._ledger.steps[key.step].open_attempts(key.task):
            self._flights.add(
                Flight(
                    attempt=attempt_id(self._job_id, key, fact.attempt),
                    key=key,
                    number=fact.attempt,
                    node=fact.node,
                    lease=fact.lease,
                    started_at=min(now, fact.at - self._utc_offset_s),
                )
            )

    def _enter_step(self, number: int) -> None:
        """Begin with the next step; its slots may need other limits than the last one's."""
        if number == self._step_number:
            return
        self._step_number = number
        self._step: Step = self._job.steps[number]
        self._space = TaskSpace(self._step)
        self._queue = TaskQueue(
            self._ledger.steps[number],
            is_flying=lambda task: self._flights.has_task(TaskKey(number, task)),
        )

    def _ask(self, standing: Standing, now: float) -> None:
        if standing.asked_at is None:
            standing.grace_until = now + self._settings.grace_s
        standing.asked_at = now
        self._effects.append(AskAttempts(standing.node))

    def _node_lost(self, node: NodeId, now: float) -> None:
        standing = self._slots.standing(node)
        if not standing.slots and node not in self._ledger.nodes:
            return
        for slot in list(standing.slots.values()):
            if slot.opened_at is None:
                self._slots.remove(slot)
        self._ask(standing, now)

    def _reported(self, event: AttemptsReported, now: float) -> None:
        """Compare what the node holds with what we think it holds; the node is right."""
        standing = self._slots.standing(event.node)
        if standing.asked_at is None:
            return
        standing.asked_at = standing.grace_until = None
        held, running = frozenset(event.leases), frozenset(event.running)
        for slot in list(standing.slots.values()):
            if slot.opened_at is not None and slot.lease not in held:
                self._slots.remove(slot)
        for flight in self._flights.of_node(event.node):
            if not flight.is_storing and flight.attempt not in running:
                self._reconcile_missing(flight, event, now)
        self._reconcile_running(event)
        self._reconcile_leases(event, now)

    def _reconcile_missing(self, flight: Flight, event: AttemptsReported, now: float) -> None:
        if flight.attempt in event.finished:
            self._awaited[flight.attempt] = now + self._settings.grace_s
        else:
            self._fail(flight, "peer-lost", "the node no longer knows the attempt", now)

    def _reconcile_running(self, event: AttemptsReported) -> None:
        for attempt in event.running:
            flight = self._flights.get(attempt)
            if flight is None or flight.node != event.node:
                self._effects.append(CancelAttempt(event.node, attempt))

    def _reconcile_leases(self, event: AttemptsReported, now: float) -> None:
        flying = {flight.lease: flight.key.step for flight in self._flights.of_node(event.node)}
        busy = {
            flight.lease: flight.attempt
            for flight in self._flights.of_node(event.node)
            if flight.attempt in event.running
        }
        for lease in event.leases:
            if self._slots.get(event.node, lease) is not None:
                continue
            if flying.get(lease) == self._step_number:
                self._slots.adopt(event.node, lease, busy.get(lease), now)
            else:
                self._effects.append(CloseSlot(event.node, lease))

    # -- slots

    def _set_offers(self, offers: tuple[NodeOffer, ...]) -> None:
        wanted = frozenset(self._job.nodes)
        self._offers = tuple(offer for offer in offers if not wanted or offer.node in wanted)
        self._slots.set_offers(self._offers, self._step.workload)

    def _slot_opened(self, event: SlotOpened, now: float) -> None:
        slot = self._slots.get(event.node, event.lease)
        if slot is None:
            self._effects.append(CloseSlot(event.node, event.lease))
        else:
            self._slots.opened_at(slot, now)

    def _slot_refused(self, event: SlotRefused, now: float) -> None:
        slot = self._slots.get(event.node, event.lease)
        if slot is None or slot.opened_at is not None:
            return
        standing = self._slots.standing(event.node)
        self._last_refusal = f"{standing.name} said: {event.message}"
        pause_s = 0.0 if event.is_retryable else self._settings.owner_rest_s
        self._slots.rest(standing, now, at_least_s=pause_s)
        self._slots.remove(slot)

    def _slot_ended(self, event: SlotEnded, now: float) -> None:
        slot = self._slots.get(event.node, event.lease)
        if slot is None:
            return
        self._slots.remove(slot)
        standing = self._slots.standing(event.node)
        if event.ended_by == "owner":
            self._slots.rest(standing, now, at_least_s=self._settings.owner_rest_s)
        elif event.ended_by != "time":
            self._slots.rest(standing, now)
        flight = self._flights.get(slot.attempt) if slot.attempt is not None else None
        if flight is not None and not flight.is_storing:
            code = self._code_of_end(event, flight, now)
            self._fail(flight, code, f"ended by {event.ended_by}: {event.reason}", now)

    def _code_of_end(self, event: SlotEnded, flight: Flight, now: float) -> str:
        lifetime_s = self._step.workload.limits.lifetime_s
        if event.ended_by == "limit":
            return "limit-exceeded"
        # A task that had nearly a whole lease to itself will not fit into another one either.
        if event.ended_by == "time" and now - flight.started_at > 0.9 * lifetime_s:
            return "timed-out"
        return "lease-ended"

    def _start_refused(self, event: StartRefused, now: float) -> None:
        flight = self._flights.get(event.attempt)
        if flight is None or flight.node != event.node or flight.is_storing:
            return
        slot = self._slots.get(flight.node, flight.lease)
        if slot is not None:
            self._close(slot)
        self._slots.rest(self._slots.standing(flight.node), now)
        self._fail(flight, "peer-refused", event.reason, now)

    def _close(self, slot: Slot) -> None:
        self._effects.append(CloseSlot(slot.node, slot.lease))
        self._slots.remove(slot)

    # -- attempts

    def _attempt_ended(self, event: AttemptEnded, now: float) -> None:
        flight = self._flights.get(event.attempt)
        if flight is None:
            self._late(event, now)
        elif flight.node == event.node and not flight.is_storing:
            self._awaited.pop(event.attempt, None)
            self._release(flight)
            self._judge(flight, event.outcome, now)

    def _late(self, event: AttemptEnded, now: float) -> None:
        """An attempt that was given up has an end after all: take its result if none is there."""
        try:
            job, key, number = parse_attempt_id(event.attempt)
        except WireError:
            return
        if job != self._job_id or not self._was_given(key, number, event.node):
            self._effects.append(Acknowledge(event.node, event.attempt))
            return
        state = self._ledger.steps[key.step].state(key.task)
        is_wanted = state in (TaskState.QUEUED, TaskState.RUNNING) and self._ended_at is None
        if not is_wanted or not event.outcome.is_success:
            self._effects.append(Acknowledge(event.node, event.attempt))
            return
        lifetime_s = self._job.steps[key.step].workload.limits.lifetime_s
        flight = Flight(event.attempt, key, number, event.node, LeaseId(""), now - lifetime_s)
        self._flights.add(flight)
        self._judge(flight, event.outcome, now)

    def _was_given(self, key: TaskKey, number: int, node: NodeId) -> bool:
        steps = self._ledger.steps
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
            self._effects.append(Acknowledge(flight.node, flight.attempt))
            self._fail(flight, outcome.code, outcome.reason, now, log_tail=outcome.log_tail)
        elif not is_asked_for_outputs:
            self._accept(flight, outcome, now)
        elif outcome.outputs is None:
            self._effects.append(Acknowledge(flight.node, flight.attempt))
            self._fail(flight, "output-missing", "the node sent no outputs", now)
        else:
            flight.outcome = outcome
            self._slots.standing(flight.node).storing += 1
            self._store(flight)

    def _store(self, flight: Flight) -> None:
        assert flight.outcome is not None
        assert flight.outcome.outputs is not None
        flight.store_tries += 1
        flight.store_again_at = None
        self._store_later.pop(flight.attempt, None)
        self._effects.append(
            StoreOutputs(flight.node, flight.attempt, flight.key, flight.outcome.outputs)
        )

    def _outputs_stored(self, attempt: AttemptId, now: float) -> None:
        flight = self._flights.get(attempt)
        if flight is None or flight.outcome is None:
            return
        self._storage_trouble = None
        for waiting in list(self._store_later.values()):
            self._store(waiting)
        self._accept(flight, flight.outcome, now)

    def _outputs_failed(self, event: OutputsFailed, now: float) -> None:
        flight = self._flights.get(event.attempt)
        if flight is None or flight.outcome is None:
            return
        standing = self._slots.standing(flight.node)
        is_same_soon = is_passing(event.code) and flight.store_tries < self._settings.store_tries
        if event.is_peer_fault and is_connection_lost(event.code) and is_same_soon:
            # The node keeps a finished attempt until we acknowledge it: ask again once it is back.
            self._stop_storing(flight)
            self._ask(standing, now)
        elif not event.is_peer_fault and is_same_soon:
            pause_s = min(2.0 * flight.store_tries, 30.0)
            flight.store_again_at = now + pause_s
            self._store_later[flight.attempt] = flight
            self._storage_trouble = f"outputs cannot be stored here: {event.reason}"
        else:
            self._effects.append(Acknowledge(flight.node, flight.attempt))
            code = "peer-misbehaved" if event.is_peer_fault else event.code
            is_fault_of_work_or_ours = not event.is_peer_fault
            self._fail(flight, code, event.reason, now, counts=is_fault_of_work_or_ours)

    def _stop_storing(self, flight: Flight) -> None:
        if flight.is_storing:
            flight.outcome = None
            self._slots.standing(flight.node).storing -= 1
            self._store_later.pop(flight.attempt, None)

    def _accept(self, flight: Flight, outcome: Outcome, now: float) -> None:
        standing = self._slots.standing(flight.node)
        elapsed_s = max(0.0, now - flight.started_at)
        is_plausible = 0 <= outcome.duration_s <= elapsed_s
        wants_outputs = bool(self._job.steps[flight.key.step].command.outputs)
        self._add(
            TaskSucceeded(
                step=flight.key.step,
                task=flight.key.task,
                attempt=flight.number,
                node=flight.node,
                at=self._at(now),
                duration_s=outcome.duration_s if is_plausible else elapsed_s,
                outputs=outcome.outputs if wants_outputs else None,
                output_bytes=min(max(outcome.output_bytes, 0), _OUTPUT_BYTES_LIMIT)
                if wants_outputs
                else 0,
            )
        )
        self._effects.append(Acknowledge(flight.node, flight.attempt))
        self._drop(flight)
        for sibling in self._flights.of_task(flight.key):
            self._abandon(sibling)
        standing.failures_in_row = standing.strikes = 0
        standing.successes += 1

    def _abandon(self, flight: Flight) -> None:
        """Another attempt was faster: stop this one."""
        self._effects.append(CancelAttempt(flight.node, flight.attempt))
        slot = self._slots.get(flight.node, flight.lease)
        if slot is not None and slot.attempt == flight.attempt:
            # The lease may be busy with dying for a moment: a new one waits for that by itself.
            self._close(slot)
        self._drop(flight)

    def _drop(self, flight: Flight) -> None:
        self._release(flight)
        self._stop_storing(flight)
        self._awaited.pop(flight.attempt, None)
        self._flights.remove(flight)

    def _fail(
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
        self._add(
            AttemptFailed(
                step=flight.key.step,
                task=flight.key.task,
                attempt=flight.number,
                node=flight.node,
                code=code[:200],
                reason=reason[:2000],
                at=self._at(now),
                counts_against_retries=is_counted,
                log_tail=log_tail[-16 * 1024 :],
            )
        )
        self._drop(flight)
        if flight.key.step == self._step_number:
            self._queue.put_back(flight.key.task, now)
        standing = self._slots.standing(flight.node)
        if is_counted:
            self._count_failure(standing, now)
        elif code != "lease-ended":
            self._slots.rest(standing, now)
            standing.avoid_until = standing.rest_until

    def _count_failure(self, standing: Standing, now: float) -> None:
        """Keep off a node where everything fails, as long as others do better."""
        standing.failures_in_row += 1
        excess = standing.failures_in_row - self._settings.failures_in_row_limit
        if excess < 0:
            return
        is_any_better = any(
            other.slots and other.successes and not other.failures_in_row
            for other in self._slots.standings()
            if other is not standing
        )
        if is_any_better:
            standing.avoid_until = now + min(self._settings.avoid_s * 2 ** min(excess, 10), 600.0)

    # -- carrying on

    def _carry_on(self, now: float) -> None:
        if self._ended_at is not None:
            return
        if self._ledger.is_ended:
            self._end(now)
            return
        if (current := self._ledger.current_step) is not None and current != self._step_number:
            self._close_all()
            self._enter_step(current)
            self._slots.reconsider(self._step.workload)
        self._fill(now)
        self._open(now)
        self._close_idle(now)
        self._explain(now)

    def _fill(self, now: float) -> None:
        """Give every idle slot a task, unless outputs pile up on the way here."""
        if not self._queue.count or self._storage_trouble is not None:
            return
        for slot in self._slots.idle():
            standing = self._slots.standing(slot.node)
            most = self._settings.storing_per_slot * len(standing.slots)
            if not standing.is_usable(now) or standing.storing >= most:
                continue
            if self._is_ending_soon(slot, now):
                self._close(slot)
                continue
            task = self._queue.take(
                slot.node, now, has_others=partial(self._has_others, slot.node, now)
            )
            if task is not None:
                self._start(slot, task, now)

    def _has_others(self, node: NodeId, now: float) -> bool:
        return any(
            standing.node != node
            and standing.is_usable(now)
            and (standing.slots or (standing.room > 0 and standing.rest_until <= now))
            for standing in self._slots.standings()
        )

    def _is_ending_soon(self, slot: Slot, now: float) -> bool:
        """Whether a lease has too little time left for an average task, and a new one has not."""
        mean_s = self._ledger.mean_duration_s
        lifetime_s = self._step.workload.limits.lifetime_s
        if mean_s is None or slot.opened_at is None or lifetime_s < 3 * mean_s:
            return False
        return slot.opened_at + lifetime_s - now < 1.5 * mean_s

    def _start(self, slot: Slot, task: int, now: float) -> None:
        key = TaskKey(self._step_number, task)
        number = self._ledger.steps[key.step].next_attempt(task)
        attempt = attempt_id(self._job_id, key, number)
        self._add(TaskAssigned(key.step, task, number, slot.node, slot.lease, self._at(now)))
        self._flights.add(Flight(attempt, key, number, slot.node, slot.lease, now))
        self._slots.occupy(slot, attempt)
        command = expand(self._step.command, self._space.values(task))
        self._effects.append(StartAttempt(slot.node, slot.lease, attempt, command))

    def _open(self, now: float) -> None:
        wanted = self._queue.count - self._slots.pending
        if wanted <= 0 or self._storage_trouble is not None:
            return
        for node in self._slots.plan(wanted, now):
            lease = LeaseId(random_id(self._rng))
            self._slots.begin(node, lease)
            self._effects.append(OpenSlot(node, lease, self._step.workload, self._step.is_isolated))

    def _close_idle(self, now: float) -> None:
        """Give back what has nothing to do: others may want it."""
        if self._slots.pending == 0:
            return
        is_done = not self._queue.count
        for slot in self._slots.all() if is_done else self._slots.idle():
            is_avoided = self._slots.standing(slot.node).avoid_until > now
            if slot.attempt is None and (is_done or is_avoided):
                self._close(slot)

    def _close_all(self) -> None:
        for slot in self._slots.all():
            self._close(slot)

    def _end(self, now: float) -> None:
        self._ended_at = now
        for flight in self._flights:
            self._effects.append(CancelAttempt(flight.node, flight.attempt))
            self._drop(flight)
        self._close_all()
        self._say_blocked(None)
        self._effects.append(JobEnded(self._ledger.state))

    def _cancel(self, now: float) -> None:
        if not self._ledger.is_ended:
            self._add(JobCancelled(self._at(now)))

    def _retry(self, now: float) -> None:
        if self._ledger.is_cancelled:
            return
        facts = self._ledger.retry(self._at(now))
        for fact in facts:
            self._add(fact)
        if facts:
            self._ended_at = None
            self._queue.rewind()

    def _add(self, fact: Fact) -> None:
        self._ledger.apply(fact)
        self._facts.append(fact)

    def _at(self, now: float) -> float:
        return max(0.0, now + self._utc_offset_s)

    # -- saying why nothing happens

    def _explain(self, now: float) -> None:
        if self._storage_trouble is not None:
            self._say_blocked(self._storage_trouble)
            return
        if len(self._flights) or self._slots.opened or not self._queue.count:
            self._idle_since = None
            self._say_blocked(None)
            return
        if self._idle_since is None:
            self._idle_since = now
        if now - self._idle_since >= self._settings.blocked_after_s and not self._slots.is_opening:
            reason = explain(self._offers, self._step.workload)
            told = self._last_refusal
            self._say_blocked(f"{reason}; {told}" if told else reason)

    def _say_blocked(self, reason: str | None) -> None:
        if reason != self._blocked_reason:
            self._blocked_reason = reason
            self._effects.append(JobBlocked(reason))

    # -- time

    def _settle_overdue(self, now: float) -> None:
        for standing in self._slots.standings():
            if standing.is_resting and standing.rest_until <= now:
                self._slots.end_rest(standing, self._step.workload)
            if standing.asked_at is not None:
                self._settle_doubt(standing, now)
        for attempt, until in list(self._awaited.items()):
            flight = self._flights.get(attempt)
            if until <= now and flight is not None:
                self._fail(flight, "peer-lost", "the node did not tell the outcome", now)
        for flight in list(self._store_later.values()):
            if flight.store_again_at is not None and flight.store_again_at <= now:
                self._store(flight)

    def _settle_doubt(self, standing: Standing, now: float) -> None:
        if standing.grace_until is not None and standing.grace_until <= now:
            standing.grace_until = None
            for slot in list(standing.slots.values()):
                self._slots.remove(slot)
            for flight in self._flights.of_node(standing.node):
                if not flight.is_storing:
                    self._fail(flight, "peer-lost", "the node was lost", now)
        assert standing.asked_at is not None
        if self._ended_at is not None and self._ended_at + self._settings.farewell_s <= now:
            # The provider's own patience with us does the rest.
            standing.asked_at = None
        elif standing.asked_at + self._settings.ask_again_s <= now:
            standing.asked_at = now
            self._effects.append(AskAttempts(standing.node))

    def _next_wake(self, now: float) -> float | None:
        return min((at for at in self._wakes(now) if at > now), default=None)

    def _wakes(self, now: float) -> Iterable[float]:
        for standing in self._slots.standings():
            if standing.is_resting and self._ended_at is None:
                yield standing.rest_until
            if standing.avoid_until > now and self._ended_at is None:
                yield standing.avoid_until
            if standing.asked_at is not None:
                yield standing.asked_at + self._settings.ask_again_s
                if standing.grace_until is not None:
                    yield standing.grace_until
        yield from self._awaited.values()
        for flight in self._store_later.values():
            if flight.store_again_at is not None:
                yield flight.store_again_at
        if self._idle_since is not None and self._ended_at is None:
            yield self._idle_since + self._settings.blocked_after_s
        if self._ended_at is None and (choosy_until := self._queue.next_wake(now)) is not None:
            yield choosy_until
