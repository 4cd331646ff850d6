"""Transfers: sent once, checked, taken up again, and nothing for whoever may not read it."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from p2prc.errors import (
    DiskFull,
    FileUnknown,
    LimitExceeded,
    P2prcError,
    PathInvalid,
    PeerError,
    PeerLost,
    WireError,
)
from p2prc.files.inflow import Inflow
from p2prc.files.serve import serve_bulk_stream
from p2prc.files.transfer import TransferLimits, fetch_tree
from p2prc.model.identity import BlobId, NodeId
from p2prc.model.tree import FileEntry, Tree
from p2prc.protocol.messages import BlobHeader, FetchBlobs, FetchTree, Refused
from p2prc.storage.blobs import BlobStore
from p2prc.transport.port import READ_SIZE_BYTES, Channel, Stream
from p2prc.transport.port import Path as Way
from p2prc.wire.codec import encode
from p2prc.wire.framing import frame

IMPATIENT = TransferLimits(silence_s=0.2)


class Half:
    """One direction of a stream: a queue that holds little, so that writers wait for readers."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[bytes | None] = asyncio.Queue(4)
        self.rest = b""
        self.has_ended = False


class PipeStream:
    """Both directions, for one side; counts what it wrote."""

    def __init__(self, reads: Half, writes: Half) -> None:
        self._reads, self._writes = reads, writes
        self.broken: list[PipeStream] = []
        self.is_broken = False
        self.breaks_after: int | None = None
        self.written_bytes = 0

    async def read(self, limit_bytes: int = READ_SIZE_BYTES) -> bytes:
        if not self._reads.rest and not self._reads.has_ended:
            if self.is_broken and self._reads.pieces.empty():
                raise PeerLost
            piece = await self._reads.pieces.get()
            self._reads.has_ended = piece is None
            self._reads.rest = piece or b""
        if self.is_broken and not self._reads.rest:
            raise PeerLost
        piece, self._reads.rest = self._reads.rest[:limit_bytes], self._reads.rest[limit_bytes:]
        return piece

    async def write(self, payload: bytes | bytearray | memoryview) -> None:
        self.written_bytes += len(payload)
        if self.breaks_after is not None and self.written_bytes > self.breaks_after:
            await self.abort()
        if self.is_broken:
            raise PeerLost
        await self._writes.pieces.put(bytes(payload))

    async def finish(self) -> None:
        if not self.is_broken:
            await self._writes.pieces.put(None)

    async def abort(self) -> None:
        for side in self.broken:
            side.is_broken = True
        for half in (self._reads, self._writes):
            if not half.pieces.full():
                half.pieces.put_nowait(None)


class PipeConnection:
    """A connection whose other end runs `serve` for every stream."""

    def __init__(self, serve: Callable[[PipeStream], object]) -> None:
        self._serve = serve
        self.server_streams: list[PipeStream] = []
        self.breaks_after: int | None = None

    @property
    def peer(self) -> NodeId:
        return NodeId("ab" * 32)

    @property
    def channel(self) -> Channel:
        return Channel.BULK

    @property
    def is_closed(self) -> bool:
        return False

    async def open_stream(self) -> Stream:
        there, back = Half(), Half()
        ours, theirs = PipeStream(back, there), PipeStream(there, back)
        ours.broken = theirs.broken = [ours, theirs]
        theirs.breaks_after = self.breaks_after
        self.server_streams.append(theirs)
        self._serve(theirs)
        return ours

    async def accept_stream(self) -> Stream:
        raise PeerLost

    async def path(self) -> Way:
        return Way("direct", "")

    def allow_streams(self, count: int) -> None: ...

    async def remote_address(self) -> str:
        return ""

    async def close(self, reason: str = "") -> None: ...


@asynccontextmanager
async def serving(
    store: BlobStore, *, may_read: Callable[[BlobId], bool] = lambda tree: True
) -> AsyncIterator[PipeConnection]:
    """A connection to a node that serves its store."""

    async def serve(stream: PipeStream) -> None:
        try:
            await serve_bulk_stream(stream, store=store, may_read=may_read, silence_s=5)
        except PeerError:
            return

    async with asyncio.TaskGroup() as group:
        yield PipeConnection(lambda stream: group.create_task(serve(stream)))


