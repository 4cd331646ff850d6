from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from p2prc.model.identity import BlobId, LeaseId, NodeId
from p2prc.model.job import IntegerRange, IntegerSpan, Job, Step
from p2prc.model.workload import Command
from p2prc.protocol.jobs.attempts import TaskKey
from p2prc.protocol.jobs.facts import (
    AttemptFailed,
    Fact,
    JobCancelled,
    NodeCaught,
    Retried,
    TaskAssigned,
    TaskChecked,
    TasksRetried,
    TaskSucceeded,
)
from p2prc.protocol.jobs.ledger import Ledger
from p2prc.protocol.jobs.parameters import TaskSpace, parse_over

TASKS = 2
NODES = [NodeId(letter * 64) for letter in "ab"]
JOB = Job(
    "frames",
    NODES[0],
    "salt",
    tuple(
        Step(
            f"{number}",
            Command(("true",)),
            parameters=(IntegerRange("i", (IntegerSpan(1, TASKS),)),),
            retries=1,
        )
        for number in range(2)
    ),
)

steps = st.integers(0, 1)
tasks = st.integers(0, TASKS - 1)
attempts = st.integers(0, 2)
nodes = st.sampled_from(NODES)
instants = st.integers(1, 50).map(float)
facts: st.SearchStrategy[Fact] = st.one_of(
    st.builds(TaskAssigned, steps, tasks, attempts, nodes, st.just(LeaseId("1" * 20)), instants),
    st.builds(
        AttemptFailed,
        steps,
        tasks,
        attempts,
        nodes,
        st.sampled_from(["work-failed", "peer-lost", "output-conflict"]),
        st.sampled_from(["one", "two"]),
        instants,
        st.booleans(),
    ),
    st.builds(
        TaskSucceeded,
        steps,
        tasks,
        attempts,
        nodes,
        instants,
        duration_s=st.floats(0, 1e9),
        outputs=st.just(BlobId("0" * 64)),
        output_bytes=st.integers(0, 1 << 60),
        is_collected=st.booleans(),
    ),
    st.builds(TaskChecked, steps, tasks, instants, st.sampled_from(["", "alone"])),
    st.builds(
        TasksRetried,
        st.lists(st.builds(Retried, steps, tasks, attempts), max_size=3).map(tuple),
        instants,
    ),
    # Rarer than the rest: a cancellation hides much of the state.
    st.integers(0, 9).flatmap(
        lambda die: (
            st.builds(JobCancelled, instants)
            if die == 0
            else st.builds(NodeCaught, nodes, steps, tasks, st.just("lied"), instants)
            if die == 1
            else st.builds(
                TaskAssigned, steps, tasks, attempts, nodes, st.just(LeaseId("2" * 20)), instants
            )
        )
    ),
)


def everything_seen(ledger: Ledger) -> object:
    return (
        ledger.state,
        ledger.counts,
        ledger.nodes,
        ledger.failures(),
        ledger.output_bytes,
        ledger.mean_duration_s,
        ledger.started_at,
        ledger.finished_at,
        ledger.rate_per_s(60),
        ledger.eta_s(60),
        [
            [
                (step.state(task), sorted(map(repr, step.open_attempts(task))))
                for task in range(step.total)
            ]
            for step in ledger.steps
        ],
        [ledger.node_of(TaskKey(0, task)) for task in range(TASKS)],
        {key: (fact.attempt, fact.node) for key, fact in sorted(ledger.results.items())},
        ledger.is_all_collected,
        ledger.checks,
        ledger.unverified_reason,
        sorted(ledger.caught.items()),
    )


@given(st.lists(facts, max_size=25), st.integers(0, 1 << 30))
def test_facts_in_any_order_and_twice_give_the_same_state(known: list[Fact], seed: int) -> None:
    shuffled = known + known[::2]
    Random(seed).shuffle(shuffled)
    assert everything_seen(Ledger(JOB, shuffled)) == everything_seen(Ledger(JOB, known))


@given(st.lists(facts, max_size=40))
def test_the_counts_always_add_up(known: list[Fact]) -> None:
    ledger = Ledger(JOB, known)
    counts = ledger.counts
    parts = (counts.queued, counts.running, counts.succeeded, counts.failed)
    assert min(parts) >= 0
    assert sum(parts) == counts.total == 2 * TASKS
    assert sum(node.succeeded for node in ledger.nodes.values()) == counts.succeeded
    assert min((node.running for node in ledger.nodes.values()), default=0) >= 0


@given(st.lists(facts, max_size=25))
def test_no_result_of_a_node_that_was_caught_counts(known: list[Fact]) -> None:
    ledger = Ledger(JOB, [*known, NodeCaught(NODES[0], 0, 0, "lied", 1.0)])
    assert ledger.nodes[NODES[0]].succeeded == 0
    others = [
        fact for fact in known if not isinstance(fact, TaskSucceeded) or fact.node != NODES[0]
    ]
    assert ledger.counts.succeeded == Ledger(JOB, others).counts.succeeded


spans = st.tuples(st.integers(0, 60), st.integers(1, 7), st.integers(1, 12))


@given(st.lists(spans, min_size=1, max_size=5), st.integers(1, 9))
def test_every_integer_of_a_range_is_in_exactly_one_task(
    wanted: list[tuple[int, int, int]], chunk: int
) -> None:
    start, listed, texts = 0, [], []
    for gap, step, count in wanted:
        first = start + gap
        last = first + (count - 1) * step
        texts.append(f"{first}-{last}:{step}")
        listed += list(range(first, last + 1, step))
        start = last + 1
    parameter = parse_over("i=" + ",".join(texts))
    assert isinstance(parameter, IntegerRange)
    chunked = IntegerRange("i", parameter.spans, chunk)
    space = TaskSpace(Step("s", Command(("true",)), parameters=(chunked,)))
    found: list[int] = []
    for task in range(space.count):
        again = parse_over(f"i={space.values(task)['i']}")
        inner = TaskSpace(Step("s", Command(("true",)), parameters=(again,)))
        values = [inner.values(number)["i"] for number in range(inner.count)]
        assert len(values) <= chunk
        found += [value for value in values if isinstance(value, int)]
    assert found == listed
