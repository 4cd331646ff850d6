from __future__ import annotations

import pytest

from p2prc.errors import WireError
from p2prc.model.identity import BlobId, JobId, LeaseId, NodeId
from p2prc.model.job import IntegerRange, IntegerSpan, Job, Step
from p2prc.model.workload import Command
from p2prc.protocol.jobs.attempts import TaskKey, attempt_id, parse_attempt_id
from p2prc.protocol.jobs.facts import (
    AttemptFailed,
    JobCancelled,
    TaskAssigned,
    TaskSucceeded,
    decode_fact,
    encode_fact,
)
from p2prc.protocol.jobs.ledger import Ledger, NodeCounts, TaskCounts
from p2prc.protocol.jobs.step_ledger import LOSSES_LIMIT

ALICE = NodeId("a" * 64)
BOB = NodeId("b" * 64)
LEASE = LeaseId("1" * 20)


def job(tasks: int = 3, *, steps: int = 1, retries: int = 1) -> Job:
    numbers = IntegerRange("i", (IntegerSpan(1, tasks),))
    return Job(
        "frames",
        ALICE,
        "salt",
        tuple(
            Step(f"{number}", Command(("true",)), parameters=(numbers,), retries=retries)
            for number in range(steps)
        ),
    )


def assigned(task: int, attempt: int = 0, node: NodeId = ALICE, at: float = 1) -> TaskAssigned:
    return TaskAssigned(0, task, attempt, node, LEASE, at)


def failed(
    task: int, attempt: int = 0, *, counts: bool = True, code: str = "work-failed", at: float = 2
) -> AttemptFailed:
    return AttemptFailed(0, task, attempt, ALICE, code, "exit status 1", at, counts)


def succeeded(
    task: int, attempt: int = 0, *, step: int = 0, node: NodeId = ALICE, at: float = 3
) -> TaskSucceeded:
    outputs = BlobId("0" * 64)
    return TaskSucceeded(
        step, task, attempt, node, at, duration_s=2.0, outputs=outputs, output_bytes=10
    )


def test_a_job_goes_from_queued_over_running_to_succeeded() -> None:
    ledger = Ledger(job(2))
    assert (ledger.state, ledger.counts) == ("queued", TaskCounts(2, 2, 0, 0, 0))
    ledger.apply(assigned(0))
    assert (ledger.state, ledger.counts) == ("running", TaskCounts(2, 1, 1, 0, 0))
    ledger.apply(succeeded(0))
    ledger.apply(assigned(1, node=BOB))
    assert ledger.nodes == {ALICE: NodeCounts(1, 0, 0), BOB: NodeCounts(0, 0, 1)}
    ledger.apply(succeeded(1, node=BOB, at=9))
    assert (ledger.state, ledger.counts) == ("succeeded", TaskCounts(2, 0, 0, 2, 0))
    assert (ledger.started_at, ledger.finished_at, ledger.output_bytes) == (1, 9, 20)
    assert ledger.node_of(TaskKey(0, 1)) == BOB


def test_a_task_has_its_retries_and_then_has_failed() -> None:
    ledger = Ledger(job(1, retries=1), [assigned(0), failed(0)])
    assert ledger.counts.queued == 1
    ledger.apply(failed(0, 1))
    assert ledger.state == "failed"
    assert [(seen.task, seen.attempt, seen.reason) for seen in ledger.failures()] == [
        (0, 0, "exit status 1"),
        (0, 1, "exit status 1"),
    ]


def test_lost_nodes_use_up_no_retry_but_not_for_ever() -> None:
    losses = [failed(0, number, counts=False) for number in range(LOSSES_LIMIT)]
    ledger = Ledger(job(1, retries=0), losses)
    assert ledger.counts.queued == 1
    ledger.apply(failed(0, LOSSES_LIMIT, counts=False))
    assert ledger.state == "failed"


def test_a_conflict_of_outputs_is_final_at_once() -> None:
    assert Ledger(job(1, retries=5), [failed(0, code="output-conflict")]).state == "failed"


def test_one_failed_task_does_not_stop_the_others() -> None:
    ledger = Ledger(job(2, retries=0), [failed(0)])
    assert ledger.state == "running"
    ledger.apply(succeeded(1))
    assert ledger.state == "failed"


