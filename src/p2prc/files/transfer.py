"""Fetch trees of blobs from a peer over a bulk connection.

The manifest comes first, is checked, and says which blobs are missing here: only those are asked
for, many at a time, over several streams where there is much to do. Each blob is checked by its
hash and stays once it is here, so a transfer that broke goes on where it was.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from p2prc.errors import (
    LimitExceeded,
    P2prcError,
    PeerError,
    PeerLost,
    PeerRefused,
    WireError,
    from_fields,
)
from p2prc.files.inflow import Inflow
from p2prc.files.manifest import load_tree
from p2prc.model.identity import BlobId
from p2prc.model.quantities import format_size
from p2prc.model.tree import TREE_LIMIT_BYTES, FileEntry, Tree
from p2prc.protocol.messages import BlobHeader, Bulk, FetchBlobs, FetchTree, Refused, bulk_codec
from p2prc.storage.blobs import BlobStore
from p2prc.storage.incoming import Incoming
from p2prc.transport.port import Connection, Stream
from p2prc.wire.codec import encode
from p2prc.wire.framing import frame

REPLY_LIMIT_BYTES = 16 * 1024
BATCH_BLOBS = 256
BATCH_BYTES = 8 << 20
STREAMS = 4
_ONE_STREAM_BYTES = 2 << 20
_GOODBYE_S = 5.0
_BLOCK_BYTES = 2 << 20
"""Larger blobs are hashed and written in a thread, this much at a time."""


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """How patient and how generous a fetch is."""

    size_bytes: int = 1 << 60
    silence_s: float = 30.0
    streams: int = STREAMS


async def fetch_tree(
    connection: Connection,
    tree_id: BlobId,
    store: BlobStore,
    *,
    owner: str,
    limits: TransferLimits | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tree:
    """Return the tree once all of it is in the store, pinned for the owner.

    `progress` is told how many bytes more of the files have come. Raises a `PeerError` (`PeerLost`
    after `silence_s` without a byte), `DiskFull`, `LimitExceeded`, or the peer's own refusal;
    whole blobs that came before that stay in the store.
    """
    fetch = _Fetch(
        connection, tree_id, store, owner=owner, limits=limits or TransferLimits(), tell=progress
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
    ) -> None:
        self._connection = connection
        self._tree_id = tree_id
        self._store = store
        self._owner = owner
        self._limits = limits
        self._progress = tell
        self._batches: deque[list[FileEntry]] = deque()

    async def run(self) -> Tree:
        self._store.pin(self._owner, [self._tree_id])
        stream = None
        if not self._store.has(self._tree_id):
            stream = await self._fetch_manifest()
        try:
            tree = await self._checked_tree()
            await self._fetch_missing(tree, stream)
        except BaseException:
            if stream is not None:
                await stream.abort()
            raise
        return tree

    async def _fetch_manifest(self) -> Stream:
        """Bring the manifest; return the stream, good for the next request."""
        stream = await self._open_stream()
        try:
            inflow = Inflow(stream, silence_s=self._limits.silence_s)
            await self._ask(stream, FetchTree(self._tree_id))
            size_bytes = await self._header(inflow, self._tree_id)
            _see_is_manifest(size_bytes)
            with self._store.incoming(self._tree_id, size_bytes) as incoming:
                async for piece in inflow.content(size_bytes):
                    incoming.write(piece)
        except BaseException:
            await stream.abort()
            raise
        return stream

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

    async def _fetch_missing(self, tree: Tree, stream: Stream | None) -> None:
        missing = self._store.missing(tree)
        total_bytes = sum(entry.size_bytes for entry in missing)
        self._store.make_room(total_bytes)
        self._batches.extend(_batches(missing))
        wanted = self._limits.streams if total_bytes > _ONE_STREAM_BYTES else 1
        workers = min(wanted, len(self._batches))
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(workers):
                    group.create_task(self._work(stream if number == 0 else None))
        except BaseExceptionGroup as errors:
            raise _first_of(errors) from errors
        if stream is not None and not workers:
            await _end(stream)

    async def _work(self, stream: Stream | None) -> None:
        """Fetch batches over one stream until none is left."""
        stream = stream or await self._open_stream()
        try:
            inflow = Inflow(stream, silence_s=self._limits.silence_s)
            while self._batches:
                await self._fetch_batch(stream, inflow, self._batches.popleft())
        except BaseException:
            await stream.abort()
            raise
        await _end(stream)

    async def _fetch_batch(self, stream: Stream, inflow: Inflow, batch: list[FileEntry]) -> None:
        # Another transfer may have brought some of them meanwhile.
        wanted = [entry for entry in batch if not self._store.has(entry.blob)]
        if not wanted:
            return
        await self._ask(stream, FetchBlobs(self._tree_id, tuple(entry.blob for entry in wanted)))
        for entry in wanted:
            if await self._header(inflow, entry.blob) != entry.size_bytes:
                raise WireError("a blob of another size than its tree says")
            await self._receive(inflow, entry.blob, entry.size_bytes)

    async def _receive(self, inflow: Inflow, blob: BlobId, size_bytes: int) -> None:
        with self._store.incoming(blob, size_bytes) as incoming:
            if size_bytes > _BLOCK_BYTES:
                await self._receive_large(inflow, incoming)
                return
            async for piece in inflow.content(size_bytes):
                incoming.write(piece)
                self._tell(len(piece))

    async def _receive_large(self, inflow: Inflow, incoming: Incoming) -> None:
        """Write one block in a thread while the next one comes from the network."""
        loop = asyncio.get_running_loop()
        writing: asyncio.Future[None] | None = None
        block = bytearray()
        async for piece in inflow.content(incoming.size_bytes):
            block += piece
            self._tell(len(piece))
            if len(block) >= _BLOCK_BYTES:
                if writing is not None:
                    await writing
                writing = loop.run_in_executor(None, incoming.write, block)
                writing.add_done_callback(_look_at)
                block = bytearray()
        if writing is not None:
            await writing
        incoming.write(block)

    async def _open_stream(self) -> Stream:
        async with _patience(self._limits.silence_s):
            return await self._connection.open_stream()

    async def _ask(self, stream: Stream, request: Bulk) -> None:
        async with _patience(self._limits.silence_s):
            await stream.write(frame(encode(request)))

    async def _header(self, inflow: Inflow, blob: BlobId) -> int:
        """Return the size of the blob that comes now."""
        payload = await inflow.next_frame(limit_bytes=REPLY_LIMIT_BYTES)
        if payload is None:
            raise WireError("the peer ended the stream before its answer")
        match bulk_codec.decode(payload):
            case BlobHeader(blob=named, size_bytes=size_bytes) if named == blob:
                return size_bytes
            case Refused(code=code, message=message, hint=hint):
                raise from_fields(code, message, hint=hint, otherwise=PeerRefused)
            case _:
                raise WireError("not the answer to what was asked")

    def _tell(self, received_bytes: int) -> None:
        if self._progress is not None:
            self._progress(received_bytes)


def _see_is_manifest(size_bytes: int) -> None:
    if size_bytes > TREE_LIMIT_BYTES:
        raise WireError("a tree's manifest that is too large")


def _look_at(writing: asyncio.Future[None]) -> None:
    """See the error of a block that nobody waits for any more: the transfer failed before it."""
    if not writing.cancelled():
        writing.exception()


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


async def _end(stream: Stream) -> None:
    """Say that nothing more is asked; the peer may be gone already, and all is here."""
    with suppress(PeerError):
        async with _patience(_GOODBYE_S):
            await stream.finish()


@asynccontextmanager
async def _patience(silence_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(silence_s):
            yield
    except TimeoutError as error:
        raise PeerLost(f"the peer took nothing for {silence_s:g} s") from error


def _first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return our own error out of a group: the others failed because of it."""
    ours, rest = errors.split(P2prcError)
    group = ours or rest
    first: BaseException = group if group is not None else errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
