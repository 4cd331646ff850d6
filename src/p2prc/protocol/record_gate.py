"""Which records and testimonies are believed: signed by their author, a member, newer than ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from blake3 import blake3

from p2prc.errors import WireError
from p2prc.model.identity import NodeId
from p2prc.model.record import NodeRecord, SignedRecord
from p2prc.model.testimony import Testimony
from p2prc.wire.codec import encode
from p2prc.wire.signed import Envelope

FORGED = "forged"
FOREIGN = "foreign-network"
NOT_MEMBER = "not-member"
OLD = "old"
CLASH = "clash"
FAULT_WEIGHTS = {FORGED: 10.0, FOREIGN: 10.0, NOT_MEMBER: 3.0, OLD: 0.5}
"""How much a refused item speaks against the peer that passed it on: honest ones check first, but
may have heard of a revocation later than we, or of a newer record."""


class RecordGate:
    """Checks what was signed and counts what it refuses, by reason."""

    def __init__(
        self,
        network: NodeId,
        *,
        is_member: Callable[[NodeRecord], bool],
        open_record: Callable[[Envelope], SignedRecord],
        open_testimony: Callable[[Envelope], Testimony],
    ) -> None:
        self._network = network
        self.is_member = is_member
        self._open_record = open_record
        self._open_testimony = open_testimony
        self.refusals: Counter[str] = Counter()
        self.faults = 0.0

    def take_faults(self) -> float:
        """Return the weight of what was refused since the last time."""
        faults, self.faults = self.faults, 0.0
        return faults

    def examine(self, envelope: Envelope, held: SignedRecord | None) -> SignedRecord | None:
        """Return the record when it should replace the one that is held."""
        try:
            signed = self._open_record(envelope)
        except WireError:
            return self._refuse(FORGED)
        record = signed.record
        if record.network != self._network:
            return self._refuse(FOREIGN)
        if held is not None and record.version < held.record.version:
            return self._refuse(OLD)
        if not self.is_member(record):
            return self._refuse(NOT_MEMBER)
        if held is not None and record.version == held.record.version:
            # Its author signed two records as one version. Everybody must keep the same one.
            self.refusals[CLASH] += 1
            if _rank(held.envelope) <= _rank(envelope):
                return None
        return signed

    def hear(self, envelope: Envelope) -> Testimony | None:
        """Return the testimony when its author signed it."""
        try:
            return self._open_testimony(envelope)
        except WireError:
            self._refuse(FORGED)
            return None

    def speaks(self, author: NodeRecord) -> bool:
        """Whether what this node says of lives counts: it may have been put out meanwhile."""
        if self.is_member(author):
            return True
        self._refuse(NOT_MEMBER)
        return False

    def _refuse(self, reason: str) -> SignedRecord | None:
        self.refusals[reason] += 1
        self.faults += FAULT_WEIGHTS[reason]
        return None


def _rank(envelope: Envelope) -> bytes:
    return blake3(encode(envelope)).digest()
