"""Which peers we keep connections to, and whom we call on to see whether they are there.

A small random view makes a graph that stays in one piece when many nodes vanish (Leitao, Pereira,
Rodrigues: "HyParView", 2007). Random calls find the dead whom nobody watches (SWIM's probes), and
calls to the dead join two halves again after a network was cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from p2prc.model.identity import NodeId
from p2prc.protocol.node_table import Known, NodeState, NodeTable


@dataclass(frozen=True, slots=True)
class ChoiceConfig:
    """How many connections we ask for and keep, and how patiently.

    We dial while there are fewer than `wanted`: up to `hurried` at once, the rest one every
    `pace_s`; a newcomer leaves it at its first for `arrival_s`. So many who join together hear of
    each other first; nor does one compare tables again for `meeting_s`. Whoever dials us is
    welcome, but above `kept` one that nobody uses is hung up. A call on a node that we are not
    connected with is made every `probe_interval_s`, and another one on a dead node every
    `retry_dead_s`. A node that others reach and we do not is left alone for `refuted_first_s`, then
    twice as long each time, up to `refuted_longest_s`.
    """

    wanted: int = 5
    hurried: int = 2
    arrival_s: float = 4.0
    meeting_s: float = 1.5
    pace_s: float = 2.0
    kept: int = 8
    retry_first_s: float = 1.0
    retry_longest_s: float = 15.0
    dial_timeout_s: float = 30.0
    probe_interval_s: float = 60.0
    refuted_first_s: float = 5.0
    refuted_longest_s: float = 600.0
    probes_at_once: int = 8
    retry_dead_s: float = 10.0
    visit_s: float = 3.0


@dataclass(slots=True)
class _Failing:
    """How often in a row we did not get through, and when to try again."""

    count: int
    retry_at: float
    refuted: int = 0


_MANY_DEAD = 3
_ALARM_S = 15.0
_ALARM_CALL_S = 3.0
"""After many deaths calls are made this often, and also on whom we heard this lately."""
_DRAWS = 24
"""So many random draws find somebody, or there is hardly anybody to be found."""


class PeerChoice:
    """Who is connected, who is being dialled, and whom to dial next."""

    def __init__(self, config: ChoiceConfig, rng: Random, own: NodeId, *, now: float) -> None:
        self._config = config
        self._rng = rng
        self._own = own
        self._connected: dict[NodeId, float] = {}
        self._dialling: dict[NodeId, float] = {}
        self._visits: dict[NodeId, float] = {}
        self._failing: dict[NodeId, _Failing] = {}
        self._probe_at = now + self._jittered(config.probe_interval_s)
        self._retry_dead_at = now + self._jittered(config.retry_dead_s)
        self._probes_due = 0
        self._unhurried_at = now
        self._first_at: float | None = None
        self._newcomer_until: float | None = None
        """When we have had links for long enough; None before the first."""
        self._deaths, self._deaths_since = 0, now
        self._alarmed_until = self._alarm_call_at = now

    @property
    def connected(self) -> list[NodeId]:
        """Everybody we can send to, in the order of arrival."""
        return list(self._connected)

    def is_connected(self, peer: NodeId) -> bool:
        return peer in self._connected

    def note_connected(self, peer: NodeId, now: float) -> None:
        """A connection exists, whoever dialled."""
        if self._first_at is None:
            self._first_at = now
        if self._newcomer_until is None:
            self._newcomer_until = now + self._jittered(self._config.arrival_s)
        self._connected.setdefault(peer, now)
        self._dialling.pop(peer, None)
        self._failing.pop(peer, None)
        if peer in self._visits:
            self._visits[peer] = now + self._config.visit_s

    def note_lost(self, peer: NodeId, now: float) -> None:
        """The last connection is gone: try again, but not all of us at the same moment."""
        self._connected.pop(peer, None)
        self._visits.pop(peer, None)
        self._note_failure(peer, now)

    def note_failed(self, peer: NodeId, now: float) -> None:
        """A dial did not get through."""
        self._dialling.pop(peer, None)
        if peer not in self._connected:
            self._visits.pop(peer, None)
            self._note_failure(peer, now)

    def note_deaths(self, count: int, now: float) -> None:
        """Nodes were found dead. When many are, others that nobody watched may be too: look."""
        if count and now - self._deaths_since > _ALARM_S:
            self._deaths, self._deaths_since = 0, now
        self._deaths += count
        if self._deaths >= _MANY_DEAD:
            self._alarmed_until = now + _ALARM_S

    def call_more(self) -> None:
        """One was found gone that nobody missed: there may be more, so look at once."""
        self._probes_due = min(self._probes_due + 2, self._config.probes_at_once)

    def note_refuted(self, node: NodeId, now: float) -> None:
        """It is there, but not for us: leave it alone, each time twice as long.

        Not for long at first. When an address has changed, dials fail until the relays have
        noticed, and without a link nobody could tell us how the new address is seen.
        """
        if (failing := self._failing.get(node)) is not None:
            wait_s = self._config.refuted_first_s * 2 ** min(failing.refuted, 10)
            failing.refuted += 1
            wait_s = min(wait_s, self._config.refuted_longest_s)
            failing.retry_at = max(failing.retry_at, now + self._jittered(wait_s))

    def forget(self, node: NodeId) -> None:
        """The node has left our table."""
        self._failing.pop(node, None)

    def some_connected(self, count: int, *, besides: NodeId | None = None) -> list[NodeId]:
        """Return at most `count` connected peers, drawn at random."""
        peers = [peer for peer in self._connected if peer != besides]
        return peers if len(peers) <= count else self._rng.sample(peers, count)

    def surplus(self, now: float) -> list[NodeId]:
        """Return whose connections are no longer needed: visits that are over, one too many."""
        over = [peer for peer, ends_at in self._visits.items() if 0.0 < ends_at <= now]
        for peer in over:
            del self._visits[peer]
        spare = len(self._connected) - self._config.wanted
        over = over[: max(0, spare)]
        if not over and len(self._connected) > self._config.kept:
            settled = [peer for peer, at in self._connected.items() if at < now - 10.0]
            over = [self._rng.choice(settled)] if settled else []
        return over

    def call_on(self, node: NodeId, now: float) -> bool:
        """Ask for one call on this node, soon; False when it is being dialled or rests."""
        if node in self._connected or node in self._dialling or node in self._visits:
            return False
        failing = self._failing.get(node)
        if failing is not None and failing.retry_at > now:
            return False
        self._start(node, now, is_visit=True)
        return True

    def next_dials(
        self, table: NodeTable, now: float, *, may_dial: Callable[[NodeId], bool]
    ) -> list[NodeId]:
        """Return whom to dial now; they count as being dialled."""
        for peer, gives_up_at in list(self._dialling.items()):
            if gives_up_at <= now:
                self.note_failed(peer, now)

        def suits(node: NodeId, known: Known) -> bool:
            return self._may_dial(node, known, now) and may_dial(node)

        kept = len(self._connected) + len(self._dialling) - len(self._visits)
        chosen: list[NodeId] = []
        for node in self._draw(table, self._missing(kept, now), suits):
            self._start(node, now)
            chosen.append(node)
            self._unhurried_at = now + self._jittered(self._config.pace_s)
        for node in self._calls(table, now, suits):
            self._start(node, now, is_visit=True)
            chosen.append(node)
        return chosen

    def _missing(self, kept: int, now: float) -> int:
        """Return how many to dial now."""
        missing = self._config.wanted - kept
        hurried = 1 if self._is_newcomer(now) else self._config.hurried
        if kept < hurried:
            return min(missing, hurried - kept)
        is_due = self._unhurried_at <= now and not self._is_newcomer(now)
        return min(missing, 1) if is_due else 0

    def has_just_met(self, now: float) -> bool:
        """Whether our first link came to be a moment ago."""
        return self._first_at is not None and now < self._first_at + self._config.meeting_s

    def _is_newcomer(self, now: float) -> bool:
        return bool(self._connected) and (self._newcomer_until or 0.0) > now

    def _start(self, node: NodeId, now: float, *, is_visit: bool = False) -> None:
        self._dialling[node] = now + self._config.dial_timeout_s
        if is_visit:
            self._visits[node] = 0.0

    def _draw(
        self, table: NodeTable, count: int, suits: Callable[[NodeId, Known], bool]
    ) -> list[NodeId]:
        """Draw among those that may be there; only then among those that seem gone."""
        if count <= 0:
            return []
        if len(table) <= 2 * _DRAWS:
            present: list[NodeId] = []
            gone: list[NodeId] = []
            for node, known in table:
                if suits(node, known):
                    (present if known.is_present else gone).append(node)
            chosen = self._rng.sample(present, min(count, len(present)))
            return chosen + self._rng.sample(gone, min(count - len(chosen), len(gone)))
        found: dict[NodeId, None] = {}
        for _ in range(_DRAWS * count):
            drawn = self._draw_one(table, lambda _, known: known.is_present, suits, found)
            if drawn is not None:
                found[drawn] = None
            if len(found) == count:
                return list(found)
        for node in self._lately_dead(table, count - len(found), suits):
            found[node] = None
        return list(found)

    def _draw_one(
        self,
        table: NodeTable,
        wanted: Callable[[NodeId, Known], bool],
        suits: Callable[[NodeId, Known], bool],
        found: dict[NodeId, None],
    ) -> NodeId | None:
        node = table.draw(self._rng)
        if node is None or node in found or (known := table.peek(node)) is None:
            return None
        return node if wanted(node, known) and suits(node, known) else None

    def _calls(
        self, table: NodeTable, now: float, suits: Callable[[NodeId, Known], bool]
    ) -> list[NodeId]:
        chosen: dict[NodeId, None] = {}
        is_alarmed = now < self._alarmed_until
        if self._probe_at <= now or (is_alarmed and self._alarm_call_at <= now):
            self._probe_at = now + self._jittered(self._config.probe_interval_s)
            self._alarm_call_at = now + self._jittered(_ALARM_CALL_S)
            self._probes_due = max(self._probes_due, 1)
        room = self._config.probes_at_once - len(self._visits)
        if self._probes_due and room > 0 and len(table) - 1 > len(self._connected):
            heard_before = now - (_ALARM_CALL_S if is_alarmed else self._config.probe_interval_s)

            def is_long_unheard(_: NodeId, known: Known) -> bool:
                return known.state is NodeState.ALIVE and known.heard_at <= heard_before

            for _ in range(_DRAWS):
                node = self._draw_one(table, is_long_unheard, suits, chosen)
                if node is not None:
                    chosen[node] = None
                if len(chosen) >= min(self._probes_due, room):
                    break
        self._probes_due = 0
        if self._retry_dead_at <= now:
            self._retry_dead_at = now + self._jittered(self._config.retry_dead_s)
            for node in self._lately_dead(table, 1, suits):
                chosen[node] = None
        return list(chosen)

    def _lately_dead(
        self, table: NodeTable, count: int, suits: Callable[[NodeId, Known], bool]
    ) -> list[NodeId]:
        """Draw among the dead, of whom there may be half a network."""
        dead = list(table.dead)
        if len(dead) > 4 * _DRAWS:
            dead = [self._rng.choice(dead) for _ in range(_DRAWS)]
        fitting = list(dict.fromkeys(dead))
        fitting = [
            node
            for node in fitting
            if (known := table.peek(node)) is not None and suits(node, known)
        ]
        return self._rng.sample(fitting, min(count, len(fitting)))

    def _may_dial(self, node: NodeId, known: Known, now: float) -> bool:
        if node == self._own or node in self._connected or node in self._dialling:
            return False
        record = known.signed.record
        if known.state is NodeState.LEFT or not (record.addresses or record.relays):
            return False
        failing = self._failing.get(node)
        return failing is None or failing.retry_at <= now

    def _note_failure(self, peer: NodeId, now: float) -> None:
        before = self._failing.get(peer)
        count, refuted = (before.count + 1, before.refuted) if before is not None else (1, 0)
        # 2 ** 10 exceeds every sensible longest wait, and the count may grow for months.
        wait_s = self._config.retry_first_s * 2 ** min(count - 1, 10)
        longest_s = min(wait_s, self._config.retry_longest_s)
        self._failing[peer] = _Failing(count, now + self._jittered(longest_s), refuted)

    def _jittered(self, seconds: float) -> float:
        return seconds * self._rng.uniform(0.5, 1.0)
