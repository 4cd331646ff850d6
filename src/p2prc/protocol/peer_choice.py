"""Which peers we keep connections to: a few at random, lost ones replaced, dead ones probed.

Random choices make a graph that stays in one piece when many nodes vanish. The probes of dead
nodes are what joins two halves again after a network was cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from p2prc.model.identity import NodeId
from p2prc.protocol.node_table import Known, NodeState, NodeTable


@dataclass(frozen=True, slots=True)
class ChoiceConfig:
    """How many connections we ask for, and how patiently. Others may connect to us beyond that."""

    connections: int = 8
    retry_first_s: float = 1.0
    retry_longest_s: float = 15.0
    dial_timeout_s: float = 30.0
    probe_interval_s: float = 10.0


@dataclass(slots=True)
class _Failing:
    """How often in a row we did not get through, and when to try again."""

    count: int
    retry_at: float


class PeerChoice:
    """Who is connected, who is being dialled, and whom to dial next."""

    def __init__(self, config: ChoiceConfig, rng: Random, *, now: float) -> None:
        self._config = config
        self._rng = rng
        self._connected: dict[NodeId, None] = {}
        self._dialling: dict[NodeId, float] = {}
        self._failing: dict[NodeId, _Failing] = {}
        self._probe_at = now + self._jittered(config.probe_interval_s)

    @property
    def connected(self) -> list[NodeId]:
        """Everybody we can send to, in the order of arrival."""
        return list(self._connected)

    def is_connected(self, peer: NodeId) -> bool:
        return peer in self._connected

    def note_connected(self, peer: NodeId) -> None:
        """A connection exists, whoever dialled."""
        self._connected[peer] = None
        self._dialling.pop(peer, None)
        self._failing.pop(peer, None)

    def note_lost(self, peer: NodeId, now: float) -> None:
        """The last connection is gone: try again, but not all of us at the same moment."""
        self._connected.pop(peer, None)
        self._note_failure(peer, now)

    def note_failed(self, peer: NodeId, now: float) -> None:
        """A dial did not get through."""
        self._dialling.pop(peer, None)
        if peer not in self._connected:
            self._note_failure(peer, now)

    def forget(self, node: NodeId) -> None:
        """The node has left our table."""
        self._failing.pop(node, None)

    def some_connected(self, count: int, *, besides: NodeId | None = None) -> list[NodeId]:
        """Return at most `count` connected peers, drawn at random."""
        peers = [peer for peer in self._connected if peer != besides]
        return peers if len(peers) <= count else self._rng.sample(peers, count)

    def next_dials(self, table: NodeTable, now: float) -> list[NodeId]:
        """Return whom to dial now; they count as being dialled."""
        for peer, gives_up_at in list(self._dialling.items()):
            if gives_up_at <= now:
                self.note_failed(peer, now)
        missing = self._config.connections - len(self._connected) - len(self._dialling)
        chosen = self._draw(table, now, missing) if missing > 0 else []
        if self._probe_at <= now:
            self._probe_at = now + self._jittered(self._config.probe_interval_s)
            chosen += self._probe(table, now)
        for peer in chosen:
            self._dialling[peer] = now + self._config.dial_timeout_s
        return chosen

    def _draw(self, table: NodeTable, now: float, count: int) -> list[NodeId]:
        """Draw among those that may be there; only then among those that seem gone."""
        present: list[NodeId] = []
        gone: list[NodeId] = []
        for node, known in table:
            if self._may_dial(node, known, now):
                (present if known.is_present else gone).append(node)
        chosen = self._rng.sample(present, min(count, len(present)))
        return chosen + self._rng.sample(gone, min(count - len(chosen), len(gone)))

    def _probe(self, table: NodeTable, now: float) -> list[NodeId]:
        dead = [
            node
            for node, known in table
            if known.state is NodeState.DEAD and self._may_dial(node, known, now)
        ]
        return [self._rng.choice(dead)] if dead else []

    def _may_dial(self, node: NodeId, known: Known, now: float) -> bool:
        if node in self._connected or node in self._dialling or known.state is NodeState.LEFT:
            return False
        failing = self._failing.get(node)
        return bool(known.signed.record.addresses) and (failing is None or failing.retry_at <= now)

    def _note_failure(self, peer: NodeId, now: float) -> None:
        before = self._failing.get(peer)
        count = before.count + 1 if before is not None else 1
        # 2 ** 10 exceeds every sensible longest wait, and the count may grow for months.
        wait_s = self._config.retry_first_s * 2 ** min(count - 1, 10)
        longest_s = min(wait_s, self._config.retry_longest_s)
        self._failing[peer] = _Failing(count, now + self._jittered(longest_s))

    def _jittered(self, seconds: float) -> float:
        return seconds * self._rng.uniform(0.5, 1.0)
