"""Ledgers that were apart are merged: union of facts, whatever the order, however often."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from p2prc.model.identity import LeaseId, NodeId
from p2prc.model.job import IntegerRange, IntegerSpan, Job, Step
from p2prc.model.workload import Command
from p2prc.protocol.jobs.facts import (
    AttemptFailed,
    CoordinatorTook,
    Fact,
    JobCancelled,
    KeepersNamed,
    Retried,
    TaskAssigned,
    TasksRetried,
    TaskSucceeded,
)
from p2prc.protocol.jobs.ledger import Ledger
from p2prc.protocol.jobs.pages import LogName, Logs, Page, SignedPage

SUBMITTER, FIRST, SECOND = (NodeId(letter * 64) for letter in "bac")
TASKS = 3
STEP = Step("s", Command(("true",)), parameters=(IntegerRange("i", (IntegerSpan(1, TASKS),)),))
JOB = Job("frames", SUBMITTER, "salt", (STEP,))
LIVES = {node: node[:20] for node in (SUBMITTER, FIRST, SECOND)}

tasks = st.integers(0, TASKS - 1)
attempts = st.sampled_from([0, 1, 1000, 1001, 2000])
nodes = st.sampled_from([SUBMITTER, FIRST, SECOND])
instants = st.integers(1, 50).map(float)
LEASE = LeaseId("1" * 20)


def facts_of(author: NodeId) -> st.SearchStrategy[Fact]:
    """What this node may say."""
    is_submitter = author == SUBMITTER
    everybody: list[st.SearchStrategy[Fact]] = [
        st.builds(TaskAssigned, st.just(0), tasks, attempts, nodes, st.just(LEASE), instants),
        st.builds(
            AttemptFailed,
            st.just(0),
            tasks,
            attempts,
            nodes,
            st.sampled_from(["work-failed", "peer-lost"]),
            st.just("why"),
            instants,
            st.booleans(),
        ),
        st.builds(
            TaskSucceeded,
            st.just(0),
            tasks,
            attempts,
            nodes,
            instants,
            is_collected=st.booleans() if is_submitter else st.just(False),
        ),
        st.builds(CoordinatorTook, st.integers(0, 4), st.just(author), instants),
    ]
    alone: list[st.SearchStrategy[Fact]] = [
        st.builds(JobCancelled, instants),
        st.builds(
            TasksRetried, st.tuples(st.builds(Retried, st.just(0), tasks, attempts)), instants
        ),
    ]
    return st.one_of(everybody + alone if is_submitter else everybody)


def page_of(author: NodeId, number: int, facts: list[Fact]) -> SignedPage:
    return SignedPage(author, Page(JOB.id, LIVES[author], number, tuple(facts)))


@st.composite
def written(draw: st.DrawFn) -> dict[NodeId, list[SignedPage]]:
    """All that three holders ever wrote; the submitter named one, and that one the other."""
    first: dict[NodeId, list[Fact]] = {
        SUBMITTER: [KeepersNamed((FIRST,), 1.0)],
        FIRST: [KeepersNamed((SECOND,), 2.0)],
        SECOND: [CoordinatorTook(1, SECOND, 3.0)],
    }
    logs = {}
    for author, named in first.items():
        more = draw(st.lists(st.lists(facts_of(author), min_size=1, max_size=3), max_size=4))
        logs[author] = [
            page_of(author, number, facts) for number, facts in enumerate([named, *more])
        ]
    return logs


class Holding:
    """What one node has: a ledger and its logs."""

    def __init__(self) -> None:
        self.ledger = Ledger(JOB, remembers_collected=True)
        self.logs = Logs()
        self.pages: list[SignedPage] = []

    def take(self, pages: list[SignedPage]) -> Holding:
        new, _ = self.logs.sift(self.ledger, pages)
        for signed in new:
            self.logs.add(signed)
            self.pages.append(signed)
            for fact in signed.page.facts:
                self.ledger.apply(fact)
        return self

    def seen(self) -> object:
        step = self.ledger.steps[0]
        return (
            self.logs.lengths(),
            self.ledger.state,
            self.ledger.counts,
            self.ledger.claim,
            self.ledger.holders,
            self.ledger.failures(),
            self.ledger.nodes,
            self.ledger.is_all_collected,
            [step.accepted(task) and step.accepted(task).rank for task in range(TASKS)],  # type: ignore[union-attr]
            [sorted(map(repr, step.open_attempts(task))) for task in range(TASKS)],
            sorted(map(repr, self.ledger.results.items())),
        )


def some_of(logs: dict[NodeId, list[SignedPage]], rng: Random) -> Holding:
    """A holder that has heard a part of each log."""
    parts = [log[: rng.randint(0, len(log))] for log in logs.values()]
    pages = [signed for part in parts for signed in part]
    rng.shuffle(pages)
    return Holding().take(pages)


def merged(*holdings: Holding) -> Holding:
    into = Holding()
    for holding in holdings:
        into.take(holding.pages)
    return into


@given(written(), st.integers(0, 1 << 30))
def test_merging_is_commutative_associative_and_idempotent(
    logs: dict[NodeId, list[SignedPage]], seed: int
) -> None:
    rng = Random(seed)
    one, two, three = (some_of(logs, rng) for _ in range(3))
    assert merged(one, two).seen() == merged(two, one).seen()
    assert merged(merged(one, two), three).seen() == merged(one, merged(two, three)).seen()
    assert merged(one, one).seen() == one.seen()
    assert merged(one, two, one, two).seen() == merged(one, two).seen()


@given(written(), st.integers(0, 1 << 30))
def test_whoever_has_heard_everything_sees_the_same(
    logs: dict[NodeId, list[SignedPage]], seed: int
) -> None:
    rng = Random(seed)
    every = [signed for log in logs.values() for signed in log]
    shuffled = [*every, *every]
    rng.shuffle(shuffled)
    complete = Holding().take(every)
    assert len(complete.pages) == len(every)
    assert Holding().take(shuffled).seen() == complete.seen()
    partly = some_of(logs, rng)
    lacking = complete.logs.lacking(partly.logs)
    partly.take([signed for name, start in lacking for signed in logs[name.author][start:]])
    assert partly.seen() == complete.seen()


@given(written())
def test_a_cancellation_dominates_and_a_collected_result_stays(
    logs: dict[NodeId, list[SignedPage]],
) -> None:
    mine = Holding().take(logs[SUBMITTER])
    collected = {
        fact.task: mine.ledger.steps[0].accepted(fact.task)
        for signed in mine.pages
        for fact in signed.page.facts
        if isinstance(fact, TaskSucceeded) and fact.is_collected
    }
    is_cancelled = mine.ledger.is_cancelled
    mine.take([signed for log in logs.values() for signed in log])
    for task, accepted in collected.items():
        assert mine.ledger.steps[0].accepted(task) == accepted
    assert mine.ledger.is_cancelled == is_cancelled
    if is_cancelled:
        assert mine.ledger.state == "cancelled"


def test_pages_that_do_not_count_say_why() -> None:
    keeper = page_of(FIRST, 0, [JobCancelled(1.0)])
    named = page_of(SUBMITTER, 0, [KeepersNamed((FIRST,), 1.0)])
    stranger = page_of(SECOND, 0, [CoordinatorTook(9, SECOND, 1.0)])
    liar = page_of(FIRST, 0, [TaskSucceeded(0, 0, 0, FIRST, 1.0)])
    elsewhere = page_of(SUBMITTER, 0, [TaskSucceeded(0, TASKS, 0, FIRST, 1.0)])
    other_job = SignedPage(SUBMITTER, Page(JOB.id[::-1], "0" * 20, 0, (JobCancelled(1.0),)))  # type: ignore[arg-type]
    for_another = page_of(FIRST, 0, [CoordinatorTook(9, SECOND, 1.0)])
    gap = page_of(SUBMITTER, 1, [JobCancelled(1.0)])
    assert_refused([keeper, named], "only the submitter cancels", taken=1)
    assert_refused([stranger, named], "does not hold the job", taken=1)
    assert_refused([named, liar], "what it has collected", taken=1)
    assert_refused([elsewhere], "does not exist", taken=0)
    assert_refused([other_job], "another job", taken=0)
    assert_refused([named, for_another], "speaks for another", taken=1)
    assert_refused([gap], "before it is lacking", taken=0)


def assert_refused(pages: list[SignedPage], why: str, *, taken: int) -> None:
    new, faults = Logs().sift(Ledger(JOB), pages)
    assert len(new) == taken
    assert len(faults) == 1
    assert why in faults[0]


def test_a_log_belongs_to_its_author() -> None:
    """Whoever writes under the life of another squats on nothing."""
    named = page_of(SUBMITTER, 0, [KeepersNamed((FIRST, SECOND), 1.0)])
    mine = page_of(FIRST, 0, [CoordinatorTook(1, FIRST, 1.0)])
    squat = SignedPage(SECOND, Page(JOB.id, LIVES[FIRST], 0, (CoordinatorTook(2, SECOND, 1.0),)))
    holding = Holding().take([named, squat, mine])
    assert holding.logs.count(LogName(FIRST, LIVES[FIRST])) == 1
    assert holding.logs.count(LogName(SECOND, LIVES[FIRST])) == 1
