"""Swarms: several readers of one tree serve each other, and trust nobody's bytes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from p2prc.errors import PeerError, PeerLost, PeerUnreachable, RightMissing, WireError
from p2prc.files.pace import Pace
from p2prc.files.pieces import bits_of, pieces_of_bits
from p2prc.files.serve import serve_bulk_stream
from p2prc.files.swarm import Swarm
from p2prc.files.transfer import Swarming, TransferLimits, fetch_tree
from p2prc.model.identity import BlobId, NodeId
from p2prc.model.reading_pass import PASS_LIFETIME_S, author_of_pass, write_pass
from p2prc.model.recipe import CUT_FROM_BYTES, PIECE_MEAN_BYTES, Piece, Recipe, decode_recipe
from p2prc.model.tree import FileEntry, Tree
from p2prc.protocol.messages import Sources
from p2prc.storage.blobs import BlobStore
from p2prc.storage.recipes import Recipes
from p2prc.transport.port import Connection
from p2prc.wire.codec import encode
from p2prc.wire.signed import public_key_of
from tests.unit.test_files_transfer import PipeConnection, PipeStream

MEBIBYTE = 1 << 20
Write = Callable[[bytes | bytearray | memoryview], Coroutine[Any, Any, None]]
IMPATIENT = TransferLimits(silence_s=2)


class Peer:
    """A node of a small network in one process: its store, and whom it lets in."""

    def __init__(self, network: Swarmed, folder: Path, number: int) -> None:
        self.secret = bytes([number + 1]) * 32
        self.id = NodeId(public_key_of(self.secret).hex())
        self.store = BlobStore(folder / f"peer{number}", quota_bytes=1 << 30)
        self.recipes = Recipes(self.store.folder / "recipes", self.store)
        self.sent_bytes = 0
        self.is_gone = False
        self.line: Line | None = None
        self.up: Pace | None = None
        self.running: dict[BlobId, Swarm] = {}
        self.streams: list[PipeStream] = []
        self.origin: NodeId | None = None
        self.readers: set[NodeId] = set()
        self._network = network

    async def fetch(self, origin: Peer, tree: BlobId) -> Tree:
        self.origin = origin.id
        return await fetch_tree(
            await self._connect(origin.id),
            tree,
            self.store,
            owner="test",
            limits=IMPATIENT,
            swarming=Swarming(self.recipes, self._connect, self.running),
        )

    async def serve(self, reader: NodeId, stream: PipeStream) -> None:
        self.streams.append(stream)
        door = Door(self, reader, self._network)
        if self.line is not None:
            stream.write = self.line.slowed(stream.write)  # type: ignore[assignment, method-assign]
        try:
            await serve_bulk_stream(
                stream,
                store=self.store,
                may_read=lambda _: reader in self.readers,
                recipes=self.recipes,
                door=door,
                pace=self.up,
                silence_s=5,
            )
        except PeerError:
            pass
        finally:
            self.sent_bytes += stream.written_bytes

    async def vanish(self) -> None:
        """Be gone, with everything that is under way."""
        self.is_gone = True
        for stream in self.streams:
            await stream.abort()

    async def _connect(self, node: NodeId) -> Connection:
        return self._network.connection(self.id, node)


class Line:
    """A home's way up: so many bytes a second for all readers together."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._is_free = asyncio.Lock()

    def slowed(self, write: Write) -> Write:
        async def slow(payload: bytes | bytearray | memoryview) -> None:
            async with self._is_free:
                await asyncio.sleep(len(payload) / self._bytes_per_s)
            await write(payload)

        return slow


class Door:
    """What `node.bulk` does, in small."""

    def __init__(self, peer: Peer, reader: NodeId, network: Swarmed) -> None:
        self._peer, self._reader, self._network = peer, reader, network

    def sources(self, tree: BlobId) -> Sources:
        given = write_pass(tree, self._reader, now=time.time(), secret=self._peer.secret)
        readers = sorted(self._peer.readers)
        others = [node for node in readers if node != self._reader]
        return Sources(given, tuple(others), readers.index(self._reader), len(readers))

    def coming(self, tree: BlobId) -> Collection[BlobId]:
        swarm = self._peer.running.get(tree)
        return () if swarm is None else swarm.coming

    def let_in(self, tree: BlobId, reading_pass: bytes) -> None:
        author = author_of_pass(reading_pass, tree=tree, reader=self._reader, now=time.time())
        if author != self._peer.origin:
            raise RightMissing("not from there")
        self._peer.readers.add(self._reader)


