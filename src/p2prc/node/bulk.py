"""Bring trees here and serve ours: bulk runs on connections of its own.

Large trees come from everybody who has some of them: their origin names the other readers and gives
a pass for them, and each reader lets in who has a pass of the node that it has the tree from.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Collection
from weakref import WeakValueDictionary

from p2prc.errors import FileUnknown, PeerLost, RightMissing
from p2prc.files.filler import (
    RELAYED_LIMIT_BYTES,
    Bandwidth,
    bring_filler,
    measured,
    send_filler,
)
from p2prc.files.manifest import load_tree
from p2prc.files.pace import Pace
from p2prc.files.serve import CarryStream, serve_bulk_stream
from p2prc.files.swarm import Swarm
from p2prc.files.transfer import Swarming, TransferLimits, fetch_tree
from p2prc.model.identity import BlobId, NodeId
from p2prc.model.reading_pass import PASS_LIFETIME_S, author_of_pass, write_pass
from p2prc.model.tree import Tree
from p2prc.node.grants import Grants
from p2prc.node.links import Links
from p2prc.protocol.filler_budget import FillerBudget
from p2prc.protocol.messages import FILLER_LIMIT_BYTES, Sources
from p2prc.protocol.path_speeds import PEERS_LIMIT, PathSpeeds
from p2prc.storage.blobs import BlobStore
from p2prc.storage.recipes import Recipes
from p2prc.transport.port import Connection, Stream

MEASURE_LIMIT_S = 100.0
_SOURCES_LIMIT = 16
_ORIGINS_LIMIT = 1000


class Bulk:
    """Trees in and out of this node."""

    def __init__(
        self, secret: bytes, own: NodeId, links: Links, blobs: BlobStore, grants: Grants
    ) -> None:
        self._secret = secret
        self.up, self.down = Pace(), Pace()
        self.speeds = PathSpeeds()
        self.bandwidths: OrderedDict[NodeId, Bandwidth] = OrderedDict()
        """What was measured when somebody asked; of very many peers the last ones."""
        self._measuring = asyncio.Lock()
        self._budget = FillerBudget()
        self._recipes = Recipes(blobs.folder / "recipes", blobs)
        self._running: dict[BlobId, Swarm] = {}
        self._passes: dict[str, asyncio.TimerHandle] = {}
        # From whom which tree came: their word counts for who else may have it.
        self._origins: OrderedDict[tuple[BlobId, NodeId], None] = OrderedDict()
        self._own = own
        self._links = links
        self._blobs = blobs
        self._grants = grants
        # A lock lives as long as somebody fetches or waits.
        self._fetching: WeakValueDictionary[tuple[NodeId, BlobId], asyncio.Lock] = (
            WeakValueDictionary()
        )

    async def obtain_inputs(self, peer: NodeId, name: BlobId, owner: str) -> Tree:
        """Do as `obtain`, for a peer's work: one peer may not fill the store alone."""
        limits = TransferLimits(size_bytes=self._blobs.quota_bytes // 2, pace=self.down)
        return await self.obtain(peer, name, owner, limits)

    async def obtain(
        self, peer: NodeId, name: BlobId, owner: str, limits: TransferLimits | None = None
    ) -> Tree:
        """Return a peer's tree with all its blobs in our store, pinned for the owner.

        Two that want one tree of one peer fetch it once. Raises PeerError, DiskFull, WireError,
        LimitExceeded.
        """
        if (tree := await self._complete(name, owner)) is not None:
            return tree
        # Not one lock for a tree of several peers: a slow one would hold up the others' work.
        lock = self._fetching.setdefault((peer, name), asyncio.Lock())
        async with lock:
            if (tree := await self._complete(name, owner)) is not None:
                return tree
            if peer == self._own:
                raise FileUnknown("inputs of this node's own work are gone from its store")
            self._note_origin(name, peer)
            connection = await self._links.bulk_connection(peer)
            try:
                return await self._fetch(peer, connection, name, owner, limits)
            except PeerLost as error:
                if not self._links.give_up_lanes(connection, error.message):
                    raise
            # What came stays: the rest comes the other way.
            connection = await self._links.bulk_connection(peer)
            return await self._fetch(peer, connection, name, owner, limits)

    async def _fetch(
        self,
        peer: NodeId,
        connection: Connection,
        name: BlobId,
        owner: str,
        limits: TransferLimits | None,
    ) -> Tree:
        swarming = Swarming(self._recipes, self._links.bulk_connection, self._running)
        came: list[int] = []
        began_at = time.monotonic()
        tree = await fetch_tree(
            connection,
            name,
            self._blobs,
            owner=owner,
            limits=limits or TransferLimits(pace=self.down),
            progress=came.append,
            swarming=swarming,
        )
        self.speeds.took(peer, sum(came), time.monotonic() - began_at)
        return tree

    async def _complete(self, name: BlobId, owner: str) -> Tree | None:
        if not self._blobs.has(name):
            return None
        tree = await load_tree(self._blobs, name)
        # Pinned before it is looked at, so that nothing is evicted in between.
        self._blobs.pin_tree(owner, tree)
        return None if self._blobs.missing(tree) else tree

    async def serve(
        self, peer: NodeId, stream: Stream, *, carry_on: CarryStream | None = None
    ) -> None:
        """Answer one request for bytes, if the peer was promised them."""
        await serve_bulk_stream(
            stream,
            store=self._blobs,
            may_read=lambda tree: self._grants.may_read(peer, tree),
            recipes=self._recipes,
            door=_Door(self, peer),
            pace=self.up,
            carry_on=carry_on,
            allow_filler=lambda size_bytes: self._budget.take(peer, size_bytes, time.monotonic()),
        )

    async def measure(self, peer: NodeId) -> Bandwidth:
        """Measure how fast bytes go to the peer and come from it. Raises PeerError.

        One at a time: two would measure each other. Over a relay little is moved: it is lent.
        """
        try:
            async with asyncio.timeout(MEASURE_LIMIT_S), self._measuring:
                found = await self._measure(peer)
        except TimeoutError as error:
            raise PeerLost(f"not measured within {MEASURE_LIMIT_S:g} s") from error
        self.bandwidths.pop(peer, None)
        self.bandwidths[peer] = found
        if len(self.bandwidths) > PEERS_LIMIT:
            self.bandwidths.popitem(last=False)
        self.speeds.took(peer, int(found.down_bytes_s), 1.0)
        return found

    async def _measure(self, peer: NodeId) -> Bandwidth:
        connection = await self._links.bulk_connection(peer)
        path = await connection.path()
        limit = RELAYED_LIMIT_BYTES if path.kind == "relayed" else FILLER_LIMIT_BYTES
        down = await measured(
            lambda size: bring_filler(connection, size, self.down), limit_bytes=limit
        )
        up = await measured(lambda size: send_filler(connection, size, self.up), limit_bytes=limit)
        return Bandwidth(down, up, time.time())

    def sources(self, tree: BlobId, reader: NodeId) -> Sources:
        """Return some of the others that may read a tree of ours, and a pass for the reader."""
        # Whom a rule lets read is in no list: it is one of the readers all the same.
        readers = sorted({*self._grants.readers(tree), reader})
        others = [node for node in readers if node not in (reader, self._own)]
        some = random.sample(others, min(len(others), _SOURCES_LIMIT))
        given = write_pass(tree, reader, now=time.time(), secret=self._secret)
        return Sources(given, tuple(some), readers.index(reader), len(readers))

    def coming(self, tree: BlobId) -> Collection[BlobId]:
        """Return the pieces of a tree that are on their way here."""
        swarm = self._running.get(tree)
        return () if swarm is None else swarm.coming

    def let_in(self, tree: BlobId, reader: NodeId, reading_pass: bytes) -> None:
        """Let a reader have what it has a pass for. Raises RightMissing, WireError."""
        author = author_of_pass(reading_pass, tree=tree, reader=reader, now=time.time())
        if (tree, author) not in self._origins:
            raise RightMissing("the pass is of a node that this tree is not from")
        reason = f"a pass of {author} for {tree} to {reader}"
        self._grants.allow(reader, tree, reason=reason)
        # No longer than any pass lasts; who goes on fetching has shown it again.
        if (ending := self._passes.pop(reason, None)) is not None:
            ending.cancel()
        loop = asyncio.get_running_loop()
        self._passes[reason] = loop.call_later(PASS_LIFETIME_S, self._end_pass, reason)

    def _end_pass(self, reason: str) -> None:
        self._grants.revoke(reason)
        self._passes.pop(reason, None)

    def _note_origin(self, tree: BlobId, origin: NodeId) -> None:
        self._origins[tree, origin] = None
        self._origins.move_to_end((tree, origin))
        while len(self._origins) > _ORIGINS_LIMIT:
            self._origins.popitem(last=False)


class _Door:
    """The swarm as one peer meets it."""

    def __init__(self, bulk: Bulk, peer: NodeId) -> None:
        self._bulk = bulk
        self._peer = peer

    def sources(self, tree: BlobId) -> Sources:
        return self._bulk.sources(tree, self._peer)

    def coming(self, tree: BlobId) -> Collection[BlobId]:
        return self._bulk.coming(tree)

    def let_in(self, tree: BlobId, reading_pass: bytes) -> None:
        self._bulk.let_in(tree, self._peer, reading_pass)
