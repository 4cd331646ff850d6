"""Bytes that change carriers on their way: what was sent, what came, and what to send again.

A conversation begins on one stream, which stays for as long as it lasts. When much is to be carried
it moves to a faster one, and when that breaks it goes on where it was: every piece says where in
the whole it belongs, and is kept until the other side has it. The receiver gives credit: it
acknowledges what its reader has taken, so a reader that is slow slows the sender, and what a side
holds is bounded. (Offsets and cumulative acknowledgements are TCP's, RFC 9293; a window that moves
with what was consumed is HTTP/2's, RFC 9113 section 5.2.)

Here are the frames and both directions' books; `node/carriage.py` has the streams and the waiting.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from p2prc.errors import PeerMisbehaved

WINDOW_BYTES = 4 << 20
"""So much may be under way or wait for its reader, each way."""
PIECE_BYTES = 256 * 1024
ACKNOWLEDGE_BYTES = WINDOW_BYTES // 4

_DATA, _ACK, _END, _ASK = 1, 2, 3, 4
_DATA_HEAD = struct.Struct(">BQI")
_ACK_FRAME = struct.Struct(">BQQ?")
_END_FRAME = struct.Struct(">BQ")
_SIZES = {_DATA: _DATA_HEAD.size, _ACK: _ACK_FRAME.size, _END: _END_FRAME.size, _ASK: 1}
_OFFSET_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class Data:
    """Some bytes, and where they belong."""

    offset: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Ack:
    """What the reader there has taken, and what came in all without a gap."""

    consumed: int
    received: int
    has_end: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """There is nothing from this offset on."""

    offset: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Acknowledge at once, please."""


Frame = Data | Ack | End | Ask


def data_head(offset: int, size_bytes: int) -> bytes:
    """Return what goes before so many bytes."""
    return _DATA_HEAD.pack(_DATA, offset, size_bytes)


def ack_frame(ack: Ack) -> bytes:
    return _ACK_FRAME.pack(_ACK, ack.consumed, ack.received, ack.has_end)


def end_frame(offset: int) -> bytes:
    return _END_FRAME.pack(_END, offset)


def ask_frame() -> bytes:
    return bytes([_ASK])


class Frames:
    """Frames out of the bytes of one stream. Data comes in parts as it arrives: nothing is kept."""

    def __init__(self) -> None:
        self._head = b""
        self._offset = 0
        self._left = 0

    @property
    def is_between(self) -> bool:
        """Whether no frame is incomplete."""
        return not self._head and not self._left

    def feed(self, received: bytes) -> Iterator[Frame]:
        """Yield what the bytes complete. Raises PeerMisbehaved."""
        position = 0
        while position < len(received):
            if self._left:
                content = received[position : position + self._left]
                position += len(content)
                self._left -= len(content)
                yield Data(self._offset, content)
                self._offset += len(content)
                continue
            kind = self._head[0] if self._head else received[position]
            size = _SIZES.get(kind)
            if size is None:
                raise PeerMisbehaved("a carried stream has a frame of no known kind")
            part = received[position : position + size - len(self._head)]
            position += len(part)
            self._head += part
            if len(self._head) == size:
                head, self._head = self._head, b""
                yield from self._complete(kind, head)

    def _complete(self, kind: int, head: bytes) -> Iterator[Frame]:
        match kind:
            case 1:
                _, self._offset, self._left = _DATA_HEAD.unpack(head)
                if self._left > WINDOW_BYTES or self._offset > _OFFSET_LIMIT:
                    raise PeerMisbehaved("a carried piece is too large")
            case 2:
                _, consumed, received, has_end = _ACK_FRAME.unpack(head)
                yield Ack(consumed, received, has_end)
            case 3:
                yield End(_END_FRAME.unpack(head)[1])
            case _:
                yield Ask()


