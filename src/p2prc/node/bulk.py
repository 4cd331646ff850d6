"""Bring trees here and serve ours: bulk runs on connections of its own."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from p2prc.errors import FileUnknown, PeerLost
from p2prc.files.manifest import load_tree
from p2prc.files.serve import serve_bulk_stream
from p2prc.files.transfer import TransferLimits, fetch_tree
from p2prc.model.identity import BlobId, NodeId
from p2prc.model.tree import Tree
from p2prc.node.grants import Grants
from p2prc.node.links import Links
from p2prc.storage.blobs import BlobStore
from p2prc.transport.port import Stream


class Bulk:
    """Trees in and out of this node."""

    def __init__(self, own: NodeId, links: Links, blobs: BlobStore, grants: Grants) -> None:
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
        limits = TransferLimits(size_bytes=self._blobs.quota_bytes // 2)
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
            connection = await self._links.bulk_connection(peer)
            try:
                return await fetch_tree(connection, name, self._blobs, owner=owner, limits=limits)
            except PeerLost as error:
                if not self._links.give_up_lanes(connection, error.message):
                    raise
            # What came stays: the rest comes the other way.
            connection = await self._links.bulk_connection(peer)
            return await fetch_tree(connection, name, self._blobs, owner=owner, limits=limits)

    async def _complete(self, name: BlobId, owner: str) -> Tree | None:
        if not self._blobs.has(name):
            return None
        tree = await load_tree(self._blobs, name)
        # Pinned before it is looked at, so that nothing is evicted in between.
        self._blobs.pin_tree(owner, tree)
        return None if self._blobs.missing(tree) else tree

    async def serve(self, peer: NodeId, stream: Stream) -> None:
        """Answer one request for bytes, if the peer was promised them."""
        await serve_bulk_stream(
            stream,
            store=self._blobs,
            may_read=lambda tree: self._grants.may_read(peer, tree),
        )
