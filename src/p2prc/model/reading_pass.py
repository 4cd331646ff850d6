"""Passes: whose files they are says who may fetch them from others that have them already."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from p2prc.errors import RightMissing
from p2prc.model.identity import BlobId, BlobIdField, NodeId, NodeIdField
from p2prc.wire.codec import Codec, encode
from p2prc.wire.signed import Envelope, sign, verify

PASS_LIMIT_BYTES = 1024
PASS_LIFETIME_S = 3600
_PURPOSE = "p2prc reading pass 1"


class ReadingPass(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`reader` may fetch a tree until then (unix seconds), from whoever has it from the author."""

    tree: BlobIdField
    reader: NodeIdField
    expires_at: Annotated[int, Meta(ge=0, lt=1 << 40)]


_codec: Codec[ReadingPass] = Codec(ReadingPass, limit_bytes=PASS_LIMIT_BYTES)
_envelopes: Codec[Envelope] = Codec(Envelope, limit_bytes=PASS_LIMIT_BYTES)


def write_pass(tree: BlobId, reader: NodeId, *, now: float, secret: bytes) -> bytes:
    """Return a pass for a reader, signed with our own key."""
    given = ReadingPass(tree, reader, int(now) + PASS_LIFETIME_S)
    return encode(sign(secret, _PURPOSE, encode(given)))


def author_of_pass(content: bytes, *, tree: BlobId, reader: NodeId, now: float) -> NodeId:
    """Return who let the reader fetch the tree. Raises WireError, RightMissing."""
    envelope = _envelopes.decode(content)
    given = _codec.decode(verify(envelope, _PURPOSE))
    if (given.tree, given.reader) != (tree, reader):
        raise RightMissing("the pass is for another reader or another tree")
    if not now <= given.expires_at <= now + 2 * PASS_LIFETIME_S:
        raise RightMissing("the pass has expired, or a clock is wrong")
    return NodeId(envelope.author.hex())
