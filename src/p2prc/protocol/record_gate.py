"""Which records from peers are believed: signed by their node, of a member, newer than ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from blake3 import blake3

from p2prc.errors import WireError
from p2prc.model.identity import NodeId
from p2prc.model.record import NodeRecord, SignedRecord
from p2prc.wire.codec import encode
from p2prc.wire.signed import Envelope

FORGED = "forged"
FOREIGN = "foreign-network"
NOT_MEMBER = "not-member"
OLD = "old"
CLASH = "clash"


class RecordGate:
    """Checks records and counts what it refuses, by reason."""

    def __init__(
        self,
        network: NodeId,
        *,
        is_member: Callable[[NodeRecord], bool],
        open_envelope: Callable[[Envelope], SignedRecord],
    ) -> None:
        self._network = network
        self._is_member = is_member
        self._open_envelope = open_envelope
        self.refusals: Counter[str] = Counter()

    def examine(self, envelope: Envelope, held: SignedRecord | None) -> SignedRecord | None:
        """Return the record when it should replace the one that is held."""
        if held is not None and held.envelope == envelope:
            return None
        try:
            signed = self._open_envelope(envelope)
        except WireError:
            return self._refuse(FORGED)
        record = signed.record
        if record.network != self._network:
            return self._refuse(FOREIGN)
        if held is not None and record.version < held.record.version:
            return self._refuse(OLD)
        if not self._is_member(record):
            return self._refuse(NOT_MEMBER)
        if held is not None and record.version == held.record.version:
            # Its author signed two records as one version. Everybody must keep the same one.
            self.refusals[CLASH] += 1
            if _rank(held.envelope) <= _rank(envelope):
                return None
        return signed

    def _refuse(self, reason: str) -> SignedRecord | None:
        self.refusals[reason] += 1
        return None


def _rank(envelope: Envelope) -> bytes:
    return blake3(encode(envelope)).digest()