@asynccontextmanager
async def answering(*replies: bytes, ends: bool = True) -> AsyncIterator[PipeConnection]:
    """A connection to a peer that says what we tell it, whatever it is asked."""

    async def serve(stream: PipeStream) -> None:
        for reply in replies:
            await stream.read()
            await stream.write(reply)
        if ends:
            await stream.finish()

    async with asyncio.TaskGroup() as group:
        tasks = []
        yield PipeConnection(lambda stream: tasks.append(group.create_task(serve(stream))))
        for task in tasks:
            task.cancel()


@pytest.fixture
def here(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "here", quota_bytes=1 << 30)


@pytest.fixture
def there(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "there", quota_bytes=1 << 30)


def tree_in(store: BlobStore, *sizes: int) -> Tree:
    contents = [os.urandom(size) for size in sizes]
    tree = Tree(
        files=tuple(
            FileEntry(f"f{number:05d}", store.put_bytes(content), len(content))
            for number, content in enumerate(contents)
        )
    )
    store.put_tree(tree)
    return tree


def blob_reply(content: bytes, *, name: BlobId, size_bytes: int | None = None) -> bytes:
    header = BlobHeader(name, len(content) if size_bytes is None else size_bytes)
    return frame(encode(header)) + content


@pytest.mark.parametrize(
    "sizes",
    [
        (),
        (0,),
        (5,),
        (1, 0, 7, 300_000, 262_144),
        (5_000_001,),
        (3 << 20, 3 << 20, 1, 2, 3, 2 << 20, (2 << 20) + 1),
        tuple(range(700)),
    ],
)
async def test_a_tree_arrives_whole(
    here: BlobStore, there: BlobStore, sizes: tuple[int, ...]
) -> None:
    tree = tree_in(there, *sizes)
    received: list[int] = []
    async with serving(there) as connection:
        found = await fetch_tree(
            connection, tree.digest, here, owner="job", progress=received.append
        )
    assert found == tree
    for entry in tree.files:
        assert here.read(entry.blob) == there.read(entry.blob)
    distinct = {entry.blob: entry.size_bytes for entry in tree.files}
    assert sum(received) == sum(distinct.values())


async def test_what_is_here_is_not_sent_again(here: BlobStore, there: BlobStore) -> None:
    tree = tree_in(there, 100_000, 200_000)
    here.put_bytes(there.read(tree.files[0].blob))
    async with serving(there) as connection:
        await fetch_tree(connection, tree.digest, here, owner="job")
        sent = sum(stream.written_bytes for stream in connection.server_streams)
        assert 200_000 < sent < 201_000
        await fetch_tree(connection, tree.digest, here, owner="job")
        assert sum(stream.written_bytes for stream in connection.server_streams) == sent


async def test_many_small_blobs_travel_on_one_stream(here: BlobStore, there: BlobStore) -> None:
    tree = tree_in(there, *range(1, 600))
    async with serving(there) as connection:
        await fetch_tree(connection, tree.digest, here, owner="job")
        assert len(connection.server_streams) == 1


async def test_large_transfers_use_several_streams(here: BlobStore, there: BlobStore) -> None:
    tree = tree_in(there, *[3 << 20] * 6)
    async with serving(there) as connection:
        await fetch_tree(connection, tree.digest, here, owner="job")
        assert len(connection.server_streams) == 3


async def test_a_broken_transfer_goes_on_where_it_was(here: BlobStore, there: BlobStore) -> None:
    tree = tree_in(there, *[300_000] * 6)
    async with serving(there) as connection:
        connection.breaks_after = 1_200_000
        with pytest.raises(PeerLost):
            await fetch_tree(connection, tree.digest, here, owner="job")
        missing = here.missing(tree)
        assert 0 < len(missing) < 6
        connection.breaks_after = None
        received: list[int] = []
        await fetch_tree(connection, tree.digest, here, owner="job", progress=received.append)
        assert sum(received) == 300_000 * len(missing)
    assert here.missing(tree) == []


