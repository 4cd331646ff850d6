"""Fetch a tree from everybody who has some of it: its origin sends little more than one copy.

Large blobs come in pieces, which are blobs of their own until their blob is whole; so what came
stays over an interruption, is served to others at once, and is not fetched at all where an older
version of the file holds it. What to ask of whom is decided in `protocol.piece_picker`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence

from p2prc.errors import (
    DiskFull,
    FileUnknown,
    P2prcError,
    PeerError,
    PeerLost,
    PeerMisbehaved,
    WireError,
)
from p2prc.files.asking import Asking, first_of
from p2prc.files.pace import Pace
from p2prc.files.pieces import pieces_of_bits, plan_name
from p2prc.model.identity import BlobId, NodeId
from p2prc.model.recipe import RECIPE_LIMIT_BYTES, Piece, Recipe, decode_recipe, is_cut
from p2prc.model.tree import FileEntry, Tree
from p2prc.protocol.messages import AskHave, AskSources, FetchBlobs, FetchRecipe, Have, Sources
from p2prc.protocol.piece_picker import PiecePicker
from p2prc.storage.blobs import BlobStore
from p2prc.storage.recipes import Recipes
from p2prc.transport.port import Connection

ORIGIN_STREAMS = 2
PEERS_AT_ONCE = 8
_LOOK_AGAIN_S = 0.3
_PEER_AGAIN_S = 1.0
_TRIES = 30

log = logging.getLogger(__name__)
Connect = Callable[[NodeId], Awaitable[Connection]]


class Swarm:
    """The missing blobs of one tree on their way here."""

    def __init__(
        self,
        origin: Connection,
        tree_id: BlobId,
        tree: Tree,
        *,
        store: BlobStore,
        recipes: Recipes,
        owner: str,
        connect: Connect,
        silence_s: float,
        pace: Pace | None,
        tell: Callable[[int], None],
    ) -> None:
        self._origin = origin
        self._tree_id = tree_id
        self._tree = tree
        self._store = store
        self._recipes = recipes
        self._owner = f"{owner} pieces {secrets.token_hex(4)}"
        self._connect = connect
        self._silence_s = silence_s
        self._pace = pace
        self._tell = tell
        self._has_begun = False
        self._plan: list[Piece] = []
        self._sizes: dict[BlobId, int] = {}
        self._plan_name = BlobId("")
        self._picker: PiecePicker[NodeId, BlobId] = PiecePicker({}, origin=origin.peer)

    @property
    def coming(self) -> Collection[BlobId]:
        """The pieces that are on their way here now."""
        return self._picker.under_way

    @property
    def has_begun(self) -> bool:
        """Whether it is known what there is to fetch, and from whom."""
        return self._has_begun

    async def fetch(self, missing: Sequence[FileEntry]) -> None:
        """Bring what is missing. Raises PeerError when the origin is lost, WireError, DiskFull.

        Pieces that came stay in the store.
        """
        try:
            await self._fetch(missing)
        except BaseException as error:
            if isinstance(first_of(error), DiskFull):
                self._discard_pieces()
            raise
        finally:
            self._store.unpin(self._owner)

    async def _fetch(self, missing: Sequence[FileEntry]) -> None:
        asking = await Asking.open(self._origin, silence_s=self._silence_s, pace=self._pace)
        try:
            await self._learn_recipes(asking, missing)
            sources = await self._ask_sources(asking)
            await self._make_plan(missing)
        except BaseException:
            await asking.abort()
            raise
        self._picker = self._picker_of(missing, sources)
        self._has_begun = True
        await self._fetch_pieces(asking, sources)
        await asyncio.to_thread(self._join_pieces, missing)

    # -- what there is to fetch

    async def _ask_sources(self, asking: Asking) -> Sources:
        await asking.ask(AskSources(self._tree_id))
        sources = await asking.reply()
        if not isinstance(sources, Sources):
            raise WireError("not the answer to what was asked")
        return sources

    async def _learn_recipes(self, asking: Asking, missing: Sequence[FileEntry]) -> None:
        for entry in missing:
            if not is_cut(entry.size_bytes):
                continue
            if self._recipes.known(entry.blob, entry.size_bytes) is not None:
                continue
            await asking.ask(FetchRecipe(self._tree_id, entry.blob))
            header = await asking.header()
            if header.size_bytes > RECIPE_LIMIT_BYTES:
                raise WireError("a recipe that is too large")
            content = await asking.content(header.size_bytes)
            recipe = decode_recipe(content, size_bytes=entry.size_bytes)
            await asyncio.to_thread(self._recipes.keep, entry.blob, recipe)

    async def _make_plan(self, missing: Sequence[FileEntry]) -> None:
        # An older version of a file may hold most of it, also one that came before a restart.
        await asyncio.to_thread(self._recipes.index_all)
        plan = self._recipes.plan(self._tree)
        if plan is None:
            # Files that are here already, and were not cut before.
            await asyncio.to_thread(self._cut_present)
            plan = self._recipes.plan(self._tree)
        if plan is None:
            raise FileUnknown("a blob of the tree went while it was fetched")
        self._plan, self._plan_name = plan, plan_name(plan)
        self._sizes = {piece.blob: piece.size_bytes for piece in plan}
        self._store.pin(self._owner, self._sizes)
        if any(entry.size_bytes == 0 for entry in missing):
            self._store.put_bytes(b"")

    def _picker_of(
        self, missing: Sequence[FileEntry], sources: Sources
    ) -> PiecePicker[NodeId, BlobId]:
        wanted = {
            piece.blob: piece.size_bytes
            for entry in missing
            for piece in self._pieces_of(entry)
            if not self._recipes.has(piece.blob)
        }
        begin = sources.place % sources.readers / sources.readers
        return PiecePicker(wanted, origin=self._origin.peer, begin=begin)

    def _cut_present(self) -> None:
        for entry in self._tree.files:
            if is_cut(entry.size_bytes) and self._store.has(entry.blob):
                self._recipes.of(entry.blob, entry.size_bytes)

    def _pieces_of(self, entry: FileEntry) -> Sequence[Piece]:
        recipe = self._recipe_of(entry)
        if recipe is not None:
            return recipe.pieces
        return [Piece(entry.blob, entry.size_bytes)] if entry.size_bytes else []

    def _recipe_of(self, entry: FileEntry) -> Recipe | None:
        if not is_cut(entry.size_bytes):
            return None
        return self._recipes.known(entry.blob, entry.size_bytes)

    # -- pieces

    async def _fetch_pieces(self, asking: Asking, sources: Sources) -> None:
        async with asyncio.TaskGroup() as group:
            peers = [
                group.create_task(self._take_from_peer(node, sources.reading_pass))
                for node in sources.nodes[:PEERS_AT_ONCE]
            ]
            try:
                async with asyncio.TaskGroup() as origin:
                    origin.create_task(self._take_from_origin(asking))
                    for _ in range(ORIGIN_STREAMS - 1):
                        origin.create_task(self._take_from_origin(None))
            except* PeerLost:
                await self._carry_on_without_origin(peers)
            for task in peers:
                task.cancel()

    async def _carry_on_without_origin(self, peers: Sequence[asyncio.Task[None]]) -> None:
        """Wait while the others still bring something. Raises PeerLost when they do not."""
        self._picker.gone(self._origin.peer)
        missing = len(self._picker.missing)
        while not self._picker.is_done:
            if peers:
                await asyncio.wait(peers, timeout=self._silence_s)
            if self._picker.is_done:
                return
            if all(peer.done() for peer in peers) or len(self._picker.missing) == missing:
                raise PeerLost("where the files are from is gone, and no other has the rest")
            missing = len(self._picker.missing)

    async def _take_from_origin(self, asking: Asking | None) -> None:
        """Ask for what nobody else has, until all is here from wherever."""
        asking = asking or await Asking.open(
            self._origin, silence_s=self._silence_s, pace=self._pace
        )
        try:
            while not self._picker.is_done:
                if not await self._take_batch(asking, self._origin.peer):
                    await asyncio.sleep(_LOOK_AGAIN_S)
        except BaseException:
            await asking.abort()
            raise
        await asking.end()

    async def _take_from_peer(self, node: NodeId, reading_pass: bytes) -> None:
        """Fetch from another reader what it has; its failures are no failure of the fetch."""
        for _ in range(_TRIES):
            try:
                connection = await self._connect(node)
                asking = await Asking.open(connection, silence_s=self._silence_s, pace=self._pace)
            except PeerError as error:
                log.info("no other source", extra={"peer": node, "reason": error.message})
                return
            try:
                await self._converse(asking, node, reading_pass)
            except (PeerMisbehaved, WireError) as error:
                log.warning("a source misbehaved", extra={"peer": node, "reason": error.message})
                return
            except P2prcError:
                # It has not begun itself, or evicted what it had: perhaps later.
                pass
            finally:
                self._picker.gone(node)
                await asking.abort()
            if self._picker.is_done:
                return
            await asyncio.sleep(_PEER_AGAIN_S)

    async def _converse(self, asking: Asking, node: NodeId, reading_pass: bytes) -> None:
        while not self._picker.is_done:
            await asking.ask(AskHave(self._tree_id, reading_pass))
            match await asking.reply():
                case Have(plan=plan, bits=bits, coming=coming):
                    pass
                case _:
                    raise WireError("not the answer to what was asked")
            if plan != self._plan_name:
                raise WireError("another plan of the same tree")
            self._picker.told(
                node,
                pieces_of_bits(self._plan, bits),
                pieces_of_bits(self._plan, coming),
                now=asyncio.get_running_loop().time(),
            )
            took_any = False
            while await self._take_batch(asking, node):
                took_any = True
            if not took_any:
                await asyncio.sleep(_LOOK_AGAIN_S)

    async def _take_batch(self, asking: Asking, node: NodeId) -> bool:
        """Fetch some pieces; say whether there was anything to ask for."""
        batch = self._picker.next_for(node, asyncio.get_running_loop().time())
        if not batch:
            return False
        try:
            await asking.ask(FetchBlobs(self._tree_id, tuple(batch)))
            for piece in batch:
                if (await asking.header(piece)).size_bytes != self._sizes[piece]:
                    raise WireError("a piece of another size than its recipe says")
                await asking.receive(self._store, piece, self._sizes[piece], self._tell)
                self._picker.arrived(piece)
        finally:
            self._picker.failed(batch)
        return True

    def _discard_pieces(self) -> None:
        whole = {entry.blob for entry in self._tree.files}
        for piece in self._plan:
            if piece.blob not in whole:
                self._store.discard(piece.blob)

    # -- whole again

    def _join_pieces(self, missing: Sequence[FileEntry]) -> None:
        """Write each large blob from its pieces; they then are parts of it and go by themselves."""
        for entry in missing:
            recipe = self._recipe_of(entry)
            if recipe is None or self._store.has(entry.blob):
                continue
            with self._store.incoming(entry.blob, entry.size_bytes) as incoming:
                for piece in recipe.pieces:
                    incoming.write(self._recipes.read(piece.blob))
            self._recipes.keep(entry.blob, recipe)
            for piece in recipe.pieces:
                self._store.discard(piece.blob)
