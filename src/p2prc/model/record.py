"""Everything a node says about itself: one signed, versioned record.

The set of the newest records is what P2PRC calls the IP table. Nobody can speak for another node:
the author's key is the node's id.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from p2prc.errors import WireError
from p2prc.model.identity import NodeId, NodeIdField, ShortText
from p2prc.model.resources import Bytes, Capacity, Gpu, RuntimeOffer
from p2prc.wire.codec import Codec, encode
from p2prc.wire.signed import Envelope, sign, verify

RECORD_LIMIT_BYTES = 8 * 1024
_PURPOSE = "p2prc record 1"


class NodeRecord(msgspec.Struct, frozen=True):
    """What a node tells about itself. Unknown fields are ignored: newer authors may add some.

    `membership` is the node's chain (see `authority`), so that whoever holds the record can check
    that its author was admitted. `version` grows with every change; wall-clock milliseconds at
    the node's start make it grow over a lost disk too. `protocol` is the newest version that the
    node speaks; those of version 1 did not say.
    """

    node: NodeIdField
    network: NodeIdField
    version: Annotated[int, Meta(ge=0, le=1 << 62)]
    name: ShortText
    membership: Annotated[bytes, Meta(max_length=4096)]
    addresses: Annotated[tuple[ShortText, ...], Meta(max_length=8)] = ()
    relays: Annotated[tuple[ShortText, ...], Meta(max_length=4)] = ()
    is_public: bool = False
    has_left: bool = False
    is_down: bool = False
    is_lending: bool = False
    software: ShortText = ""
    platform: ShortText = ""
    python: ShortText = ""
    cpus: int = 0
    memory_bytes: Bytes = 0
    lent: Capacity = Capacity()
    free: Capacity = Capacity()
    gpus: Annotated[tuple[Gpu, ...], Meta(max_length=16)] = ()
    runtimes: Annotated[tuple[RuntimeOffer, ...], Meta(max_length=8)] = ()
    metadata: dict[ShortText, ShortText] = {}
    protocol: Annotated[int, Meta(ge=0, le=1 << 16)] = 1

    @property
    def is_away(self) -> bool:
        """Whether the node itself said that it is not there: it left, or stopped for a while."""
        return self.has_left or self.is_down


_codec: Codec[NodeRecord] = Codec(NodeRecord, limit_bytes=RECORD_LIMIT_BYTES)


class SignedRecord(msgspec.Struct, frozen=True):
    """A record together with the original bytes that its author signed."""

    record: NodeRecord
    envelope: Envelope


def sign_record(record: NodeRecord, secret: bytes) -> SignedRecord:
    """Sign our own record with the node's 32-byte seed."""
    return SignedRecord(record, sign(secret, _PURPOSE, encode(record)))


def open_record(envelope: Envelope) -> SignedRecord:
    """Return the record when its author signed it and speaks for itself; else `WireError`.

    Does not look at the membership chain: that is `authority`'s.
    """
    record = _codec.decode(verify(envelope, _PURPOSE))
    if record.node != NodeId(envelope.author.hex()):
        raise WireError("a record signed by another key than its node's")
    return SignedRecord(record, envelope)
