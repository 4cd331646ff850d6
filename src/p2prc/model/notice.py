"""Notices: facts about a network that a member signs and that nobody takes back.

The one kind up to now puts a node out. Whether its author may say so is judged where it is used:
a chain is void when it leads through the author to the node that the author put out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec
from blake3 import blake3
from msgspec import Meta

from p2prc.errors import WireError
from p2prc.model.identity import NodeId, NodeIdField, ShortText
from p2prc.wire.codec import Codec, encode
from p2prc.wire.signed import Envelope, sign, verify

NOTICE_LIMIT_BYTES = 5 * 1024
NOTICE_ID_BYTES = 16
_PURPOSE = "p2prc notice 1"


class Revocation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="revocation"):
    """`node`, and everybody admitted through it, is put out wherever the author let it in.

    `membership` is the author's chain; `issued_at` (unix seconds) is for people alone.
    """

    network: NodeIdField
    node: NodeIdField
    membership: Annotated[bytes, Meta(max_length=4096)]
    issued_at: Annotated[int, Meta(ge=0, lt=1 << 40)] = 0
    reason: ShortText = ""


_codec: Codec[Revocation] = Codec(Revocation, limit_bytes=NOTICE_LIMIT_BYTES)


@dataclass(frozen=True, slots=True)
class SignedNotice:
    """A notice together with who signed it and the bytes that were signed."""

    author: NodeId
    notice: Revocation
    envelope: Envelope
    id: bytes


def notice_id(envelope: Envelope) -> bytes:
    """Return the short hash that names a notice between peers."""
    return blake3(encode(envelope)).digest(length=NOTICE_ID_BYTES)


def sign_notice(notice: Revocation, secret: bytes) -> SignedNotice:
    """Sign a notice with our own key."""
    envelope = sign(secret, _PURPOSE, encode(notice))
    return SignedNotice(NodeId(envelope.author.hex()), notice, envelope, notice_id(envelope))


def open_notice(envelope: Envelope) -> SignedNotice:
    """Return the notice when its author signed exactly that; else `WireError`."""
    notice = _codec.decode(verify(envelope, _PURPOSE))
    author = NodeId(envelope.author.hex())
    if notice.node in (author, notice.network):
        raise WireError("a notice that puts out its own author, or the founder")
    return SignedNotice(author, notice, envelope, notice_id(envelope))