async def test_a_stranger_learns_nothing(here: BlobStore, there: BlobStore) -> None:
    tree = tree_in(there, 10)
    refusals = []
    async with serving(there, may_read=lambda asked: False) as connection:
        with pytest.raises(FileUnknown) as refusal:
            await fetch_tree(connection, tree.digest, here, owner="job")
        refusals.append(refusal.value.message.replace(tree.digest[:10], ""))
    absent = BlobId("0" * 64)
    async with serving(there) as connection:
        with pytest.raises(FileUnknown) as refusal:
            await fetch_tree(connection, absent, here, owner="job")
        refusals.append(refusal.value.message.replace(absent[:10], ""))
    assert refusals[0] == refusals[1]


async def test_a_blob_of_another_tree_is_refused_though_it_is_there(there: BlobStore) -> None:
    allowed, secret = tree_in(there, 10), tree_in(there, 20)
    async with serving(there, may_read=lambda asked: asked == allowed.digest) as connection:
        stream = await connection.open_stream()
        await stream.write(frame(encode(FetchBlobs(allowed.digest, (secret.files[0].blob,)))))
        reply = await stream.read()
        assert b"file-unknown" in reply
        assert there.read(secret.files[0].blob) not in reply


async def test_a_peer_that_asks_nonsense_is_refused_or_cut_off(there: BlobStore) -> None:
    for nonsense in (frame(b"\xc1"), frame(encode(BlobHeader(BlobId("0" * 64), 1)))):
        async with serving(there) as connection:
            stream = await connection.open_stream()
            await stream.write(nonsense)
            assert b"wire-error" in await stream.read()
    async with serving(there) as connection:
        stream = await connection.open_stream()
        await stream.write(b"\xff\xff\xff\xff")
        with pytest.raises(PeerLost):
            assert await stream.read() == b""
            await stream.write(b"")


async def test_a_peer_that_never_reads_or_never_asks_is_let_go(there: BlobStore) -> None:
    tree = tree_in(there, 5 << 20)
    for request in (b"", b"\0\0", frame(encode(FetchBlobs(tree.digest, (tree.files[0].blob,))))):
        connection = PipeConnection(lambda stream: None)
        stream = await connection.open_stream()
        if request:
            await stream.write(request)
        with pytest.raises(PeerLost):
            await serve_bulk_stream(
                connection.server_streams[0],
                store=there,
                may_read=lambda asked: True,
                silence_s=0.1,
            )


async def test_silence_is_a_lost_peer(here: BlobStore) -> None:
    async with answering(ends=False) as connection:
        with pytest.raises(PeerLost, match="nothing for"):
            await fetch_tree(connection, BlobId("0" * 64), here, owner="job", limits=IMPATIENT)


async def test_a_peer_that_drips_is_lost_too(here: BlobStore) -> None:
    async def drip(stream: PipeStream) -> None:
        await stream.read()
        while True:
            await stream.write(b"\0")
            await asyncio.sleep(0.03)

    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[None]] = []
        connection = PipeConnection(lambda stream: tasks.append(group.create_task(drip(stream))))
        stream = await connection.open_stream()
        await stream.write(b"go")
        inflow = Inflow(stream, silence_s=0.1)
        with pytest.raises(PeerLost, match="too slowly"):
            async for _ in inflow.content(1 << 20):
                pass
        for task in tasks:
            task.cancel()


TREE = Tree(files=(FileEntry("f", BlobId("0" * 64), 5),))
MANIFEST = encode(TREE)


