"""Claims about what tasks of one lease share: entered once, kept between them, left at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from p2prc.errors import PeerBusy
from p2prc.model.identity import BlobId, LeaseId, NodeId
from p2prc.model.resources import GIBIBYTE
from p2prc.model.surroundings import Action, Surroundings, WorkFile
from p2prc.model.tree import FileEntry, Tree
from p2prc.model.workload import Command, Outcome, Workload
from p2prc.node.egress import WaysOut
from p2prc.node.places import Place, Places
from p2prc.node.volumes import VolumeStore
from p2prc.protocol.egress import EgressTerms
from p2prc.runtime.environments import EnvironmentStore
from p2prc.runtime.fake import FakeCommand, FakeRuntime
from p2prc.runtime.port import OutputChunk
from p2prc.storage.blobs import BlobStore
from tests.unit.egress_bench import LittleInternet

PEER, LEASE = NodeId("a" * 64), LeaseId("b" * 20)
WORK = "{{Session.WorkingDirectory}}"
INNER = Surroundings(
    "inner",
    variables={"PLACE": f"{WORK}/x"},
    files=(WorkFile(".entered-1/tool", f"at {WORK}", is_executable=True),),
    enter=Action(("enter", "inner")),
    leave=Action(("leave", "inner")),
)
OUTER = Surroundings("outer", enter=Action(("enter", "outer")), leave=Action(("leave", "outer")))
TASK = Command(
    ("task", f"{WORK}/here"),
    variables={"OWN": WORK},
    outputs=("made",),
    tells_status=True,
    may_lack_outputs=True,
    folders=("made",),
    files=(WorkFile(".task/file", "content"),),
    surroundings=(OUTER, INNER),
)


class Bench:
    """A place with programs that write down what happens to them."""

    places: Places
    place: Place

    def __init__(self, blobs: BlobStore) -> None:
        self.blobs = blobs
        self.played: list[str] = []
        self.seen: list[Mapping[str, str]] = []
        self.found: list[list[str]] = []
        self.told: list[str] = []
        self.failing = ""
        self.is_slow = False

    async def run(self, command: Command = TASK) -> Outcome:
        return await self.places.run(self.place, command, _quiet, keeper="keeper")

    async def enter(self, command: FakeCommand) -> int:
        name = command.argv[1]
        self.played.append(f"enter {name}")
        (command.work / f"kept-{name}").write_text("kept")
        await command.print(1, b"openjd_env: FROM_%b=1\nopenjd_unset_env: GONE\n" % name.encode())
        if name == self.failing:
            await command.print(2, b"openjd_fail: no licence\n")
            return 3
        return 0

    async def leave(self, command: FakeCommand) -> int:
        self.played.append(f"leave {command.argv[1]}")
        self.seen.append(command.variables)
        if self.is_slow:
            await asyncio.get_running_loop().create_future()
        return 0

    async def task(self, command: FakeCommand) -> int:
        self.played.append("task")
        self.seen.append(command.variables)
        self.found.append(sorted(path.name for path in command.work.iterdir()))
        assert command.argv[1] == f"{command.work}/here"
        assert (command.work / ".task" / "file").read_text() == "content"
        (command.work / "made" / f"{len(self.found)}").write_text("output")
        (command.work / "scratch").write_text("left behind")
        await command.print(1, b"openjd_progress: 50\nopenjd_status: half\n")
        return 0


@asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    blobs = BlobStore(folder / "blobs", quota_bytes=GIBIBYTE)
    tree = Tree((FileEntry("inputs/scene", blobs.put_bytes(b"scene"), 5),))
    blobs.put_tree(tree)

    async def obtain(peer: NodeId, name: BlobId, owner: str) -> Tree:
        return tree

    made = Bench(blobs)
    runtime = FakeRuntime(
        {
            "enter": made.enter,
            "leave": made.leave,
            "task": made.task,
        },
        has_sessions=True,
    )
    places = Places(
        runtime=runtime,
        environments=EnvironmentStore(folder / "environments", quota_bytes=GIBIBYTE),
        blobs=blobs,
        folder=folder / "leases",
        obtain=obtain,
        volumes=VolumeStore(folder / "volumes", lambda: 1 << 30),
        ways_out=WaysOut(LittleInternet(), EgressTerms),
    )
    place = await places.create(
        PEER,
        LEASE,
        Workload(),
        tier="userns",
        is_isolated=False,
        has_sessions=True,
        progress=made.told.append,
    )
    made.places, made.place = places, place
    try:
        yield made
    finally:
        await runtime.close()


async def _quiet(_: OutputChunk) -> None:
    return


async def test_it_is_entered_once_in_order_and_left_in_reverse(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        assert (await here.run()).is_success
        assert (await here.run()).is_success
        await here.places.leave(here.place)
        order = ["enter outer", "enter inner", "task", "task", "leave inner", "leave outer"]
        assert here.played == order
        work = here.place.sandbox.work_path
        for variables in here.seen:
            assert variables["FROM_outer"] == variables["FROM_inner"] == "1"
            assert variables["PLACE"] == f"{work}/x"
        assert here.seen[0]["OWN"] == work


async def test_between_tasks_only_what_was_entered_stays(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        outcomes = [await here.run(), await here.run()]
        kept = [".entered-1", ".task", "kept-inner", "kept-outer", "made"]
        assert here.found == [kept, kept]
        # Each gives what it made, and nothing of the one before.
        assert [outcome.output_bytes for outcome in outcomes] == [6, 6]


async def test_inputs_stay_where_they_were_entered(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        inputs = Tree((FileEntry("inputs/scene", here.blobs.put_bytes(b"scene"), 5),)).digest
        command = msgspec.structs.replace(TASK, inputs=inputs)
        for _ in range(2):
            assert (await here.run(command)).is_success
        assert all("inputs" in found for found in here.found)


async def test_entering_that_fails_says_why_leaves_and_is_tried_anew(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        here.failing = "inner"
        outcome = await here.run()
        assert (outcome.code, outcome.status) == ("work-failed", 3)
        assert outcome.reason == "entering `inner`: no licence"
        assert here.played == ["enter outer", "enter inner", "leave inner", "leave outer"]
        here.played.clear()
        here.failing = ""
        assert (await here.run()).is_success
        assert here.played == ["enter outer", "enter inner", "task"]


async def test_a_task_tells_how_far_it_is_at_most_once_a_second(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        await here.run()
        assert here.told == ["50 % · half"]


async def test_a_command_without_surroundings_finds_a_place_to_work_in_closed(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as here:
        with pytest.raises(PeerBusy, match="container to work in"):
            await here.run(Command(("task", "x")))


async def test_nothing_is_left_where_nothing_was_entered(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        await here.places.leave(here.place)
        assert here.played == []


async def test_an_owner_cuts_leaving_short(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        await here.run()
        here.is_slow = True
        leaving = asyncio.create_task(here.places.leave(here.place))
        while "leave inner" not in here.played:
            await asyncio.sleep(0)
        assert here.place.entered is not None
        here.place.entered.cut_leaving()
        async with asyncio.timeout(5):
            await leaving
        assert "leave outer" not in here.played
