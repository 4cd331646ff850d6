"""Peers of protocol version 1: whole digests with heartbeat counters; only records are signed.

Such a peer holds a node dead whose counter stands still for 20 s, so whoever talks with it raises
the counters of all that are alive, above any that it has heard of. It cannot sign that it is here:
nobody believes a doubt about such a node, and everybody looks for itself (see `Membership`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from p2prc.model.identity import NodeId
from p2prc.protocol.exchange import NOTHING, telling
from p2prc.protocol.membership_events import Send
from p2prc.protocol.messages import Delta, Digest, DigestEntry
from p2prc.protocol.node_table import Known, NodeState, NodeTable

FIRST_SIGNING_VERSION = 2
HEARTBEAT_LIMIT = 1 << 50
HEARTBEAT_JUMP_LIMIT = 100_000
ENTRIES_LIMIT = 9_999
_NO_VERSION = -1


@dataclass(slots=True)
class PreviousFindings:
    """What a digest brought to light: what to send, to answer, and whom to look for."""

    lacking: dict[NodeId, int] = field(default_factory=dict)
    answers: list[DigestEntry] = field(default_factory=list)
    doubted: list[NodeId] = field(default_factory=list)
    confirmed: list[NodeId] = field(default_factory=list)


class PreviousVersion:
    """The peers of version 1 that we are connected with, and the counters that they know."""

    def __init__(
        self, table: NodeTable, own: NodeId, *, is_connected: Callable[[NodeId], bool]
    ) -> None:
        self.peers: dict[NodeId, float] = {}
        self.changed: dict[NodeId, None] = {}
        self._table = table
        self._own = own
        self._is_connected = is_connected
        self._beats: dict[NodeId, tuple[int, int]] = {}

    def due(self, now: float, interval_s: float) -> list[NodeId]:
        """Return whom to tell everything again."""
        due = [peer for peer, at in self.peers.items() if at <= now]
        for peer in due:
            self.peers[peer] = now + interval_s
        return due

    def whole(self) -> Digest:
        """All that we know, with newer counters for all who are alive."""
        entries = [self._entry(node, known, raised=1) for node, known in self._table]
        return Digest(tuple(entries[:ENTRIES_LIMIT]))

    def news(self) -> list[Send]:
        """Return what to tell the peers of what has changed since the last time."""
        changed, self.changed = list(self.changed), {}
        fresh = [(node, known) for node in changed if (known := self._table.peek(node)) is not None]
        entries = [self._entry(node, known, raised=1) for node, known in fresh]
        sends: list[Send] = []
        for peer in self.peers:
            others = ((known, NOTHING) for node, known in fresh if node != peer)
            messages = [one for one in telling(others, lambda _: True) if isinstance(one, Delta)]
            sends += [Send(peer, one) for one in messages]
            if entries:
                sends.append(Send(peer, Digest(tuple(entries[:ENTRIES_LIMIT]), is_reply=True)))
        return sends

    def take(self, digest: Digest) -> PreviousFindings:
        """Compare a peer's digest with what we know."""
        found = PreviousFindings()
        for entry in digest.entries:
            if 0 <= entry.heartbeat <= HEARTBEAT_LIMIT:
                self._weigh(entry, found)
        if not digest.is_reply:
            listed = {entry.node for entry in digest.entries}
            found.lacking |= {
                node: _NO_VERSION
                for node, known in self._table
                if known.is_present and node not in listed
            }
        return found

    def _weigh(self, entry: DigestEntry, found: PreviousFindings) -> None:
        known = self._table.peek(entry.node)
        if known is None:
            if not entry.is_suspect and entry.version > _NO_VERSION:
                found.answers.append(DigestEntry(entry.node, _NO_VERSION, 0))
        elif entry.version > known.version:
            found.answers.append(DigestEntry(entry.node, known.version, 0))
        elif entry.version < known.version:
            found.lacking[entry.node] = entry.version
        else:
            self._learn(entry)
            if known.is_unverified and not entry.is_suspect:
                found.confirmed.append(entry.node)
            elif entry.is_suspect and known.state is NodeState.ALIVE:
                if entry.node == self._own or self._is_connected(entry.node):
                    found.answers.append(self._entry(entry.node, known, raised=1))
                else:
                    found.doubted.append(entry.node)

    def _learn(self, entry: DigestEntry) -> None:
        version, beat = self._beats.get(entry.node, (entry.version, 0))
        if version == entry.version and entry.heartbeat > beat:
            beat = min(entry.heartbeat, beat + HEARTBEAT_JUMP_LIMIT)
        self._beats[entry.node] = (entry.version, beat if version == entry.version else 0)

    def _entry(self, node: NodeId, known: Known, *, raised: int) -> DigestEntry:
        version, beat = self._beats.get(node, (known.version, 0))
        beat = beat if version == known.version else 0
        if known.state is NodeState.ALIVE:
            beat += raised
        self._beats[node] = (known.version, beat)
        return DigestEntry(node, known.version, beat, is_suspect=not known.is_present)

    def forget(self, nodes: Iterable[NodeId]) -> None:
        """These nodes have left the table."""
        for node in nodes:
            self._beats.pop(node, None)


def signs_lives(known: Known) -> bool:
    """Whether the node can say that it is here."""
    return known.signed.record.protocol >= FIRST_SIGNING_VERSION