def escaping_tree() -> tuple[BlobId, bytes]:
    tree = Tree(files=(FileEntry("../../etc/passwd", BlobId("0" * 64), 5),))
    return tree.digest, blob_reply(encode(tree), name=tree.digest)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"", WireError),
        (b"\0\0", PeerLost),
        (b"\xff\xff\xff\xff", WireError),
        (frame(b"\x91" * 5000), WireError),
        (frame(b"garbage"), WireError),
        (frame(encode(FetchTree(TREE.digest))), WireError),
        (frame(encode(Refused("peer-busy", "later"))), PeerError),
        (frame(encode(Refused("made-up", "no"))), PeerError),
        (blob_reply(MANIFEST, name=BlobId("1" * 64)), WireError),
        (blob_reply(MANIFEST[:-1], name=TREE.digest), WireError),
        (blob_reply(MANIFEST[:-1], name=TREE.digest, size_bytes=len(MANIFEST)), PeerLost),
        (blob_reply(b"", name=TREE.digest, size_bytes=1 << 40), WireError),
    ],
)
async def test_a_peer_that_lies_about_a_tree_is_found_out(
    here: BlobStore, reply: bytes, error: type[P2prcError]
) -> None:
    async with answering(reply) as connection:
        with pytest.raises(error):
            await fetch_tree(connection, TREE.digest, here, owner="job", limits=IMPATIENT)
    assert not here.has(TREE.digest)
    assert here.used_bytes == 0


async def test_a_tree_that_leaves_its_folder_is_refused_and_forgotten(here: BlobStore) -> None:
    name, reply = escaping_tree()
    async with answering(reply) as connection:
        with pytest.raises(PathInvalid):
            await fetch_tree(connection, name, here, owner="job", limits=IMPATIENT)
    assert not here.has(name)


@pytest.mark.parametrize(
    "reply",
    [
        blob_reply(b"wrong", name=TREE.files[0].blob),
        blob_reply(b"wrong!", name=TREE.files[0].blob),
        blob_reply(b"wron", name=TREE.files[0].blob, size_bytes=5),
    ],
)
async def test_a_blob_that_is_not_what_its_tree_says_is_refused(
    here: BlobStore, reply: bytes
) -> None:
    async with answering(blob_reply(MANIFEST, name=TREE.digest), reply) as connection:
        with pytest.raises(PeerError):
            await fetch_tree(connection, TREE.digest, here, owner="job", limits=IMPATIENT)
    assert here.missing(TREE) == list(TREE.files)
    assert here.used_bytes == len(MANIFEST)


async def test_more_than_is_allowed_is_refused_before_it_is_sent(
    here: BlobStore, there: BlobStore
) -> None:
    tree = tree_in(there, 1000)
    async with serving(there) as connection:
        with pytest.raises(LimitExceeded):
            await fetch_tree(
                connection, tree.digest, here, owner="job", limits=TransferLimits(size_bytes=999)
            )
    assert here.missing(tree) == list(tree.files)


async def test_a_tree_larger_than_the_quota_is_refused_before_it_is_sent(
    tmp_path: Path, there: BlobStore
) -> None:
    tree = tree_in(there, 1000, 1000)
    small = BlobStore(tmp_path / "small", quota_bytes=1500)
    async with serving(there) as connection:
        with pytest.raises(DiskFull):
            await fetch_tree(connection, tree.digest, small, owner="job")
    assert len(small.missing(tree)) == 2


async def test_a_cancelled_fetch_leaves_no_half_a_blob(
    here: BlobStore, there: BlobStore, tmp_path: Path
) -> None:
    tree = tree_in(there, 20 << 20)
    begun = asyncio.Event()
    async with serving(there) as connection:
        fetching = asyncio.create_task(
            fetch_tree(connection, tree.digest, here, owner="job", progress=lambda _: begun.set())
        )
        await begun.wait()
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
    assert list((tmp_path / "here" / "incoming").iterdir()) == []
    assert here.missing(tree) == list(tree.files)


async def test_two_fetches_of_one_tree_both_end_with_all_of_it(
    here: BlobStore, there: BlobStore
) -> None:
    tree = tree_in(there, *[700_000] * 10)
    async with serving(there) as connection:
        await asyncio.gather(
            fetch_tree(connection, tree.digest, here, owner="one"),
            fetch_tree(connection, tree.digest, here, owner="two"),
        )
    assert here.missing(tree) == []
    assert here.used_bytes == tree.size_bytes + len(encode(tree))
