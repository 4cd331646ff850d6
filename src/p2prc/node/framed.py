"""Messages on a stream: one codec, whole frames, and a bound on waiting for them."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from p2prc.errors import PeerLost, PeerMisbehaved
from p2prc.protocol.messages import CONTROL_FRAME_LIMIT_BYTES
from p2prc.transport.port import Stream
from p2prc.wire.codec import Codec, encode
from p2prc.wire.framing import FrameReader, frame

Message = TypeVar("Message")


class FramedStream(Generic[Message]):
    """A stream that carries the messages of one conversation."""

    def __init__(self, stream: Stream, codec: Codec[Message], *, limit_bytes: int) -> None:
        self.stream = stream
        self._codec = codec
        self._reader = FrameReader(limit_bytes=limit_bytes)

    async def send(self, message: Message) -> None:
        """Write one message. Raises PeerLost."""
        await self.stream.write(frame(encode(message)))

    async def receive(self, *, timeout_s: float | None = None) -> Message | None:
        """Return the next message, None at a clean end.

        Raises PeerLost (also when the time is over), WireError for garbage, PeerMisbehaved for
        a message that stops in its middle.
        """
        try:
            async with asyncio.timeout(timeout_s):
                payload = await self._next_payload()
        except TimeoutError as error:
            raise PeerLost("the peer fell silent in the middle of a conversation") from error
        return None if payload is None else self._codec.decode(payload)

    async def _next_payload(self) -> bytes | None:
        # One at a time: what follows may belong to the next conversation, whose limit is another.
        while (payload := self._reader.next_frame()) is None:
            received = await self.stream.read()
            if not received:
                if self._reader.pending_bytes:
                    raise PeerMisbehaved("a message stopped in its middle")
                return None
            self._reader.feed(received)
        return payload

    def take_reader(self) -> FrameReader:
        """Hand the unread bytes on: the stream goes on in another conversation."""
        handed = FrameReader(limit_bytes=CONTROL_FRAME_LIMIT_BYTES)
        handed.feed(self.take_raw())
        return handed

    def take_raw(self) -> bytes:
        """Return the bytes that were read already: the stream goes on without frames."""
        return self._reader.take_rest()
