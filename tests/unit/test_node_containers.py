"""Work inside a lease with sessions, between two nodes in one process."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from p2prc.errors import FileUnknown, LeaseUnknown, PathInvalid, PortClosed
from p2prc.model.identity import LeaseId, NodeId
from p2prc.model.workload import MainProcess, Outcome, Workload
from p2prc.node import serving_containers
from p2prc.node.inside import RemoteCommand
from p2prc.node.main_process import standing_of
from p2prc.node.node import Node
from p2prc.protocol.leases import LeaseState, LeaseView
from p2prc.protocol.messages import (
    AskLeases,
    Done,
    EndLease,
    LeaseGranted,
    LeaseStandings,
    RequestLease,
)
from p2prc.runtime.port import Terminal
from tests.unit.test_node_in_memory import two_nodes

LEASE, OTHER = LeaseId("5a" * 10), LeaseId("6b" * 10)


async def lend(
    node: Node, provider: NodeId, lease: LeaseId = LEASE, main: MainProcess | None = None
) -> None:
    request = RequestLease(
        lease, Workload(), has_sessions=True, variables={"GREETING": "hello"}, main=main
    )
    await node.post.ask(provider, request, LeaseGranted)


async def finish(command: RemoteCommand) -> tuple[Outcome, bytes]:
    printed = b""
    async for chunk in command.output():
        printed += chunk.content
    await command.close()
    return command.outcome, printed


async def archive_of(name: str, content: bytes) -> AsyncIterator[bytes]:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    for start in range(0, len(packed.getvalue()), 1000):
        yield packed.getvalue()[start : start + 1000]


@pytest.mark.parametrize("provider", ["grace", "ada"])
async def test_commands_side_by_side_with_input_and_variables(
    tmp_path: Path, provider: str
) -> None:
    async with asyncio.timeout(20), two_nodes(tmp_path) as (ada, grace):
        node = {"ada": ada, "grace": grace}[provider].id
        await lend(ada, node)
        cat = await ada.inside.execute(node, LEASE, ["cat"], variables={}, takes_input=True)
        await cat.write(b"over ")
        greeting = await ada.inside.execute(node, LEASE, ["printenv", "GREETING"], variables={})
        assert (await finish(greeting))[1] == b"hello\n"
        await cat.write(b"the wire")
        await cat.end_input()
        outcome, printed = await finish(cat)
        assert (outcome.status, printed) == (0, b"over the wire")
        own = await ada.inside.execute(
            node, LEASE, ["printenv", "GREETING"], variables={"GREETING": "mine"}
        )
        assert (await finish(own))[1] == b"mine\n"
        failed = await ada.inside.execute(node, LEASE, ["false"], variables={})
        assert (await finish(failed))[0].status == 1
        missing = await ada.inside.execute(node, LEASE, ["nonesuch"], variables={})
        assert (await finish(missing))[0].code == "command-not-found"


async def test_a_command_whose_requester_lets_go_is_killed(tmp_path: Path) -> None:
    async with asyncio.timeout(20), two_nodes(tmp_path) as (ada, grace):
        await lend(ada, grace.id)
        sleeper = await ada.inside.execute(
            grace.id, LEASE, ["sleep", "600"], variables={}, terminal=Terminal(30, 100)
        )
        await sleeper.resize(Terminal(40, 120))
        await until(lambda: processes(grace), 1)
        await sleeper.close()
        await until(lambda: processes(grace), 0)


async def test_a_command_that_reads_nothing_ends_when_its_requester_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_containers, "LOOK_S", 0.01)
    async with asyncio.timeout(20), two_nodes(tmp_path) as (ada, grace):
        await lend(ada, grace.id)
        sleeper = await ada.inside.execute(
            grace.id, LEASE, ["sleep", "600"], variables={}, takes_input=True
        )
        await until(lambda: processes(grace), 1)
        # More than the command's input and the way to it hold.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    await sleeper.write(bytes(1 << 16))
        await sleeper.close()
        await until(lambda: processes(grace), 0)


async def test_files_both_ways_and_their_refusals(tmp_path: Path) -> None:
    async with asyncio.timeout(20), two_nodes(tmp_path) as (ada, grace):
        await lend(ada, grace.id)
        content = bytes(range(256)) * 4096
        await ada.inside.put_files(grace.id, LEASE, "box", archive_of("file", content))
        got = b"".join([piece async for piece in ada.inside.get_files(grace.id, LEASE, "box/file")])
        with tarfile.open(fileobj=io.BytesIO(got)) as archive:
            [entry] = archive.getmembers()
            file = archive.extractfile(entry)
            assert file is not None
            assert file.read() == content
        with pytest.raises(FileUnknown):
            _ = [piece async for piece in ada.inside.get_files(grace.id, LEASE, "nothing")]
        with pytest.raises(PathInvalid):
            await ada.inside.put_files(grace.id, LEASE, "../..", archive_of("file", content))


async def test_a_port_is_reached_and_a_closed_one_is_said(tmp_path: Path) -> None:
    async with asyncio.timeout(20), two_nodes(tmp_path) as (ada, grace):
        await lend(ada, grace.id)
        link = await ada.inside.dial(grace.id, LEASE, 7)
        await link.write(b"echo")
        assert await link.read() == b"echo"
        await link.end_writing()
        assert await link.read() == b""
        await link.close()
        with pytest.raises(PortClosed):
            await ada.inside.dial(grace.id, LEASE, 8)


async def test_ssh_answers_the_holder_and_closes_with_the_lease(tmp_path: Path) -> None:
    async with asyncio.timeout(20), two_nodes(tmp_path) as (ada, grace):
        await lend(ada, grace.id)
        link = await ada.inside.open_ssh(grace.id, LEASE)
        assert (await link.read()).startswith(b"SSH-2.0-p2prc")
        await ada.post.ask(grace.id, EndLease(LEASE), Done)
        with suppress(ConnectionResetError):
            assert await link.read() == b""
        await link.close()


async def test_nobody_works_in_anothers_lease_nor_learns_of_it(tmp_path: Path) -> None:
    async with asyncio.timeout(20), two_nodes(tmp_path) as (ada, grace):
        await lend(grace, grace.id)
        with pytest.raises(LeaseUnknown):
            await ada.inside.dial(grace.id, LEASE, 7)
        with pytest.raises(LeaseUnknown):
            await ada.inside.open_ssh(grace.id, LEASE)
        with pytest.raises(LeaseUnknown):
            await finish(await ada.inside.execute(grace.id, LEASE, ["true"], variables={}))
        with pytest.raises(LeaseUnknown):
            await ada.inside.put_files(grace.id, LEASE, "", archive_of("file", b""))
        with pytest.raises(LeaseUnknown):
            _ = [piece async for piece in ada.inside.get_files(grace.id, LEASE, "")]
        with pytest.raises(LeaseUnknown):
            _ = [chunk async for chunk in ada.inside.log(grace.id, LEASE, follows=False)]
        asked = await ada.post.ask(grace.id, AskLeases((LEASE, OTHER)), LeaseStandings)
        assert [standing.state for standing in asked.standings] == ["unknown", "unknown"]


async def test_a_main_process_and_its_log(tmp_path: Path) -> None:
    async with asyncio.timeout(20), two_nodes(tmp_path) as (ada, grace):
        await lend(ada, grace.id, main=MainProcess(("printenv", "GREETING")))
        log = [chunk async for chunk in ada.inside.log(grace.id, LEASE, follows=True)]
        assert b"".join(chunk.content for chunk in log) == b"hello\n"
        [standing] = (await ada.post.ask(grace.id, AskLeases((LEASE,)), LeaseStandings)).standings
        assert (standing.state, standing.main, standing.main_status) == ("active", "ended", 0)


async def test_a_main_process_begins_again_by_its_rule(tmp_path: Path) -> None:
    async with asyncio.timeout(20), two_nodes(tmp_path) as (ada, grace):
        await lend(ada, grace.id, main=MainProcess(("echo", "again"), restart="always"))
        printed = b""
        async for chunk in ada.inside.log(grace.id, LEASE, follows=True):
            printed += chunk.content
            if printed.count(b"again") == 3:
                break
        assert printed == b"again\n" * 3


async def test_an_ended_lease_tells_who_ended_it(tmp_path: Path) -> None:
    async with asyncio.timeout(20), two_nodes(tmp_path) as (ada, grace):
        for lease in (LEASE, OTHER):
            await lend(ada, grace.id, lease)
        await grace.provider.kill([LEASE])
        await ada.post.ask(grace.id, EndLease(OTHER), Done)
        asked = await ada.post.ask(grace.id, AskLeases((LEASE, OTHER)), LeaseStandings)
        assert asked.standings[0].ended_by == "owner"
        assert asked.standings[0].state in ("ending", "ended")
        assert asked.standings[1].ended_by == "requester"


@pytest.mark.parametrize(
    ("state", "told"), [(LeaseState.ACTIVE, "suspended"), (LeaseState.ENDING, "ending")]
)
def test_the_holder_is_told_of_a_lease_that_is_suspended(state: LeaseState, told: str) -> None:
    view = LeaseView(
        lease=LEASE,
        peer=NodeId("a" * 64),
        workload=Workload(),
        job=None,
        is_isolated=True,
        runtime="fake",
        tier="fake",
        state=state,
        created_at=0,
        expires_at=60,
        is_suspended=True,
    )
    assert standing_of(view, 60, None).state == told
    unsuspended = dataclasses.replace(view, is_suspended=False)
    assert standing_of(unsuspended, 60, None).state == state.value


async def processes(node: Node) -> int:
    return sum(reading.usage.processes for reading in await node.provider.readings())


async def until(look: Callable[[], Awaitable[int]], wanted: int) -> None:
    while await look() != wanted:
        await asyncio.sleep(0.01)
