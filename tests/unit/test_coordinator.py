"""Stories of one job. `Story` is a driver that does nothing by itself."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from random import Random
from typing import TypeVar

from p2prc.model.identity import AttemptId, BlobId, LeaseId, NodeId
from p2prc.model.job import IntegerRange, IntegerSpan, Job, Step
from p2prc.model.resources import GIBIBYTE, Capacity, Limits, RuntimeOffer
from p2prc.model.workload import Command, Outcome, Workload
from p2prc.protocol.jobs.coordinator import Coordinator
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
from p2prc.protocol.jobs.facts import AttemptFailed, Fact, TaskAssigned, TaskSucceeded
from p2prc.protocol.jobs.ledger import Ledger
from p2prc.protocol.placement import NodeOffer

ALICE = NodeId("a" * 64)
BOB = NodeId("b" * 64)
CAROL = NodeId("c" * 64)
TREE = BlobId("0" * 64)
GOOD = Outcome(0, outputs=TREE, output_bytes=10, duration_s=0.5)
BAD = Outcome(1, code="work-failed", reason="exit status 1", log_tail=b"oh no")
Kind = TypeVar("Kind")


def job(
    tasks: int = 4,
    *,
    steps: int = 1,
    retries: int = 2,
    outputs: bool = False,
    lifetime_s: float = 7200.0,
    nodes: tuple[NodeId, ...] = (),
    memory: int = 1,
) -> Job:
    patterns = ("out/{i}.png",) if outputs else ()
    limits = Limits(lifetime_s=lifetime_s, memory_bytes=memory * GIBIBYTE)
    step = Step(
        "0",
        Command(("render", "{i}"), outputs=patterns),
        workload=Workload(limits),
        parameters=(IntegerRange("i", (IntegerSpan(1, tasks),)),),
        retries=retries,
    )
    named = tuple(
        Step(
            f"{number}",
            step.command,
            workload=step.workload,
            parameters=step.parameters,
            retries=retries,
        )
        for number in range(steps)
    )
    return Job("frames", ALICE, "salt", named, nodes)


def offer(node: NodeId, cores: int = 1) -> NodeOffer:
    room = Capacity(cores * 1000, cores * 4 * GIBIBYTE, cores * 16 * GIBIBYTE)
    return NodeOffer(
        node=node,
        name={ALICE: "alice", BOB: "bob"}.get(node, "carol"),
        is_reachable=True,
        is_lending=True,
        lent=room,
        free=room,
        runtimes=(RuntimeOffer("process", "userns"),),
        python="3.11",
    )


class Story:
    """Feeds a coordinator and remembers what is durable and what was asked for."""

    def __init__(self, described: Job, facts: list[Fact] | None = None) -> None:
        self.facts: list[Fact] = list(facts or [])
        self.job = described
        self.coordinator = Coordinator(Ledger(described, self.facts), Random(1))
        self.now = 100.0
        self.slots: dict[NodeId, list[LeaseId]] = {}
        self.running: dict[NodeId, list[StartAttempt]] = {}

    def feed(self, event: Event, *, after_s: float = 0.0) -> list[Effect]:
        self.now += after_s
        effects = self.coordinator.handle(event, self.now)
        deadline = self.coordinator.deadline
        assert deadline is None or deadline > self.now
        for effect in effects:
            match effect:
                case AppendFacts():
                    assert effects[0] is effect
                    self.facts += effect.facts
                case OpenSlot():
                    self.slots.setdefault(effect.node, []).append(effect.lease)
                case CloseSlot():
                    held = self.slots.get(effect.node, [])
                    self.slots[effect.node] = [one for one in held if one != effect.lease]
                case StartAttempt():
                    self.running.setdefault(effect.node, []).append(effect)
                case _:
                    pass
        return effects

    def offer(self, *offers: NodeOffer) -> list[Effect]:
        return self.feed(OffersChanged(offers))

    def open_all(self) -> list[Effect]:
        effects: list[Effect] = []
        for node, leases in list(self.slots.items()):
            for lease in leases:
                effects += self.feed(SlotOpened(node, lease, "userns"))
        return effects

    def begin(self, *offers: NodeOffer) -> list[Effect]:
        return self.offer(*offers) + self.open_all()

    def end(self, node: NodeId, outcome: Outcome, *, after_s: float = 1.0) -> list[Effect]:
        """End the oldest attempt that the node was given and that has not ended."""
        started = self.running[node].pop(0)
        return self.feed(AttemptEnded(node, started.attempt, outcome), after_s=after_s)

    def wait(self, seconds: float) -> list[Effect]:
        """Let time pass as a driver does: a Tick at each deadline."""
        until, effects = self.now + seconds, []
        while (deadline := self.coordinator.deadline) is not None and deadline <= until:
            self.now = deadline
            effects += self.feed(Tick())
        self.now = until
        return effects

    def again(self) -> Story:
        """The submitter dies and comes back with what is durable."""
        return Story(self.job, self.facts)

    @property
    def state(self) -> str:
        return self.coordinator.ledger.state


def only(kind: type[Kind], effects: list[Effect]) -> list[Kind]:
    return [effect for effect in effects if isinstance(effect, kind)]


def test_slots_are_asked_for_on_all_nodes_and_never_more_than_offered() -> None:
    story = Story(job(10))
    opened = only(OpenSlot, story.offer(offer(ALICE, 4), offer(BOB, 1), offer(CAROL, 1)))
    assert sorted(slot.node[0] for slot in opened) == ["a", "a", "a", "a", "b", "c"]
    assert only(OpenSlot, story.offer(offer(ALICE, 4), offer(BOB, 1), offer(CAROL, 1))) == []


def test_few_tasks_are_spread_over_the_nodes() -> None:
    opened = only(OpenSlot, Story(job(3)).offer(offer(ALICE, 8), offer(BOB, 8), offer(CAROL, 8)))
    assert sorted(slot.node[0] for slot in opened) == ["a", "b", "c"]


def test_a_job_uses_only_the_nodes_it_names() -> None:
    opened = only(OpenSlot, Story(job(3, nodes=(BOB,))).offer(offer(ALICE), offer(BOB)))
    assert [slot.node for slot in opened] == [BOB]


def test_an_assignment_is_durable_before_the_node_hears_of_it() -> None:
    story = Story(job(1))
    effects = story.begin(offer(ALICE))
    facts, start = effects[-2:]
    assert isinstance(facts, AppendFacts)
    assert isinstance(start, StartAttempt)
    assert facts.facts == (TaskAssigned(0, 0, 0, ALICE, start.lease, 100),)
    assert start.command.argv == ("render", "1")


def test_the_next_task_starts_while_outputs_are_still_stored() -> None:
    story = Story(job(3, outputs=True))
    story.begin(offer(ALICE))
    effects = story.end(ALICE, GOOD)
    assert [type(effect) for effect in effects] == [AppendFacts, StoreOutputs, StartAttempt]
    [stored] = only(StoreOutputs, effects)
    effects = story.feed(OutputsStored(stored.attempt))
    assert [type(effect) for effect in effects] == [AppendFacts, Acknowledge]
    [fact] = effects[0].facts if isinstance(effects[0], AppendFacts) else ()
    assert isinstance(fact, TaskSucceeded)
    assert (fact.outputs, fact.output_bytes, fact.duration_s) == (TREE, 10, 0.5)


def test_outputs_that_pile_up_hold_back_the_next_task() -> None:
    story = Story(job(9, outputs=True))
    story.begin(offer(ALICE))
    stored = only(StoreOutputs, story.end(ALICE, GOOD) + story.end(ALICE, GOOD))
    assert story.running[ALICE] == []
    assert len(only(StartAttempt, story.feed(OutputsStored(stored[0].attempt)))) == 1


def test_an_outcome_that_is_told_twice_is_taken_once() -> None:
    story = Story(job(2, outputs=True))
    story.begin(offer(ALICE))
    first = story.running[ALICE][0].attempt
    [stored] = only(StoreOutputs, story.end(ALICE, GOOD))
    assert story.feed(AttemptEnded(ALICE, first, GOOD)) == []
    story.feed(OutputsStored(stored.attempt))
    assert story.feed(AttemptEnded(ALICE, first, GOOD)) == [Acknowledge(ALICE, first)]
    assert story.coordinator.ledger.counts.succeeded == 1


def test_nobody_speaks_for_another_nodes_attempt() -> None:
    story = Story(job(1))
    story.begin(offer(ALICE), offer(BOB))
    [start] = [start for starts in story.running.values() for start in starts]
    liar = BOB if start.node == ALICE else ALICE
    assert story.feed(AttemptEnded(liar, start.attempt, GOOD)) == []
    assert story.feed(StartRefused(liar, start.attempt, "peer-busy", "")) == []
    assert story.feed(SlotEnded(liar, start.lease, "time", "")) == []
    assert story.coordinator.ledger.counts.running == 1


def test_a_job_ends_once_and_gives_its_slots_back() -> None:
    story = Story(job(2))
    story.begin(offer(ALICE), offer(BOB))
    closed = only(CloseSlot, story.end(ALICE, GOOD))
    effects = story.end(BOB, GOOD)
    assert {slot.node for slot in closed + only(CloseSlot, effects)} == {ALICE, BOB}
    assert only(JobEnded, effects) == [JobEnded("succeeded")]
    assert story.coordinator.is_settled
    assert story.feed(Tick(), after_s=100) == []


def test_a_failed_task_is_tried_on_another_node() -> None:
    story = Story(job(2))
    story.begin(offer(ALICE), offer(BOB))
    failing = story.running[ALICE][0].command.argv
    effects = story.end(ALICE, BAD)
    [fact] = [fact for fact in story.facts if isinstance(fact, AttemptFailed)]
    assert (fact.counts_against_retries, fact.log_tail) == (True, b"oh no")
    assert only(StartAttempt, effects) == []
    [start] = only(StartAttempt, story.end(BOB, GOOD))
    assert (start.node, start.command.argv) == (BOB, failing)


def test_a_failed_task_does_not_wait_for_ever_for_another_node() -> None:
    story = Story(job(2))
    story.begin(offer(ALICE), offer(BOB))
    story.end(ALICE, BAD)
    [start] = only(StartAttempt, story.wait(10))
    assert start.node == ALICE


def test_a_single_node_tries_again_at_once_and_then_the_job_has_failed() -> None:
    story = Story(job(1, retries=2))
    story.begin(offer(ALICE))
    assert len(only(StartAttempt, story.end(ALICE, BAD))) == 1
    story.end(ALICE, BAD)
    assert only(JobEnded, story.end(ALICE, BAD)) == [JobEnded("failed")]


def test_a_failed_job_may_be_tried_again() -> None:
    story = Story(job(2, retries=0))
    story.begin(offer(ALICE))
    story.end(ALICE, BAD)
    story.end(ALICE, GOOD)
    assert story.state == "failed"
    story.feed(RetryRequested())
    [start] = only(StartAttempt, story.open_all())
    assert start.attempt.endswith("-0-0-1")
    assert only(JobEnded, story.end(ALICE, GOOD)) == [JobEnded("succeeded")]


def test_a_conflict_of_outputs_fails_the_task_at_once() -> None:
    story = Story(job(1, outputs=True, retries=5))
    story.begin(offer(ALICE))
    [stored] = only(StoreOutputs, story.end(ALICE, GOOD))
    conflict = OutputsFailed(stored.attempt, "output-conflict", "two", is_peer_fault=False)
    effects = story.feed(conflict)
    assert only(Acknowledge, effects) == [Acknowledge(ALICE, stored.attempt)]
    assert only(JobEnded, effects) == [JobEnded("failed")]


def test_success_without_the_outputs_asked_for_is_a_failure() -> None:
    story = Story(job(1, outputs=True, retries=0))
    story.begin(offer(ALICE))
    story.end(ALICE, Outcome(0))
    assert [failure.code for failure in story.coordinator.ledger.failures()] == ["output-missing"]


def test_a_nodes_lies_about_time_and_size_are_not_believed() -> None:
    story = Story(job(1, outputs=True))
    story.begin(offer(ALICE))
    lie = Outcome(0, outputs=TREE, output_bytes=-5, duration_s=float("nan"))
    [stored] = only(StoreOutputs, story.end(ALICE, lie, after_s=3))
    story.feed(OutputsStored(stored.attempt))
    fact = story.facts[-1]
    assert isinstance(fact, TaskSucceeded)
    assert (fact.output_bytes, fact.duration_s) == (0, 3)


def test_our_full_disk_keeps_outcomes_and_starts_nothing_new() -> None:
    story = Story(job(5, outputs=True))
    story.begin(offer(ALICE))
    [stored] = only(StoreOutputs, story.end(ALICE, GOOD))
    full = OutputsFailed(stored.attempt, "disk-full", "no space left", is_peer_fault=False)
    effects = story.feed(full)
    assert only(Acknowledge, effects) == []
    [blocked] = only(JobBlocked, effects)
    assert blocked.reason == "outputs cannot be stored here: no space left"
    [second] = only(StoreOutputs, story.end(ALICE, GOOD, after_s=0.5))
    assert story.running[ALICE] == []
    assert [again.attempt for again in only(StoreOutputs, story.wait(5))] == [stored.attempt]
    effects = story.feed(OutputsStored(second.attempt))
    assert only(JobBlocked, effects) == [JobBlocked(None)]
    assert len(only(StartAttempt, effects)) == 1
    assert not any(isinstance(fact, AttemptFailed) for fact in story.facts)


def test_a_provider_that_dies_while_sending_is_asked_again_before_anything_is_repeated() -> None:
    story = Story(job(1, outputs=True))
    story.begin(offer(ALICE))
    [stored] = only(StoreOutputs, story.end(ALICE, GOOD))
    lost = OutputsFailed(stored.attempt, "peer-lost", "", is_peer_fault=True)
    assert AskAttempts(ALICE) in story.feed(lost)
    story.feed(AttemptsReported(ALICE, finished=(stored.attempt,)), after_s=3)
    effects = story.feed(AttemptEnded(ALICE, stored.attempt, GOOD))
    assert [again.attempt for again in only(StoreOutputs, effects)] == [stored.attempt]
    story.feed(OutputsStored(stored.attempt))
    assert (story.state, story.coordinator.ledger.failures()) == ("succeeded", [])


def test_a_provider_whose_silence_shows_in_the_transfer_last_is_given_up_all_the_same() -> None:
    story = Story(job(1, outputs=True))
    story.begin(offer(ALICE), offer(BOB))
    [node] = story.running
    [stored] = only(StoreOutputs, story.end(node, GOOD))
    story.feed(NodeLost(node))
    story.wait(20)
    # The grace is long over when the connection for outputs notices as well.
    story.feed(OutputsFailed(stored.attempt, "peer-lost", "", is_peer_fault=True))
    other = BOB if node == ALICE else ALICE
    story.offer(offer(other))
    started = only(StartAttempt, story.wait(11) + story.open_all())
    assert [start.node for start in started] == [other]


def test_outputs_that_are_not_what_was_promised_are_asked_of_another_node() -> None:
    story = Story(job(1, outputs=True))
    story.begin(offer(ALICE))
    [stored] = only(StoreOutputs, story.end(ALICE, GOOD))
    false = OutputsFailed(stored.attempt, "peer-misbehaved", "wrong hash", is_peer_fault=True)
    story.feed(false)
    [failure] = story.coordinator.ledger.failures()
    assert not failure.counts_against_retries
    opened = only(OpenSlot, story.offer(offer(ALICE), offer(BOB)))
    assert [slot.node for slot in opened] == [BOB]


def test_a_lost_node_has_a_grace_and_then_its_tasks_go_elsewhere() -> None:
    story = Story(job(2))
    story.begin(offer(ALICE), offer(BOB))
    assert story.feed(NodeLost(ALICE)) == [AskAttempts(ALICE)]
    story.end(BOB, GOOD)
    assert only(StartAttempt, story.wait(8)) == []
    story.open_all()
    started = only(StartAttempt, story.wait(3) + story.open_all())
    assert [start.node for start in started] == [BOB]
    [failure] = story.coordinator.ledger.failures()
    assert (failure.node, failure.counts_against_retries) == (ALICE, False)


def test_a_node_that_is_back_within_the_grace_goes_on() -> None:
    story = Story(job(2))
    story.begin(offer(ALICE), offer(BOB))
    start = story.running[ALICE][0]
    story.feed(NodeLost(ALICE))
    report = AttemptsReported(ALICE, leases=(start.lease,), running=(start.attempt,))
    assert story.feed(report, after_s=4) == []
    story.end(ALICE, GOOD)
    story.end(BOB, GOOD)
    assert (story.state, story.coordinator.ledger.failures()) == ("succeeded", [])


def test_a_node_gets_nothing_new_while_it_is_in_doubt() -> None:
    story = Story(job(5))
    story.begin(offer(ALICE, 2))
    story.feed(NodeLost(ALICE))
    story.end(ALICE, GOOD)
    assert story.running[ALICE][1:] == []
    held = tuple(story.slots[ALICE])
    running = (story.running[ALICE][0].attempt,)
    assert len(only(StartAttempt, story.feed(AttemptsReported(ALICE, held, running)))) == 1


def test_a_result_that_comes_after_its_attempt_was_given_up_is_still_taken() -> None:
    story = Story(job(1, outputs=True))
    story.begin(offer(ALICE))
    start = story.running[ALICE].pop()
    story.feed(NodeLost(ALICE))
    story.wait(11)
    story.begin(offer(ALICE), offer(BOB))
    elsewhere = story.running[BOB][0]
    effects = story.feed(AttemptEnded(ALICE, start.attempt, GOOD))
    assert [stored.attempt for stored in only(StoreOutputs, effects)] == [start.attempt]
    effects = story.feed(OutputsStored(start.attempt))
    assert CancelAttempt(BOB, elsewhere.attempt) in effects
    assert only(JobEnded, effects) == [JobEnded("succeeded")]


def test_an_attempt_that_nobody_gave_away_is_not_taken() -> None:
    story = Story(job(2))
    story.begin(offer(ALICE))
    start = story.running[ALICE][0]
    invented = AttemptId(f"{start.attempt.rsplit('-', 2)[0]}-1-0")
    assert story.feed(AttemptEnded(BOB, invented, GOOD)) == [Acknowledge(BOB, invented)]
    assert story.feed(AttemptEnded(BOB, AttemptId("nonsense"), GOOD)) == []
    assert story.coordinator.ledger.counts.succeeded == 0


def test_what_a_returned_node_still_runs_for_nobody_is_stopped() -> None:
    story = Story(job(3))
    story.begin(offer(ALICE))
    start = story.running[ALICE].pop()
    story.feed(NodeLost(ALICE))
    story.wait(11)
    effects = story.feed(AttemptsReported(ALICE, (start.lease,), (start.attempt,)))
    assert CancelAttempt(ALICE, start.attempt) in effects
    assert CloseSlot(ALICE, start.lease) in effects


def test_a_restarted_submitter_adopts_what_runs_and_repeats_nothing() -> None:
    before = Story(job(4))
    before.begin(offer(ALICE), offer(BOB))
    before.end(ALICE, GOOD)
    alice, bob = before.running[ALICE][0], before.running[BOB][0]

    story = before.again()
    effects = story.offer(offer(ALICE), offer(BOB))
    assert effects == [AskAttempts(ALICE), AskAttempts(BOB)]
    story.feed(AttemptsReported(ALICE, (alice.lease,), (alice.attempt,)))
    # Bob finished in the meantime: he tells after the report.
    story.feed(AttemptsReported(BOB, (bob.lease,), (), (bob.attempt,)))
    effects = story.feed(AttemptEnded(BOB, bob.attempt, GOOD))
    assert Acknowledge(BOB, bob.attempt) in effects
    story.running[ALICE] = [alice]
    story.end(BOB, GOOD)
    story.end(ALICE, GOOD)
    assert story.state == "succeeded"
    accepted = [fact.task for fact in story.facts if isinstance(fact, TaskSucceeded)]
    assert sorted(accepted) == [0, 1, 2, 3]
    assert story.coordinator.ledger.failures() == []


def test_a_restarted_submitter_gives_up_nodes_that_stay_away() -> None:
    before = Story(job(1))
    before.begin(offer(ALICE))
    story = before.again()
    story.offer(offer(BOB))
    story.wait(11)
    started = only(StartAttempt, story.open_all())
    assert [start.node for start in started] == [BOB]


def test_a_finished_attempt_whose_outcome_never_comes_is_placed_again() -> None:
    before = Story(job(1))
    before.begin(offer(ALICE))
    start = before.running[ALICE][0]
    story = before.again()
    story.offer(offer(ALICE))
    story.feed(AttemptsReported(ALICE, (start.lease,), (), (start.attempt,)))
    story.wait(12)
    assert [failure.code for failure in story.coordinator.ledger.failures()] == ["peer-lost"]
    story.wait(60)
    assert story.slots[ALICE]


def test_a_slot_whose_attempt_was_given_up_takes_the_next_task() -> None:
    story = Story(job(1))
    story.begin(offer(ALICE))
    start = story.running[ALICE][0]
    story.feed(NodeLost(ALICE))
    story.feed(AttemptsReported(ALICE, (start.lease,), (), (start.attempt,)), after_s=1)
    effects = story.wait(11)
    # The node did not keep its word: its slot is given back and a new one is tried later.
    assert CloseSlot(ALICE, start.lease) in effects
    assert len(only(OpenSlot, effects)) == 1


def test_a_tree_that_the_node_no_longer_has_uses_up_no_retry() -> None:
    story = Story(job(1, outputs=True, retries=0))
    story.begin(offer(ALICE))
    [stored] = only(StoreOutputs, story.end(ALICE, GOOD))
    story.feed(OutputsFailed(stored.attempt, "file-unknown", "no such tree", is_peer_fault=False))
    assert story.coordinator.ledger.counts.queued == 1


def test_many_slots_that_are_refused_together_are_one_misfortune() -> None:
    story = Story(job(9))
    for slot in only(OpenSlot, story.offer(offer(ALICE, 8))):
        story.feed(SlotRefused(ALICE, slot.lease, "peer-busy", "busy", is_retryable=True))
    assert len(only(OpenSlot, story.wait(1.1))) == 1


def full(node: NodeId, cores: int = 4) -> NodeOffer:
    """A node all of which others hold."""
    return dataclasses.replace(offer(node, cores), free=Capacity())


def test_a_node_that_others_fill_is_asked_now_and_then_so_that_it_shares_itself_out() -> None:
    story = Story(job(9))
    asked = only(OpenSlot, story.offer(full(ALICE)))
    assert len(asked) == 1
    for _ in range(20):
        [slot] = asked
        refused = SlotRefused(ALICE, slot.lease, "peer-busy", "busy", is_retryable=True)
        assert only(OpenSlot, story.feed(refused)) == []
        assert only(OpenSlot, story.wait(4.5)) == []
        asked = only(OpenSlot, story.wait(0.5))
    story.feed(SlotOpened(ALICE, asked[0].lease, "userns"))
    assert len(story.running[ALICE]) == 1


def test_a_full_node_is_not_asked_by_who_holds_most_of_it() -> None:
    story = Story(job(9))
    story.begin(offer(ALICE, 4))
    assert len(story.running[ALICE]) == 4
    story.offer(full(ALICE))
    assert only(OpenSlot, story.wait(60)) == []


def test_a_slot_taken_back_for_others_is_no_failure_and_is_asked_for_again_later() -> None:
    story = Story(job(9, retries=0))
    story.begin(offer(ALICE, 2))
    story.offer(full(ALICE, 2))
    started = story.running[ALICE][0]
    ended = SlotEnded(ALICE, started.lease, "share", "others wait")
    assert only(OpenSlot, story.feed(ended)) == []
    assert story.coordinator.ledger.counts.failed == 0
    story.offer(offer(ALICE, 2))
    assert only(OpenSlot, story.wait(4.9)) == []
    assert len(only(OpenSlot, story.wait(0.2))) == 1


def test_a_slot_is_renewed_before_its_time_cuts_a_task_short() -> None:
    story = Story(job(9, lifetime_s=100))
    story.begin(offer(ALICE))
    lease = story.running[ALICE][0].lease
    long = Outcome(0, duration_s=30.0)
    story.end(ALICE, long, after_s=30)
    assert len(story.running[ALICE]) == 1
    effects = story.end(ALICE, long, after_s=30)
    assert only(CloseSlot, effects) == [CloseSlot(ALICE, lease)]
    assert len(only(OpenSlot, effects)) == 1
    assert only(StartAttempt, effects) == []


def test_cancel_stops_everything_in_one_call() -> None:
    story = Story(job(9, outputs=True))
    story.begin(offer(ALICE, 2), offer(BOB))
    [stored] = only(StoreOutputs, story.end(BOB, GOOD))
    story.offer(offer(ALICE, 2), offer(BOB), offer(CAROL))
    effects = story.feed(CancelRequested())
    stopped = {cancel.attempt for cancel in only(CancelAttempt, effects)}
    assert stored.attempt in stopped
    assert len(stopped) == 4
    assert {node: leases for node, leases in story.slots.items() if leases} == {}
    assert {slot.node for slot in only(CloseSlot, effects)} == {ALICE, BOB, CAROL}
    assert effects[-1] == JobEnded("cancelled")


def test_nothing_brings_a_cancelled_job_back() -> None:
    story = Story(job(3, outputs=True))
    story.offer(offer(ALICE, 2))
    lease, other = story.slots[ALICE]
    story.feed(SlotOpened(ALICE, lease, "userns"))
    start = story.running[ALICE][0]
    story.feed(CancelRequested())
    assert story.feed(SlotOpened(ALICE, other, "userns")) == [CloseSlot(ALICE, other)]
    assert story.feed(AttemptEnded(ALICE, start.attempt, GOOD)) == [
        Acknowledge(ALICE, start.attempt)
    ]
    assert story.feed(RetryRequested()) == []
    assert story.offer(offer(BOB)) == []
    after = story.again()
    effects = after.offer(offer(ALICE), offer(BOB))
    assert effects == [AskAttempts(ALICE), JobEnded("cancelled")]
    report = AttemptsReported(ALICE, (lease,), (start.attempt,))
    assert after.feed(report) == [
        CancelAttempt(ALICE, start.attempt),
        CloseSlot(ALICE, lease),
    ]
    assert after.coordinator.is_settled


def test_a_refused_slot_rests_for_longer_each_time() -> None:
    story = Story(job(2))
    [slot] = only(OpenSlot, story.offer(offer(ALICE)))
    waits = []
    for _ in range(4):
        refused_at = story.now
        refused = SlotRefused(ALICE, slot.lease, "peer-busy", "busy", is_retryable=True)
        assert only(OpenSlot, story.feed(refused)) == []
        while not (opened := only(OpenSlot, story.wait(0.5))):
            assert story.now - refused_at < 100
        [slot] = opened
        waits.append(round(story.now - refused_at))
    assert waits == [1, 2, 4, 8]


def test_a_lease_that_time_ended_costs_no_retry_and_is_renewed() -> None:
    story = Story(job(1, lifetime_s=100, retries=0))
    story.begin(offer(ALICE))
    start = story.running[ALICE][0]
    ended = SlotEnded(ALICE, start.lease, "time", "its time is over")
    effects = story.feed(ended, after_s=50)
    assert len(only(OpenSlot, effects)) == 1
    assert [failure.code for failure in story.coordinator.ledger.failures()] == ["lease-ended"]


def test_a_task_longer_than_a_whole_lease_fails_instead_of_going_round() -> None:
    story = Story(job(1, lifetime_s=100, retries=0))
    story.begin(offer(ALICE))
    start = story.running[ALICE][0]
    story.feed(SlotEnded(ALICE, start.lease, "time", "its time is over"), after_s=100)
    assert story.state == "failed"
    assert [failure.code for failure in story.coordinator.ledger.failures()] == ["timed-out"]


def test_a_task_over_its_limit_fails_and_an_owners_kill_does_not_count() -> None:
    for ended_by, counts in (("limit", True), ("owner", False), ("lost", False)):
        story = Story(job(1))
        story.begin(offer(ALICE))
        start = story.running[ALICE][0]
        story.feed(SlotEnded(ALICE, start.lease, ended_by, "because"))
        [failure] = story.coordinator.ledger.failures()
        assert failure.counts_against_retries is counts


def test_a_refused_start_loses_the_slot_and_no_retry() -> None:
    story = Story(job(1, retries=0))
    story.begin(offer(ALICE))
    start = story.running[ALICE][0]
    refused = StartRefused(ALICE, start.attempt, "lease-unknown", "no such lease")
    assert CloseSlot(ALICE, start.lease) in story.feed(refused)
    assert story.coordinator.ledger.counts.queued == 1


def test_a_node_where_three_tasks_in_a_row_fail_is_left_out_and_said_so() -> None:
    story = Story(job(100, retries=9))
    story.begin(offer(ALICE), offer(BOB))
    for _ in range(3):
        story.end(BOB, GOOD)
        effects = story.end(ALICE, BAD)
    assert [slot.node for slot in only(CloseSlot, effects)] == [ALICE]
    assert story.running[ALICE] == []
    assert only(OpenSlot, story.wait(600)) == []
    assert list(story.coordinator.left_out) == [ALICE]
    assert "3 tasks failed there" in story.coordinator.left_out[ALICE]


def test_a_node_that_was_left_out_is_taken_back_when_there_is_no_other() -> None:
    story = Story(job(100, retries=9))
    story.begin(offer(ALICE), offer(BOB))
    for _ in range(3):
        story.end(BOB, GOOD)
        story.end(ALICE, BAD)
    story.feed(NodeLost(BOB))
    effects = story.offer(offer(ALICE)) + story.wait(20)
    assert {slot.node for slot in only(OpenSlot, effects)} == {ALICE}
    assert story.coordinator.left_out == {}


def test_tasks_that_fail_everywhere_leave_no_node_out() -> None:
    story = Story(job(100, retries=9))
    story.begin(offer(ALICE), offer(BOB))
    for _ in range(5):
        story.end(ALICE, BAD)
        story.end(BOB, BAD)
    assert story.coordinator.left_out == {}
    assert len(story.running[ALICE]) == len(story.running[BOB]) == 1


def late_story() -> Story:
    """Alice has the last task and does not end it; Bob ended all others, in no time."""
    story = Story(job(5))
    story.begin(offer(ALICE), offer(BOB))
    for _ in range(4):
        story.end(BOB, GOOD, after_s=0.3)
    assert story.coordinator.ledger.counts.running == 1
    return story


def test_a_late_last_task_is_tried_on_a_second_node_and_the_first_good_answer_wins() -> None:
    story = late_story()
    [slot] = only(OpenSlot, story.wait(10))
    assert slot.node == BOB
    [again] = only(StartAttempt, story.feed(SlotOpened(BOB, slot.lease, "userns")))
    [first] = story.running[ALICE]
    assert again.command == first.command
    effects = story.end(BOB, GOOD)
    assert only(CancelAttempt, effects) == [CancelAttempt(ALICE, first.attempt)]
    assert only(JobEnded, effects) == [JobEnded("succeeded")]
    assert story.coordinator.ledger.failures() == []
    assert story.coordinator.ledger.nodes[BOB].succeeded == 5
    assert story.coordinator.ledger.nodes[ALICE].running == 0


def test_the_first_attempt_may_still_win_and_the_second_counts_as_no_failure() -> None:
    story = late_story()
    [slot] = only(OpenSlot, story.wait(10))
    [again] = only(StartAttempt, story.feed(SlotOpened(BOB, slot.lease, "userns")))
    effects = story.end(ALICE, GOOD)
    assert only(CancelAttempt, effects) == [CancelAttempt(BOB, again.attempt)]
    assert story.state == "succeeded"
    assert story.coordinator.ledger.failures() == []


def test_a_task_has_one_extra_attempt_and_no_more() -> None:
    story = late_story()
    [slot] = only(OpenSlot, story.wait(10))
    story.offer(offer(ALICE), offer(BOB), offer(CAROL))
    story.feed(SlotOpened(BOB, slot.lease, "userns"))
    assert only(OpenSlot, story.wait(100)) == []
    # The one that lost its node is not replaced: the other goes on.
    story.feed(SlotEnded(BOB, slot.lease, "owner", "the owner ended it"))
    assert only(OpenSlot, story.wait(100)) == []
    assert story.state == "running"


def test_a_node_far_from_the_inputs_is_not_asked_when_others_are_done_sooner() -> None:
    story = Story(job(12))
    story.begin(offer(ALICE, cores=4))
    for _ in range(4):
        story.end(ALICE, GOOD)
    far = replace(offer(BOB), brings_s=600.0)
    assert only(OpenSlot, story.offer(offer(ALICE, cores=4), far)) == []
    near = replace(offer(CAROL), brings_s=1.0)
    opened = only(OpenSlot, story.offer(offer(ALICE, cores=4), far, near))
    assert {slot.node for slot in opened} == {CAROL}


def test_no_task_is_tried_twice_while_others_wait_or_where_all_take_as_long() -> None:
    story = Story(job(6))
    story.begin(offer(ALICE), offer(BOB))
    for _ in range(4):
        story.end(BOB, GOOD, after_s=60.0)
    # Alice's first task is very late, but Bob still has one that had not begun.
    assert len(story.running[BOB]) == 1
    assert only(StartAttempt, story.wait(50)) == []


def test_a_slow_node_gets_no_task_that_others_end_sooner() -> None:
    story = Story(job(80))
    story.begin(offer(ALICE, cores=4), offer(BOB))
    while story.coordinator.ledger.counts.queued > 8:
        for _ in range(4):
            story.end(ALICE, GOOD, after_s=0.25)
        if story.coordinator.ledger.counts.queued == 43:
            story.end(BOB, GOOD)
    story.end(BOB, GOOD)
    assert story.running[BOB] == []
    assert story.coordinator.ledger.counts.queued > 0


def test_a_node_that_lacks_what_it_needs_uses_up_no_retries() -> None:
    story = Story(job(1, retries=0))
    story.begin(offer(ALICE))
    story.end(ALICE, Outcome(None, code="disk-full", reason="no space left"))
    assert story.coordinator.ledger.counts.queued == 1


def test_a_job_that_nobody_can_run_says_why_after_a_while() -> None:
    story = Story(job(1, memory=64))
    assert only(JobBlocked, story.offer(offer(ALICE), offer(BOB, 2))) == []
    [blocked] = only(JobBlocked, story.wait(10))
    reason = "no node lends 64 GiB of memory: the most is 8 GiB of memory on bob"
    assert blocked.reason == story.coordinator.blocked_reason == reason
    assert story.state == "queued"
    big = replace(offer(CAROL), lent=offer(CAROL, 64).lent, free=offer(CAROL, 64).free)
    effects = story.begin(offer(ALICE), big)
    assert only(JobBlocked, effects) == [JobBlocked(None)]


def test_a_job_that_is_refused_everywhere_tells_the_refusal() -> None:
    story = Story(job(1))
    [slot] = only(OpenSlot, story.offer(offer(ALICE)))
    words = "the owner of this node does not lend to you"
    story.feed(SlotRefused(ALICE, slot.lease, "policy-refuses", words, is_retryable=False))
    [blocked] = only(JobBlocked, story.wait(10))
    assert blocked.reason is not None
    assert f"alice said: {words}" in blocked.reason


def test_steps_run_one_after_another() -> None:
    story = Story(job(1, steps=2))
    story.begin(offer(ALICE))
    story.end(ALICE, GOOD)
    [start] = only(StartAttempt, story.open_all())
    assert start.attempt.endswith("-1-0-0")
    assert only(JobEnded, story.end(ALICE, GOOD)) == [JobEnded("succeeded")]


def test_an_ended_job_soon_stops_asking_nodes_that_stay_away() -> None:
    story = Story(job(2))
    story.begin(offer(ALICE), offer(BOB))
    story.feed(NodeLost(ALICE))
    story.feed(CancelRequested())
    assert not story.coordinator.is_settled
    assert len(only(AskAttempts, story.wait(70))) > 5
    assert story.coordinator.is_settled
    assert story.coordinator.deadline is None
