"""A place whose command is cut short at each stage: nothing hangs, leaks or ends the node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from p2prc.errors import PeerLost
from p2prc.model.identity import BlobId, LeaseId, NodeId
from p2prc.model.resources import GIBIBYTE
from p2prc.model.tree import FileEntry, Tree
from p2prc.model.workload import Command, Outcome, Workload
from p2prc.node.egress import WaysOut
from p2prc.node.places import Obtain, Place, Places
from p2prc.node.volumes import VolumeStore
from p2prc.protocol.egress import EgressTerms
from p2prc.runtime.environments import EnvironmentStore
from p2prc.runtime.fake import FakeCommand, FakeRuntime, Program
from p2prc.runtime.port import OutputChunk
from p2prc.storage.blobs import BlobStore
from tests.unit.egress_bench import LittleInternet

PEER, LEASE = NodeId("a" * 64), LeaseId("b" * 20)


class Gate:
    """Inputs, or a program, that take until the gate is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def pass_through(self) -> None:
        self.reached.set()
        await self.opened.wait()

    async def program(self, _: FakeCommand) -> int:
        await self.pass_through()
        return 0


@asynccontextmanager
async def place_in(
    folder: Path, *, blobs: BlobStore, obtain: Obtain | None = None, wait: Program | None = None
) -> AsyncIterator[tuple[Places, Place]]:
    runtime = FakeRuntime({"wait": wait} if wait else {})
    places = Places(
        runtime=runtime,
        environments=EnvironmentStore(folder / "environments", quota_bytes=GIBIBYTE),
        blobs=blobs,
        folder=folder / "leases",
        obtain=obtain or _no_inputs,
        volumes=VolumeStore(folder / "volumes", lambda: 1 << 30),
        ways_out=WaysOut(LittleInternet(), EgressTerms),
    )
    place = await places.create(
        PEER, LEASE, Workload(), tier="userns", is_isolated=False, progress=lambda _: None
    )
    try:
        yield places, place
    finally:
        await runtime.close()


async def _no_inputs(peer: NodeId, name: BlobId, owner: str) -> Tree:
    raise AssertionError("nothing was asked for")


async def _quiet(_: OutputChunk) -> None:
    return


def _some_tree(blobs: BlobStore) -> Tree:
    tree = Tree((FileEntry("file", blobs.put_bytes(b"content"), 7),))
    blobs.put_tree(tree)
    return tree


async def _bounded(work: asyncio.Task[Outcome]) -> Outcome:
    async with asyncio.timeout(5):
        return await work


@pytest.mark.parametrize("is_killed", [True, False])
async def test_a_lease_may_end_while_its_inputs_come(tmp_path: Path, *, is_killed: bool) -> None:
    blobs, gate = BlobStore(tmp_path / "blobs", quota_bytes=GIBIBYTE), Gate()
    tree = _some_tree(blobs)

    async def obtain(peer: NodeId, name: BlobId, owner: str) -> Tree:
        await gate.pass_through()
        blobs.pin_tree(owner, tree)
        return tree

    async with place_in(tmp_path, blobs=blobs, obtain=obtain) as (places, place):
        command = Command(("true",), inputs=tree.digest)
        running = asyncio.create_task(places.run(place, command, _quiet, keeper="keeper"))
        await gate.reached.wait()
        if is_killed:
            place.end_reason = "ended by the owner of the node"
            ending = asyncio.create_task(places.end(place))
            gate.opened.set()
            await ending
        else:
            await places.cancel(place)
        outcome = await _bounded(running)
        assert outcome.code == "lease-ended"
        if is_killed:
            assert outcome.reason == "ended by the owner of the node"
            assert not place.sandbox.spec.folder.exists()
        else:
            assert not place.is_busy


async def test_what_a_lease_pinned_is_let_go_although_its_inputs_come_after_its_end(
    tmp_path: Path,
) -> None:
    blobs, gate = BlobStore(tmp_path / "blobs", quota_bytes=1000), Gate()
    tree = _some_tree(blobs)

    async def obtain(peer: NodeId, name: BlobId, owner: str) -> Tree:
        try:
            await gate.pass_through()
        finally:
            blobs.pin_tree(owner, tree)
        return tree

    async with place_in(tmp_path, blobs=blobs, obtain=obtain) as (places, place):
        command = Command(("true",), inputs=tree.digest)
        running = asyncio.create_task(places.run(place, command, _quiet, keeper="keeper"))
        await gate.reached.wait()
        await places.end(place)
        await _bounded(running)
    # The whole quota can be had: nothing is held any more.
    blobs.make_room(1000)
    assert blobs.used_bytes == 0


async def test_a_cancelled_run_kills_its_command_and_stays_cancelled(tmp_path: Path) -> None:
    blobs, gate = BlobStore(tmp_path / "blobs", quota_bytes=GIBIBYTE), Gate()
    async with place_in(tmp_path, blobs=blobs, wait=gate.program) as (places, place):
        running = asyncio.create_task(
            places.run(place, Command(("wait",)), _quiet, keeper="keeper")
        )
        await gate.reached.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await _bounded(running)
        assert not place.is_busy
        assert (await place.sandbox.usage()).processes == 0


async def test_a_reader_that_goes_away_kills_the_command(tmp_path: Path) -> None:
    blobs, gate = BlobStore(tmp_path / "blobs", quota_bytes=GIBIBYTE), Gate()

    async def chatter(command: FakeCommand) -> int:
        await command.print(1, b"hello\n")
        await gate.pass_through()
        return 0

    async def lost(_: OutputChunk) -> None:
        raise PeerLost

    async with place_in(tmp_path, blobs=blobs, wait=chatter) as (places, place):
        running = asyncio.create_task(places.run(place, Command(("wait",)), lost, keeper="keeper"))
        assert (await _bounded(running)).code == "peer-lost"
        assert (await place.sandbox.usage()).processes == 0


async def test_a_reader_that_never_reads_cannot_keep_a_lease_that_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2prc.node.places.DYING_S", 0.02)
    blobs, gate = BlobStore(tmp_path / "blobs", quota_bytes=GIBIBYTE), Gate()

    async def stuck(_: OutputChunk) -> None:
        await gate.pass_through()

    async with place_in(tmp_path, blobs=blobs) as (places, place):
        running = asyncio.create_task(
            places.run(place, Command(("echo", "x")), stuck, keeper="keeper")
        )
        await gate.reached.wait()
        await places.end(place)
        assert (await _bounded(running)).code == "lease-ended"


async def test_a_machine_that_refuses_is_an_outcome_and_no_bug(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs", quota_bytes=GIBIBYTE)

    async def obtain(peer: NodeId, name: BlobId, owner: str) -> Tree:
        raise OSError(24, "Too many open files")

    async with place_in(tmp_path, blobs=blobs, obtain=obtain) as (places, place):
        command = Command(("true",), inputs=BlobId("1" * 64))
        outcome = await places.run(place, command, _quiet, keeper="keeper")
    assert outcome.code == "machine-cannot"
    assert "Too many open files" in outcome.reason
