"""The small parts of a node: the driver, background work, grants, names, the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from p2prc.daemon.log import FieldFormatter, last_lines
from p2prc.daemon.names import as_typed, find_job, find_lease, find_node
from p2prc.errors import (
    JobUnknown,
    LeaseUnknown,
    NameAmbiguous,
    NodeUnknown,
    PeerLost,
    PeerUnreachable,
)
from p2prc.model.identity import BlobId, JobId, LeaseId, NodeId, short
from p2prc.node.drive import Driver
from p2prc.node.grants import Grants
from p2prc.node.tasks import Tasks

ALICE, BOB = NodeId("a" * 64), NodeId("b" * 64)
TREE = BlobId("1" * 64)


class Echo:
    """A machine that answers an event with effects, and wants to be woken once."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.deadline: float | None = None

    def handle(self, event: str, now: float) -> Sequence[str]:
        self.seen.append(event)
        self.deadline = None
        return [f"{event}!"] if event in ("one", "two") else []


async def test_what_an_effect_feeds_back_waits_its_turn() -> None:
    machine, performed = Echo(), list[str]()

    def perform(effect: str) -> None:
        performed.append(effect)
        if effect == "one!":
            driver.feed("three")
            assert machine.seen == ["one"]

    driver = Driver(machine, perform, tick=lambda: "tick")
    driver.feed("one")
    assert machine.seen == ["one", "three"]
    assert performed == ["one!"]


async def test_a_deadline_wakes_the_machine_and_a_stopped_driver_sleeps() -> None:
    machine = Echo()
    woken = asyncio.Event()

    def tick() -> str:
        woken.set()
        return "tick"

    driver = Driver(machine, lambda _: None, tick=tick)
    machine.deadline = None
    driver.feed("begin")
    machine.deadline = asyncio.get_running_loop().time()
    driver._arm()
    async with asyncio.timeout(5):
        await woken.wait()
    assert machine.seen[-1] == "tick"
    driver.stop()
    driver.feed("late")
    assert machine.seen[-1] == "tick"


async def test_an_expected_failure_belongs_to_its_work_alone() -> None:
    async def fail() -> None:
        raise PeerLost("gone")

    async def succeed() -> int:
        return 7

    async with asyncio.TaskGroup() as group:
        tasks = Tasks(group)
        failed, done = tasks.start(fail(), "fail"), tasks.start(succeed(), "succeed")
        with pytest.raises(PeerLost):
            await failed
        assert await done == 7


async def test_a_bug_in_background_work_ends_the_group() -> None:
    async def bug() -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            Tasks(group).start(bug(), "bug")
            await asyncio.Event().wait()


async def _bug() -> None:
    raise ZeroDivisionError("nobody foresaw this")


async def test_a_bug_in_work_for_a_peer_fails_that_work_alone_with_its_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def several() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_bug())

    async with asyncio.TaskGroup() as group:
        tasks = Tasks(group)
        for bug in (_bug(), several()):
            with pytest.raises(PeerLost, match="unforeseen"):
                await tasks.start_for_peer(bug, "dial somebody")
        with pytest.raises(PeerLost, match="ZeroDivisionError"):
            await tasks.for_peer(_bug(), "a stream")
    assert tasks.unforeseen == 3
    assert caplog.text.count("nobody foresaw this") >= 3
    assert "Traceback" in caplog.text


async def test_an_expected_failure_of_a_peer_is_no_bug() -> None:
    async def fail() -> None:
        raise PeerLost("gone")

    async with asyncio.TaskGroup() as group:
        tasks = Tasks(group)
        with pytest.raises(PeerLost, match="gone"):
            await tasks.start_for_peer(fail(), "dial somebody")
        with pytest.raises(PeerLost, match="gone"):
            await tasks.for_peer(fail(), "a stream")
    assert tasks.unforeseen == 0


async def test_stopped_work_cancels_whoever_waits_for_it() -> None:
    async with asyncio.TaskGroup() as group:
        work = Tasks(group).start(asyncio.Event().wait(), "wait")
        work.stop()
        with pytest.raises(asyncio.CancelledError):
            await work


def test_a_tree_may_be_read_while_some_reason_stands() -> None:
    grants = Grants()
    grants.allow(ALICE, TREE, reason="lease")
    grants.allow(ALICE, TREE, reason="lease")
    grants.allow(ALICE, TREE, reason="attempt")
    assert not grants.may_read(BOB, TREE)
    grants.revoke("lease")
    assert grants.may_read(ALICE, TREE)
    grants.revoke("attempt")
    grants.revoke("attempt")
    assert not grants.may_read(ALICE, TREE)


def test_a_node_is_found_by_id_name_or_prefix_and_doubt_is_an_error() -> None:
    twin = NodeId("ab" * 32)
    names = {ALICE: "ada", BOB: "bob", twin: "bob"}
    assert find_node("ada", names) == ALICE
    assert find_node(BOB, names) == BOB
    assert find_node("bbbbbb", names) == BOB
    with pytest.raises(NameAmbiguous, match="ababababab"):
        find_node("bob", names)
    for unknown in ("bbbbb", "carol", ""):
        with pytest.raises(NodeUnknown):
            find_node(unknown, names)


def test_who_cannot_be_reached_is_called_as_it_was_typed() -> None:
    error = PeerUnreachable(f"{short(ALICE)} did not answer within 8 s", hint="wait")
    named = as_typed(error, ALICE, "alice")
    assert isinstance(named, PeerUnreachable)
    assert (named.message, named.hint) == ("alice did not answer within 8 s", "wait")
    assert as_typed(error, ALICE, ALICE).message == error.message


def test_leases_and_jobs_are_found_by_prefix_and_jobs_by_key() -> None:
    first, second = LeaseId("aaaaaa11"), LeaseId("aaaaaa22")
    assert find_lease("aaaaaa1", [first, second]) == first
    with pytest.raises(NameAmbiguous):
        find_lease("aaaaaa", [first, second])
    with pytest.raises(LeaseUnknown):
        find_lease("cccccc", [first])
    keys = {JobId("1" * 20): "1" * 20 + "secret"}
    assert find_job("1" * 20 + "secret", keys) == "1" * 20
    with pytest.raises(JobUnknown):
        find_job("1" * 20 + "guess", keys)


def test_a_log_line_cannot_be_forged_by_a_field() -> None:
    record = logging.makeLogRecord(
        {"msg": "peer lost", "name": "x", "levelname": "INFO", "reason": "a\n2026 ERROR forged"}
    )
    line = FieldFormatter("%(levelname)s %(message)s").format(record)
    assert "\n" not in line
    assert line.startswith("INFO peer lost reason=")


def test_the_end_of_a_log_is_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_lines(log, 3) == []
    log.write_text("".join(f"line {number}\n" for number in range(10)))
    assert last_lines(log, 2) == ["line 8", "line 9"]
    assert last_lines(log, 0) == []
