"""Answer a peer that fetches blobs: only of trees it may read, never faster than it reads.

A tree that does not exist and one that is not for this peer get the same refusal.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from p2prc.errors import FileUnknown, InvalidInput, P2prcError, PeerLost, WireError
from p2prc.files.inflow import Inflow
from p2prc.files.manifest import load_tree
from p2prc.model.identity import BlobId
from p2prc.protocol.messages import BlobHeader, FetchBlobs, FetchTree, Refused, bulk_codec
from p2prc.storage.blobs import BlobStore
from p2prc.transport.port import READ_SIZE_BYTES, Stream
from p2prc.wire.codec import encode
from p2prc.wire.framing import frame

REQUEST_LIMIT_BYTES = 128 * 1024
_BLOCK_BYTES = 1 << 20


async def serve_bulk_stream(
    stream: Stream,
    *,
    store: BlobStore,
    may_read: Callable[[BlobId], bool],
    silence_s: float = 30.0,
) -> None:
    """Answer the requests of one stream, one after another, until the peer ends it.

    Raises a `PeerError` when the peer is lost, misbehaves, or neither asks nor reads for
    `silence_s`; the stream is then aborted.
    """
    server = _Server(stream, store, may_read, silence_s)
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
    ) -> None:
        self._stream = stream
        self._store = store
        self._may_read = may_read
        self._silence_s = silence_s
        self._waiting = bytearray()
        # Decoding a large manifest once is enough: a stream asks for one tree after another.
        self._tree: BlobId | None = None
        self._blobs: frozenset[BlobId] = frozenset()

    async def run(self) -> None:
        inflow = Inflow(self._stream, silence_s=self._silence_s)
        while (request := await inflow.next_frame(limit_bytes=REQUEST_LIMIT_BYTES)) is not None:
            try:
                await self._answer(bulk_codec.decode(request))
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
            case _:
                raise WireError("not a request")

    def _see_allowed(self, tree: BlobId) -> None:
        if not self._may_read(tree):
            raise _unknown(tree)

    async def _load(self, tree: BlobId) -> None:
        if self._tree != tree:
            try:
                manifest = await load_tree(self._store, tree)
            except (FileUnknown, InvalidInput, WireError) as error:
                raise _unknown(tree) from error
            self._tree, self._blobs = tree, frozenset(entry.blob for entry in manifest.files)

    async def _send(self, blob: BlobId) -> None:
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
        try:
            async with asyncio.timeout(self._silence_s):
                await self._stream.write(content)
        except TimeoutError as error:
            raise PeerLost(f"the peer took nothing for {self._silence_s:g} s") from error


def _unknown(blob: BlobId) -> FileUnknown:
    return FileUnknown(f"no tree or blob {blob[:10]} here for you")
