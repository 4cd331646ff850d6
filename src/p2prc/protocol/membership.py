"""Membership: who is in the network, what they say of themselves, and whether they are there.

Theory of operation. A node keeps connections to a few others (`peer_choice`). Their pulse tells
when one is lost; its watchers doubt its present life, and the doubt, signed by the doubter, goes
round at once. The doubted node, told by whoever still hears it, answers with a signed statement of
a later life; without one it is dead after `confirm_s` (suspicion and refutation: Das, Gupta,
Motivala: "SWIM", 2002; time during which we were not awake does not count: Dadgar, Phillips,
Currey: "Lifeguard", 2018). Nobody else can say that a node is alive, whatever it sends. Nodes that
nobody watches are called on at random; a call that fails is first repeated by others.

News spread by push (`spreading`). What gets lost is found by comparing fingerprints of the tables
with one peer at a time (`exchange`): nothing that a node does in a quiet network grows with it.

Nothing that a peer sends is trusted but what its author signed. How much one peer may make us do is
bounded (`allowance`), and one that does what honest nodes do not is shunned for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import assert_never

from p2prc.model.identity import NodeId
from p2prc.model.record import NodeRecord, SignedRecord, open_record
from p2prc.model.testimony import Life, Testimony, open_testimony
from p2prc.protocol import exchange
from p2prc.protocol.allowance import Conduct, PeerAllowances
from p2prc.protocol.catching_up import CatchingUp
from p2prc.protocol.membership_events import (
    Dial,
    DialFailed,
    Effect,
    Event,
    HangUp,
    MembersBarred,
    MembershipConfig,
    MessageReceived,
    NodeChanged,
    OwnRecordChanged,
    OwnVersionBehind,
    PeerConnected,
    PeerLost,
    Send,
    Shun,
    Tick,
)
from p2prc.protocol.membership_parts import TOO_MANY, Parts
from p2prc.protocol.messages import (
    Announce,
    Branches,
    Call,
    Delta,
    Digest,
    Entries,
    Gossip,
    Leaves,
    Rumour,
    Summary,
    Want,
)
from p2prc.protocol.node_table import (
    EMPTY_BASE,
    NodeState,
    NodeTable,
    NodeView,
    SharedBase,
    TableConfig,
)
from p2prc.protocol.peer_choice import PeerChoice
from p2prc.protocol.previous_version import (
    FIRST_SIGNING_VERSION,
    PreviousVersion,
    signs_lives,
)
from p2prc.protocol.record_gate import RecordGate
from p2prc.protocol.spreading import Spreading
from p2prc.protocol.testimonies import CALL_TRIES, Testimonies
from p2prc.wire.signed import Envelope

__all__ = [
    "Dial",
    "DialFailed",
    "Effect",
    "Event",
    "HangUp",
    "MembersBarred",
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
    "SharedBase",
    "Shun",
    "Tick",
]


class Membership:
    """The network as one node sees it."""

    def __init__(
        self,
        own: SignedRecord,
        *,
        is_member: Callable[[NodeRecord], bool],
        testify: Callable[[tuple[Life, ...]], Envelope],
        rng: Random,
        now: float,
        config: MembershipConfig | None = None,
        known: Iterable[SignedRecord] = (),
        base: SharedBase = EMPTY_BASE,
        sponsor_of: Callable[[NodeRecord], NodeId | None] = lambda _: None,
        open_envelope: Callable[[Envelope], SignedRecord] = open_record,
        open_rumour: Callable[[Envelope], Testimony] = open_testimony,
    ) -> None:
        config = config if config is not None else MembershipConfig()
        self._self = own.record.node
        table = NodeTable(
            TableConfig(
                limit=config.table_limit,
                sponsor_limit=config.sponsor_limit,
                confirm_s=config.confirm_s,
                silence_s=config.silence_s,
                forget_s=config.forget_s,
            ),
            base=base,
            sponsor_of=sponsor_of,
        )
        table.put(own, now)
        choice = PeerChoice(config.choice, rng, self._self, now=now)
        self._parts = Parts(
            config=config,
            own=self._self,
            testify=testify,
            rng=rng,
            gate=RecordGate(
                own.record.network,
                is_member=is_member,
                open_record=open_envelope,
                open_testimony=open_rumour,
            ),
            table=table,
            choice=choice,
            spreading=Spreading(config, rng, table, testify),
            previous=PreviousVersion(table, self._self, is_connected=choice.is_connected),
            conduct=Conduct(config),
        )
        self._testimonies = Testimonies(self._parts, now)
        self._catching_up = CatchingUp(self._parts, now)
        self._gossip_at = now + rng.uniform(0.0, config.gossip_interval_s)
        self._lonely_since: float | None = now
        for signed in known:
            record = signed.record
            if record.network == own.record.network and is_member(record):
                table.remember(signed, now)
        table.take_evicted()

    # -- what others may ask --

    @property
    def deadline(self) -> float:
        """When `handle` wants to be called at the latest."""
        at = self._gossip_at
        if (verdict_at := self._parts.table.next_verdict_at) is not None and verdict_at < at:
            at = verdict_at
        if (spread_at := self._parts.spreading.deadline) is not None and spread_at < at:
            at = spread_at
        if self._testimonies.restate_at is not None and self._testimonies.restate_at < at:
            at = self._testimonies.restate_at
        return at

    @property
    def refusals(self) -> Mapping[str, int]:
        """How many records and messages were refused, by reason."""
        return self._parts.gate.refusals

    @property
    def known_count(self) -> int:
        """How many nodes are known, ourselves included."""
        return len(self._parts.table)

    def nodes(self, now: float) -> list[NodeView]:
        """Return every node known, ourselves first, the others by id."""
        views = [NodeView(self._parts.own_known.signed.record, NodeState.ALIVE, now, is_self=True)]
        for node, known in sorted(self._parts.table, key=lambda pair: pair[0]):
            if node == self._self:
                continue
            is_connected = self._parts.choice.is_connected(node)
            heard_at = now if is_connected else known.heard_at
            views.append(
                NodeView(known.signed.record, known.state, heard_at, is_connected=is_connected)
            )
        return views

    def state_of(self, node: NodeId) -> NodeState | None:
        """Return whether the node is there; None when we have never heard of it."""
        if node == self._self:
            return NodeState.ALIVE
        known = self._parts.table.peek(node)
        return known.state if known is not None else None

    def record_of(self, node: NodeId) -> NodeRecord | None:
        """Return the newest record of a node, our own included."""
        known = self._parts.table.peek(node)
        return known.signed.record if known is not None else None

    def life_of(self, node: NodeId) -> Life | None:
        """Return the life that we hold the node to lead."""
        known = self._parts.table.peek(node)
        return known.life() if known is not None else None

    def envelope_of(self, node: NodeId) -> Envelope | None:
        """Return the newest record of a node as its author signed it."""
        known = self._parts.table.peek(node)
        return known.signed.envelope if known is not None else None

    def signed_of(self, node: NodeId) -> SignedRecord | None:
        """Return the newest record of a node, checked, with the bytes that its author signed."""
        known = self._parts.table.peek(node)
        return known.signed if known is not None else None

    # -- the one door --

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Settle what is overdue, then take the event; return what is to be done."""
        self._parts.out = []
        self._settle(now)
        match event:
            case PeerConnected():
                self._connected(event.peer, event.version, now)
            case PeerLost():
                self._lost(event.peer, now, on_purpose=event.on_purpose)
            case MessageReceived():
                # What was still under way when the link broke comes again by another one.
                if self._parts.choice.is_connected(event.peer):
                    self._received(event.peer, event.message, now)
            case OwnRecordChanged():
                self._own_changed(event.signed, now)
            case DialFailed():
                self._dial_failed(event.peer, now)
            case MembersBarred():
                for node in self._parts.table.bar(self._is_barred, now):
                    self._parts.changed(node)
            case Tick():
                pass
            case _:
                assert_never(event)
        return self._flushed(now)

    def _flushed(self, now: float) -> list[Effect]:
        previous = self._parts.previous
        if (due_at := self._parts.spreading.deadline) is not None and due_at <= now:
            peers = [peer for peer in self._parts.choice.connected if peer not in previous.peers]
            self._parts.out += self._parts.spreading.flush(peers, now)
        if previous.peers and previous.changed:
            self._parts.out += previous.news()
        out, self._parts.out = self._parts.out, []
        return out

    # -- time --

    def _settle(self, now: float) -> None:
        if (stalled_s := now - self._gossip_at) > self._parts.config.stall_s:
            self._parts.table.postpone(stalled_s)
            if stalled_s > self._parts.config.silence_s:
                self._unlearn(now)
        self._testimonies.settle(now)
        overdue, asked = self._parts.table.settle(now)
        for node in overdue:
            self._parts.changed(node)
        self._parts.choice.note_deaths(len(overdue), now)
        if asked:
            # Its answer may have missed us: nobody dies before somebody else was asked.
            for peer in self._parts.choice.some_connected(1):
                if peer not in self._parts.previous.peers:
                    self._parts.out += [
                        Send(peer, Want(lives)) for lives in exchange.in_batches(asked)
                    ]
        if self._gossip_at <= now:
            interval_s = self._parts.config.gossip_interval_s
            self._gossip_at = now + interval_s * self._parts.rng.uniform(0.9, 1.1)
            self._tick(now)

    def _tick(self, now: float) -> None:
        gone = self._parts.table.forget_gone(now)
        self._parts.forget(gone)
        self._parts.out += [HangUp(peer) for peer in self._parts.choice.surplus(now)]
        self._notice_loneliness(now)
        has_just_met = self._parts.choice.has_just_met(now)
        for peer in self._some_peers(1):
            # Tables were compared when our first link came to be: news are on their way.
            if has_just_met and self._parts.table.peek(peer) is not None:
                continue
            self._parts.out.append(Send(peer, exchange.summary_of(self._parts.table)))
        for peer in self._parts.previous.due(now, self._parts.config.previous_interval_s):
            self._parts.out.append(Send(peer, self._parts.previous.whole()))
        self._dial(now)

    def _some_peers(self, count: int) -> list[NodeId]:
        previous = self._parts.previous.peers
        return [peer for peer in self._parts.choice.some_connected(count) if peer not in previous]

    def _notice_loneliness(self, now: float) -> None:
        """Without any link for long we know of nobody whether it is there."""
        if self._parts.choice.connected:
            self._lonely_since = None
        elif self._lonely_since is None:
            self._lonely_since = now
        elif now - self._lonely_since > self._parts.config.silence_s:
            self._lonely_since = now
            self._unlearn(now)

    def _unlearn(self, now: float) -> None:
        spared = {self._self, *self._parts.choice.connected}
        for node in self._parts.table.unlearn(now, spared):
            self._parts.changed(node)

    def _dial(self, now: float) -> None:
        chosen = self._parts.choice.next_dials(
            self._parts.table,
            now,
            may_dial=lambda node: self._may_dial(node, now),
        )
        for node in chosen:
            self._parts.call(node)

    def _may_dial(self, node: NodeId, now: float) -> bool:
        if self._parts.conduct.is_shunned(node, now):
            return False
        known = self._parts.table.peek(node)
        # Of the dead some were put out: they come back by a person's word alone.
        is_dead = known is not None and known.state is NodeState.DEAD
        return not is_dead or known is None or self._parts.gate.is_member(known.signed.record)

    # -- links --

    def _connected(self, peer: NodeId, version: int, now: float) -> None:
        if peer == self._self:
            return
        if self._parts.conduct.is_shunned(peer, now):
            self._parts.out.append(Shun(peer, TOO_MANY))
            return
        self._parts.choice.note_connected(peer, now)
        self._parts.calls.pop(peer, None)
        if peer not in self._parts.allowances:
            self._parts.allowances[peer] = PeerAllowances(self._parts.config, now)
        known = self._parts.table.peek(peer)
        is_missed = known is not None and known.state in (NodeState.SUSPECT, NodeState.DEAD)
        if is_missed and known is not None and signs_lives(known) and not known.is_unverified:
            # Others may hold it dead: it alone can tell them otherwise.
            self._parts.out.append(Send(peer, Rumour((self._parts.testify((known.life(),)),))))
        if self._parts.table.hear(peer, now):
            self._parts.changed(peer)
        if version < FIRST_SIGNING_VERSION:
            self._parts.previous.peers[peer] = now + self._parts.config.previous_interval_s
            self._parts.out.append(Send(peer, self._parts.previous.whole()))
        else:
            self._parts.previous.peers.pop(peer, None)
            self._parts.out.append(Send(peer, exchange.summary_of(self._parts.table)))

    def _lost(self, peer: NodeId, now: float, *, on_purpose: bool) -> None:
        if not self._parts.choice.is_connected(peer):
            return
        self._parts.choice.note_lost(peer, now)
        self._parts.previous.peers.pop(peer, None)
        del self._parts.allowances[peer]
        self._parts.table.touch(peer, now)
        if not on_purpose and not self._parts.conduct.is_shunned(peer, now):
            self._testimonies.missed(peer, now, tries=0)
        self._dial(now)

    def _dial_failed(self, peer: NodeId, now: float) -> None:
        self._parts.choice.note_failed(peer, now)
        if not self._parts.choice.is_connected(peer):
            self._testimonies.missed(peer, now, tries=self._parts.calls.pop(peer, CALL_TRIES))
        self._dial(now)

    # -- messages --

    def _received(self, peer: NodeId, message: Gossip, now: float) -> None:
        parts = self._parts
        if not self._parts.allowances[peer].messages.take(1, now):
            self._parts.refuse(peer, TOO_MANY, 1.0, now)
            return
        if self._parts.table.hear(peer, now):
            self._parts.changed(peer)
        match message:
            case Rumour():
                self._testimonies.take_rumour(peer, message, now)
            case Announce():
                self._catching_up.take_announcement(peer, message, now)
            case Delta():
                has_news = self._catching_up.take_delta(peer, message, now)
                if has_news and len(parts.choice.connected) < parts.config.choice.wanted:
                    self._dial(now)
            case Summary() | Branches() | Leaves() | Entries():
                self._catching_up.compare(peer, message, now)
            case Want():
                self._parts.tell(peer, {life.node: life.rank for life in message.lives}, now)
            case Call():
                self._testimonies.take_call(peer, message, now)
            case Digest():
                self._catching_up.take_digest(peer, message, now)
            case _:
                assert_never(message)
        if (faults := self._parts.gate.take_faults()) > 0.0:
            self._parts.blame(peer, faults, now)

    def _is_barred(self, node: NodeId, record: NodeRecord) -> bool:
        return node != self._self and not self._parts.gate.is_member(record)

    # -- ourselves --

    def _own_changed(self, signed: SignedRecord, now: float) -> None:
        if (
            signed.record.node != self._self
            or signed.record.version <= self._parts.own_known.version
        ):
            return
        self._parts.table.put(signed, now)
        self._parts.changed(self._self)
        self._parts.spreading.record(self._parts.own, None, now)
        if signed.record.is_away:
            self._parts.spreading.farewell()