class Swarmed:
    """Peers and the pipes between them."""

    def __init__(self, group: asyncio.TaskGroup, folder: Path, count: int) -> None:
        self._group = group
        self.peers = [Peer(self, folder, number) for number in range(count)]
        self._by_id = {peer.id: peer for peer in self.peers}

    def connection(self, reader: NodeId, node: NodeId) -> Connection:
        served = self._by_id[node]
        if served.is_gone:
            raise PeerUnreachable

        def serve(stream: PipeStream) -> None:
            self._group.create_task(served.serve(reader, stream))

        pipe = PipeConnection(serve)
        pipe.__class__ = type("Named", (PipeConnection,), {"peer": node})
        return pipe


@asynccontextmanager
async def swarmed(folder: Path, count: int) -> AsyncIterator[Swarmed]:
    async with asyncio.TaskGroup() as group:
        yield Swarmed(group, folder, count)


def _tree_of(store: BlobStore, **contents: bytes) -> Tree:
    files = tuple(
        FileEntry(name, store.put_bytes(content), len(content))
        for name, content in sorted(contents.items())
    )
    tree = Tree(files=files)
    store.put_tree(tree)
    return tree


async def test_readers_serve_each_other(tmp_path: Path) -> None:
    async with swarmed(tmp_path, 5) as network:
        origin, *readers = network.peers
        big, small = os.urandom(24 * MEBIBYTE), os.urandom(3 * MEBIBYTE)
        tree = _tree_of(origin.store, big=big, small=small, tiny=b"x", empty=b"")
        origin.readers = {reader.id for reader in readers}
        origin.line = Line(12 * MEBIBYTE)
        await asyncio.gather(*(reader.fetch(origin, tree.digest) for reader in readers))
        for reader in readers:
            assert not reader.store.missing(tree)
            assert reader.store.read(tree.files[0].blob) == big
            # Pieces are parts of their blob now, and take no place of their own.
            assert reader.store.used_bytes < tree.size_bytes + MEBIBYTE
        assert origin.sent_bytes < 1.3 * tree.size_bytes
        assert sum(reader.sent_bytes for reader in readers) > 2 * tree.size_bytes


async def test_files_move_no_faster_than_their_owner_lets_them(tmp_path: Path) -> None:
    async with swarmed(tmp_path, 2) as network:
        origin, reader = network.peers
        origin.readers = {reader.id}
        tree = _tree_of(origin.store, big=os.urandom(2 * MEBIBYTE))
        origin.up = Pace(4 * MEBIBYTE)
        began = time.monotonic()
        await reader.fetch(origin, tree.digest)
        # Half a second at that pace, less what may go at once.
        assert time.monotonic() - began > 0.2


async def test_a_changed_file_sends_what_changed(tmp_path: Path) -> None:
    async with swarmed(tmp_path, 2) as network:
        origin, reader = network.peers
        origin.readers = {reader.id}
        before = os.urandom(32 * MEBIBYTE)
        await reader.fetch(origin, _tree_of(origin.store, scene=before).digest)
        sent_bytes = origin.sent_bytes
        assert sent_bytes >= len(before)
        # In the middle, and not as long: nothing behind it is where it was.
        after = before[: 16 * MEBIBYTE] + b"changed" + before[16 * MEBIBYTE :]
        tree = _tree_of(origin.store, scene=after)
        await reader.fetch(origin, tree.digest)
        assert reader.store.read(tree.files[0].blob) == after
        assert origin.sent_bytes - sent_bytes < 8 * PIECE_MEAN_BYTES
        # The same after a restart: what is here is known from the disk.
        reader.recipes = Recipes(reader.store.folder / "recipes", reader.store)
        sent_bytes = origin.sent_bytes
        again = after + b"and more"
        await reader.fetch(origin, _tree_of(origin.store, scene=again).digest)
        assert origin.sent_bytes - sent_bytes < 8 * PIECE_MEAN_BYTES


async def test_readers_finish_when_the_origin_is_gone(tmp_path: Path) -> None:
    async with swarmed(tmp_path, 3) as network:
        origin, first, second = network.peers
        origin.readers = {first.id, second.id}
        tree = _tree_of(origin.store, big=os.urandom(20 * MEBIBYTE))
        await first.fetch(origin, tree.digest)
        sent_before = origin.sent_bytes
        fetching = asyncio.create_task(second.fetch(origin, tree.digest))
        # It knows what there is and from whom, and has not begun to fetch.
        while tree.digest not in second.running or not second.running[tree.digest].has_begun:
            await asyncio.sleep(0)
        await origin.vanish()
        await fetching
        assert not second.store.missing(tree)
        assert origin.sent_bytes - sent_before < MEBIBYTE


async def test_a_fetch_fails_when_the_origin_is_gone_and_nobody_has_the_rest(
    tmp_path: Path,
) -> None:
    async with swarmed(tmp_path, 3) as network:
        origin, first, second = network.peers
        origin.readers = {first.id, second.id}
        origin.line = Line(4 * MEBIBYTE)
        tree = _tree_of(origin.store, big=os.urandom(20 * MEBIBYTE))
        fetching = asyncio.create_task(second.fetch(origin, tree.digest))
        while tree.digest not in second.running or not second.running[tree.digest].has_begun:
            await asyncio.sleep(0)
        await origin.vanish()
        with pytest.raises(PeerLost):
            await fetching
        assert second.store.missing(tree)