class Sending:
    """One direction, seen from where the bytes come from."""

    def __init__(self, window_bytes: int = WINDOW_BYTES) -> None:
        self._window_bytes = window_bytes
        self._given = self._consumed = self._received = self._position = 0
        self.has_end = False
        """Whether the other side has everything, and knows it."""
        self._kept: deque[tuple[int, bytes]] = deque()
        self._unsent: deque[tuple[int, bytes]] = deque()

    @property
    def room_bytes(self) -> int:
        """How much may be given now."""
        return self._window_bytes - (self._given - self._consumed)

    @property
    def given(self) -> int:
        return self._given

    @property
    def received(self) -> int:
        """How much the other side is known to have."""
        return self._received

    @property
    def is_under_way(self) -> bool:
        """Whether something was sent that the other side is not known to have."""
        return self._position > self._received

    def give(self, content: bytes) -> None:
        """Take bytes to be sent, no more than there is room for."""
        piece = (self._given, content)
        self._kept.append(piece)
        self._unsent.append(piece)
        self._given += len(content)

    def next_piece(self) -> tuple[int, bytes] | None:
        """Return what to send next, and where it belongs."""
        if not self._unsent:
            return None
        offset, content = self._unsent[0]
        skipped = self._position - offset
        return (self._position, content[skipped:]) if skipped > 0 else (offset, content)

    def sent(self, end: int) -> None:
        """Note that the piece that ends there was handed to the carrier."""
        if self._unsent and end_of(self._unsent[0]) == end:
            self._unsent.popleft()
            self._position = end

    def acknowledged(self, ack: Ack) -> None:
        """Note what the other side has. Raises PeerMisbehaved for what cannot be so."""
        if not ack.consumed <= ack.received <= self._given:
            raise PeerMisbehaved("something was acknowledged that was never sent")
        self._consumed = max(self._consumed, ack.consumed)
        self._received = max(self._received, ack.received)
        self.has_end |= ack.has_end
        while self._kept and end_of(self._kept[0]) <= self._received:
            self._kept.popleft()

    def rewind(self) -> None:
        """Send again whatever the other side is not known to have: its carrier broke."""
        self._unsent = deque(self._kept)
        self._position = self._received


def end_of(piece: tuple[int, bytes]) -> int:
    """Return where a piece ends."""
    return piece[0] + len(piece[1])


class Receiving:
    """One direction, seen from where the bytes go."""

    def __init__(self, window_bytes: int = WINDOW_BYTES) -> None:
        self._window_bytes = window_bytes
        self._consumed = self._received = 0
        self._acknowledged = 0
        self._end: int | None = None
        self._ready: deque[bytes] = deque()

    @property
    def is_over(self) -> bool:
        """Whether the reader has everything."""
        return self._end == self._consumed

    @property
    def is_complete(self) -> bool:
        """Whether everything is here."""
        return self._end == self._received

    @property
    def has_some(self) -> bool:
        return bool(self._ready)

    @property
    def received(self) -> int:
        return self._received

    @property
    def is_ack_due(self) -> bool:
        """Whether the sender should be told how far its reader is."""
        return self._consumed - self._acknowledged >= ACKNOWLEDGE_BYTES

    def arrived(self, data: Data) -> None:
        """Take a piece, or what is new of it. Raises PeerMisbehaved beyond credit, and for gaps."""
        last = data.offset + len(data.content)
        if last > self._consumed + self._window_bytes:
            raise PeerMisbehaved("more was sent than there is credit for")
        if self._end is not None and last > self._end:
            raise PeerMisbehaved("something was sent behind the end")
        if data.offset > self._received:
            raise PeerMisbehaved("a carried stream has a gap")
        if fresh := data.content[self._received - data.offset :]:
            self._ready.append(fresh)
            self._received += len(fresh)

    def ended(self, offset: int) -> None:
        """Note where the end is. Raises PeerMisbehaved for a second one elsewhere."""
        if offset < self._received or self._end not in (None, offset):
            raise PeerMisbehaved("a carried stream ended twice, or before what came")
        self._end = offset

    def take(self) -> bytes:
        """Return the next bytes for the reader."""
        content = self._ready.popleft()
        self._consumed += len(content)
        return content

    def ack(self) -> Ack:
        """Return what to tell the sender; it counts as told."""
        self._acknowledged = self._consumed
        return Ack(self._consumed, self._received, self.is_complete)
