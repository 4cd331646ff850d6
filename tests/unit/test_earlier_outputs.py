"""Claims about what a step finds of the steps that it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2prc.errors import FileUnknown, JobInvalid
from p2prc.model.identity import BlobId, NodeId
from p2prc.model.job import Job, Step
from p2prc.model.resources import GIBIBYTE
from p2prc.model.tree import FileEntry, Tree
from p2prc.model.workload import Command
from p2prc.node.earlier_outputs import EarlierOutputs
from p2prc.protocol.jobs.attempts import TaskKey
from p2prc.protocol.jobs.check import check_job
from p2prc.storage.blobs import BlobStore


def step(name: str, inputs: BlobId | None, *needs: int) -> Step:
    return Step(name, Command(("true",), inputs=inputs), needs=needs)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.blobs = BlobStore(folder, quota_bytes=GIBIBYTE)
        self.scene = self.tree("scene")
        steps = (step("a", self.scene), step("b", None), step("c", self.scene, 0, 1))
        self.job = Job("job", NodeId("a" * 64), "salt", steps)
        self.outputs: dict[TaskKey, BlobId] = {}
        self.obtained = 0
        self.earlier = EarlierOutputs(
            self.job,
            blobs=self.blobs,
            owner="job",
            outputs=lambda: self.outputs,
            obtain=self.obtain,
        )

    def tree(self, *paths: str, content: str = "") -> BlobId:
        files = []
        for path in sorted(paths):
            written = (content or path).encode()
            files.append(FileEntry(path, self.blobs.put_bytes(written), len(written)))
        tree = Tree(tuple(files))
        self.blobs.put_tree(tree)
        return tree.digest

    async def obtain(self, task: TaskKey, name: BlobId, owner: str) -> Tree:
        self.obtained += 1
        if name == "lost":
            raise FileUnknown("it is gone")
        tree = self.blobs.tree(name)
        self.blobs.pin_tree(owner, tree)
        return tree


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "blobs")


async def test_a_step_finds_its_inputs_and_what_those_it_needs_have_made(bench: Bench) -> None:
    bench.outputs = {
        TaskKey(0, 1): bench.tree("out/1"),
        TaskKey(0, 0): bench.tree("out/0"),
        TaskKey(1, 0): bench.tree("out/1", content="newer"),
        TaskKey(2, 0): bench.tree("out/of-its-own"),
    }
    name = await bench.earlier.inputs_of(2)
    assert name is not None
    files = {entry.path: entry for entry in bench.blobs.tree(name).files}
    assert sorted(files) == ["out/0", "out/1", "scene"]
    assert files["out/1"].size_bytes == len("newer")


async def test_it_is_made_once_for_all_tasks_and_not_at_all_where_nothing_is_needed(
    bench: Bench,
) -> None:
    bench.outputs = {TaskKey(0, 0): bench.tree("out/0")}
    assert await bench.earlier.inputs_of(2) == await bench.earlier.inputs_of(2)
    assert bench.obtained == 1
    assert await bench.earlier.inputs_of(0) == bench.scene
    assert await bench.earlier.inputs_of(1) is None
    assert [bench.earlier.is_needed(number) for number in range(3)] == [True, True, False]


async def test_what_cannot_be_had_is_said_and_tried_again(bench: Bench) -> None:
    bench.outputs = {TaskKey(0, 0): BlobId("lost")}
    with pytest.raises(FileUnknown):
        await bench.earlier.inputs_of(2)
    bench.outputs = {TaskKey(0, 0): bench.tree("out/0")}
    assert await bench.earlier.inputs_of(2) is not None


def test_a_step_cannot_need_one_that_comes_later(bench: Bench) -> None:
    job = Job("job", NodeId("a" * 64), "salt", (step("a", None, 0),))
    with pytest.raises(JobInvalid, match="does not come before"):
        check_job(job)
