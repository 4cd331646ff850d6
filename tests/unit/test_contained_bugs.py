"""Bugs of our own that nobody foresaw: one job's or one lease's work fails, and the node lives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from p2prc.model.job import Job, Step
from p2prc.model.workload import Command
from p2prc.node.node import Node
from p2prc.transport.memory import MemoryNetwork
from tests.unit.test_node_in_memory import node_of, run, two_nodes
from tests.unit.test_node_troubles import until


def _a_job(on: Node, lender: Node, *argv: str) -> Job:
    step = Step(name="step", command=Command(argv or ("true",)), retries=0)
    return Job(name="job", submitter=on.id, salt=" ".join(argv), steps=(step,), nodes=(lender.id,))


def _bug(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("nobody foresaw this")


async def _async_bug(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("nobody foresaw this")


async def test_a_bug_while_an_attempt_runs_is_the_attempts_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        with monkeypatch.context() as broken:
            broken.setattr(grace.provider._places, "run", _async_bug)
            runner = ada.jobs.submit(_a_job(ada, grace), "/")
            await until(lambda: runner.ledger.is_ended)
        assert runner.ledger.state == "failed"
        assert grace.unforeseen >= 1
        assert "nobody foresaw this" in caplog.text
        assert not grace.provider._running
        assert (await run(ada, grace.id, "true"))[0] == 0


@pytest.mark.parametrize("broken_part", ["create", "end"])
async def test_a_bug_at_a_leases_beginning_or_end_leaves_room_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_part: str
) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        with monkeypatch.context() as broken:
            broken.setattr(grace.provider._places, broken_part, _async_bug)
            runner = ada.jobs.submit(_a_job(ada, grace), "/")
            await until(lambda: grace.unforeseen >= 1)
            ada.jobs.get(runner.id).cancel()
            await until(lambda: not grace.provider.leases())
        assert (await run(ada, grace.id, "true"))[0] == 0


async def test_a_bug_in_one_jobs_coordinator_stops_that_job_alone_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node_of(MemoryNetwork(), tmp_path, "ada") as ada:
        ill = ada.jobs.submit(_a_job(ada, ada, "sleep", "60"), "/")
        await until(lambda: ill.ledger.counts.running == 1)
        with monkeypatch.context() as broken:
            broken.setattr(ill.holder, "handle", _bug)
            ada.jobs._announce()
        assert "ZeroDivisionError" in ill.halted
        assert ada.unforeseen == 1
        await until(lambda: not ada.provider.leases())
        well = ada.jobs.submit(_a_job(ada, ada), "/")
        await until(lambda: well.ledger.is_ended)
        assert well.ledger.state == "succeeded"
