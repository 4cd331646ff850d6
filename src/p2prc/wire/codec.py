"""Strict decoding of values that a stranger may have written.

msgspec checks types and unknown fields. Two things are ours: a bound on size before anything is
parsed, and nesting that is too deep (msgspec raises RecursionError) is a refusal, not a crash.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from p2prc.errors import WireError

Value = TypeVar("Value")

_encoder = msgspec.msgpack.Encoder(order="deterministic")


def encode(value: object) -> bytes:
    """Return the canonical bytes of a value: the same value gives the same bytes everywhere."""
    return _encoder.encode(value)


class Codec(Generic[Value]):
    """Decode one type (or a tagged union), at most `limit_bytes` long."""

    def __init__(self, kind: Any, *, limit_bytes: int) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._limit_bytes = limit_bytes

    def decode(self, payload: bytes | bytearray | memoryview) -> Value:
        """Return the value; raise `WireError` with a reason that says no secrets."""
        if len(payload) > self._limit_bytes:
            raise WireError(f"{len(payload)} bytes where at most {self._limit_bytes} are allowed")
        try:
            value: Value = self._decoder.decode(payload)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise WireError(f"malformed value: {error}"[:200]) from error
        return value
