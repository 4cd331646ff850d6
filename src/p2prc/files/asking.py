"""One stream on which blobs are asked for and come, each checked by its hash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from p2prc.errors import P2prcError, PeerError, PeerLost, PeerRefused, WireError, from_fields
from p2prc.files.inflow import Inflow
from p2prc.files.pace import Pace
from p2prc.model.identity import BlobId
from p2prc.protocol.messages import BlobHeader, Bulk, Refused, bulk_codec
from p2prc.storage.blobs import BlobStore
from p2prc.storage.incoming import Incoming
from p2prc.transport.port import Connection, Stream
from p2prc.wire.codec import encode
from p2prc.wire.framing import frame

REPLY_LIMIT_BYTES = 96 * 1024
_GOODBYE_S = 5.0
_BLOCK_BYTES = 2 << 20
"""Larger blobs are hashed and written in a thread, this much at a time."""


class Asking:
    """A stream to a peer that serves blobs. Every wait ends after `silence_s` with PeerLost."""

    def __init__(self, stream: Stream, *, silence_s: float, pace: Pace | None = None) -> None:
        self._pace = pace or Pace()
        self._stream = stream
        self._silence_s = silence_s
        self._inflow = Inflow(stream, silence_s=silence_s)

    @classmethod
    async def open(
        cls, connection: Connection, *, silence_s: float, pace: Pace | None = None
    ) -> Asking:
        """Open a stream. Raises PeerError."""
        async with _patience(silence_s):
            stream = await connection.open_stream()
        return cls(stream, silence_s=silence_s, pace=pace)

    async def ask(self, request: Bulk) -> None:
        """Send a request."""
        async with _patience(self._silence_s):
            await self._stream.write(frame(encode(request)))

    async def reply(self) -> Bulk:
        """Return the next frame. Raises what the peer refuses with, WireError, PeerLost."""
        payload = await self._inflow.next_frame(limit_bytes=REPLY_LIMIT_BYTES)
        if payload is None:
            raise WireError("the peer ended the stream before its answer")
        match bulk_codec.decode(payload):
            case Refused(code=code, message=message, hint=hint):
                raise from_fields(code, message, hint=hint, otherwise=PeerRefused)
            case answer:
                return answer

    async def header(self, blob: BlobId | None = None) -> BlobHeader:
        """Return what comes now, which must be this blob where one is named."""
        match await self.reply():
            case BlobHeader() as header if blob in (None, header.blob):
                return header
            case _:
                raise WireError("not the answer to what was asked")

    async def receive(
        self, store: BlobStore, blob: BlobId, size_bytes: int, tell: Callable[[int], None]
    ) -> None:
        """Bring the content that comes now into the store, once it is known to be right."""
        with store.incoming(blob, size_bytes) as incoming:
            if size_bytes > _BLOCK_BYTES:
                await self._receive_large(incoming, tell)
                return
            async for piece in self._inflow.content(size_bytes):
                incoming.write(piece)
                tell(len(piece))
                await self._pace.wait_for(len(piece))

    async def content(self, size_bytes: int) -> bytes:
        """Return so many bytes that come now."""
        found = bytearray()
        async for piece in self._inflow.content(size_bytes):
            found += piece
        return bytes(found)

    async def end(self) -> None:
        """Say that nothing more is asked; the peer may be gone already, and all is here."""
        with suppress(PeerError):
            async with _patience(_GOODBYE_S):
                await self._stream.finish()

    async def abort(self) -> None:
        """Give the stream up."""
        await self._stream.abort()

    async def _receive_large(self, incoming: Incoming, tell: Callable[[int], None]) -> None:
        """Write one block in a thread while the next one comes from the network."""
        loop = asyncio.get_running_loop()
        writing: asyncio.Future[None] | None = None
        block = bytearray()
        async for piece in self._inflow.content(incoming.size_bytes):
            block += piece
            tell(len(piece))
            await self._pace.wait_for(len(piece))
            if len(block) >= _BLOCK_BYTES:
                if writing is not None:
                    await writing
                writing = loop.run_in_executor(None, incoming.write, block)
                writing.add_done_callback(_look_at)
                block = bytearray()
        if writing is not None:
            await writing
        incoming.write(block)


def _look_at(writing: asyncio.Future[None]) -> None:
    """See the error of a block that nobody waits for any more: the transfer failed before it."""
    if not writing.cancelled():
        writing.exception()


@asynccontextmanager
async def _patience(silence_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(silence_s):
            yield
    except TimeoutError as error:
        raise PeerLost(f"the peer took nothing for {silence_s:g} s") from error


def first_of(error: BaseException) -> BaseException:
    """Return our own error out of a group: the others failed because of it."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    ours, rest = error.split(P2prcError)
    found: BaseException = ours or rest or error
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
