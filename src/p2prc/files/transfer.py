"""Fetch trees of blobs from a peer over a bulk connection.

The manifest comes first, is checked, and says which blobs are missing here: only those are asked
for, many at a time, over several streams where there is much to do. Each blob is checked by its
hash and stays once it is here, so a transfer that broke goes on where it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from p2prc.errors import (
    DiskFull,
    LimitExceeded,
    P2prcError,
    PeerTooOld,
    WireError,
)
from p2prc.files.asking import Asking, first_of
from p2prc.files.manifest import load_tree
from p2prc.files.pace import Pace
from p2prc.files.swarm import Connect, Swarm
from p2prc.model.identity import BlobId
from p2prc.model.quantities import format_size
from p2prc.model.recipe import is_cut
from p2prc.model.tree import TREE_LIMIT_BYTES, FileEntry, Tree
from p2prc.protocol.messages import FetchBlobs, FetchTree
from p2prc.storage.blobs import BlobStore
from p2prc.storage.recipes import Recipes
from p2prc.transport.port import Connection

BATCH_BLOBS = 256
BATCH_BYTES = 8 << 20
STREAMS = 4
SWARM_FROM_BYTES = 16 << 20
"""Less is fetched from its origin alone: asking around would take longer."""
_ONE_STREAM_BYTES = 2 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """How patient and how generous a fetch is."""

    size_bytes: int = 1 << 60
    silence_s: float = 30.0
    streams: int = STREAMS
    pace: Pace | None = None


@dataclass(frozen=True, slots=True)
class Swarming:
    """What it takes to fetch from several: how blobs are cut, and how other nodes are reached."""

    recipes: Recipes
    connect: Connect
    running: dict[BlobId, Swarm]
    """By tree; others ask what is on its way here."""


async def fetch_tree(
    connection: Connection,
    tree_id: BlobId,
    store: BlobStore,
    *,
    owner: str,
    limits: TransferLimits | None = None,
    progress: Callable[[int], None] | None = None,
    swarming: Swarming | None = None,
) -> Tree:
    """Return the tree once all of it is in the store, pinned for the owner.

    `progress` is told how many bytes more of the files have come. Raises a `PeerError` (`PeerLost`
    after `silence_s` without a byte), `DiskFull`, `LimitExceeded`, or the peer's own refusal;
    whole blobs that came before that stay in the store.
    """
    fetch = _Fetch(
        connection,
        tree_id,
        store,
        owner=owner,
        limits=limits or TransferLimits(),
        tell=progress,
        swarming=swarming,
    )
    return await fetch.run()


class _Fetch:
    """One tree on its way here."""

    def __init__(
        self,
        connection: Connection,
        tree_id: BlobId,
        store: BlobStore,
        *,
        owner: str,
        limits: TransferLimits,
        tell: Callable[[int], None] | None,
        swarming: Swarming | None,
    ) -> None:
        self._swarming = swarming
        self._connection = connection
        self._tree_id = tree_id
        self._store = store
        self._owner = owner
        self._limits = limits
        self._progress = tell
        self._batches: deque[list[FileEntry]] = deque()

    async def run(self) -> Tree:
        self._store.pin(self._owner, [self._tree_id])
        asking = None
        if not self._store.has(self._tree_id):
            asking = await self._fetch_manifest()
        try:
            tree = await self._checked_tree()
            await self._fetch_missing(tree, asking)
        except BaseException:
            if asking is not None:
                await asking.abort()
            raise
        return tree

    async def _fetch_manifest(self) -> Asking:
        """Bring the manifest; return the stream, good for the next request."""
        asking = await self._open()
        try:
            await asking.ask(FetchTree(self._tree_id))
            header = await asking.header(self._tree_id)
            _see_is_manifest(header.size_bytes)
            await asking.receive(self._store, self._tree_id, header.size_bytes, lambda _: None)
        except BaseException:
            await asking.abort()
            raise
        return asking

    async def _checked_tree(self) -> Tree:
        try:
            tree = await load_tree(self._store, self._tree_id)
        except P2prcError:
            # It has the right hash and is no tree: nobody should find it here again.
            self._store.discard(self._tree_id)
            raise
        if tree.size_bytes > self._limits.size_bytes:
            raise LimitExceeded(
                f"the files are {format_size(tree.size_bytes)},"
                f" at most {format_size(self._limits.size_bytes)} are allowed"
            )
        sizes: dict[BlobId, int] = {}
        for entry in tree.files:
            if sizes.setdefault(entry.blob, entry.size_bytes) != entry.size_bytes:
                raise WireError("a tree gives one blob two sizes")
        self._store.pin_tree(self._owner, tree)
        return tree

    async def _fetch_missing(self, tree: Tree, asking: Asking | None) -> None:
        missing = self._store.missing(tree)
        total_bytes = sum(entry.size_bytes for entry in missing)
        self._store.make_room(total_bytes)
        if self._swarming is not None and self._is_for_swarm(missing, total_bytes):
            if asking is not None:
                await asking.end()
            if await self._swarm(self._swarming, tree, missing):
                return
            asking, missing = None, self._store.missing(tree)
        self._batches.extend(_batches(missing))
        wanted = self._limits.streams if total_bytes > _ONE_STREAM_BYTES else 1
        workers = min(wanted, len(self._batches))
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(workers):
                    group.create_task(self._work(asking if number == 0 else None))
        except BaseExceptionGroup as errors:
            raise first_of(errors) from errors
        if asking is not None and not workers:
            await asking.end()

    def _is_for_swarm(self, missing: list[FileEntry], total_bytes: int) -> bool:
        """Whether it is much, and there is room for large blobs beside the pieces they come in."""
        if total_bytes < SWARM_FROM_BYTES:
            return False
        large_bytes = sum(entry.size_bytes for entry in missing if is_cut(entry.size_bytes))
        if self._store.free_disk_bytes < total_bytes + large_bytes:
            return False
        try:
            self._store.make_room(total_bytes + large_bytes)
        except DiskFull:
            return False
        return True

    async def _swarm(self, swarming: Swarming, tree: Tree, missing: list[FileEntry]) -> bool:
        """Fetch from all who have some; False where the peer knows nothing of that."""
        swarm = Swarm(
            self._connection,
            self._tree_id,
            tree,
            store=self._store,
            recipes=swarming.recipes,
            owner=self._owner,
            connect=swarming.connect,
            silence_s=self._limits.silence_s,
            pace=self._limits.pace,
            tell=self._tell,
        )
        swarming.running[self._tree_id] = swarm
        try:
            try:
                await swarm.fetch(missing)
            except BaseExceptionGroup as errors:
                raise first_of(errors) from errors
        except (PeerTooOld, WireError) as error:
            # It is of a version without swarms, or its recipes are wrong: whole blobs then.
            log.info("no swarm", extra={"peer": self._connection.peer, "reason": error.message})
            for entry in missing:
                swarming.recipes.forget(entry.blob)
            return False
        finally:
            swarming.running.pop(self._tree_id, None)
        return True

    async def _work(self, asking: Asking | None) -> None:
        """Fetch batches over one stream until none is left."""
        asking = asking or await self._open()
        try:
            while self._batches:
                await self._fetch_batch(asking, self._batches.popleft())
        except BaseException:
            await asking.abort()
            raise
        await asking.end()

    async def _fetch_batch(self, asking: Asking, batch: list[FileEntry]) -> None:
        # Another transfer may have brought some of them meanwhile.
        wanted = [entry for entry in batch if not self._store.has(entry.blob)]
        if not wanted:
            return
        await asking.ask(FetchBlobs(self._tree_id, tuple(entry.blob for entry in wanted)))
        for entry in wanted:
            if (await asking.header(entry.blob)).size_bytes != entry.size_bytes:
                raise WireError("a blob of another size than its tree says")
            await asking.receive(self._store, entry.blob, entry.size_bytes, self._tell)

    async def _open(self) -> Asking:
        return await Asking.open(
            self._connection, silence_s=self._limits.silence_s, pace=self._limits.pace
        )

    def _tell(self, received_bytes: int) -> None:
        if self._progress is not None:
            self._progress(received_bytes)


def _see_is_manifest(size_bytes: int) -> None:
    if size_bytes > TREE_LIMIT_BYTES:
        raise WireError("a tree's manifest that is too large")


def _batches(missing: list[FileEntry]) -> list[list[FileEntry]]:
    """Cut what is missing into requests, the largest blobs first so that none comes last alone."""
    found: list[list[FileEntry]] = []
    batch: list[FileEntry] = []
    size_bytes = 0
    for entry in sorted(missing, key=lambda entry: -entry.size_bytes):
        if batch and (size_bytes + entry.size_bytes > BATCH_BYTES or len(batch) == BATCH_BLOBS):
            found.append(batch)
            batch, size_bytes = [], 0
        batch.append(entry)
        size_bytes += entry.size_bytes
    return [*found, batch] if batch else found
