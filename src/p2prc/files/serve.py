"""Answer a peer that fetches blobs: only of trees it may read, never faster than it reads.

A tree that does not exist and one that is not for this peer get the same refusal.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from p2prc.errors import FileUnknown, InvalidInput, P2prcError, PeerLost, PeerTooOld, WireError
from p2prc.files.filler import filler
from p2prc.files.inflow import Inflow
from p2prc.files.manifest import load_tree
from p2prc.files.pace import Pace
from p2prc.files.pieces import bits_of, plan_name
from p2prc.model.identity import BlobId
from p2prc.model.recipe import is_cut
from p2prc.model.tree import Tree
from p2prc.protocol.messages import (
    AskHave,
    AskSources,
    BlobHeader,
    CarryOn,
    FetchBlobs,
    FetchRecipe,
    FetchTree,
    Filler,
    Have,
    Refused,
    SendFiller,
    Sources,
    TakeFiller,
    bulk_codec,
)
from p2prc.storage.blobs import BlobStore
from p2prc.storage.recipes import Recipes
from p2prc.transport.port import READ_SIZE_BYTES, Stream
from p2prc.wire.codec import encode
from p2prc.wire.framing import frame

REQUEST_LIMIT_BYTES = 128 * 1024
CarryStream = Callable[[bytes, Stream, bytes], Awaitable[None]]
"""Take a stream for the conversation with this token, and the bytes of it that were read."""
_BLOCK_BYTES = 1 << 20


class SwarmDoor(Protocol):
    """What a peer may learn about other readers of a tree, and how it becomes one of ours."""

    def sources(self, tree: BlobId) -> Sources:
        """Return who else may have some of a tree of ours, with a pass for the peer."""

    def coming(self, tree: BlobId) -> Collection[BlobId]:
        """Return the pieces of a tree that this node is fetching now."""

    def let_in(self, tree: BlobId, reading_pass: bytes) -> None:
        """Let the peer read what it has a pass for. Raises RightMissing, WireError."""


async def serve_bulk_stream(
    stream: Stream,
    *,
    store: BlobStore,
    may_read: Callable[[BlobId], bool],
    recipes: Recipes | None = None,
    door: SwarmDoor | None = None,
    silence_s: float = 30.0,
    pace: Pace | None = None,
    carry_on: CarryStream | None = None,
    allow_filler: Callable[[int], None] | None = None,
) -> None:
    """Answer the requests of one stream, one after another, until the peer ends it.

    A stream that is for another conversation goes to `carry_on`, for good. `allow_filler` raises
    when the peer has measured the way too often; without it nothing is measured.

    Raises a `PeerError` when the peer is lost, misbehaves, or neither asks nor reads for
    `silence_s`; the stream is then aborted. Without `recipes` and `door` it takes part in no
    swarm.
    """
    server = _Server(
        stream,
        store,
        may_read,
        silence_s,
        recipes=recipes,
        door=door,
        pace=pace,
        carry_on=carry_on,
        allow_filler=allow_filler,
    )
    try:
        await server.run()
    except BaseException:
        await stream.abort()
        raise


class _Server:
    """One stream that a peer opened."""

    def __init__(
        self,
        stream: Stream,
        store: BlobStore,
        may_read: Callable[[BlobId], bool],
        silence_s: float,
        *,
        recipes: Recipes | None,
        door: SwarmDoor | None,
        pace: Pace | None,
        carry_on: CarryStream | None,
        allow_filler: Callable[[int], None] | None,
    ) -> None:
        self._allow_filler = allow_filler
        self._inflow = Inflow(stream, silence_s=silence_s)
        self._pace = pace or Pace()
        self._carry_on = carry_on
        self._recipes = recipes
        self._door = door
        self._stream = stream
        self._store = store
        self._may_read = may_read
        self._silence_s = silence_s
        self._waiting = bytearray()
        # Decoding a large manifest once is enough: a stream asks for one tree after another.
        self._tree: BlobId | None = None
        self._manifest = Tree()
        self._blobs: frozenset[BlobId] = frozenset()

    async def run(self) -> None:
        inflow = self._inflow
        while (request := await inflow.next_frame(limit_bytes=REQUEST_LIMIT_BYTES)) is not None:
            try:
                message = bulk_codec.decode(request)
                if isinstance(message, CarryOn) and self._carry_on is not None:
                    await self._carry_on(message.token, self._stream, inflow.take_rest())
                    return
                await self._answer(message)
            except PeerLost:
                raise
            except P2prcError as error:
                await self._refuse(error)
                break
            await self._flush()
        await self._stream.finish()

    async def _answer(self, request: object) -> None:
        match request:
            case FetchTree(tree=tree):
                self._see_allowed(tree)
                await self._send(tree)
            case FetchBlobs(tree=tree, blobs=blobs):
                self._see_allowed(tree)
                await self._load(tree)
                for blob in blobs:
                    if blob not in self._blobs:
                        raise _unknown(blob)
                    await self._send(blob)
            case FetchRecipe(tree=tree, blob=blob):
                self._see_allowed(tree)
                await self._send_recipe(tree, blob)
            case AskSources(tree=tree):
                self._see_allowed(tree)
                await self._put(frame(encode(self._the_door().sources(tree))))
            case AskHave(tree=tree, reading_pass=reading_pass):
                self._the_door().let_in(tree, reading_pass)
                await self._tell_have(tree)
            case SendFiller(size_bytes=size_bytes):
                self._see_measurable(size_bytes)
                await self._put(frame(encode(Filler(size_bytes))))
                await self._flush()
                for piece in filler(size_bytes):
                    await self._write(piece)
            case TakeFiller(size_bytes=size_bytes):
                self._see_measurable(size_bytes)
                async for _ in self._inflow.content(size_bytes):
                    pass
                await self._put(frame(encode(Filler(size_bytes))))
            case _:
                raise WireError("not a request")

    def _see_measurable(self, size_bytes: int) -> None:
        if self._allow_filler is None:
            raise PeerTooOld("nothing is measured here")
        self._allow_filler(size_bytes)

    def _the_door(self) -> SwarmDoor:
        if self._door is None:
            raise PeerTooOld("this node takes part in no swarm")
        return self._door

    async def _send_recipe(self, tree: BlobId, blob: BlobId) -> None:
        await self._load(tree)
        sizes = {entry.blob: entry.size_bytes for entry in self._manifest.files}
        if self._recipes is None or not is_cut(sizes.get(blob, 0)):
            raise _unknown(blob)
        recipe = await asyncio.to_thread(self._recipes.of, blob, sizes[blob])
        self._tree = None  # Its pieces may be asked for from now on.
        content = encode(recipe)
        await self._put(frame(encode(BlobHeader(recipe.digest, len(content)))))
        await self._put(content)

    async def _tell_have(self, tree: BlobId) -> None:
        self._tree = None
        await self._load(tree)
        plan = self._recipes.plan(self._manifest) if self._recipes is not None else None
        if plan is None or self._recipes is None:
            raise _unknown(tree)
        has, coming = self._recipes.has, self._the_door().coming(tree)
        answer = Have(
            plan_name(plan),
            bits_of(has(piece.blob) for piece in plan),
            bits_of(piece.blob in coming for piece in plan),
        )
        await self._put(frame(encode(answer)))

    def _see_allowed(self, tree: BlobId) -> None:
        if not self._may_read(tree):
            raise _unknown(tree)

    async def _load(self, tree: BlobId) -> None:
        if self._tree != tree:
            try:
                manifest = await load_tree(self._store, tree)
            except (FileUnknown, InvalidInput, WireError) as error:
                raise _unknown(tree) from error
            plan = self._recipes.plan(manifest) if self._recipes is not None else None
            pieces = (piece.blob for piece in plan or ())
            self._tree, self._manifest = tree, manifest
            self._blobs = frozenset((*(entry.blob for entry in manifest.files), *pieces))

    async def _send(self, blob: BlobId) -> None:
        if self._recipes is not None and not self._store.has(blob):
            await self._send_part(self._recipes, blob)
            return
        try:
            source = self._store.open(blob)
        except FileUnknown as error:
            raise _unknown(blob) from error
        with source:
            size_bytes = os.fstat(source.fileno()).st_size
            await self._put(frame(encode(BlobHeader(blob, size_bytes))))
            if size_bytes <= READ_SIZE_BYTES:
                await self._put(source.read())
                return
            await self._flush()
            while block := await asyncio.to_thread(source.read, _BLOCK_BYTES):
                for start in range(0, len(block), READ_SIZE_BYTES):
                    await self._write(memoryview(block)[start : start + READ_SIZE_BYTES])

    async def _send_part(self, recipes: Recipes, piece: BlobId) -> None:
        try:
            content = await asyncio.to_thread(recipes.read, piece)
        except FileUnknown as error:
            raise _unknown(piece) from error
        await self._put(frame(encode(BlobHeader(piece, len(content)))))
        await self._flush()
        for start in range(0, len(content), READ_SIZE_BYTES):
            await self._write(memoryview(content)[start : start + READ_SIZE_BYTES])

    async def _refuse(self, error: P2prcError) -> None:
        self._waiting += frame(encode(Refused(error.code, error.message[:2000], error.hint)))
        await self._flush()

    async def _put(self, content: bytes) -> None:
        """Gather small pieces: a write costs the same for one byte as for a quarter megabyte."""
        self._waiting += content
        if len(self._waiting) >= READ_SIZE_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        if self._waiting:
            content, self._waiting = self._waiting, bytearray()
            await self._write(content)

    async def _write(self, content: bytearray | memoryview) -> None:
        await self._pace.wait_for(len(content))
        try:
            async with asyncio.timeout(self._silence_s):
                await self._stream.write(content)
        except TimeoutError as error:
            raise PeerLost(f"the peer took nothing for {self._silence_s:g} s") from error


def _unknown(blob: BlobId) -> FileUnknown:
    return FileUnknown(f"no tree or blob {blob[:10]} here for you")
