"""Messages on a stream: what follows a conversation belongs to the next one, whatever its size."""

from __future__ import annotations

import pytest

from p2prc.errors import WireError
from p2prc.node.framed import FramedStream
from p2prc.protocol.messages import HELLO_FRAME_LIMIT_BYTES, AskWaits, opening_codec
from p2prc.transport.port import Stream
from p2prc.wire.codec import encode
from p2prc.wire.framing import frame


class _Heard(Stream):
    """A stream of which everything has come at once, and on which nothing is said."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def read(self, limit_bytes: int = 0) -> bytes:
        content, self._content = self._content, b""
        return content

    async def write(self, payload: bytes | bytearray | memoryview) -> None:
        raise NotImplementedError

    async def finish(self) -> None:
        raise NotImplementedError

    async def abort(self) -> None:
        raise NotImplementedError


async def test_a_large_letter_right_behind_the_opening_is_for_the_next_reader() -> None:
    letter = bytes(HELLO_FRAME_LIMIT_BYTES + 1)
    framed = FramedStream(
        _Heard(frame(encode(AskWaits())) + frame(letter)),
        opening_codec,
        limit_bytes=HELLO_FRAME_LIMIT_BYTES,
    )
    assert await framed.receive() == AskWaits()
    assert framed.take_reader().next_frame() == letter


async def test_a_large_opening_is_refused() -> None:
    framed = FramedStream(
        _Heard(frame(bytes(HELLO_FRAME_LIMIT_BYTES + 1))),
        opening_codec,
        limit_bytes=HELLO_FRAME_LIMIT_BYTES,
    )
    with pytest.raises(WireError, match="a frame of"):
        await framed.receive()
