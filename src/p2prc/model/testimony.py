"""What a node signs about lives: that it is here itself, or that it doubts others.

A *life* is a node's record version and, within it, an incarnation that the node alone raises. Lives
are ordered, so a statement refutes every doubt about an earlier life (Das, Gupta, Motivala:
"SWIM", 2002). An entry about its author says "I am here"; any other entry says "I doubt it".
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from p2prc.errors import WireError
from p2prc.model.identity import NodeId
from p2prc.wire.codec import Codec, encode
from p2prc.wire.signed import Envelope, sign, verify

LIVES_LIMIT = 64
INCARNATION_LIMIT = 1 << 40
Rank = tuple[int, int]
"""Version and incarnation: what lives of one node are ordered by."""
_PURPOSE = "p2prc testimony 1"
_LIMIT_BYTES = 4 * 1024

Key = Annotated[bytes, Meta(min_length=32, max_length=32)]


class Life(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """One node's life; version -1 is that of a node of which nothing is known."""

    key: Key
    version: Annotated[int, Meta(ge=-1, le=1 << 62)]
    incarnation: Annotated[int, Meta(ge=0, le=INCARNATION_LIMIT)] = 0

    @property
    def node(self) -> NodeId:
        return NodeId(self.key.hex())

    @property
    def rank(self) -> Rank:
        """What lives of one node are ordered by."""
        return (self.version, self.incarnation)


class Testimony(msgspec.Struct, frozen=True):
    """A checked testimony with the bytes that its author signed."""

    author: NodeId
    lives: tuple[Life, ...]
    envelope: Envelope

    @property
    def is_statement(self) -> bool:
        """Whether the author says that it is here: such a testimony says nothing else."""
        return len(self.lives) == 1 and self.lives[0].key == self.envelope.author


_Lives = Annotated[tuple[Life, ...], Meta(min_length=1, max_length=LIVES_LIMIT)]
_codec: Codec[tuple[Life, ...]] = Codec(_Lives, limit_bytes=_LIMIT_BYTES)


def testify(secret: bytes, lives: tuple[Life, ...]) -> Envelope:
    """Sign at most `LIVES_LIMIT` lives with the node's 32-byte seed."""
    return sign(secret, _PURPOSE, encode(lives))


def open_testimony(envelope: Envelope) -> Testimony:
    """Return the testimony when its author signed it; else `WireError`."""
    lives = _codec.decode(verify(envelope, _PURPOSE))
    if len(lives) > 1 and any(life.key == envelope.author for life in lives):
        raise WireError("a testimony of one's own life among doubts")
    return Testimony(NodeId(envelope.author.hex()), lives, envelope)
