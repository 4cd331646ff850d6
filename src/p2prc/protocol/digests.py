"""Comparing a peer's summary with our table: what either side lacks, who is doubted, who lives.

The exchange of whole summaries is all in here and in `Membership._summary`, so that a network too
large for it can get another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from p2prc.model.identity import NodeId
from p2prc.model.record import SignedRecord
from p2prc.protocol.allowance import Allowance
from p2prc.protocol.messages import Delta, Digest, DigestEntry
from p2prc.protocol.node_table import HEARTBEAT_LIMIT, Known, NodeState, NodeTable
from p2prc.protocol.peer_choice import PeerChoice
from p2prc.wire.signed import Envelope

NOTHING = -1
"""The version of a record that we lack."""

DELTA_RECORDS = 500
DELTA_BYTES = 256 * 1024
_ENVELOPE_OVERHEAD_BYTES = 16


@dataclass(slots=True)
class Findings:
    """What a comparison brought to light.

    To tell the peer: `lacking` (records it wants), `refutations` (it doubts somebody wrongly),
    `wanted` and `newer` (what we want and know better). To tell others: `spread` (all our
    connections) and `warnings` (the doubted node itself). `changed` nodes have another state.
    """

    lacking: list[NodeId] = field(default_factory=list)
    refutations: list[DigestEntry] = field(default_factory=list)
    wanted: list[DigestEntry] = field(default_factory=list)
    newer: list[DigestEntry] = field(default_factory=list)
    spread: list[NodeId] = field(default_factory=list)
    warnings: list[DigestEntry] = field(default_factory=list)
    changed: list[NodeId] = field(default_factory=list)
    refused: int = 0


class Comparison:
    """One digest against the table, which learns the counters and doubts in it."""

    def __init__(self, table: NodeTable, choice: PeerChoice, now: float) -> None:
        self.found = Findings()
        self._table = table
        self._choice = choice
        self._now = now

    def weigh(self, entry: DigestEntry, doubts: Allowance) -> None:
        """Take one entry about another node than ourselves."""
        known = self._table.get(entry.node)
        if not 0 <= entry.heartbeat <= HEARTBEAT_LIMIT:
            self.found.refused += 1
        elif known is None:
            # A node that is gone is not worth knowing, or it would never be forgotten.
            if not entry.is_suspect and entry.version > NOTHING:
                self.found.wanted.append(DigestEntry(entry.node, NOTHING, 0))
        elif entry.version > known.version:
            self.found.wanted.append(known.entry())
        elif entry.version < known.version:
            self.found.lacking.append(entry.node)
        elif known.state is NodeState.LEFT:
            pass
        elif entry.is_suspect:
            self._weigh_doubt(entry, known, doubts)
        elif entry.heartbeat > known.heartbeat:
            self._weigh_life(entry, known)
        elif entry.heartbeat < known.heartbeat or known.state is not NodeState.ALIVE:
            self.found.newer.append(known.entry())

    def add_unlisted(self, digest: Digest, own: NodeId) -> None:
        """The digest is whole: what is not in it, the peer lacks."""
        listed = {entry.node for entry in digest.entries}
        if own not in listed:
            self.found.lacking.append(own)
        self.found.lacking += [
            node for node, known in self._table if known.is_present and node not in listed
        ]

    def _weigh_life(self, entry: DigestEntry, known: Known) -> None:
        self._table.raise_heartbeat(known, entry.heartbeat)
        is_back = self._table.hear(known, self._now)
        if is_back:
            self.found.changed.append(entry.node)
        if is_back or known.is_doubted:
            self.found.spread.append(entry.node)
        known.is_doubted = False

    def _weigh_doubt(self, entry: DigestEntry, known: Known, doubts: Allowance) -> None:
        """A doubt counts unless we have heard something newer."""
        found = self.found
        if entry.heartbeat < known.heartbeat:
            is_alive = known.state is NodeState.ALIVE
            (found.refutations if is_alive else found.newer).append(known.entry())
            return
        is_newer = entry.heartbeat > known.heartbeat
        if not is_newer and known.state is not NodeState.ALIVE:
            return
        if not doubts.take(1, self._now):
            found.refused += 1
            return
        self._table.raise_heartbeat(known, entry.heartbeat)
        if self._choice.is_connected(entry.node):
            # We hear it, so it hears us: let it speak for itself.
            known.is_doubted = True
            found.warnings.append(entry)
        elif self._table.suspect(known, self._now):
            found.changed.append(entry.node)
        else:
            found.spread.append(entry.node)


def delta_within(records: Iterable[SignedRecord], take: Callable[[int], bool]) -> Delta | None:
    """Return as many of the records as one message holds and `take` allows, or None."""
    envelopes: list[Envelope] = []
    total_bytes = 0
    for signed in records:
        size_bytes = _size_of(signed.envelope)
        total_bytes += size_bytes
        if len(envelopes) == DELTA_RECORDS or total_bytes > DELTA_BYTES or not take(size_bytes):
            break
        envelopes.append(signed.envelope)
    return Delta(tuple(envelopes)) if envelopes else None


def _size_of(envelope: Envelope) -> int:
    parts = len(envelope.author) + len(envelope.payload) + len(envelope.signature)
    return parts + _ENVELOPE_OVERHEAD_BYTES
