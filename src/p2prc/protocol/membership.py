"""Membership: who is in the network, what they say of themselves, and whether they are there.

Theory of operation. Every `gossip_interval_s` a node raises its heartbeat counter and sends the
summary of its table to one connected peer at random. The peer answers with the records that the
sender lacks and with a partial digest of what it wants itself and knows better; the sender then
sends the records wanted (push-pull anti-entropy: Demers and others, 1987). Single news travel
faster: a new record is passed on to a few peers at once, a doubt about a node and its refutation
to all. A doubt names the counter that it rests on; the doubted node, or anybody connected to it,
answers with a newer one. How silence becomes death is told in `node_table`.

Nothing that a peer sends is trusted but records, which their authors signed. A lie about counters
or doubts makes a node look suspect until its next heartbeat has gone round, and no longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import assert_never

from p2prc.model.identity import NodeId
from p2prc.model.record import NodeRecord, SignedRecord, open_record
from p2prc.protocol.allowance import PeerAllowances
from p2prc.protocol.digests import Comparison, Findings, delta_within
from p2prc.protocol.membership_events import (
    Dial,
    DialFailed,
    Effect,
    Event,
    MembershipConfig,
    MessageReceived,
    NodeChanged,
    OwnRecordChanged,
    OwnVersionBehind,
    PeerConnected,
    PeerLost,
    Send,
    Tick,
)
from p2prc.protocol.messages import Delta, Digest, DigestEntry
from p2prc.protocol.node_table import HEARTBEAT_JUMP_LIMIT, NodeState, NodeTable, NodeView
from p2prc.protocol.peer_choice import PeerChoice
from p2prc.protocol.record_gate import OLD, RecordGate
from p2prc.wire.signed import Envelope

__all__ = [
    "Dial",
    "DialFailed",
    "Effect",
    "Event",
    "Membership",
    "MembershipConfig",
    "MessageReceived",
    "NodeChanged",
    "NodeState",
    "NodeView",
    "OwnRecordChanged",
    "OwnVersionBehind",
    "PeerConnected",
    "PeerLost",
    "Send",
    "Tick",
]

TABLE_FULL = "table-full"
TOO_MANY = "too-many"

_ENTRY_BYTES = 90
_REPLY_ENTRIES = 2_000
_RUMOUR_RECORDS = 8
"""More new records at once are somebody's whole table: old news, left to anti-entropy."""


