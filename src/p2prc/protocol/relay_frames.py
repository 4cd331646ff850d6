"""The frames of iroh's relay protocol, as bytes: what a relay reads, and what it writes.

One binary WebSocket message is one frame: a type (QUIC's variable-length integer, RFC 9000 §16),
then a body. Integers are big-endian. The protocol is that of iroh-relay 1.4 (`iroh-relay-v2`, and
`iroh-relay-v1` before it); a relay forwards datagrams without looking into them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from p2prc.errors import WireError

KEY_BYTES = 32
CHALLENGE_BYTES = 16
PING_BYTES = 8
SIGNATURE_BYTES = 64
BODY_LIMIT_BYTES = 64 * 1024
FRAME_LIMIT_BYTES = BODY_LIMIT_BYTES + 8
"""A body and the longest way to write its type."""
REASON_LIMIT_BYTES = 500
CHALLENGE_CONTEXT = "iroh-relay handshake v1 challenge signature"
"""What a client signs is `blake3.derive_key` of this and the challenge."""
VERSION_2, VERSION_1 = "iroh-relay-v2", "iroh-relay-v1"
VERSIONS = (VERSION_2, VERSION_1)
"""The WebSocket subprotocols, the preferred one first."""

_ECN_BYTES = 1
_SEGMENT_BYTES = 2
_MILLIS_LIMIT = (1 << 32) - 1


class FrameType(IntEnum):
    """The first number of a frame."""

    CHALLENGE = 0
    CLIENT_AUTH = 1
    CONFIRM = 2
    DENY = 3
    SEND = 4
    SEND_BATCH = 5
    RECEIVED = 6
    RECEIVED_BATCH = 7
    ENDPOINT_GONE = 8
    PING = 9
    PONG = 10
    HEALTH = 11
    RESTARTING = 12
    STATUS = 13


class Status(IntEnum):
    """How a connection fares; its text is for clients of version 1."""

    HEALTHY = 0
    SAME_ID_ELSEWHERE = 1
    RATE_LIMITED = 2


_STATUS_TEXT = {
    Status.HEALTHY: "the connection is healthy again",
    Status.SAME_ID_ELSEWHERE: "another endpoint connected with the same endpoint id",
    Status.RATE_LIMITED: "the relay limits the rate of this endpoint",
}


@dataclass(frozen=True, slots=True)
class ClientAuth:
    """Who a client says it is, and its signature of the challenge."""

    key: bytes
    signature: bytes


class Datagrams(NamedTuple):
    """One datagram or a batch for `destination`; `rest` is everything after the key.

    A tuple, unlike its kin: one is made for every packet, and a tuple is quicker to make.
    """

    destination: bytes
    is_batch: bool
    rest: memoryview


@dataclass(frozen=True, slots=True)
class Ping:
    """To be answered with a pong of the same content."""

    content: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping."""

    content: bytes


ClientFrame = Datagrams | Ping | Pong


# -- numbers ----------------------------------------------------------------------------------


def write_number(value: int) -> bytes:
    """Return a QUIC variable-length integer in its shortest form."""
    for prefix, size in ((0, 1), (1, 2), (2, 4), (3, 8)):
        if value < 1 << (8 * size - 2):
            return (value | prefix << (8 * size - 2)).to_bytes(size, "big")
    raise WireError("a number too large for a frame")


def read_number(encoded: bytes | memoryview) -> tuple[int, int]:
    """Return a QUIC variable-length integer and how many bytes it took.

    A longer form than needed is valid, as in QUIC.
    """
    if not encoded:
        raise WireError("an empty frame")
    size = 1 << (encoded[0] >> 6)
    if len(encoded) < size:
        raise WireError("a frame that ends within its type")
    value = int.from_bytes(encoded[:size], "big") & ((1 << (8 * size - 2)) - 1)
    return value, size


# -- what a relay reads -----------------------------------------------------------------------


def read_auth(frame: bytes) -> ClientAuth:
    """Return a client's answer to the challenge; raise WireError for anything else."""
    kind, body = _open(frame)
    if kind != FrameType.CLIENT_AUTH:
        raise WireError("a client must first prove its key")
    # The signature is a byte string: its length, as LEB128, stands before it.
    if len(body) != KEY_BYTES + 1 + SIGNATURE_BYTES or body[KEY_BYTES] != SIGNATURE_BYTES:
        raise WireError("a malformed proof of a key")
    return ClientAuth(bytes(body[:KEY_BYTES]), bytes(body[KEY_BYTES + 1 :]))


