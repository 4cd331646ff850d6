"""Whether two nodes' pictures of one task show the same: decoded in a sandbox of this node.

Renderers write the time into their files, and processors round differently, so the bytes of honest
pictures may differ. What is beside the pictures is not compared: it says who made them, and when.
"""

from __future__ import annotations

import asyncio
from importlib.resources import files
from pathlib import PurePosixPath

import msgspec

from p2prc.errors import MachineCannot, P2prcError
from p2prc.files.collect import keep_tree
from p2prc.model.identity import LeaseId, NodeId
from p2prc.model.resources import GIBIBYTE, Limits
from p2prc.model.tree import FileEntry, Tree, check_tree
from p2prc.model.workload import Command, Workload
from p2prc.node.machine import python_version
from p2prc.node.runs import Runs
from p2prc.runtime.environments import parse_requirements, resolve
from p2prc.runtime.port import OutputChunk
from p2prc.storage.blobs import BlobStore

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp"})
NOTES = frozenset({".json", ".txt", ".log"})
PROGRAM = "compare_frames.py"
SAME, DIFFERENT = 0, 10
TIMEOUT_S = 600.0
TRY_AGAIN_S = 3.0
PATIENCE_S = 300.0
"""How long a place on this node is waited for: the job itself may have taken all of them."""


class Pictures:
    """Compares results that are pictures, in sandboxes of this node and of no other."""

    def __init__(self, own: NodeId, runs: Runs, blobs: BlobStore) -> None:
        self._own = own
        self._runs = runs
        self._blobs = blobs
        self._turn = asyncio.Lock()

    async def are_alike(self, one: Tree, other: Tree, *, within: float, owner: str) -> bool:
        """Say whether two trees, both in our store, show the same.

        `within` is in levels of 255. Raises P2prcError where this node cannot look at them.
        """
        pairs = pairs_of(one, other)
        if not pairs:
            return pairs is not None
        program = self._blobs.put_bytes((files("p2prc.scenes.programs") / PROGRAM).read_bytes())
        size_bytes = self._blobs.size(program)
        entries = [FileEntry(PROGRAM, program, size_bytes)]
        for number, (first, second) in enumerate(pairs):
            name = f"{number:06d}{PurePosixPath(first.path).suffix}"
            entries.append(msgspec.structs.replace(first, path=f"one/{name}"))
            entries.append(msgspec.structs.replace(second, path=f"other/{name}"))
        tree = Tree(tuple(sorted(entries, key=lambda entry: entry.path)))
        check_tree(tree)
        inputs = keep_tree(tree, self._blobs, owner)
        environment = await resolve(parse_requirements(["pillow"]), python=python_version())
        limits = Limits(memory_bytes=2 * GIBIBYTE, disk_bytes=GIBIBYTE, lifetime_s=2 * TIMEOUT_S)
        command = Command(
            ("python3", PROGRAM, "one", "other", str(within)),
            inputs=inputs.digest,
            timeout_s=TIMEOUT_S,
        )
        async with self._turn:
            return await self._run(Workload(limits, environment), command, owner)

    async def _run(self, workload: Workload, command: Command, owner: str) -> bool:
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_S
        while True:
            try:
                finished = await self._runs.run(
                    self._own,
                    workload,
                    command,
                    owner=owner,
                    printed=_nothing,
                    noted=lambda _: None,
                    started=_nothing_started,
                )
            except P2prcError as error:
                if not error.retryable or loop.time() > until:
                    raise
                await asyncio.sleep(TRY_AGAIN_S)
                continue
            if finished.outcome.status in (SAME, DIFFERENT):
                return finished.outcome.status == SAME
            raise MachineCannot(finished.outcome.reason or "looking at the pictures failed")


def pairs_of(one: Tree, other: Tree) -> list[tuple[FileEntry, FileEntry]] | None:
    """Return the pictures that have to be looked at; None where the trees differ in other ways."""
    ones = {entry.path: entry for entry in one.files if not _is_note(entry)}
    others = {entry.path: entry for entry in other.files if not _is_note(entry)}
    if sorted(ones) != sorted(others) or not ones:
        return None
    pairs = [
        (entry, others[path])
        for path, entry in sorted(ones.items())
        if entry.blob != others[path].blob
    ]
    if any(PurePosixPath(entry.path).suffix.lower() not in PICTURES for entry, _ in pairs):
        return None
    return pairs


def _is_note(entry: FileEntry) -> bool:
    return PurePosixPath(entry.path).suffix.lower() in NOTES


async def _nothing(_: OutputChunk) -> None:
    return None


async def _nothing_started(_: NodeId, __: LeaseId) -> None:
    return None