def test_a_retry_forgives_what_failed_and_nothing_else() -> None:
    ledger = Ledger(job(2, retries=0), [failed(0), succeeded(1)])
    [retried] = ledger.retry(5)
    ledger.apply(retried)
    assert (ledger.state, ledger.counts) == ("running", TaskCounts(2, 1, 0, 1, 0))
    assert ledger.steps[0].next_attempt(0) == 1
    ledger.apply(failed(0, 1))
    assert ledger.state == "failed"
    assert ledger.retry(6) != ledger.retry(5)


def test_a_cancellation_dominates_whatever_comes_after() -> None:
    ledger = Ledger(job(1), [assigned(0), JobCancelled(4)])
    assert (ledger.state, ledger.counts) == ("cancelled", TaskCounts(1, 1, 0, 0, 0))
    ledger.apply(succeeded(0))
    assert (ledger.state, ledger.counts.succeeded) == ("cancelled", 1)
    assert ledger.finished_at == 4


def test_of_two_results_the_lowest_attempt_is_kept() -> None:
    later, earlier = succeeded(0, 1, node=BOB), succeeded(0, 0)
    for facts in ([later, earlier], [earlier, later]):
        ledger = Ledger(job(1), facts)
        assert ledger.node_of(TaskKey(0, 0)) == ALICE
        assert ledger.nodes == {ALICE: NodeCounts(1, 0, 0), BOB: NodeCounts(0, 0, 0)}
        assert ledger.output_bytes == 10


def test_steps_come_one_after_another() -> None:
    ledger = Ledger(job(1, steps=2), [succeeded(0)])
    assert (ledger.state, ledger.current_step) == ("running", 1)
    ledger.apply(succeeded(0, step=1))
    assert (ledger.state, ledger.current_step) == ("succeeded", None)
    broken = Ledger(job(1, steps=2, retries=0), [failed(0)])
    assert (broken.state, broken.counts.queued) == ("failed", 1)


def test_rate_and_time_left_follow_the_newest_results() -> None:
    facts = [succeeded(task, at=100 + 2 * task) for task in range(6)]
    ledger = Ledger(job(10), [assigned(0, at=90), *facts, assigned(6)])
    assert ledger.rate_per_s(110) == pytest.approx(0.5)
    assert ledger.eta_s(110) == pytest.approx(8)
    # A night's pause is no rate: then the mean duration tells.
    assert ledger.rate_per_s(100_000) == pytest.approx(0.5)
    assert Ledger(job(10)).eta_s(0) is None


def test_the_present_rate_is_told_for_each_node() -> None:
    facts = [succeeded(task, node=(BOB, ALICE, BOB)[task % 3], at=100 + task) for task in range(6)]
    rates = Ledger(job(10), facts).node_rates_per_s(105)
    assert rates == {ALICE: pytest.approx(1 / 3), BOB: pytest.approx(2 / 3)}
    assert Ledger(job(10)).node_rates_per_s(0) == {}


def test_a_fact_about_no_task_of_the_job_is_refused() -> None:
    with pytest.raises(WireError):
        Ledger(job(1)).apply(assigned(1))
    with pytest.raises(WireError):
        Ledger(job(1)).apply(succeeded(0, step=1))


@pytest.mark.parametrize("fact", [assigned(0), failed(0), succeeded(0), JobCancelled(1)])
def test_a_fact_survives_its_way_to_the_disk(fact: object) -> None:
    assert decode_fact(encode_fact(fact)) == fact  # type: ignore[arg-type]


def test_garbage_is_no_fact() -> None:
    with pytest.raises(WireError):
        decode_fact(b"\x81\xa4type\xa4nope")


def test_attempt_ids_are_read_back_and_others_refused() -> None:
    name = attempt_id(JobId("0" * 20), TaskKey(1, 23), 4)
    assert parse_attempt_id(name) == (JobId("0" * 20), TaskKey(1, 23), 4)
    for bad in ("", "x", "a-1-2", "a-1-2-3-4", "a-1--2-3", "a-1-2-²", "a-1-2-1234567890"):
        with pytest.raises(WireError):
            parse_attempt_id(type(name)(bad))