def read_frame(frame: bytes) -> ClientFrame:
    """Return what an admitted client says; raise WireError for what a client never says."""
    # Nearly every frame: a datagram whose type takes one byte.
    if _SEND_LENGTH <= len(frame) <= BODY_LIMIT_BYTES and frame[0] == _SEND:
        return Datagrams(frame[1:_KEY_END], False, memoryview(frame)[_KEY_END:])
    kind, body = _open(frame)
    if kind in (FrameType.SEND, FrameType.SEND_BATCH):
        return _read_datagrams(body, is_batch=kind == FrameType.SEND_BATCH)
    if kind == FrameType.PING:
        return Ping(_exactly(body, PING_BYTES))
    if kind == FrameType.PONG:
        return Pong(_exactly(body, PING_BYTES))
    raise WireError(f"a frame of type {kind}, which no client sends")


_SEND = int(FrameType.SEND)
_KEY_END = 1 + KEY_BYTES
_SEND_LENGTH = _KEY_END + _ECN_BYTES


def _open(frame: bytes) -> tuple[int, memoryview]:
    view = memoryview(frame)
    kind, size = read_number(view)
    if len(view) - size > BODY_LIMIT_BYTES:
        raise WireError(f"a frame's body of more than {BODY_LIMIT_BYTES} bytes")
    return kind, view[size:]


def _read_datagrams(body: memoryview, *, is_batch: bool) -> Datagrams:
    shortest = KEY_BYTES + _ECN_BYTES + (_SEGMENT_BYTES if is_batch else 0)
    if len(body) < shortest:
        raise WireError("a datagram without its header")
    return Datagrams(bytes(body[:KEY_BYTES]), is_batch, body[KEY_BYTES:])


def _exactly(body: memoryview, size: int) -> bytes:
    if len(body) != size:
        raise WireError(f"a frame's body of {len(body)} bytes instead of {size}")
    return bytes(body)


# -- what a relay writes ----------------------------------------------------------------------


def challenge(content: bytes) -> bytes:
    """Ask for a proof of the client's key."""
    return _frame(FrameType.CHALLENGE, content)


def confirm() -> bytes:
    """Say that the client is admitted."""
    return _frame(FrameType.CONFIRM)


def deny(reason: str) -> bytes:
    """Say why the client is not admitted."""
    text = _cut(reason)
    return _frame(FrameType.DENY, _leb128(len(text)) + text)


def received(source: bytes, sent: Datagrams) -> bytes:
    """Return what the destination gets: the same, with its source in place of itself."""
    kind = FrameType.RECEIVED_BATCH if sent.is_batch else FrameType.RECEIVED
    return b"".join((_ONE_BYTE[kind], source, sent.rest))


def endpoint_gone(key: bytes) -> bytes:
    """Say that a client which has sent something here is gone."""
    return _frame(FrameType.ENDPOINT_GONE, key)


def ping(content: bytes) -> bytes:
    """Ask whether the client is alive."""
    return _frame(FrameType.PING, content)


def pong(content: bytes) -> bytes:
    """Answer a ping."""
    return _frame(FrameType.PONG, content)


def status(state: Status, *, version: str) -> bytes | None:
    """Say how the connection fares, or None where this version has no words for it."""
    if version == VERSION_2:
        return _frame(FrameType.STATUS, bytes([state]))
    if state is Status.HEALTHY:
        return None
    return _frame(FrameType.HEALTH, _STATUS_TEXT[state].encode())


def restarting(*, reconnect_in_s: float, try_for_s: float) -> bytes:
    """Announce the end: when to come back, and how long to try."""
    times = (
        min(max(0, int(seconds * 1000)), _MILLIS_LIMIT) for seconds in (reconnect_in_s, try_for_s)
    )
    return _frame(FrameType.RESTARTING, b"".join(time.to_bytes(4, "big") for time in times))


_ONE_BYTE = {kind: write_number(kind) for kind in FrameType}


def _frame(kind: FrameType, body: bytes = b"") -> bytes:
    return _ONE_BYTE[kind] + body


def _leb128(value: int) -> bytes:
    low = [value & 0x7F]
    while value := value >> 7:
        low[-1] |= 0x80
        low.append(value & 0x7F)
    return bytes(low)


def _cut(text: str) -> bytes:
    return text.encode()[:REASON_LIMIT_BYTES].decode(errors="ignore").encode()
