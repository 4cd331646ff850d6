"""Troubles that must stay small: odd peers, lost links, disks that fail, and who pays for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest

from p2prc.errors import (
    DiskFull,
    HomeUnusable,
    LendingPaused,
    MachineCannot,
    P2prcError,
    PeerError,
    PeerLost,
    WireError,
)
from p2prc.model.identity import AttemptId, BlobId, JobId, LeaseId, NodeId
from p2prc.model.job import Job, Step
from p2prc.model.tree import FileEntry, Tree
from p2prc.model.workload import Command, Workload
from p2prc.node.handshake import introduce
from p2prc.node.links import CONNECTIONS_PER_PEER
from p2prc.node.node import Node
from p2prc.node.tasks import Tasks
from p2prc.protocol.lending import LendingPolicy
from p2prc.protocol.messages import AskAttempts, Done, StartAttempt
from p2prc.runtime.port import OutputChunk
from p2prc.storage.schema import StoredRecord
from p2prc.transport.memory import MemoryNetwork
from p2prc.transport.port import Channel, Connection, Stream
from tests.unit.test_node_in_memory import node_of, run, two_nodes


async def until(is_so: Callable[[], bool]) -> None:
    """Give the nodes turns until it is so, or five seconds are over."""
    async with asyncio.timeout(5):
        while not is_so():
            turn = asyncio.Event()
            asyncio.get_running_loop().call_later(0.01, turn.set)
            await turn.wait()


async def test_who_is_forgotten_is_not_kept_on_the_disk(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        state, forgotten = ada._adapters.state, NodeId("f" * 64)
        state.save_records([StoredRecord(forgotten, b"of a node that is long gone", 0.0)])
        ada.network._node_changed(forgotten)
        await until(lambda: [stored.node for stored in state.records()] == [grace.id])


class OddConnection:
    """Fails in a way that has no class of its own, and cannot even be closed."""

    peer = NodeId("a" * 64)
    channel = Channel.BULK

    async def accept_stream(self) -> Stream:
        raise PeerError("something that nobody foresaw")

    async def close(self, reason: str = "") -> None:
        raise PeerLost


async def test_a_connection_that_fails_oddly_ends_nothing_but_itself(tmp_path: Path) -> None:
    async with node_of(MemoryNetwork(), tmp_path, "ada") as ada:
        await ada.links._serve_bulk(cast("Connection", OddConnection()))
        assert ada.links._served == {}


async def test_a_dial_that_fails_as_nobody_foresaw_ends_neither_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        await ada.links.drop(grace.id, "test")
        await until(lambda: ada.links.get(grace.id) is None)

        async def connect(*_: object, **__: object) -> Connection:
            raise ZeroDivisionError

        with monkeypatch.context() as broken:
            broken.setattr(ada._adapters.endpoint, "connect", connect)
            with pytest.raises(PeerLost, match="unforeseen"):
                await ada.links.reach(grace.id)
            assert ada.unforeseen >= 1
        assert not (await ada.links.reach(grace.id)).is_lost


async def test_work_whose_children_failed_as_expected_fails_as_expected() -> None:
    async def fail() -> None:
        raise PeerLost("gone")

    async def with_children() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    async with asyncio.TaskGroup() as group:
        with pytest.raises(PeerLost, match="gone"):
            await Tasks(group).start(with_children(), "with children")


@pytest.mark.parametrize("channel", [Channel.CONTROL, Channel.BULK])
async def test_a_member_has_only_so_many_connections(tmp_path: Path, channel: Channel) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        held = []
        for _ in range(3 * CONNECTIONS_PER_PEER):
            connection = await ada._adapters.endpoint.connect(
                grace.id, grace.network.told.description.addresses, channel, timeout_s=5
            )
            await introduce(connection, ada.network.standing)
            held.append(connection)

        def count() -> int:
            served = grace.links._served if channel is Channel.BULK else grace.links._links
            return len(cast("dict[NodeId, Sequence[object]]", served).get(ada.id, ()))

        await until(lambda: count() == CONNECTIONS_PER_PEER)
        assert not held[-1].is_closed


async def test_a_link_that_is_closed_while_its_pulse_waits_leaves_others_their_turn(
    tmp_path: Path,
) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        connection = await ada._adapters.endpoint.connect(
            grace.id, grace.network.told.description.addresses, Channel.CONTROL, timeout_s=5
        )
        await introduce(connection, ada.network.standing)
        await until(lambda: len(grace.links._links[ada.id]) == 2)
        link = grace.links._links[ada.id][1]
        # Nobody answers the ping.
        await until(lambda: bool(link._awaited))
        loop = asyncio.get_running_loop()
        before = loop.time()
        await link.close("enough")
        await until(lambda: len(grace.links._links[ada.id]) == 1)
        assert loop.time() - before < 1


async def test_a_state_that_cannot_be_read_is_told_and_costs_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_nodes(tmp_path) as (ada, grace):

        def unusable(*_: object) -> None:
            raise HomeUnusable("cannot use the state")

        monkeypatch.setattr(grace._adapters.state, "held_attempt", unusable)
        link = ada.links.get(grace.id)
        attempt = StartAttempt(
            LeaseId("1" * 20), AttemptId("2" * 20 + "-0-0-1"), Command(("true",))
        )
        with pytest.raises(HomeUnusable, match="cannot use the state"):
            await ada.post.ask(grace.id, attempt, Done)
        assert ada.links.get(grace.id) is link


async def test_a_machine_whose_disk_cannot_be_read_says_so(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        assert not grace._adapters.leases_folder.exists()
        with pytest.raises(MachineCannot, match="disk"):
            await ada.specs(grace.id)


async def test_a_lease_whose_link_broke_is_given_back_when_there_is_one_again(
    tmp_path: Path,
) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        has_begun = asyncio.Event()

        async def started(_node: NodeId, _lease: LeaseId) -> None:
            has_begun.set()

        async def unread(_: OutputChunk) -> None:
            return

        running = asyncio.create_task(
            ada.runs.run(
                grace.id,
                Workload(),
                Command(("sleep", "60")),
                owner="test",
                printed=unread,
                noted=lambda _: None,
                started=started,
            )
        )
        await has_begun.wait()
        await ada.links.drop(grace.id, "pulled")
        with pytest.raises(P2prcError):
            await running
        await until(lambda: ada.links.get(grace.id) is not None or not ada.links.peers())
        await ada.links.reach(grace.id)
        await until(lambda: not grace.provider.leases())


async def test_a_link_that_ends_beside_another_makes_the_submitter_ask_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        step = Step(name="step", command=Command(("sleep", "60")))
        job = Job(name="job", submitter=ada.id, salt="salt", steps=(step,), nodes=(grace.id,))
        runner = ada.jobs.submit(job, "/")
        await until(lambda: runner.ledger.counts.running == 1 and bool(grace.provider._running))
        # The provider was killed and is back before its old link is found dead.
        grace.provider._running.clear()
        await grace.provider.kill([view.lease for view in grace.provider.leases()])
        first = ada.links._links[grace.id][0]
        connection = await grace._adapters.endpoint.connect(
            ada.id, ada.network.told.description.addresses, Channel.CONTROL, timeout_s=5
        )
        grace.links._adopt(connection, await introduce(connection, grace.network.standing))
        await until(lambda: len(ada.links._links[grace.id]) == 2)
        asked: list[object] = []

        def hear(_peer: object, body: object, _answer: object) -> bool:
            asked.append(body)
            return True

        monkeypatch.setattr(grace.provider, "letter", hear)
        await first.close("found dead")
        await until(lambda: any(isinstance(body, AskAttempts) for body in asked))
        runner.cancel()


def a_job(node: Node, inputs: BlobId | None = None) -> Job:
    step = Step(name="step", command=Command(("true",), inputs=inputs))
    return Job(name="job", submitter=node.id, salt="salt", steps=(step,))


async def test_a_job_outlives_a_state_that_cannot_be_written_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2prc.node.job_runner.DISK_RETRY_S", 0.01)
    async with node_of(MemoryNetwork(), tmp_path, "ada") as ada:
        state, troubles = ada._adapters.state, iter(range(3))
        write = state.append_facts

        def sometimes(job: JobId, facts: Sequence[bytes]) -> None:
            if next(troubles, None) is not None:
                raise HomeUnusable("database is locked")
            write(job, facts)

        monkeypatch.setattr(state, "append_facts", sometimes)
        runner = ada.jobs.submit(a_job(ada), "/")
        await until(lambda: runner.ledger.is_ended)
        assert runner.ledger.state == "succeeded"


async def test_a_job_whose_inputs_are_damaged_does_not_keep_the_node_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = LendingPolicy(lends_to=frozenset())
    async with node_of(MemoryNetwork(), tmp_path, "ada", nobody) as ada:
        tree = Tree((FileEntry("file", ada.blobs.put_bytes(b"content"), 7),))
        ada.jobs.submit(a_job(ada, ada.blobs.put_tree(tree)), "/")

        def damaged(_: object) -> None:
            raise WireError("damaged")

        monkeypatch.setattr(ada.blobs, "tree", damaged)
        ada.jobs.start()
        assert len(ada.jobs.all()) == 1


async def test_a_join_that_cannot_be_remembered_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = MemoryNetwork()
    async with node_of(network, tmp_path, "ada") as ada, node_of(network, tmp_path, "bob") as bob:
        ticket, _ = ada.inviting.invite(expires_s=60, may_invite=False, reach="lan")
        before = bob.network.standing

        def full(*_: object) -> None:
            raise DiskFull

        with monkeypatch.context() as patch:
            patch.setattr(bob._adapters.state, "set_values", full)
            with pytest.raises(DiskFull):
                await bob.joining.join(ticket)
        assert bob.network.standing == before
        await bob.joining.join(ticket)
        assert len(bob.network.nodes()) == 2


async def test_a_node_that_lends_again_is_asked_although_the_news_is_still_under_way(
    tmp_path: Path,
) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        grace.provider.pause()
        await until(lambda: not any(o.is_lending for o in ada.offers() if o.node == grace.id))
        with pytest.raises(LendingPaused):
            await run(ada, grace.id, "true")
        grace.provider.resume()
        assert await run(ada, grace.id, "true") == (0, b"")
