"""Passing news on: records to a few at once and announced to the rest, testimonies to all.

Eager push to some and lazy announcements to the others reach everybody at the speed of a flood for
a fraction of its bytes (Leitao, Pereira, Rodrigues: "Epidemic Broadcast Trees", Plumtree, 2007);
who is pushed to is drawn anew each time, so that nobody can make itself a needed branch of a tree.
A testimony is as small as its announcement would be, so all are told. What comes in quick
succession leaves together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from p2prc.model.identity import NodeId
from p2prc.model.testimony import Life
from p2prc.protocol.exchange import in_batches
from p2prc.protocol.membership_events import MembershipConfig, Send
from p2prc.protocol.messages import Announce, Delta, Rumour, Want
from p2prc.protocol.node_table import NodeTable
from p2prc.wire.signed import Envelope

RECORDS_AT_ONCE = 32
TESTIMONIES_AT_ONCE = 100
DOUBTS_LIMIT = 256
PROMISES_LIMIT = 4_096


class Spreading:
    """What is to be passed on, and what others promised us."""

    def __init__(
        self,
        config: MembershipConfig,
        rng: Random,
        table: NodeTable,
        testify: Callable[[tuple[Life, ...]], Envelope],
    ) -> None:
        self._config = config
        self._rng = rng
        self._table = table
        self._testify = testify
        self._records: dict[NodeId, NodeId | None] = {}
        self._testimonies: list[tuple[Envelope, NodeId | None]] = []
        self._doubts: list[Life] = []
        self._promises: dict[NodeId, tuple[float, NodeId, Life]] = {}
        self._next_at = 0.0
        self._sent_at = -config.crowd_s
        self._newcomer_at: float | None = None
        """When the last newcomer came to us, while nobody else's record is to be passed on."""
        self._is_farewell = False

    @property
    def deadline(self) -> float | None:
        """When something is to be sent at the latest."""
        waiting = self._due_at if self._records or self._testimonies or self._doubts else None
        promised = next(iter(self._promises.values()), None)
        if promised is None:
            return waiting
        return promised[0] if waiting is None else min(waiting, promised[0])

    @property
    def _due_at(self) -> float:
        if self._is_farewell:
            return self._sent_at
        if self._newcomer_at is None or self._testimonies or self._doubts:
            return self._next_at
        # Each would cost everybody a message: those who come together are told of together.
        settled_at = self._newcomer_at + self._config.crowd_gap_s
        return max(self._next_at, min(settled_at, self._sent_at + self._config.crowd_s))

    def record(self, node: NodeId, source: NodeId | None, now: float) -> None:
        """Pass on the node's newest record, though not to whom we have it from."""
        is_newcomer = source == node and (not self._records or self._newcomer_at is not None)
        self._newcomer_at = now if is_newcomer else None
        self._records[node] = source

    def farewell(self) -> None:
        """Send what waits at once, and all of it to everybody: there will be no other time."""
        self._is_farewell = True

    def testimony(self, envelope: Envelope, source: NodeId | None) -> None:
        """Pass on what somebody signed."""
        self._testimonies.append((envelope, source))

    def doubt(self, life: Life, now: float) -> None:
        """Tell all that we doubt this life.

        Not at once: when all our links break together, it must not be said on the last of them.
        """
        if not self._doubts:
            self._next_at = max(self._next_at, now + self._config.gather_s)
        self._doubts.append(life)

    def promised(self, life: Life, peer: NodeId, now: float) -> None:
        """A peer announced news: ask for it when nobody brings it soon."""
        node = life.node
        waiting = self._promises.get(node)
        if waiting is not None and waiting[2].rank >= life.rank:
            return
        if len(self._promises) < PROMISES_LIMIT:
            self._promises.pop(node, None)
            self._promises[node] = (now + self._config.announce_patience_s, peer, life)

    def flush(self, peers: Sequence[NodeId], now: float) -> list[Send]:
        """Return what is to be sent now."""
        sends = self._overdue(peers, now)
        if self._due_at > now or not (self._records or self._testimonies or self._doubts):
            return sends
        self._next_at, self._sent_at = now + self._config.gather_s, now
        self._newcomer_at = None
        is_farewell, self._is_farewell = self._is_farewell, False
        if not peers:
            # Cut off: what we doubt may be our own fault, and is told to whom we meet next.
            del self._doubts[:-DOUBTS_LIMIT]
            self._records.clear()
            self._testimonies.clear()
            self._next_at = now + self._config.gossip_interval_s
            return sends
        self._testimonies += [(self._testify(lives), None) for lives in in_batches(self._doubts)]
        self._doubts.clear()
        sends += self._send_testimonies(peers)
        sends += self._send_records(peers, to_all=is_farewell)
        return sends

    def _send_testimonies(self, peers: Sequence[NodeId]) -> list[Send]:
        pending, self._testimonies = self._testimonies, []
        sends: list[Send] = []
        for at in range(0, len(pending), TESTIMONIES_AT_ONCE):
            batch = pending[at : at + TESTIMONIES_AT_ONCE]
            rumour = Rumour(tuple(envelope for envelope, _ in batch))
            source = _only([source for _, source in batch])
            sends += [Send(peer, rumour) for peer in peers if peer != source]
        return sends

    def _send_records(self, peers: Sequence[NodeId], *, to_all: bool) -> list[Send]:
        pending, self._records = list(self._records.items()), {}
        sends: list[Send] = []
        for at in range(0, len(pending), RECORDS_AT_ONCE):
            batch = pending[at : at + RECORDS_AT_ONCE]
            known = [found for node, _ in batch if (found := self._table.peek(node)) is not None]
            source = _only([source for _, source in batch])
            audience = [peer for peer in peers if peer != source]
            # Whoever brings a node in has more links than others while many come at once: told by
            # it, all know in one step, and nobody has to ask.
            is_first = all(source == node for node, source in batch)
            fanout = len(audience) if is_first or to_all else self._config.rumour_fanout
            eager = self._rng.sample(audience, min(fanout, len(audience)))
            delta = Delta(tuple(one.signed.envelope for one in known))
            announce = Announce(tuple(one.life() for one in known))
            sends += [Send(peer, delta if peer in eager else announce) for peer in audience]
        return sends

    def _overdue(self, peers: Sequence[NodeId], now: float) -> list[Send]:
        wanted: dict[NodeId, list[Life]] = {}
        while self._promises:
            node, (due_at, peer, life) = next(iter(self._promises.items()))
            if due_at > now:
                break
            del self._promises[node]
            known = self._table.peek(node)
            if known is None:
                wanted.setdefault(peer, []).append(Life(life.key, -1))
            elif known.rank < life.rank:
                wanted.setdefault(peer, []).append(known.life())
        return [Send(peer, Want(tuple(lives))) for peer, lives in wanted.items() if peer in peers]


def _only(sources: list[NodeId | None]) -> NodeId | None:
    """Return the source of all, when there is a single one."""
    return sources[0] if len(set(sources)) == 1 else None