async def test_strangers_and_old_passes_get_nothing(tmp_path: Path) -> None:
    secret, reader = b"\1" * 32, NodeId("ab" * 32)
    author = NodeId(public_key_of(secret).hex())
    tree, other = BlobId("cd" * 32), BlobId("ef" * 32)
    given = write_pass(tree, reader, now=1000, secret=secret)
    assert author_of_pass(given, tree=tree, reader=reader, now=1000) == author
    with pytest.raises(RightMissing):
        author_of_pass(given, tree=tree, reader=author, now=1000)
    with pytest.raises(RightMissing):
        author_of_pass(given, tree=other, reader=reader, now=1000)
    with pytest.raises(RightMissing):
        author_of_pass(given, tree=tree, reader=reader, now=1001 + PASS_LIFETIME_S)
    with pytest.raises(RightMissing):
        # It would be good for longer than any pass is given.
        author_of_pass(given, tree=tree, reader=reader, now=999 - PASS_LIFETIME_S)
    with pytest.raises(WireError):
        author_of_pass(given[:-1] + b"\0", tree=tree, reader=reader, now=1000)
    async with swarmed(tmp_path, 3) as network:
        origin, reader_peer, stranger = network.peers
        origin.readers = {reader_peer.id}
        held = _tree_of(origin.store, big=os.urandom(20 * MEBIBYTE))
        await reader_peer.fetch(origin, held.digest)
        stranger_pass = write_pass(
            held.digest, stranger.id, now=time.time(), secret=stranger.secret
        )
        with pytest.raises(RightMissing):
            Door(reader_peer, stranger.id, network).let_in(held.digest, stranger_pass)
        assert reader_peer.readers == set()


def test_a_recipe_must_fit_its_blob() -> None:
    recipe = Recipe((Piece(BlobId("ab" * 32), 3),))
    assert decode_recipe(encode(recipe), size_bytes=3) == recipe
    with pytest.raises(WireError):
        decode_recipe(encode(recipe), size_bytes=4)


async def test_a_lying_recipe_costs_the_liar_and_nothing_else(tmp_path: Path) -> None:
    async with swarmed(tmp_path, 2) as network:
        origin, reader = network.peers
        origin.readers = {reader.id}
        tree = _tree_of(origin.store, big=os.urandom(20 * MEBIBYTE))
        entry = tree.files[0]
        true = origin.recipes.of(entry.blob, entry.size_bytes)
        origin.recipes.keep(entry.blob, Recipe(tuple(reversed(true.pieces))))
        # The pieces do not make the blob: it then comes whole.
        await reader.fetch(origin, tree.digest)
        assert not reader.store.missing(tree)


def test_recipes_are_the_same_everywhere_and_survive(tmp_path: Path) -> None:
    content = os.urandom(CUT_FROM_BYTES + 1)
    found = []
    for number in range(2):
        store = BlobStore(tmp_path / str(number), quota_bytes=1 << 30)
        recipes = Recipes(store.folder / "recipes", store)
        blob = store.put_bytes(content)
        found.append(recipes.of(blob, len(content)))
        again = Recipes(store.folder / "recipes", store)
        assert again.known(blob, len(content)) == found[-1]
        assert again.read(found[-1].pieces[-1].blob) == content[-found[-1].pieces[-1].size_bytes :]
        store.discard(blob)
        assert not again.has(found[-1].pieces[0].blob)
        assert Recipes(store.folder / "recipes", store).known(blob, len(content)) is None
    assert found[0] == found[1]
    assert found[0].size_bytes == len(content)


def test_a_recipe_may_be_asked_for_by_several_at_once(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, quota_bytes=1 << 30)
    recipes = Recipes(store.folder / "recipes", store)
    content = os.urandom(CUT_FROM_BYTES + 1)
    blob = store.put_bytes(content)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: recipes.of(blob, len(content)), range(32)))
    assert set(found) == {recipes.known(blob, len(content))}
    assert [file.name for file in (store.folder / "recipes").iterdir()] == [blob]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 40])
def test_bits_name_pieces(count: int) -> None:
    pieces = [Piece(BlobId(f"{number:064x}"), 1) for number in range(count)]
    has = [number % 3 == 0 for number in range(count)]
    bits = bits_of(has)
    assert pieces_of_bits(pieces, bits) == {
        piece.blob for piece, is_here in zip(pieces, has, strict=True) if is_here
    }
    with pytest.raises(WireError):
        pieces_of_bits(pieces, bits + b"\0")
