"""Who carries one job on: which task runs where, until every one has an end.

Theory of operation. `handle` settles what is overdue, takes the event, then carries on: it gives
idle slots their next tasks, opens slots where there is room, and closes those without work. Every
decision that must survive a crash is a fact, and facts come first among the effects. A coordinator
built from a ledger asks the nodes that the ledger names what became of its attempts; the same
question settles a broken connection. Until a node has answered it gets nothing new, and after a
grace what it had is placed elsewhere. A result that arrives later all the same is still taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from random import Random
from typing import assert_never

from p2prc.model.identity import LeaseId, NodeId, random_id
from p2prc.model.job import Job, Step
from p2prc.protocol.jobs.attempts import TaskKey, attempt_id
from p2prc.protocol.jobs.doubt import Doubt
from p2prc.protocol.jobs.events import (
    AttemptEnded,
    AttemptsReported,
    CancelAttempt,
    CancelRequested,
    CloseSlot,
    Effect,
    Event,
    FactsMerged,
    JobBlocked,
    JobEnded,
    NodeLost,
    OffersChanged,
    OpenSlot,
    OutputsCompared,
    OutputsFailed,
    OutputsStored,
    RetryRequested,
    SlotEnded,
    SlotOpened,
    SlotRefused,
    SlotsAllowed,
    StartAttempt,
    StartRefused,
    StoodDown,
    Tick,
)
from p2prc.protocol.jobs.expansion import expand
from p2prc.protocol.jobs.extras import Backups, Wish
from p2prc.protocol.jobs.facts import (
    AttemptFailed,
    Fact,
    JobCancelled,
    NodeCaught,
    TaskAssigned,
    TasksRetried,
    TaskSucceeded,
)
from p2prc.protocol.jobs.flights import Flight
from p2prc.protocol.jobs.ledger import Ledger
from p2prc.protocol.jobs.outbox import Outbox
from p2prc.protocol.jobs.parameters import TaskSpace
from p2prc.protocol.jobs.queue import TaskQueue
from p2prc.protocol.jobs.results import Results
from p2prc.protocol.jobs.settings import CoordinatorSettings
from p2prc.protocol.jobs.sharing import Claim
from p2prc.protocol.jobs.slots import SLOTS_PER_NODE_LIMIT, Slot, Slots, Standing
from p2prc.protocol.placement import NodeOffer, explain, why_not


class Coordinator:
    """Carries one job on. `utc_offset_s` added to `now` gives seconds since 1970 in UTC.

    Attempts are numbered within the `epoch`, so that those of two coordinators differ. Only where
    `is_submitter` are stored outputs collected ones.
    """

    def __init__(
        self,
        ledger: Ledger,
        rng: Random,
        *,
        utc_offset_s: float = 0.0,
        settings: CoordinatorSettings | None = None,
        epoch: int = 0,
        is_submitter: bool = True,
    ) -> None:
        self._ledger = ledger
        self._job: Job = ledger.job
        self._job_id = ledger.job_id
        self._epoch = epoch
        self._rng = rng
        self._settings = settings or CoordinatorSettings()
        self._slots = Slots(rng)
        self._outbox = Outbox(ledger, self._slots, utc_offset_s=utc_offset_s)
        self._results = Results(
            self._outbox,
            self._slots,
            self._settings,
            requeue=self._requeue,
            caught=self._caught,
            rng=rng,
            is_submitter=is_submitter,
        )
        self._backups = Backups(self._results.flights, self._results.pace)
        self._doubt = Doubt(self._outbox, self._slots, self._results, self._settings)
        self._leave_out_caught()
        self._offers: tuple[NodeOffer, ...] = ()
        self._slot_limits: Mapping[NodeId, int] | None = None
        self._step_number = -1
        self._enter_step(ledger.current_step or 0)
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
    def claim(self) -> Claim | None:
        """What the job would use, None where it can use nothing at present."""
        limits = self._step.workload.limits
        left_out = self.left_out
        fits = {
            offer.node: min(offer.lent.times_it_fits(limits), SLOTS_PER_NODE_LIMIT)
            for offer in self._offers
            if offer.node not in left_out and why_not(offer, self._step.workload) is None
        }
        wanted = min(self._ledger.counts.queued + self._slots.opened, sum(fits.values()))
        if self._ended_at is not None or not wanted:
            return None
        mean_s = self._ledger.mean_duration_s or 0.0
        return Claim(
            job=self._job_id,
            priority=self._job.priority or 0,
            slot_millis=max(1, limits.cpu_millis),
            wanted=wanted,
            fits=fits,
            held={one.node: one.opened for one in self._slots.standings() if one.opened},
            served_s=mean_s * self._ledger.counts.succeeded,
        )

    @property
    def left_out(self) -> dict[NodeId, str]:
        """The nodes that get nothing more of this job, and why."""
        return {one.node: one.left_out for one in self._slots.standings() if one.left_out}

    @property
    def is_settled(self) -> bool:
        """Whether the job has ended and no node has to be told: the coordinator may be dropped."""
        return self._ended_at is not None and self._doubt.is_over

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Settle what is overdue, then the event; then carry on. Facts come first."""
        if not self._has_started:
            self._has_started = True
            self._doubt.take_up(now)
        self._settle_overdue(now)
        self._take(event, now)
        self._carry_on(now)
        self._wake_at = self._next_wake(now)
        return self._outbox.take()

    def _take(self, event: Event, now: float) -> None:
        match event:
            case OffersChanged():
                self._set_offers(event.offers)
            case SlotsAllowed():
                self._slot_limits = event.limits
            case SlotOpened():
                self._slot_opened(event, now)
            case SlotRefused():
                self._slot_refused(event, now)
            case SlotEnded():
                self._slot_ended(event, now)
            case StartRefused():
                self._start_refused(event, now)
            case AttemptEnded():
                self._results.ended(event, now)
            case OutputsStored():
                self._results.stored(event.attempt, now)
            case OutputsFailed():
                if (node := self._results.store_failed(event, now)) is not None:
                    self._doubt.ask(self._slots.standing(node), now)
            case OutputsCompared():
                self._results.compared(event, now)
            case AttemptsReported():
                self._doubt.reported(event, self._step_number, now)
            case NodeLost():
                self._doubt.node_lost(event.node, now)
            case CancelRequested():
                self._cancel(now)
            case RetryRequested():
                self._retry(now)
            case FactsMerged():
                self._merge(event.facts, now)
            case StoodDown():
                self._stand_down(now)
            case Tick():
                pass
            case _:
                assert_never(event)

    def _enter_step(self, number: int) -> None:
        """Begin with the next step; its slots may need other limits than the last one's."""
        if number == self._step_number:
            return
        self._step_number = number
        self._step: Step = self._job.steps[number]
        self._results.pace.clear()
        self._space = TaskSpace(self._step)
        self._queue = TaskQueue(
            self._ledger.steps[number],
            is_flying=lambda task: self._results.flights.has_task(TaskKey(number, task)),
        )

    def _requeue(self, key: TaskKey, now: float) -> None:
        if key.step == self._step_number:
            self._queue.put_back(key.task, now)

    def _caught(self, now: float) -> None:
        """Do again what a node that lied had done."""
        self._queue.rewind()
        # Other attempts of those tasks may run that nobody followed any more.
        self._doubt.take_up(now)

    def _leave_out_caught(self) -> None:
        for node, fact in self._ledger.caught.items():
            self._slots.standing(node).left_out = fact.reason

    # -- slots

    def _set_offers(self, offers: tuple[NodeOffer, ...]) -> None:
        wanted = frozenset(self._job.nodes)
        self._offers = tuple(offer for offer in offers if not wanted or offer.node in wanted)
        self._slots.set_offers(self._offers, self._step.workload)

    def _slot_opened(self, event: SlotOpened, now: float) -> None:
        slot = self._slots.get(event.node, event.lease)
        if slot is None:
            self._outbox.say(CloseSlot(event.node, event.lease))
        else:
            self._last_refusal = None
            self._slots.opened_at(slot, now)

    def _slot_refused(self, event: SlotRefused, now: float) -> None:
        slot = self._slots.get(event.node, event.lease)
        if slot is None or slot.opened_at is not None:
            return
        standing = self._slots.standing(event.node)
        self._last_refusal = f"{standing.name} said: {event.message}"
        if not (slot.is_hopeful and event.code == "peer-busy"):
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
        elif event.ended_by == "share":
            self._slots.give_way(standing, now + self._settings.ask_full_s)
        elif event.ended_by != "time":
            self._slots.rest(standing, now)
        flight = self._results.flights.get(slot.attempt) if slot.attempt is not None else None
        if flight is not None and not flight.is_storing:
            code = self._code_of_end(event, flight, now)
            self._results.fail(flight, code, f"ended by {event.ended_by}: {event.reason}", now)

    def _code_of_end(self, event: SlotEnded, flight: Flight, now: float) -> str:
        lifetime_s = self._step.workload.limits.lasts_s
        if event.ended_by == "limit":
            return "limit-exceeded"
        # A task that had nearly a whole lease to itself will not fit into another one either.
        if event.ended_by == "time" and now - flight.started_at > 0.9 * lifetime_s:
            return "timed-out"
        return "lease-ended"

    def _start_refused(self, event: StartRefused, now: float) -> None:
        flight = self._results.flights.get(event.attempt)
        if flight is None or flight.node != event.node or flight.is_storing:
            return
        slot = self._slots.get(flight.node, flight.lease)
        if slot is not None:
            self._outbox.close(slot)
        self._slots.rest(self._slots.standing(flight.node), now)
        self._results.fail(flight, "peer-refused", event.reason, now)

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
            self._results.give_up_others(current, now)
            self._slots.reconsider(self._step.workload)
        self._take_back(now)
        self._give_up_checks(now)
        unmet = [wish for wish in self._wishes(now) if not self._grant(wish, now)]
        self._fill(now)
        self._open(now)
        self._open_for(unmet, now)
        self._close_idle(now, is_done=not self._queue.count and not unmet)
        self._explain(now)

    def _take_back(self, now: float) -> None:
        """Give work again to nodes that were left out, when there is no other."""
        standings = list(self._slots.standings())
        caught = self._ledger.caught
        left_out = [one for one in standings if one.left_out and one.node not in caught]
        if not left_out or any(
            not one.left_out and one.offer is not None and (one.slots or one.may_open(now))
            for one in standings
        ):
            return
        for standing in left_out:
            standing.left_out, standing.failures_in_row = "", 0

    def _wishes(self, now: float) -> list[Wish]:
        checks = self._results.checks.wishes(self._step_number)
        if self._queue.count:
            return checks
        return checks + self._backups.wishes(self._step_number, now)

    def _give_up_checks(self, now: float) -> None:
        """See which results no other node can be asked about."""
        for key, check in self._results.checks.undecided(self._step_number):
            wish = Wish(key, tuple(check.opinions))
            if any(self._could_serve(wish, standing) for standing in self._slots.standings()):
                check.alone_since = None
            elif check.alone_since is None:
                check.alone_since = now
            if check.alone_since is not None and check.alone_since + self._settings.alone_s <= now:
                count = {1: "second", 2: "third"}[len(check.opinions)]
                reason = f"there is no {count} node that could do it again"
                self._results.cannot_compare(key, reason, now)
            elif check.began_at + self._settings.check_patience_s <= now:
                self._results.cannot_compare(key, "no other node had room to do it again", now)

    def _could_serve(self, wish: Wish, standing: Standing) -> bool:
        if standing.node in wish.without or standing.left_out or standing.offer is None:
            return False
        if self._queue.has_failed_on(wish.key.task, standing.node):
            return False
        return why_not(standing.offer, self._step.workload) is None

    def _grant(self, wish: Wish, now: float) -> bool:
        """Begin one more attempt in an idle slot that suits."""
        for slot in self._slots.idle():
            if self._suits(wish, self._slots.standing(slot.node), now):
                self._start(slot, wish.key.task, now)
                self._backups.began(wish.key)
                return True
        return False

    def _suits(self, wish: Wish, standing: Standing, now: float) -> bool:
        if standing.node in wish.without or not standing.is_usable(now):
            return False
        if self._queue.has_failed_on(wish.key.task, standing.node):
            return False
        mean_s = self._results.pace.mean_s(standing.node)
        return mean_s is None or wish.within_s is None or mean_s < wish.within_s

    def _open_for(self, unmet: list[Wish], now: float) -> None:
        """Ask for a slot for each wish that no slot serves which is on its way."""
        coming = self._slots.opening() if unmet else []
        for wish in unmet:
            suits = partial(self._suits_wish, wish, now)
            slot = next((one for one in coming if suits(self._slots.standing(one.node))), None)
            if slot is not None:
                coming.remove(slot)
                continue
            for node in self._slots.plan(1, now, is_wanted=suits):
                self._ask_slot(node)

    def _suits_wish(self, wish: Wish, now: float, standing: Standing) -> bool:
        return self._suits(wish, standing, now)

    def _fill(self, now: float) -> None:
        """Give every idle slot a task, unless outputs pile up on the way here."""
        if not self._queue.count or self._results.storage_trouble is not None:
            return
        for slot in self._slots.idle():
            standing = self._slots.standing(slot.node)
            most = self._settings.storing_per_slot * len(standing.slots)
            if not standing.is_usable(now) or standing.storing >= most:
                continue
            if self._is_ending_soon(slot, now):
                self._outbox.close(slot)
                continue
            if self._allowed_more(standing) < 0:
                # Another job of ours is due.
                self._outbox.close(slot)
                continue
            if self._is_better_left(standing, now):
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
        lifetime_s = self._step.workload.limits.lasts_s
        if mean_s is None or slot.opened_at is None or lifetime_s < 3 * mean_s:
            return False
        return slot.opened_at + lifetime_s - now < 1.5 * mean_s

    def _start(self, slot: Slot, task: int, now: float) -> None:
        key = TaskKey(self._step_number, task)
        number = self._ledger.steps[key.step].next_attempt(task, self._epoch)
        attempt = attempt_id(self._job_id, key, number)
        self._outbox.add(
            TaskAssigned(key.step, task, number, slot.node, slot.lease, self._outbox.at(now))
        )
        self._results.flights.add(Flight(attempt, key, number, slot.node, slot.lease, now))
        self._slots.occupy(slot, attempt)
        command = expand(
            self._step.command, self._space.values(task), is_template=self._step.is_template
        )
        self._outbox.say(StartAttempt(slot.node, slot.lease, attempt, command))

    def _open(self, now: float) -> None:
        wanted = self._queue.count - self._slots.pending
        if wanted <= 0 or self._results.storage_trouble is not None:
            return
        for node in self._slots.plan(
            wanted, now, is_wanted=lambda standing: not self._is_better_left(standing, now)
        ):
            if self._allowed_more(self._slots.standing(node)) > 0:
                self._ask_slot(node)
        self._hope(now)

    def _hope(self, now: float) -> None:
        """Ask full nodes too, now and then, so that they share themselves out."""
        for standing in list(self._slots.full(self._step.workload, now)):
            if self._queue.count <= self._slots.pending:
                return
            if standing.hope_at <= now and self._allowed_more(standing) > 0:
                standing.hope_at = now + self._settings.ask_full_s
                self._ask_slot(standing.node, is_hopeful=True)

    def _allowed_more(self, standing: Standing) -> int:
        """Return how many more slots the job may hold there beside others; below 0, too many."""
        if self._slot_limits is None:
            return 1
        return self._slot_limits.get(standing.node, 0) - len(standing.slots)

    def _ask_slot(self, node: NodeId, *, is_hopeful: bool = False) -> None:
        lease = LeaseId(random_id(self._rng))
        self._slots.begin(node, lease, is_hopeful=is_hopeful)
        self._outbox.say(
            OpenSlot(
                node,
                lease,
                self._step.workload,
                self._step.is_isolated,
                has_sessions=bool(self._step.command.surroundings),
            )
        )

    def _is_better_left(self, standing: Standing, now: float) -> bool:
        """Whether the other nodes will be done before this one is with a single task."""
        pace = self._results.pace
        brings_s = 0.0 if standing.offer is None else standing.offer.brings_s
        expected_s = pace.expected_s(standing.node, brings_s=brings_s)
        if expected_s is None:
            return False
        places = (
            (other.node, len(other.slots))
            for other in self._slots.standings()
            if other is not standing and other.slots and other.is_usable(now)
        )
        return pace.is_better_left(expected_s, self._queue.count, places)

    def _close_idle(self, now: float, *, is_done: bool) -> None:
        """Give back what has nothing to do: others may want it."""
        if self._slots.pending == 0:
            return
        for slot in self._slots.all() if is_done else self._slots.idle():
            standing = self._slots.standing(slot.node)
            is_avoided = standing.avoid_until > now or standing.left_out
            if slot.attempt is None and (is_done or is_avoided):
                self._outbox.close(slot)

    def _close_all(self) -> None:
        for slot in self._slots.all():
            self._outbox.close(slot)

    def _end(self, now: float) -> None:
        self._ended_at = now
        self._results.drop_all()
        self._close_all()
        self._say_blocked(None)
        self._outbox.say(JobEnded(self._ledger.state))

    def _cancel(self, now: float) -> None:
        if not self._ledger.is_ended:
            self._outbox.add(JobCancelled(self._outbox.at(now)))

    def _retry(self, now: float) -> None:
        if self._ledger.is_cancelled:
            return
        facts = self._ledger.retry(self._outbox.at(now))
        for fact in facts:
            self._outbox.add(fact)
        if facts:
            self._ended_at = None
            self._queue.rewind()

    # -- others' facts

    def _merge(self, facts: tuple[Fact, ...], now: float) -> None:
        if any(isinstance(fact, NodeCaught) for fact in facts):
            self._leave_out_caught()
            self._caught(now)
        if any(isinstance(fact, TaskSucceeded) for fact in facts):
            self._results.abandon_succeeded()
        if any(isinstance(fact, TaskAssigned) for fact in facts):
            # Whoever gave them out carries the job on no longer: nobody else asks after them.
            self._doubt.take_up(now)
        if any(isinstance(fact, AttemptFailed | TasksRetried) for fact in facts):
            self._queue.rewind()
        if self._ended_at is not None and not self._ledger.is_ended:
            self._ended_at = None
            self._queue.rewind()

    def _stand_down(self, now: float) -> None:
        self._ended_at = now
        for flight in self._results.flights:
            self._outbox.say(CancelAttempt(flight.node, flight.attempt))
        self._close_all()

    # -- saying why nothing happens

    def _explain(self, now: float) -> None:
        if self._results.storage_trouble is not None:
            self._say_blocked(self._results.storage_trouble)
            return
        if len(self._results.flights) or self._slots.opened or not self._queue.count:
            self._idle_since = None
            self._say_blocked(None)
            return
        if self._idle_since is None:
            self._idle_since = now
        if now - self._idle_since >= self._settings.blocked_after_s and not self._slots.is_opening:
            left = self.left_out
            offers = [offer for offer in self._offers if offer.node not in left]
            reason = explain(offers or self._offers, self._step.workload)
            if left and not offers:
                reason = f"every node is left out: {', '.join(map(self._name, left))}"
            told = self._last_refusal
            self._say_blocked(f"{reason}; {told}" if told else reason)

    def _name(self, node: NodeId) -> str:
        return self._slots.standing(node).name

    def _say_blocked(self, reason: str | None) -> None:
        if reason != self._blocked_reason:
            self._blocked_reason = reason
            self._outbox.say(JobBlocked(reason))

    # -- time

    def _settle_overdue(self, now: float) -> None:
        for standing in self._slots.standings():
            if standing.is_resting and standing.rest_until <= now:
                self._slots.end_rest(standing, self._step.workload)
        self._doubt.settle(now, ended_at=self._ended_at)
        self._results.settle(now)

    def _next_wake(self, now: float) -> float | None:
        return min((at for at in self._wakes(now) if at > now), default=None)

    def _wakes(self, now: float) -> Iterator[float]:
        yield from self._doubt.wakes()
        if self._ended_at is not None:
            return
        yield from self._results.wakes()
        for _, check in self._results.checks.undecided(self._step_number):
            yield check.began_at + self._settings.check_patience_s
            if check.alone_since is not None:
                yield check.alone_since + self._settings.alone_s
        if not self._queue.count:
            yield from self._backups.wakes(self._step_number)
        for standing in self._slots.standings():
            if standing.is_resting:
                yield standing.rest_until
            yield standing.avoid_until
            if self._queue.count:
                yield standing.hope_at
        if self._idle_since is not None:
            yield self._idle_since + self._settings.blocked_after_s
        if (choosy_until := self._queue.next_wake(now)) is not None:
            yield choosy_until
