"""Read a tree's manifest without holding up the event loop."""

from __future__ import annotations

import asyncio

from p2prc.model.identity import BlobId
from p2prc.model.tree import Tree
from p2prc.storage.blobs import BlobStore

_AT_ONCE_BYTES = 64 * 1024


async def load_tree(store: BlobStore, tree: BlobId) -> Tree:
    """Return a tree from the store; raise `FileUnknown`, `WireError` or `PathInvalid`."""
    # Most trees are a few files: a thread would cost more than reading them.
    if store.size(tree) <= _AT_ONCE_BYTES:
        return store.tree(tree)
    return await asyncio.to_thread(store.tree, tree)
