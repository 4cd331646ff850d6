"""Frames on a stream: four bytes of length, big-endian, then that many bytes.

`FrameReader` keeps its own buffer, so that it may be fed any slices and cancelled at any moment.
"""

from __future__ import annotations

from collections.abc import Iterable

from p2prc.errors import WireError

HEADER_BYTES = 4


def frame(payload: bytes) -> bytes:
    """Return the payload with its length before it."""
    return len(payload).to_bytes(HEADER_BYTES, "big") + payload


def frames(payloads: Iterable[bytes]) -> bytes:
    """Return many frames as one piece, to be written at once."""
    return b"".join(map(frame, payloads))


class FrameReader:
    """Cut received bytes into frames; a length above the limit is refused before it is read."""

    def __init__(self, *, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()

    @property
    def pending_bytes(self) -> int:
        """How much of an unfinished frame is held."""
        return len(self._buffer)

    def take_rest(self) -> bytes:
        """Return and forget the bytes after the last whole frame: the start of raw content."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def next_frame(self) -> bytes | None:
        """Return the next whole frame, or None until more is fed; raise `WireError`."""
        if len(self._buffer) < HEADER_BYTES:
            return None
        length = int.from_bytes(self._buffer[:HEADER_BYTES], "big")
        if length > self._limit_bytes:
            raise WireError(f"a frame of {length} bytes, at most {self._limit_bytes} are allowed")
        end = HEADER_BYTES + length
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[HEADER_BYTES:end])
        del self._buffer[:end]
        return payload

    def feed(self, received: bytes) -> None:
        """Add what was read from the stream."""
        self._buffer += received

    def drain(self) -> list[bytes]:
        """Return every whole frame that is held."""
        found = []
        while (payload := self.next_frame()) is not None:
            found.append(payload)
        return found
