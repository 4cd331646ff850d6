"""What a step finds beside its inputs: the files that the steps it needs have made.

They keep their paths, so a step that reads a folder finds in it what an earlier step wrote there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from p2prc.errors import PathInvalid
from p2prc.files.collect import keep_tree
from p2prc.files.manifest import load_tree
from p2prc.model.identity import BlobId
from p2prc.model.job import Job
from p2prc.model.tree import EMPTY_TREE, FILES_LIMIT, FileEntry, Tree, check_tree
from p2prc.protocol.jobs.attempts import TaskKey
from p2prc.storage.blobs import BlobStore

ObtainResult = Callable[[TaskKey, BlobId, str], Awaitable[Tree]]
"""Bring the tree of a task's result into our store, pinned for an owner."""


class EarlierOutputs:
    """The inputs of one job's steps; made once for each step, when its first task starts."""

    def __init__(
        self,
        job: Job,
        *,
        blobs: BlobStore,
        owner: str,
        outputs: Callable[[], Mapping[TaskKey, BlobId]],
        obtain: ObtainResult,
    ) -> None:
        self._job = job
        self._blobs = blobs
        self._owner = owner
        self._outputs = outputs
        self._obtain = obtain
        self._made: dict[int, BlobId | None] = {}
        self._making = asyncio.Lock()

    def is_needed(self, step: int) -> bool:
        """Say whether a later step wants what this one makes."""
        return any(step in later.needs for later in self._job.steps)

    async def inputs_of(self, step: int) -> BlobId | None:
        """Return the inputs of a step's tasks, in our store and pinned.

        Raises PeerError, FileUnknown, PathInvalid, DiskFull.
        """
        described = self._job.steps[step]
        if not described.needs:
            return described.command.inputs
        async with self._making:
            if step not in self._made:
                self._made[step] = await self._make(described.command.inputs, described.needs)
            return self._made[step]

    async def _make(self, inputs: BlobId | None, needs: tuple[int, ...]) -> BlobId | None:
        base = EMPTY_TREE if inputs is None else await load_tree(self._blobs, inputs)
        files: dict[str, FileEntry] = {entry.path: entry for entry in base.files}
        for task, name in sorted(self._outputs().items()):
            if task.step not in needs:
                continue
            made = await self._obtain(task, name, self._owner)
            # Later steps come later in the job: what they wrote anew is newer.
            files.update((entry.path, entry) for entry in made.files)
            if len(files) > FILES_LIMIT:
                raise PathInvalid(f"a step would find more than {FILES_LIMIT} files")
        if not files and inputs is None:
            return None
        empty = tuple(path for path in base.empty_folders if not _is_used(path, files))
        tree = Tree(tuple(files[path] for path in sorted(files)), empty)
        check_tree(tree)
        return (await asyncio.to_thread(keep_tree, tree, self._blobs, self._owner)).digest


def _is_used(folder: str, files: Mapping[str, FileEntry]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for path in files)