class Membership:
    """The network as one node sees it."""

    def __init__(
        self,
        own: SignedRecord,
        *,
        is_member: Callable[[NodeRecord], bool],
        rng: Random,
        now: float,
        config: MembershipConfig | None = None,
        known: Iterable[SignedRecord] = (),
        open_envelope: Callable[[Envelope], SignedRecord] = open_record,
    ) -> None:
        self._config = config if config is not None else MembershipConfig()
        self._own = own
        self._self = own.record.node
        self._heartbeat = 0
        self._rng = rng
        self._gate = RecordGate(
            own.record.network, is_member=is_member, open_envelope=open_envelope
        )
        self._table = NodeTable(
            limit=self._config.table_limit,
            confirm_s=self._config.confirm_s,
            silence_s=self._config.silence_s,
            forget_s=self._config.forget_s,
        )
        self._choice = PeerChoice(self._config.choice, rng, now=now)
        self._allowances: dict[NodeId, PeerAllowances] = {}
        self._gossip_at = now + rng.uniform(0.0, self._config.gossip_interval_s)
        self._refuted_at = now - self._config.refute_interval_s
        self._news: dict[NodeId, None] = {}
        for signed in known:
            record = signed.record
            is_ours = record.node != self._self and record.network == own.record.network
            if is_ours and len(self._table) < self._config.table_limit and is_member(record):
                self._table.remember(signed, now)

    # -- what others may ask --

    @property
    def deadline(self) -> float:
        """When `handle` wants to be called at the latest."""
        verdict_at = self._table.next_verdict_at
        return self._gossip_at if verdict_at is None else min(self._gossip_at, verdict_at)

    @property
    def refusals(self) -> Mapping[str, int]:
        """How many records and messages were refused, by reason."""
        return self._gate.refusals

    def nodes(self, now: float) -> list[NodeView]:
        """Return every node known, ourselves first, the others by id."""
        views = [NodeView(self._own.record, NodeState.ALIVE, now, is_self=True)]
        for node, known in sorted(self._table):
            is_connected = self._choice.is_connected(node)
            heard_at = now if is_connected else known.heard_at
            views.append(
                NodeView(known.signed.record, known.state, heard_at, is_connected=is_connected)
            )
        return views

    def state_of(self, node: NodeId) -> NodeState | None:
        """Return whether the node is there; None when we have never heard of it."""
        if node == self._self:
            return NodeState.ALIVE
        known = self._table.get(node)
        return known.state if known is not None else None

    def record_of(self, node: NodeId) -> NodeRecord | None:
        """Return the newest record of a node, our own included."""
        signed = self._signed_of(node)
        return signed.record if signed is not None else None

    def envelope_of(self, node: NodeId) -> Envelope | None:
        """Return the newest record of a node as its author signed it."""
        signed = self._signed_of(node)
        return signed.envelope if signed is not None else None

    # -- the one door --

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Settle what is overdue, then take the event; return what is to be done."""
        effects = self._settle(now)
        match event:
            case PeerConnected():
                effects += self._connected(event.peer, now)
            case PeerLost():
                effects += self._lost(event.peer, now)
            case MessageReceived():
                # What was still under way when the link broke comes again by another one.
                if self._choice.is_connected(event.peer):
                    effects += self._received(event.peer, event.message, now)
            case OwnRecordChanged():
                effects += self._own_changed(event.signed)
            case DialFailed():
                self._choice.note_failed(event.peer, now)
                effects += self._dials(now)
            case Tick():
                pass
            case _:
                assert_never(event)
        return effects + self._spread_news()

    # -- time --

    def _settle(self, now: float) -> list[Effect]:
        if (stalled_s := now - self._gossip_at) > self._config.stall_s:
            self._table.forgive(stalled_s)
        effects: list[Effect] = [NodeChanged(node) for node in self._table.settle(now)]
        if self._gossip_at <= now:
            interval_s = self._config.gossip_interval_s
            self._gossip_at = now + interval_s * self._rng.uniform(0.9, 1.1)
            self._heartbeat += 1
            effects += self._doubt_silent(now)
            for node in self._table.forget_gone(now):
                self._choice.forget(node)
                effects.append(NodeChanged(node))
            effects += [Send(peer, self._summary()) for peer in self._choice.some_connected(1)]
            effects += self._dials(now)
        return effects

    def _doubt_silent(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for known in self._table.silent(now):
            node = known.signed.record.node
            if not self._choice.is_connected(node) and self._table.suspect(known, now):
                effects += self._state_changed(node)
        return effects

    def _dials(self, now: float) -> list[Effect]:
        return [
            Dial(node, known.signed.record.addresses)
            for node in self._choice.next_dials(self._table, now)
            if (known := self._table.get(node)) is not None
        ]

    # -- links --

    def _connected(self, peer: NodeId, now: float) -> list[Effect]:
        if peer == self._self:
            return []
        self._choice.note_connected(peer)
        if peer not in self._allowances:
            self._allowances[peer] = PeerAllowances(self._config, now)
        effects: list[Effect] = []
        known = self._table.get(peer)
        if known is not None and self._table.hear(known, now):
            effects += self._state_changed(peer)
        effects.append(Send(peer, self._summary()))
        return effects

    def _lost(self, peer: NodeId, now: float) -> list[Effect]:
        if not self._choice.is_connected(peer):
            return []
        self._choice.note_lost(peer, now)
        del self._allowances[peer]
        effects: list[Effect] = []
        if (known := self._table.get(peer)) is not None:
            known.heard_at = now
            if self._table.suspect(known, now):
                effects += self._state_changed(peer)
        return effects + self._dials(now)

    # -- messages --

    def _received(self, peer: NodeId, message: Digest | Delta, now: float) -> list[Effect]:
        effects: list[Effect] = []
        known = self._table.get(peer)
        if known is not None and self._table.hear(known, now):
            effects += self._state_changed(peer)
        match message:
            case Digest():
                effects += self._take_digest(peer, message, now)
            case Delta():
                effects += self._take_delta(peer, message, now)
            case _:
                assert_never(message)
        return effects

    def _take_digest(self, peer: NodeId, digest: Digest, now: float) -> list[Effect]:
        comparison = Comparison(self._table, self._choice, now)
        found = comparison.found
        doubts = self._allowances[peer].doubts
        for entry in digest.entries:
            if entry.node == self._self:
                self._weigh_own(entry, found, now)
            else:
                comparison.weigh(entry, doubts)
        if not digest.is_reply:
            comparison.add_unlisted(digest, self._self)
        if found.refused:
            self._gate.refusals[TOO_MANY] += found.refused
        effects: list[Effect] = []
        for node in found.changed:
            effects += self._state_changed(node)
        self._news.update(dict.fromkeys(found.spread))
        effects += [Send(entry.node, Digest((entry,), is_reply=True)) for entry in found.warnings]
        return effects + self._answer(peer, found, now, is_whole=not digest.is_reply)

    def _answer(self, peer: NodeId, found: Findings, now: float, *, is_whole: bool) -> list[Effect]:
        """Tell the peer what it lacks and ask for what we lack, as far as it may make us."""
        answers = self._allowances[peer].answers
        entries = found.refutations + (found.wanted + found.newer if is_whole else [])
        effects: list[Effect] = []
        entries = entries[:_REPLY_ENTRIES]
        if entries and answers.take(len(entries) * _ENTRY_BYTES, now):
            effects.append(Send(peer, Digest(tuple(entries), is_reply=True)))
        lacking = list(dict.fromkeys(found.lacking))
        # A peer that refuses some records must still get the others, whatever their order.
        self._rng.shuffle(lacking)
        signed = filter(None, map(self._signed_of, lacking))
        delta = delta_within(signed, lambda size_bytes: answers.take(size_bytes, now))
        if delta is not None:
            effects.append(Send(peer, delta))
        elif lacking:
            self._gate.refusals[TOO_MANY] += 1
        return effects

    def _weigh_own(self, entry: DigestEntry, found: Findings, now: float) -> None:
        """What others say of us: where they doubt or lag, say that we are here."""
        version = self._own.record.version
        if entry.version > version:
            # A claim to know more makes us ask for the record; only that proves it.
            found.wanted.append(self._own_entry())
        elif entry.version < version:
            found.lacking.append(self._self)
        elif entry.heartbeat > self._heartbeat or entry.is_suspect:
            if now - self._refuted_at < self._config.refute_interval_s:
                found.refutations.append(self._own_entry())
            else:
                self._refuted_at = now
                highest = min(entry.heartbeat, self._heartbeat + HEARTBEAT_JUMP_LIMIT)
                self._heartbeat = max(self._heartbeat, highest) + 1
                self._news[self._self] = None
        elif entry.heartbeat < self._heartbeat:
            found.newer.append(self._own_entry())

    def _take_delta(self, peer: NodeId, delta: Delta, now: float) -> list[Effect]:
        effects: list[Effect] = []
        fresh: list[Envelope] = []
        records = self._allowances[peer].records
        for envelope in delta.records:
            node = NodeId(envelope.author.hex())
            held = self._signed_of(node)
            if held is not None and held.envelope == envelope:
                continue
            # Checking a signature costs a tenth of a millisecond of ours.
            if not records.take(1, now):
                self._gate.refusals[TOO_MANY] += 1
                break
            if node == self._self:
                effects += self._own_came_back(envelope)
                continue
            signed = self._gate.examine(envelope, held)
            if signed is None:
                continue
            if self._table.put(signed, now):
                fresh.append(envelope)
                effects.append(NodeChanged(node))
            else:
                self._gate.refusals[TABLE_FULL] += 1
        if 0 < len(fresh) <= _RUMOUR_RECORDS:
            rumour = Delta(tuple(fresh))
            fanout = self._config.rumour_fanout
            effects += [
                Send(other, rumour) for other in self._choice.some_connected(fanout, besides=peer)
            ]
        return effects + (self._dials(now) if fresh else [])

    # -- ourselves --

    def _own_changed(self, signed: SignedRecord) -> list[Effect]:
        if signed.record.node != self._self or signed.record.version <= self._own.record.version:
            return []
        self._own = signed
        effects: list[Effect] = [NodeChanged(self._self)]
        effects += [Send(peer, Delta((signed.envelope,))) for peer in self._audience()]
        return effects

    def _own_came_back(self, envelope: Envelope) -> list[Effect]:
        """A record of ours that we do not hold: we lost our disk, or our key runs twice."""
        signed = self._gate.examine(envelope, None)
        if signed is None:
            return []
        if signed.record.version < self._own.record.version:
            self._gate.refusals[OLD] += 1
            return []
        return [OwnVersionBehind(signed.record.version)]

    def _own_entry(self) -> DigestEntry:
        return DigestEntry(self._self, self._own.record.version, self._heartbeat)

    # -- telling others --

    def _state_changed(self, node: NodeId) -> list[Effect]:
        """Somebody seems gone, or is back: others want to know at once."""
        self._news[node] = None
        return [NodeChanged(node)]

    def _spread_news(self) -> list[Effect]:
        entries = []
        for node in self._news:
            if node == self._self:
                entries.append(self._own_entry())
            elif (known := self._table.get(node)) is not None:
                entries.append(known.entry())
        self._news.clear()
        if not entries:
            return []
        digest = Digest(tuple(entries[:_REPLY_ENTRIES]), is_reply=True)
        return [Send(peer, digest) for peer in self._audience()]

    def _audience(self) -> list[NodeId]:
        """All our connections, unless very many others have connected to us."""
        return self._choice.some_connected(2 * self._config.choice.connections)

    def _summary(self) -> Digest:
        return Digest((self._own_entry(), *(known.entry() for _, known in self._table)))

    def _signed_of(self, node: NodeId) -> SignedRecord | None:
        if node == self._self:
            return self._own
        known = self._table.get(node)
        return known.signed if known is not None else None
