"""A job's holders in one world: a submitter, keepers, a network that splits, and any death.

Runs the shipped `Holder`, with the shipped coordinator inside, on every node at once; providers
are simple: they lend slots, run for a while, and keep outcomes until they are acknowledged. A node
may die between any two effects, with its disk as it was at that moment. The history is judged as
it happens (`PromiseBroken`), and once more at the end, when everybody has heard of everything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Protocol

from p2prc.model.identity import AttemptId, BlobId, LeaseId, NodeId
from p2prc.model.job import IntegerRange, IntegerSpan, Job, Step
from p2prc.model.resources import GIBIBYTE, Capacity, RuntimeOffer
from p2prc.model.workload import Command, Outcome
from p2prc.protocol.jobs import events as coordination
from p2prc.protocol.jobs import holding
from p2prc.protocol.jobs.attempts import TaskKey, parse_attempt_id
from p2prc.protocol.jobs.facts import Fact, JobCancelled, TaskAssigned, TaskSucceeded
from p2prc.protocol.jobs.holder import Holder
from p2prc.protocol.jobs.ledger import Ledger
from p2prc.protocol.jobs.pages import LogLength, LogName, Logs, SignedPage, in_turn
from p2prc.protocol.placement import NodeOffer
from p2prc.simulation.clock import VirtualClock
from p2prc.simulation.job_history import PromiseBroken

_UTC_OFFSET_S = 1_700_000_000.0
_ANSWER_S = 3.0
_DETECTION_S = 4.0
_ABSENCE_S = 60.0
_LIFETIME_S = 300.0
_RUNTIMES = (RuntimeOffer("process", "userns"),)
_PAGES_SENT = 20


@dataclass(frozen=True, slots=True)
class HolderScenario:
    """A job and the luck that its holders have until `calm_at`; the rates are per second.

    With `dies_for_good` the submitter ends for ever as soon as the job is safe.
    """

    tasks: int = 20
    nodes: int = 4
    slots: int = 2
    duration_s: float = 3.0
    crash_rate: float = 0.0
    submitter_crash_rate: float = 0.0
    death_between_effects: float = 0.0
    split_rate: float = 0.0
    disk_full_until: float = 0.0
    cancel_at: float | None = None
    dies_for_good: bool = False
    has_outputs: bool = True
    calm_at: float = 90.0
    ends_at: float = 1500.0


def any_holder_luck(seed: int) -> HolderScenario:
    """Return one of very many mixtures of bad luck, always the same for a seed."""
    luck = Random(seed)  # noqa: S311  it must repeat
    return HolderScenario(
        tasks=luck.randint(1, 30),
        nodes=luck.randint(2, 6),
        slots=luck.randint(1, 3),
        duration_s=luck.choice([0.3, 3.0, 10.0]),
        crash_rate=luck.choice([0, 0.01, 0.05]),
        submitter_crash_rate=luck.choice([0, 0.02, 0.1]),
        death_between_effects=luck.choice([0, 0.005, 0.02]),
        split_rate=luck.choice([0, 0.02, 0.1]),
        disk_full_until=luck.choice([0, 0, 30.0]),
        cancel_at=luck.choice([None, None, luck.uniform(0, 60)]),
        has_outputs=luck.choice([True, True, False]),
    )


class _Tell(Protocol):
    def __call__(self, event: holding.Event) -> None: ...


@dataclass(slots=True)
class _Disk:
    """What a crash leaves: pages, results, outcomes."""

    is_kept: bool = False
    loose: list[Fact] = field(default_factory=list)
    pages: dict[LogName, list[SignedPage]] = field(default_factory=dict)
    results: dict[tuple[TaskKey, int], None] = field(default_factory=dict)
    shelf: dict[tuple[NodeId, AttemptId], Outcome] = field(default_factory=dict)

    def facts(self) -> list[Fact]:
        logs = self.pages.values()
        sealed = [fact for log in logs for signed in log for fact in signed.page.facts]
        return [*sealed, *self.loose]

    def lengths(self) -> tuple[LogLength, ...]:
        return tuple(LogLength(*name, len(log)) for name, log in sorted(self.pages.items()))

    def add(self, signed: SignedPage) -> None:
        log = self.pages.setdefault(signed.log, [])
        if signed.page.number != len(log):
            raise PromiseBroken(f"a gap in a log: {signed.page.number} after {len(log)}")
        log.append(signed)


@dataclass(slots=True)
class _Place:
    """A node: its disk, and what it forgets when it dies."""

    node: NodeId
    disk: _Disk = field(default_factory=_Disk)
    is_up: bool = True
    is_gone: bool = False
    life: int = 0
    holder: Holder | None = None
    leases: dict[LeaseId, NodeId] = field(default_factory=dict)
    running: dict[tuple[NodeId, AttemptId], LeaseId] = field(default_factory=dict)
    unanswered: dict[NodeId, None] = field(default_factory=dict)
    knows_lost: dict[NodeId, bool] = field(default_factory=dict)


class HolderWorld:
    """One run of one scenario with one seed."""

    def __init__(self, scenario: HolderScenario, seed: int) -> None:
        self.scenario = scenario
        self.clock = VirtualClock()
        self.rng = Random(seed)  # noqa: S311  a simulation repeats itself
        nodes = [NodeId(f"{number:02x}" * 32) for number in range(1, scenario.nodes + 1)]
        # Claims are ordered by id too: the submitter has any.
        self.submitter = self.rng.choice(nodes)
        outputs = ("{i}.png",) if scenario.has_outputs else ()
        numbers = IntegerRange("i", (IntegerSpan(1, scenario.tasks),))
        step = Step("step", Command(("render", "{i}"), outputs=outputs), parameters=(numbers,))
        self.job = Job("simulated", self.submitter, "salt", (step,))
        self.places = {node: _Place(node) for node in nodes}
        self.places[self.submitter].disk.is_kept = True
        self.took_over = 0
        self.was_safe_at: float | None = None
        self.is_cancelled = False
        self._groups = dict.fromkeys(nodes, 0)
        self._collected: dict[TaskKey, int] = {}
        self._started: dict[tuple[NodeId, AttemptId], None] = {}

    # -- running it

    def run(self) -> Ledger:
        """Let it all happen; raise `PromiseBroken`, or return the ledger of a holder."""
        self.start()
        while self.clock.now < self.scenario.ends_at and not self._is_over():
            self.clock.run_until(self.clock.now + 5.0)
        return self._judge()

    def start(self) -> None:
        """Submit the job, and let luck begin; time passes by `clock`."""
        for place in self.places.values():
            self._wake(place)
        self._schedule()
        if self.scenario.cancel_at is not None:
            self.clock.call_at(self.scenario.cancel_at, self._cancel)

    def holders(self) -> list[Holder]:
        """Return those that are up."""
        return [
            place.holder
            for place in self.places.values()
            # One that was given the job by somebody who died before he named it is none.
            if place.is_up and place.holder is not None and place.holder.is_named
        ]

    def coordinators(self) -> list[NodeId]:
        """Return who carries the job on now."""
        return [
            node
            for node, place in self.places.items()
            if place.is_up and place.holder is not None and place.holder.epoch is not None
        ]

    def _is_over(self) -> bool:
        return (
            self.clock.now > self.scenario.calm_at
            and all(holder.is_settled for holder in self.holders())
            and self._is_level()
            and not any(place.leases for place in self.places.values() if place.is_up)
        )

    def _is_level(self) -> bool:
        lengths = {holder.logs.lengths() for holder in self.holders()}
        return len(lengths) == 1 and self._has_submitter_all()

    def _has_submitter_all(self) -> bool:
        place = self.places[self.submitter]
        return place.is_gone or place.holder is None or place.holder.ledger.is_all_collected

    def _judge(self) -> Ledger:
        ledgers = [holder.ledger for holder in self.holders()]
        if not ledgers:
            raise PromiseBroken("nobody holds the job")
        if any(not ledger.is_ended for ledger in ledgers):
            raise PromiseBroken(f"not ended: {[ledger.counts for ledger in ledgers]}")
        if not self._is_level():
            raise PromiseBroken("the holders know different things, or not all was collected")
        states = {self._seen(ledger) for ledger in ledgers}
        if len(states) != 1:
            raise PromiseBroken("the same facts give different states")
        ledger = ledgers[0]
        if self.is_cancelled and ledger.state != "cancelled":
            raise PromiseBroken(f"cancelled, and then {ledger.state}")
        if ledger.state not in ("succeeded", "cancelled"):
            raise PromiseBroken(f"ended as {ledger.state}: {ledger.failures(5)}")
        if any(place.leases for place in self.places.values() if place.is_up):
            raise PromiseBroken("leases were left behind")
        self._judge_results(ledger)
        return ledger

    def _judge_results(self, ledger: Ledger) -> None:
        for task in range(self.scenario.tasks):
            accepted = ledger.steps[0].accepted(task)
            if accepted is None:
                if ledger.state == "succeeded":
                    raise PromiseBroken(f"lost: {task}")
                continue
            key = TaskKey(0, task)
            if accepted.is_collected and self._collected.get(key) != accepted.attempt:
                raise PromiseBroken(f"collected another result than the accepted one: {task}")
            if self.scenario.has_outputs and not accepted.is_collected:
                copies = sum(
                    (key, accepted.attempt) in place.disk.results
                    for place in self.places.values()
                    if not place.is_gone
                )
                if copies < 1:
                    raise PromiseBroken(f"nobody has the outputs of {task}")

    def _seen(self, ledger: Ledger) -> str:
        tasks = [ledger.steps[0].accepted(task) for task in range(self.scenario.tasks)]
        places = [ledger.node_of(TaskKey(0, task)) for task in range(self.scenario.tasks)]
        attempts = [None if one is None else (one.attempt, one.digest) for one in tasks]
        return repr((ledger.state, ledger.counts, ledger.claim, ledger.holders, attempts, places))

    # -- misfortunes

    def _schedule(self) -> None:
        scenario = self.scenario
        for node, place in self.places.items():
            is_submitter = node == self.submitter
            rate = scenario.submitter_crash_rate if is_submitter else scenario.crash_rate
            self._repeat(rate, partial(self._crash, place))
        self._repeat(scenario.split_rate, self._split)
        self.clock.call_at(scenario.calm_at, self._heal)
        self._gossip()

    def _repeat(self, rate: float, misfortune: Callable[[], None]) -> None:
        if rate <= 0:
            return

        def happen() -> None:
            if self.clock.now < self.scenario.calm_at:
                misfortune()
                self.clock.call_later(self.rng.expovariate(rate), happen)

        self.clock.call_later(self.rng.expovariate(rate), happen)

    def crash(self, node: NodeId, *, for_good: bool = False) -> None:
        """Kill a node now."""
        self._crash(self.places[node], for_good=for_good)

    def _crash(self, place: _Place, *, for_good: bool = False) -> None:
        if not place.is_up:
            return
        place.is_up = False
        place.is_gone = for_good
        place.life += 1
        place.holder = None
        place.leases.clear()
        place.running.clear()
        place.unanswered.clear()
        place.knows_lost.clear()
        for other in self.places.values():
            self._lose_sight(other, place.node)
        if not for_good:
            self.clock.call_later(self.rng.uniform(0.5, 30.0), partial(self._restart, place))

    def _restart(self, place: _Place) -> None:
        if not place.is_gone:
            place.is_up = True
            self._wake(place)
            for other in self.places.values():
                self._find_again(other, place.node)

    def _split(self) -> None:
        for node in self._groups:
            self._groups[node] = self.rng.randint(0, 1)
        for place in self.places.values():
            for other in self.places:
                if not self._reaches(place.node, other):
                    self._lose_sight(place, other)
        self.clock.call_later(self.rng.uniform(1.0, 40.0), self._heal)

    def _heal(self) -> None:
        for node in self._groups:
            self._groups[node] = 0
        for place in self.places.values():
            for other in self.places:
                self._find_again(place, other)

    def _lose_sight(self, place: _Place, node: NodeId) -> None:
        life = place.life

        def notice() -> None:
            if place.life != life or not place.is_up:
                return
            self._feed(place, coordination.NodeLost(node))
            if not self._reaches(place.node, node):
                place.knows_lost[node] = True
                self.clock.call_later(_ABSENCE_S, partial(self._end_absent, place, node, life))

        self.clock.call_later(self.rng.uniform(0.0, _DETECTION_S), notice)

    def _end_absent(self, place: _Place, node: NodeId, life: int) -> None:
        if place.life == life and not self._reaches(place.node, node):
            for lease in [one for one, owner in place.leases.items() if owner == node]:
                self._end_lease(place, lease)

    def _find_again(self, place: _Place, node: NodeId) -> None:
        if place.knows_lost.pop(node, False):
            self.clock.call_later(self.rng.uniform(0.1, 3.0), partial(self._back, place, node))

    def _back(self, place: _Place, node: NodeId) -> None:
        if place.is_up and node in place.unanswered:
            self._ask_attempts(place, node)

    def _reaches(self, one: NodeId, other: NodeId) -> bool:
        is_up = self.places[one].is_up and self.places[other].is_up
        return is_up and self._groups[one] == self._groups[other]

    def _gossip(self) -> None:
        for place in self.places.values():
            if place.is_up and place.holder is not None:
                self._feed(place, coordination.OffersChanged(self._offers(place.node)))
        if self.clock.now < self.scenario.ends_at:
            self.clock.call_later(self.rng.uniform(0.5, 1.5), self._gossip)

    def _offers(self, seen_by: NodeId) -> tuple[NodeOffer, ...]:
        return tuple(
            NodeOffer(
                node=node,
                name=f"node-{node[:2]}",
                is_reachable=self._reaches(seen_by, node),
                is_lending=True,
                lent=_capacity(self.scenario.slots),
                free=_capacity(self.scenario.slots - len(place.leases)),
                runtimes=_RUNTIMES,
                python="3.11",
                latency_s=0.01,
            )
            for node, place in self.places.items()
        )

    def _cancel(self) -> None:
        place = self.places[self.submitter]
        if place.is_gone or self.is_cancelled:
            return
        if place.holder is not None:
            if place.holder.ledger.is_ended and not place.holder.ledger.is_cancelled:
                return
            self._feed(place, coordination.CancelRequested())
        # Until it is durable: the person asks again.
        self.is_cancelled = any(isinstance(fact, JobCancelled) for fact in place.disk.facts())
        if not self.is_cancelled:
            self.clock.call_later(1.0, self._cancel)

    # -- a holder's driver

    def _wake(self, place: _Place) -> None:
        if place.disk.is_kept:
            ledger = Ledger(
                self.job, place.disk.facts(), remembers_collected=place.node != self.submitter
            )
            place.holder = Holder(
                place.node,
                ledger,
                Random(self.rng.random()),  # noqa: S311  a simulation repeats itself
                loose=place.disk.loose,
                logs=place.disk.lengths(),
                utc_offset_s=_UTC_OFFSET_S,
            )
            others = [node for node in self.places if node != place.node]
            self.rng.shuffle(others)
            self._feed(place, holding.CandidatesChanged(tuple(others)))
            self._feed(place, coordination.OffersChanged(self._offers(place.node)))

    def _feed(self, place: _Place, event: holding.Event) -> None:
        holder, life = place.holder, place.life
        if holder is None or not place.is_up:
            return
        before = holder.epoch
        for effect in holder.handle(event, self.clock.now):
            if self._dies_now():
                self._crash(place)
                return
            self._perform(place, effect)
            if place.life != life:
                return
        if before is None and holder.epoch not in (None, 0):
            self.took_over += 1
        if (deadline := holder.deadline) is not None:
            if deadline <= self.clock.now:
                raise PromiseBroken("a deadline in the past: the driver would spin")
            self.clock.call_at(deadline, self._tick, place, holder)

    def _tick(self, place: _Place, holder: Holder) -> None:
        if place.holder is holder and place.is_up:
            deadline = holder.deadline
            if deadline is not None and deadline <= self.clock.now:
                self._feed(place, coordination.Tick())

    def _dies_now(self) -> bool:
        is_calm = self.clock.now >= self.scenario.calm_at
        return not is_calm and self.rng.random() < self.scenario.death_between_effects

    def _perform(self, place: _Place, effect: holding.Effect) -> None:
        match effect:
            case coordination.AppendFacts():
                place.disk.loose += effect.facts
                self._written(place, effect.facts)
            case holding.Seal():
                sealed = [fact for page in effect.pages for fact in page.facts]
                if sealed != place.disk.loose:
                    raise PromiseBroken("sealed other facts than were loose")
                place.disk.loose.clear()
                for page in effect.pages:
                    place.disk.add(SignedPage(place.node, page))
            case holding.HandOver():
                self._hand_over(place, effect.node)
            case holding.Sync():
                self._sync(place, effect)
            case holding.FetchResult():
                self._fetch(place, effect)
            case holding.Succeeds():
                for node in effect.nodes:
                    self._send(place, node, partial(self._end_of_last, node, effect.last))
            case holding.SafetyChanged():
                self._safety(place, is_safe=effect.is_safe)
            case coordination.OpenSlot():
                self._open(place, effect)
            case coordination.CloseSlot():
                self._send(
                    place,
                    effect.node,
                    partial(self._close, self.places[effect.node], place.node, effect.lease),
                )
            case coordination.StartAttempt():
                self._start(place, effect)
            case coordination.CancelAttempt():
                key = (place.node, effect.attempt)
                self._send(place, effect.node, partial(self._drop, self.places[effect.node], key))
            case coordination.Acknowledge():
                key = (place.node, effect.attempt)
                self._send(place, effect.node, partial(self._drop, self.places[effect.node], key))
            case coordination.AskAttempts():
                place.unanswered[effect.node] = None
                self._ask_attempts(place, effect.node)
            case coordination.StoreOutputs():
                self._store(place, effect)
            case _:
                pass

    def _written(self, place: _Place, facts: tuple[Fact, ...]) -> None:
        for fact in facts:
            if not isinstance(fact, TaskSucceeded) or not fact.is_collected:
                continue
            key = TaskKey(fact.step, fact.task)
            if place.node != self.submitter:
                raise PromiseBroken("somebody else collected for the submitter")
            if key in self._collected:
                raise PromiseBroken(f"collected twice: {key}")
            self._collected[key] = fact.attempt

    def _safety(self, place: _Place, *, is_safe: bool) -> None:
        if place.node != self.submitter or not is_safe:
            return
        if self.was_safe_at is None:
            self.was_safe_at = self.clock.now
        if self.scenario.dies_for_good:
            self._crash(place, for_good=True)

    # -- between holders

    def _hand_over(self, place: _Place, node: NodeId) -> None:
        def at_there() -> holding.Event:
            there = self.places[node]
            if self.clock.now < self.scenario.disk_full_until and self.rng.random() < 0.5:
                return holding.HandOverFailed(node, "its disk is full")
            if not there.disk.is_kept:
                there.disk.is_kept = True
                self._wake(there)
            return holding.HandedOver(node)

        self._ask(place, node, at_there, lambda: holding.HandOverFailed(node, "unreachable"))

    def _sync(self, place: _Place, effect: holding.Sync) -> None:
        sent = self._some(place, list(effect.lacking))

        def at_there() -> holding.Event:
            there = self.places[effect.node]
            if there.holder is None or (
                sent and self.clock.now < self.scenario.disk_full_until and self.rng.random() < 0.3
            ):
                return holding.SyncFailed(effect.node, "its disk is full")
            new = self._take_in(there, sent)
            said = holding.Heard(place.node, effect.epoch, effect.logs, effect.is_safe, tuple(new))
            self._feed(there, said)
            holder = there.holder
            if holder is None:
                return holding.SyncFailed(effect.node, "it died")
            back = self._some(there, holder.logs.lacking(Logs(effect.logs)))
            answer = holding.Heard(
                there.node, holder.epoch, holder.logs.lengths(), holder.is_safe, tuple(back)
            )
            return holding.SyncAnswered(answer)

        self._ask(place, effect.node, at_there, lambda: holding.SyncFailed(effect.node, "gone"))

    def _some(self, place: _Place, wanted: list[tuple[LogName, int]]) -> list[SignedPage]:
        logs = [place.disk.pages.get(name, [])[start:] for name, start in wanted]
        return list(in_turn(logs))[:_PAGES_SENT]

    def _take_in(self, place: _Place, pages: list[SignedPage]) -> list[SignedPage]:
        if place.holder is None:
            return []
        new, _ = place.holder.logs.sift(place.holder.ledger, pages)
        for signed in new:
            place.disk.add(signed)
        return new

    def _fetch(self, place: _Place, effect: holding.FetchResult) -> None:
        life = place.life
        key = (effect.task, effect.attempt)

        def arrive() -> None:
            if place.life != life:
                return
            is_there = any(
                key in self.places[node].disk.results
                for node in effect.sources
                if node == place.node or self._reaches(place.node, node)
            )
            if is_there and not self._is_full():
                place.disk.results[key] = None
                self._feed(place, holding.ResultFetched(effect.task, effect.attempt))
            else:
                self._feed(place, holding.ResultNotFetched(effect.task, effect.attempt))

        self.clock.call_later(self.rng.uniform(0.01, 0.5), arrive)

    def _is_full(self) -> bool:
        return self.clock.now < self.scenario.disk_full_until and self.rng.random() < 0.3

    # -- between a coordinator and providers

    def _open(self, place: _Place, effect: coordination.OpenSlot) -> None:
        node, lease = effect.node, effect.lease

        def at_there() -> holding.Event:
            there = self.places[node]
            if len(there.leases) >= self.scenario.slots:
                return coordination.SlotRefused(node, lease, "peer-busy", "full", is_retryable=True)
            there.leases[lease] = place.node
            over = partial(self._close, there, place.node, lease)
            self.clock.call_later(_LIFETIME_S, over)
            return coordination.SlotOpened(node, lease, "userns")

        def lost() -> holding.Event:
            # It may be granted all the same.
            self._send(place, node, partial(self._close, self.places[node], place.node, lease))
            return coordination.SlotRefused(node, lease, "peer-lost", "lost", is_retryable=True)

        self._ask(place, node, at_there, lost)

    def _start(self, place: _Place, effect: coordination.StartAttempt) -> None:
        key = (place.node, effect.attempt)
        _, task, attempt = parse_attempt_id(effect.attempt)
        if key in self._started:
            raise PromiseBroken(f"started twice: {effect.attempt}")
        self._started[key] = None
        facts = place.disk.facts()
        if any(isinstance(fact, JobCancelled) for fact in facts):
            raise PromiseBroken(f"started after the cancellation: {effect.attempt}")
        if not any(
            isinstance(fact, TaskAssigned)
            and (fact.step, fact.task, fact.attempt) == (*task, attempt)
            for fact in facts
        ):
            raise PromiseBroken(f"started before that was durable: {effect.attempt}")

        def at_there() -> holding.Event | None:
            there = self.places[effect.node]
            if there.leases.get(effect.lease) != place.node:
                return coordination.StartRefused(
                    effect.node, effect.attempt, "lease-unknown", "no lease"
                )
            there.running[key] = effect.lease
            lasts_s = self.scenario.duration_s * self.rng.uniform(0.5, 1.5)
            life = there.life
            self.clock.call_later(lasts_s, partial(self._finish, there, key, life, lasts_s))
            return None

        self._ask(place, effect.node, at_there, lambda: coordination.NodeLost(effect.node))

    def _finish(
        self, there: _Place, key: tuple[NodeId, AttemptId], life: int, lasted_s: float
    ) -> None:
        if there.life != life or there.running.pop(key, None) is None:
            return
        peer, attempt = key
        _, task, number = parse_attempt_id(attempt)
        outputs = BlobId(f"{task.task:064x}")
        outcome = Outcome(0, outputs=outputs, output_bytes=100, duration_s=lasted_s)
        there.disk.shelf[key] = outcome
        there.disk.results[task, number] = None
        self._tell_outcome(there, peer, attempt, outcome)

    def _tell_outcome(
        self, there: _Place, peer: NodeId, attempt: AttemptId, outcome: Outcome
    ) -> None:
        ended = coordination.AttemptEnded(there.node, attempt, outcome)
        self._send(there, peer, lambda: self._feed(self.places[peer], ended))

    def _drop(self, there: _Place, key: tuple[NodeId, AttemptId]) -> None:
        there.running.pop(key, None)
        _, task, number = parse_attempt_id(key[1])
        if there.disk.shelf.pop(key, None) is not None and not there.disk.is_kept:
            # What nobody pins may be evicted at any time.
            there.disk.results.pop((task, number), None)

    def _close(self, there: _Place, peer: NodeId, lease: LeaseId) -> None:
        if there.leases.get(lease) == peer:
            self._end_lease(there, lease)

    def _end_lease(self, there: _Place, lease: LeaseId) -> None:
        peer = there.leases.pop(lease)
        for key in [one for one, place in there.running.items() if place == lease]:
            del there.running[key]
        ended = coordination.SlotEnded(there.node, lease, "requester", "ended")
        self._send(there, peer, lambda: self._feed(self.places[peer], ended))

    def _end_of_last(self, node: NodeId, last: NodeId) -> None:
        there = self.places[node]
        for lease in [one for one, owner in there.leases.items() if owner == last]:
            self._end_lease(there, lease)

    def _ask_attempts(self, place: _Place, node: NodeId) -> None:
        def at_there() -> holding.Event:
            there = self.places[node]
            finished = {
                key[1]: outcome for key, outcome in there.disk.shelf.items() if key[0] == place.node
            }
            for attempt, outcome in finished.items():
                self._tell_outcome(there, place.node, attempt, outcome)
            place.unanswered.pop(node, None)
            return coordination.AttemptsReported(
                node,
                tuple(lease for lease, owner in there.leases.items() if owner == place.node),
                tuple(key[1] for key in there.running if key[0] == place.node),
                tuple(finished),
            )

        self._ask(place, node, at_there, lambda: None)

    def _store(self, place: _Place, effect: coordination.StoreOutputs) -> None:
        life = place.life
        _, task, number = parse_attempt_id(effect.attempt)

        def arrive() -> None:
            if place.life != life:
                return
            there = self.places[effect.node]
            if not self._reaches(place.node, effect.node):
                lost = coordination.OutputsFailed(
                    effect.attempt, "peer-lost", "lost", is_peer_fault=True
                )
                self._feed(place, lost)
            elif self._is_full():
                full = coordination.OutputsFailed(
                    effect.attempt, "disk-full", "full", is_peer_fault=False
                )
                self._feed(place, full)
            elif (task, number) not in there.disk.results:
                gone = coordination.OutputsFailed(
                    effect.attempt, "file-unknown", "no such tree", is_peer_fault=True
                )
                self._feed(place, gone)
            else:
                place.disk.results[task, number] = None
                self._feed(place, coordination.OutputsStored(effect.attempt))

        self.clock.call_later(self.rng.uniform(0.01, 0.5), arrive)

    # -- letters

    def _send(self, place: _Place, node: NodeId, call: Callable[[], None]) -> None:
        """Tell another: it hears it, or the network splits and nobody knows."""
        if place.node != node and not self._reaches(place.node, node):
            return
        there = self.places[node]
        life = there.life

        def arrive() -> None:
            if there.life == life and self._reaches(place.node, node):
                call()

        self.clock.call_later(self.rng.uniform(0.001, 0.05), arrive)

    def _ask(
        self,
        place: _Place,
        node: NodeId,
        at_there: Callable[[], holding.Event | None],
        lost: Callable[[], holding.Event | None],
    ) -> None:
        """Ask another: one answer comes, or word that none will."""
        life = place.life
        answered: list[bool] = []

        def answer(event: holding.Event | None) -> None:
            if place.life == life and not answered:
                answered.append(True)
                if isinstance(event, holding.SyncAnswered):
                    new = self._take_in(place, list(event.said.pages))
                    event = holding.SyncAnswered(replace(event.said, pages=tuple(new)))
                if event is not None:
                    self._feed(place, event)

        def heard() -> None:
            event = at_there()
            there = self.places[node]
            self._send(there, place.node, lambda: answer(event))

        def give_up() -> None:
            if place.life == life and not answered:
                answer(lost())

        self._send(place, node, heard)
        reaches = self._reaches(place.node, node)
        self.clock.call_later(_ANSWER_S if reaches else 0.05, give_up)


def _capacity(slots: int) -> Capacity:
    return Capacity(slots * 1000, slots * 8 * GIBIBYTE, slots * 64 * GIBIBYTE)


def run_holders(scenario: HolderScenario, seed: int) -> HolderWorld:
    """Run one scenario with one seed to its end; raise `PromiseBroken` naming the seed."""
    world = HolderWorld(scenario, seed)
    try:
        world.run()
    except PromiseBroken as broken:
        raise PromiseBroken(f"seed {seed}: {broken}") from broken
    return world
