"""What we know of every node, ourselves included: its newest record, and whether it is there.

Theory of operation. A node is held alive until somebody doubts its present *life* (record version
and incarnation; see `model.testimony`); a doubt that the node does not answer with a later life
within `confirm_s` makes it dead. What was read from the disk is *unverified*: not ours to tell
others, alive as soon as anybody else lists it, dead after `silence_s`. Dead and left nodes are
remembered, so that they can be found again, and forgotten after `forget_s`.

The table lies over a `SharedBase`, which is empty in a node. In a simulation of ten thousand nodes
that all know each other the base is one for all, and a table holds only what differs from it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random

from p2prc.model.identity import NodeId
from p2prc.model.record import NodeRecord, SignedRecord
from p2prc.model.testimony import Life
from p2prc.protocol.fingerprint import Fingerprint, leaf_of, mark_of
from p2prc.wire.signed import Envelope


class NodeState(StrEnum):
    """Whether a node is there, as far as we know."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    LEFT = "left"
    DEAD = "dead"


TABLE_FULL = "table-full"
SPONSOR_FULL = "too-many-by-one-sponsor"
_PRESENT = (NodeState.ALIVE, NodeState.SUSPECT)


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

    `statement`: the signed proof of the incarnation, when it is not 0. `is_doubted`: others doubt
    a node that we hear, and wait for its answer. `mark`: what it adds to the fingerprint, 0 when
    it is not in it.
    """

    signed: SignedRecord
    state: NodeState
    heard_at: float
    incarnation: int = 0
    statement: Envelope | None = None
    is_doubted: bool = False
    is_unverified: bool = False
    mark: int = 0

    @property
    def version(self) -> int:
        return self.signed.record.version

    @property
    def rank(self) -> tuple[int, int]:
        """What lives of one node are ordered by."""
        return (self.signed.record.version, self.incarnation)

    @property
    def is_present(self) -> bool:
        """Whether nobody has concluded yet that the node is gone."""
        return self.state in _PRESENT

    @property
    def is_confirmed_dead(self) -> bool:
        """Whether it died here, and not only in a table of an earlier run."""
        return self.state is NodeState.DEAD and not self.is_unverified

    def life(self) -> Life:
        """What we tell others about it."""
        return Life(self.signed.envelope.author, self.signed.record.version, self.incarnation)


class SharedBase:
    """Records that many tables start from: all nodes alive. Never changed once it is made."""

    def __init__(self, records: Iterable[SignedRecord] = ()) -> None:
        self.known: dict[NodeId, Known] = {}
        self.leaves: dict[int, list[NodeId]] = {}
        self.fingerprint = Fingerprint()
        for signed in records:
            node, record = signed.record.node, signed.record
            mark = mark_of(node, record.version, 0)
            self.known[node] = Known(signed, NodeState.ALIVE, 0.0, mark=mark)
            self.leaves.setdefault(leaf_of(node), []).append(node)
            self.fingerprint.toggle(leaf_of(node), mark)
        self.nodes = list(self.known)


EMPTY_BASE = SharedBase()


@dataclass(frozen=True, slots=True)
class TableConfig:
    """The bounds and patience of a table; `sponsor_limit` members may come by one sponsor."""

    limit: int
    sponsor_limit: int
    confirm_s: float
    silence_s: float
    forget_s: float


class NodeTable:
    """The newest record of every node that we know, bounded."""

    def __init__(
        self,
        config: TableConfig,
        *,
        base: SharedBase = EMPTY_BASE,
        sponsor_of: Callable[[NodeRecord], NodeId | None] = lambda _: None,
    ) -> None:
        self.fingerprint = base.fingerprint.copy()
        self._config = config
        self._base = base
        self._sponsor_of = sponsor_of
        self._over: dict[NodeId, Known | None] = {}
        self._added: list[NodeId] = []
        self._positions: dict[NodeId, int] = {}
        self._added_leaves: dict[int, dict[NodeId, None]] = {}
        self._size = len(base.known)
        self._sponsored: dict[NodeId, dict[NodeId, None]] = {}
        self._sponsor_by: dict[NodeId, NodeId] = {}
        """Kept from when it came: who comes by another sponsor later counts for the first."""
        self._evicted: list[NodeId] = []
        self._displaced = 0
        self._verdicts: dict[NodeId, float] = {}
        self._agenda: list[tuple[float, NodeId, float]] = []
        self.dead: dict[NodeId, float] = {}
        self._left: dict[NodeId, float] = {}

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[tuple[NodeId, Known]]:
        for node in self._base.nodes:
            if (known := self.peek(node)) is not None:
                yield node, known
        for node in self._added:
            if (known := self._over[node]) is not None:
                yield node, known

    def peek(self, node: NodeId) -> Known | None:
        """Return what we know of the node, not to be changed: it may be the base's."""
        if node in self._over:
            return self._over[node]
        return self._base.known.get(node)

    def in_leaf(self, leaf: int) -> Iterator[tuple[NodeId, Known]]:
        """Return the entries of one leaf of the fingerprint."""
        for nodes in (self._base.leaves.get(leaf, ()), self._added_leaves.get(leaf, ())):
            for node in nodes:
                known = self.peek(node)
                if known is not None and known.mark:
                    yield node, known

    def in_leaves(self, leaves: Iterable[int]) -> Iterator[tuple[NodeId, Known]]:
        """Return the entries of several leaves, of each once; of all when there are none."""
        chosen = dict.fromkeys(leaves)
        if not chosen:
            yield from ((node, known) for node, known in self if known.mark)
        for leaf in chosen:
            yield from self.in_leaf(leaf)

    def draw(self, rng: Random) -> NodeId | None:
        """Return any node at random, or None when that one was forgotten."""
        total = len(self._base.nodes) + len(self._added)
        if not total:
            return None
        index = rng.randrange(total)
        if index < len(self._base.nodes):
            node = self._base.nodes[index]
            return node if self.peek(node) is not None else None
        return self._added[index - len(self._base.nodes)]

    @property
    def next_verdict_at(self) -> float | None:
        """When the next suspect is asked for, or held dead."""
        while self._agenda:
            at, node, verdict_at = self._agenda[0]
            if self._verdicts.get(node) == verdict_at:
                return at
            heapq.heappop(self._agenda)
        return None

    # -- records --

    def remember(self, signed: SignedRecord, now: float) -> None:
        """Take a record of the last run: its node is suspect until we hear of it.

        One that was down may be back by now, so it is looked for too.
        """
        node = signed.record.node
        sponsor = self._sponsor_of(signed.record)
        if self.peek(node) is not None or self._make_room(node, sponsor) is not None:
            return
        if signed.record.has_left:
            self._add(node, Known(signed, NodeState.LEFT, now), sponsor)
            self._left[node] = now
        else:
            self._add(node, Known(signed, NodeState.SUSPECT, now, is_unverified=True), sponsor)
            self._sentence(node, now + self._config.silence_s)

    def put(self, signed: SignedRecord, now: float) -> str | None:
        """Hold a checked record that is newer than ours; return why there is no room for it."""
        node = signed.record.node
        held = self.peek(node)
        if held is None:
            sponsor = self._sponsor_of(signed.record)
            if (reason := self._make_room(node, sponsor)) is not None:
                return reason
            self._add(node, known := Known(signed, NodeState.ALIVE, now), sponsor)
        else:
            known = self._mine(node, held)
            if signed.record.version > known.version:
                # Incarnations are compared within one version only.
                known.incarnation, known.statement = 0, None
            known.signed = signed
        known.heard_at = now
        known.is_doubted = known.is_unverified = False
        self._move(node, known, NodeState.LEFT if signed.record.is_away else NodeState.ALIVE, now)
        return None

    def advance(self, node: NodeId, incarnation: int, statement: Envelope, now: float) -> bool:
        """The node itself says that it is here; True when that changes its state."""
        if (held := self.peek(node)) is None:
            return False
        known = self._mine(node, held)
        before = known.state
        known.incarnation, known.statement = incarnation, statement
        known.heard_at = now
        known.is_doubted = known.is_unverified = False
        self._move(
            node, known, NodeState.LEFT if known.signed.record.is_away else NodeState.ALIVE, now
        )
        return known.state is not before

    # -- states --

    def hear(self, node: NodeId, now: float) -> bool:
        """Note that we are in touch with it; True when that changes its state."""
        held = self.peek(node)
        if held is None or held.signed.record.is_away:
            return False
        if held.state is NodeState.ALIVE and not held.is_unverified:
            return False
        known = self._mine(node, held)
        known.heard_at = now
        known.is_unverified = False
        is_back = known.state is not NodeState.ALIVE
        self._move(node, known, NodeState.ALIVE, now)
        return is_back

    def touch(self, node: NodeId, now: float) -> None:
        """Note when we last had a sign of it."""
        if (held := self.peek(node)) is not None:
            self._mine(node, held).heard_at = now

    def note_doubted(self, node: NodeId) -> None:
        """Others doubt a node that we hear."""
        if (held := self.peek(node)) is not None:
            self._mine(node, held).is_doubted = True

    def suspect(self, node: NodeId, now: float) -> bool:
        """Doubt that the node is there; True when we did not before."""
        held = self.peek(node)
        if held is None or held.state is not NodeState.ALIVE:
            return False
        self._move(node, self._mine(node, held), NodeState.SUSPECT, now)
        self._sentence(node, now + self._config.confirm_s)
        ask_at = now + self._config.confirm_s / 2
        heapq.heappush(self._agenda, (ask_at, node, self._verdicts[node]))
        return True

    def unlearn(self, now: float, spared: Collection[NodeId]) -> list[NodeId]:
        """We were cut off for long: whoever we hold alive is as if read from the disk."""
        changed = []
        for node, held in list(self):
            if held.is_present and not held.is_unverified and node not in spared:
                known = self._mine(node, held)
                known.is_unverified = True
                self._move(node, known, NodeState.SUSPECT, now)
                self._sentence(node, now + self._config.silence_s)
                changed.append(node)
        return changed

    def bar(self, is_barred: Callable[[NodeId, NodeRecord], bool], now: float) -> list[NodeId]:
        """Hold these nodes dead from now on, whatever they said; return whom that changes."""
        changed = []
        for node, held in list(self):
            if held.is_present and is_barred(node, held.signed.record):
                self._move(node, self._mine(node, held), NodeState.DEAD, now)
                changed.append(node)
        return changed

    def settle(self, now: float) -> tuple[list[NodeId], list[Life]]:
        """Hold every overdue suspect dead; return them, and whom to ask others for in time."""
        overdue: list[NodeId] = []
        asked: list[Life] = []
        while (at := self.next_verdict_at) is not None and at <= now:
            _, node, verdict_at = heapq.heappop(self._agenda)
            if (known := self._over.get(node)) is None:
                continue
            if verdict_at > now:
                asked.append(known.life())
            else:
                self._move(node, known, NodeState.DEAD, now)
                overdue.append(node)
        return overdue, asked

    def forget_gone(self, now: float) -> list[NodeId]:
        """Drop the nodes that have been dead or left for long, and return them."""
        gone: list[NodeId] = []
        for book in (self.dead, self._left):
            for node, since in book.items():
                if since > now - self._config.forget_s:
                    break
                gone.append(node)
        for node in gone:
            self._remove(node)
        return gone

    def postpone(self, gap_s: float) -> None:
        """Nobody is to blame for a time during which we did not listen."""
        self._verdicts = {node: at + gap_s for node, at in self._verdicts.items()}
        self._agenda = [(at, node, at) for node, at in self._verdicts.items()]
        heapq.heapify(self._agenda)

    # -- inside --

    def _mine(self, node: NodeId, held: Known) -> Known:
        """Return what is ours to change."""
        if node in self._over:
            return held
        known = self._over[node] = replace(held)
        return known

    def _move(self, node: NodeId, known: Known, state: NodeState, now: float) -> None:
        known.state = state
        self._verdicts.pop(node, None)
        for book, its_state in ((self.dead, NodeState.DEAD), (self._left, NodeState.LEFT)):
            if state is not its_state:
                book.pop(node, None)
            elif node not in book:
                book[node] = now
        is_told = state in _PRESENT and not known.is_unverified
        mark = mark_of(node, known.version, known.incarnation) if is_told else 0
        if mark != known.mark:
            self.fingerprint.toggle(leaf_of(node), mark ^ known.mark)
            known.mark = mark

    def _sentence(self, node: NodeId, at: float) -> None:
        self._verdicts[node] = at
        heapq.heappush(self._agenda, (at, node, at))

    def _add(self, node: NodeId, known: Known, sponsor: NodeId | None) -> None:
        self._over[node] = known
        self._size += 1
        if sponsor is not None:
            self._sponsored.setdefault(sponsor, {})[node] = None
            self._sponsor_by[node] = sponsor
        if node not in self._base.known:
            self._positions[node] = len(self._added)
            self._added.append(node)
            self._added_leaves.setdefault(leaf_of(node), {})[node] = None

    def _remove(self, node: NodeId) -> None:
        known = self.peek(node)
        if known is None:
            return
        if known.mark:
            self.fingerprint.toggle(leaf_of(node), known.mark)
        if (sponsor := self._sponsor_by.pop(node, None)) is not None:
            self._unsponsor(sponsor, node)
        self._size -= 1
        for book in (self._verdicts, self.dead, self._left):
            book.pop(node, None)
        if node in self._base.known:
            self._over[node] = None
            return
        del self._over[node]
        position, last = self._positions.pop(node), self._added.pop()
        if last != node:
            self._added[position] = last
            self._positions[last] = position
        del self._added_leaves[leaf_of(node)][node]

    def _unsponsor(self, sponsor: NodeId, node: NodeId) -> None:
        sponsored = self._sponsored.get(sponsor, {})
        sponsored.pop(node, None)
        if not sponsored:
            self._sponsored.pop(sponsor, None)

    def take_evicted(self) -> list[NodeId]:
        """Return who had to make room for others since the last time."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def take_displaced(self) -> int:
        """Return how many that are there had to make room since the last time."""
        displaced, self._displaced = self._displaced, 0
        return displaced

    def _make_room(self, node: NodeId, sponsor: NodeId | None) -> str | None:
        sponsored = self._sponsored.get(sponsor, {}) if sponsor is not None else {}
        if len(sponsored) >= self._config.sponsor_limit:
            # Those that are there, then the lowest ids: were it whoever came first, every table
            # would hold others, and their owners would tell each other of them for ever.
            worst = max(sponsored, key=self._dispensable)
            if self._dispensable(worst) < (False, node):
                return SPONSOR_FULL
            self._displaced += self._is_present(worst)
            self._evict(worst)
            return None
        if self._size < self._config.limit:
            return None
        oldest = next(iter(self.dead or self._left), None)
        if oldest is None:
            return TABLE_FULL
        self._evict(oldest)
        return None

    def _dispensable(self, node: NodeId) -> tuple[bool, NodeId]:
        return (not self._is_present(node), node)

    def _is_present(self, node: NodeId) -> bool:
        known = self.peek(node)
        return known is not None and known.is_present

    def _evict(self, node: NodeId) -> None:
        self._remove(node)
        self._evicted.append(node)
