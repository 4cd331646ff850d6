"""What we know of every other node: its newest record, and whether it is there.

Theory of operation. A node raises its heartbeat counter as long as it lives, and gossip carries
the counters about; a counter that stands still for too long makes its node suspect (van Renesse,
Minsky and Hayden: "A Gossip-Style Failure Detection Service", 1998). A suspicion names the
counter that it rests on, so that any newer counter refutes it (Das, Gupta and Motivala: "SWIM",
2002). A suspect that nobody speaks for within `confirm_s` is dead. Dead and left nodes are
remembered, so that they can be found again, and forgotten after `forget_s`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from p2prc.model.identity import NodeId
from p2prc.model.record import NodeRecord, SignedRecord
from p2prc.protocol.messages import DigestEntry

HEARTBEAT_LIMIT = 1 << 50
HEARTBEAT_JUMP_LIMIT = 100_000
"""One message raises a counter by at most a day's beats: a lie cannot run it out of numbers."""


class NodeState(StrEnum):
    """Whether a node is there, as far as we know."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    LEFT = "left"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as seen from here; `last_heard_at` is on our own monotonic clock."""

    record: NodeRecord
    state: NodeState
    last_heard_at: float
    is_self: bool = False
    is_connected: bool = False


@dataclass(slots=True)
class Known:
    """What the table holds about one node.

    `is_doubted`: others doubt a node that we hear, and wait for its next heartbeat.
    """

    signed: SignedRecord
    state: NodeState
    heard_at: float
    heartbeat: int = 0
    is_doubted: bool = False

    @property
    def version(self) -> int:
        return self.signed.record.version

    @property
    def is_present(self) -> bool:
        """Whether nobody has concluded yet that the node is gone."""
        return self.state in (NodeState.ALIVE, NodeState.SUSPECT)

    def entry(self) -> DigestEntry:
        """What we tell others about it."""
        record = self.signed.record
        is_suspect = self.state is not NodeState.ALIVE
        return DigestEntry(record.node, record.version, self.heartbeat, is_suspect)


class NodeTable:
    """The newest record of every node that we know, bounded; nothing about ourselves."""

    def __init__(self, *, limit: int, confirm_s: float, silence_s: float, forget_s: float) -> None:
        self._limit = limit
        self._confirm_s = confirm_s
        self._silence_s = silence_s
        self._forget_s = forget_s
        self._known: dict[NodeId, Known] = {}
        self._verdicts: dict[NodeId, float] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[tuple[NodeId, Known]]:
        return iter(self._known.items())

    def get(self, node: NodeId) -> Known | None:
        """Return what we know of the node."""
        return self._known.get(node)

    @property
    def next_verdict_at(self) -> float | None:
        """When the next suspect is held dead."""
        return min(self._verdicts.values(), default=None)

    def remember(self, signed: SignedRecord, now: float) -> None:
        """Take a record of the last run: its node is suspect until we hear of it.

        One that was down may be back by now, so it is looked for too.
        """
        node = signed.record.node
        state = NodeState.LEFT if signed.record.has_left else NodeState.SUSPECT
        self._known[node] = Known(signed, state, heard_at=now)
        if state is NodeState.SUSPECT:
            self._verdicts[node] = now + self._silence_s

    def put(self, signed: SignedRecord, now: float) -> bool:
        """Hold a checked record that is newer than ours; False when there is no room for it."""
        node = signed.record.node
        known = self._known.get(node)
        if known is None:
            if len(self._known) >= self._limit and not self._forget_oldest_gone():
                return False
            known = self._known[node] = Known(signed, NodeState.ALIVE, heard_at=now)
        elif signed.record.version > known.version:
            # Counters are compared within one version only.
            known.heartbeat = 0
        known.signed = signed
        known.heard_at = now
        known.state = NodeState.LEFT if signed.record.is_away else NodeState.ALIVE
        self._verdicts.pop(node, None)
        return True

    def raise_heartbeat(self, known: Known, heartbeat: int) -> None:
        """Move the counter up, by no more than a message may."""
        known.heartbeat = min(heartbeat, known.heartbeat + HEARTBEAT_JUMP_LIMIT)

    def hear(self, known: Known, now: float) -> bool:
        """Note a sign of life; True when that changes the node's state."""
        known.heard_at = now
        if known.state is NodeState.ALIVE or known.signed.record.is_away:
            return False
        known.state = NodeState.ALIVE
        self._verdicts.pop(known.signed.record.node, None)
        return True

    def suspect(self, known: Known, now: float) -> bool:
        """Doubt that the node is there; True when we did not before."""
        if known.state is not NodeState.ALIVE:
            return False
        known.state = NodeState.SUSPECT
        self._verdicts[known.signed.record.node] = now + self._confirm_s
        return True

    def settle(self, now: float) -> list[NodeId]:
        """Hold every overdue suspect dead, and return them."""
        overdue = [node for node, verdict_at in self._verdicts.items() if verdict_at <= now]
        for node in overdue:
            del self._verdicts[node]
            self._known[node].state = NodeState.DEAD
        return overdue

    def silent(self, now: float) -> list[Known]:
        """Return the nodes held alive whose counter has stood still for too long."""
        heard_before = now - self._silence_s
        return [
            known
            for known in self._known.values()
            if known.heard_at < heard_before and known.state is NodeState.ALIVE
        ]

    def forget_gone(self, now: float) -> list[NodeId]:
        """Drop the nodes that have been dead or left for long, and return them."""
        heard_before = now - self._forget_s
        gone = [
            node
            for node, known in self._known.items()
            if known.heard_at < heard_before and not known.is_present
        ]
        for node in gone:
            del self._known[node]
        return gone

    def forgive(self, gap_s: float) -> None:
        """Nobody is to blame for a silence during which we did not listen."""
        for known in self._known.values():
            known.heard_at += gap_s
        for node in self._verdicts:
            self._verdicts[node] += gap_s

    def _forget_oldest_gone(self) -> bool:
        gone = [known for known in self._known.values() if not known.is_present]
        if not gone:
            return False
        oldest = min(gone, key=lambda known: known.heard_at)
        del self._known[oldest.signed.record.node]
        return True
