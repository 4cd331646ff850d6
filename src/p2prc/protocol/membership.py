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

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import assert_never

from p2prc.model.identity import NodeId
from p2prc.model.record import NodeRecord, SignedRecord, open_record
from p2prc.model.testimony import Life, Rank, Testimony, open_testimony
from p2prc.protocol import exchange
from p2prc.protocol.allowance import Conduct, PeerAllowances
from p2prc.protocol.membership_events import (
    Dial,
    DialFailed,
    Effect,
    Event,
    HangUp,
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
    Known,
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
from p2prc.protocol.record_gate import OLD, RecordGate
from p2prc.protocol.spreading import RECORDS_AT_ONCE, Spreading
from p2prc.wire.signed import Envelope

__all__ = [
    "Dial",
    "DialFailed",
    "Effect",
    "Event",
    "HangUp",
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

TOO_MANY = "too-many"
TOO_MANY_DOUBTS = "too-many-doubts"
FALSE_CLAIM = "false-claim"
_HEARD_LIMIT = 4_096
_CALL_CHECKS = 25
_CALL_TRIES = 2
_MANY_DEAD = 3
_PULL_AGAIN_S = 2.0


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
        self._config = config = config if config is not None else MembershipConfig()
        self._self = own.record.node
        self._testify = testify
        self._rng = rng
        self._gate = RecordGate(
            own.record.network,
            is_member=is_member,
            open_record=open_envelope,
            open_testimony=open_rumour,
        )
        self._table = NodeTable(
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
        self._table.put(own, now)
        self._choice = PeerChoice(config.choice, rng, self._self, now=now)
        self._spreading = Spreading(config, rng, self._table, testify)
        self._previous = PreviousVersion(
            self._table, self._self, is_connected=self._choice.is_connected
        )
        self._conduct = Conduct(config)
        self._allowances: dict[NodeId, PeerAllowances] = {}
        self._heard: OrderedDict[bytes, None] = OrderedDict()
        self._calls: dict[NodeId, int] = {}
        self._gossip_at = now + rng.uniform(0.0, config.gossip_interval_s)
        self._lonely_since: float | None = now
        self._pulling_until = now
        self._restate_at: float | None = None
        self._restated_at = now - config.restate_interval_s
        self._out: list[Effect] = []
        for signed in known:
            record = signed.record
            if record.network == own.record.network and is_member(record):
                self._table.remember(signed, now)

    # -- what others may ask --

    @property
    def deadline(self) -> float:
        """When `handle` wants to be called at the latest."""
        at = self._gossip_at
        if (verdict_at := self._table.next_verdict_at) is not None and verdict_at < at:
            at = verdict_at
        if (spread_at := self._spreading.deadline) is not None and spread_at < at:
            at = spread_at
        if self._restate_at is not None and self._restate_at < at:
            at = self._restate_at
        return at

    @property
    def refusals(self) -> Mapping[str, int]:
        """How many records and messages were refused, by reason."""
        return self._gate.refusals

    def nodes(self, now: float) -> list[NodeView]:
        """Return every node known, ourselves first, the others by id."""
        views = [NodeView(self._own.signed.record, NodeState.ALIVE, now, is_self=True)]
        for node, known in sorted(self._table, key=lambda pair: pair[0]):
            if node == self._self:
                continue
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
        known = self._table.peek(node)
        return known.state if known is not None else None

    def record_of(self, node: NodeId) -> NodeRecord | None:
        """Return the newest record of a node, our own included."""
        known = self._table.peek(node)
        return known.signed.record if known is not None else None

    def life_of(self, node: NodeId) -> Life | None:
        """Return the life that we hold the node to lead."""
        known = self._table.peek(node)
        return known.life() if known is not None else None

    def envelope_of(self, node: NodeId) -> Envelope | None:
        """Return the newest record of a node as its author signed it."""
        known = self._table.peek(node)
        return known.signed.envelope if known is not None else None

    # -- the one door --

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Settle what is overdue, then take the event; return what is to be done."""
        self._out = []
        self._settle(now)
        match event:
            case PeerConnected():
                self._connected(event.peer, event.version, now)
            case PeerLost():
                self._lost(event.peer, now, on_purpose=event.on_purpose)
            case MessageReceived():
                # What was still under way when the link broke comes again by another one.
                if self._choice.is_connected(event.peer):
                    self._received(event.peer, event.message, now)
            case OwnRecordChanged():
                self._own_changed(event.signed, now)
            case DialFailed():
                self._dial_failed(event.peer, now)
            case Tick():
                pass
            case _:
                assert_never(event)
        return self._flushed(now)

    def _flushed(self, now: float) -> list[Effect]:
        previous = self._previous
        if (due_at := self._spreading.deadline) is not None and due_at <= now:
            peers = [peer for peer in self._choice.connected if peer not in previous.peers]
            self._out += self._spreading.flush(peers, now)
        if previous.peers and previous.changed:
            self._out += previous.news()
        out, self._out = self._out, []
        return out

    # -- time --

    def _settle(self, now: float) -> None:
        if (stalled_s := now - self._gossip_at) > self._config.stall_s:
            self._table.postpone(stalled_s)
            if stalled_s > self._config.silence_s:
                self._unlearn(now)
        self._restate_when_due(now)
        overdue, asked = self._table.settle(now)
        for node in overdue:
            self._changed(node)
        if asked:
            # Its answer may have missed us: nobody dies before somebody else was asked.
            for peer in self._choice.some_connected(1):
                if peer not in self._previous.peers:
                    self._out += [Send(peer, Want(lives)) for lives in exchange.in_batches(asked)]
        if self._gossip_at <= now:
            interval_s = self._config.gossip_interval_s
            self._gossip_at = now + interval_s * self._rng.uniform(0.9, 1.1)
            self._tick(now)

    def _tick(self, now: float) -> None:
        gone = self._table.forget_gone(now)
        for node in gone:
            self._choice.forget(node)
            self._calls.pop(node, None)
            self._changed(node)
        self._previous.forget(gone)
        self._out += [HangUp(peer) for peer in self._choice.surplus(now)]
        self._notice_loneliness(now)
        for peer in self._choice.some_connected(1):
            if peer not in self._previous.peers:
                self._out.append(Send(peer, exchange.summary_of(self._table)))
        for peer in self._previous.due(now, self._config.previous_interval_s):
            self._out.append(Send(peer, self._previous.whole()))
        self._dial(now)

    def _notice_loneliness(self, now: float) -> None:
        """Without any link for long we know of nobody whether it is there."""
        if self._choice.connected:
            self._lonely_since = None
        elif self._lonely_since is None:
            self._lonely_since = now
        elif now - self._lonely_since > self._config.silence_s:
            self._lonely_since = now
            self._unlearn(now)

    def _unlearn(self, now: float) -> None:
        spared = {self._self, *self._choice.connected}
        for node in self._table.unlearn(now, spared):
            self._changed(node)

    def _dial(self, now: float) -> None:
        chosen = self._choice.next_dials(
            self._table, now, may_dial=lambda node: not self._conduct.is_shunned(node, now)
        )
        for node in chosen:
            self._call(node)

    def _call(self, node: NodeId) -> None:
        if (known := self._table.peek(node)) is not None:
            self._out.append(Dial(node, known.signed.record.addresses))

    # -- links --

    def _connected(self, peer: NodeId, version: int, now: float) -> None:
        if peer == self._self:
            return
        if self._conduct.is_shunned(peer, now):
            self._out.append(Shun(peer, TOO_MANY))
            return
        self._choice.note_connected(peer, now)
        self._calls.pop(peer, None)
        if peer not in self._allowances:
            self._allowances[peer] = PeerAllowances(self._config, now)
        known = self._table.peek(peer)
        is_missed = known is not None and known.state in (NodeState.SUSPECT, NodeState.DEAD)
        if is_missed and known is not None and signs_lives(known) and not known.is_unverified:
            # Others may hold it dead: it alone can tell them otherwise.
            self._out.append(Send(peer, Rumour((self._testify((known.life(),)),))))
        if self._table.hear(peer, now):
            self._changed(peer)
        if version < FIRST_SIGNING_VERSION:
            self._previous.peers[peer] = now + self._config.previous_interval_s
            self._out.append(Send(peer, self._previous.whole()))
        else:
            self._previous.peers.pop(peer, None)
            self._out.append(Send(peer, exchange.summary_of(self._table)))

    def _lost(self, peer: NodeId, now: float, *, on_purpose: bool) -> None:
        if not self._choice.is_connected(peer):
            return
        self._choice.note_lost(peer, now)
        self._previous.peers.pop(peer, None)
        del self._allowances[peer]
        self._table.touch(peer, now)
        if not on_purpose and not self._conduct.is_shunned(peer, now):
            self._missed(peer, now, tries=0)
        self._dial(now)

    def _dial_failed(self, peer: NodeId, now: float) -> None:
        self._choice.note_failed(peer, now)
        if not self._choice.is_connected(peer):
            self._missed(peer, now, tries=self._calls.pop(peer, _CALL_TRIES))
        self._dial(now)

    def _missed(self, node: NodeId, now: float, *, tries: int) -> None:
        """We do not get through: ask others to try as well, or doubt that it is there."""
        known = self._table.peek(node)
        if known is None or known.state is not NodeState.ALIVE:
            return
        others = [
            peer
            for peer in self._choice.some_connected(2, besides=node)
            if peer not in self._previous.peers
        ]
        if tries and others and len(self._table.dead) < _MANY_DEAD and signs_lives(known):
            self._out.append(Send(others[0], Call(known.life(), tries - 1)))
            return
        is_news = not known.is_doubted
        if self._table.suspect(node, now):
            self._changed(node)
            if is_news:
                self._spreading.doubt(known.life(), now)
            self._choice.call_more()

    # -- messages --

    def _received(self, peer: NodeId, message: Gossip, now: float) -> None:
        if not self._allowances[peer].messages.take(1, now):
            self._refuse(peer, TOO_MANY, 1.0, now)
            return
        if self._table.hear(peer, now):
            self._changed(peer)
        match message:
            case Rumour():
                self._take_rumour(peer, message, now)
            case Announce():
                self._take_announcement(peer, message, now)
            case Delta():
                self._take_delta(peer, message, now)
            case Summary() | Branches() | Leaves() | Entries():
                self._compare(peer, message, now)
            case Want():
                self._tell(peer, {life.node: life.rank for life in message.lives}, now)
            case Call():
                self._take_call(peer, message, now)
            case Digest():
                self._take_digest(peer, message, now)
            case _:
                assert_never(message)
        if (faults := self._gate.take_faults()) > 0.0:
            self._blame(peer, faults, now)

    def _refuse(self, peer: NodeId, reason: str, weight: float, now: float) -> None:
        self._gate.refusals[reason] += 1
        self._blame(peer, weight, now)

    def _blame(self, peer: NodeId, weight: float, now: float) -> None:
        if self._conduct.blame(peer, weight, now):
            self._gate.refusals["shunned"] += 1
            self._out.append(Shun(peer, "it sends what no honest node sends"))

    # -- comparing --

    def _compare(
        self, peer: NodeId, message: Summary | Branches | Leaves | Entries, now: float
    ) -> None:
        answer: Gossip | None = None
        match message:
            case Summary():
                answer = exchange.answer_summary(self._table, message)
            case Branches():
                answer = exchange.answer_branches(self._table, message)
            case Leaves():
                answer, nodes = exchange.answer_leaves(self._table, message)
                self._rng.shuffle(nodes)
                self._tell(peer, dict.fromkeys(nodes, exchange.NOTHING), now)
            case Entries():
                self._weigh(peer, message, now)
            case _:
                assert_never(message)
        if isinstance(answer, Leaves) and len(answer.branches) == exchange.ALL_BRANCHES:
            if now < self._pulling_until:
                return
            self._pulling_until = now + _PULL_AGAIN_S
        self._answer(peer, answer, now)

    def _answer(self, peer: NodeId, answer: Gossip | None, now: float) -> None:
        if answer is None:
            return
        if self._allowances[peer].answers.take(exchange.size_of(answer), now):
            self._out.append(Send(peer, answer))
        else:
            self._refuse(peer, TOO_MANY, 1.0, now)

    def _weigh(self, peer: NodeId, entries: Entries, now: float) -> None:
        found = exchange.compare(self._table, entries.lives)
        if not entries.is_reply:
            exchange.add_unlisted(found, self._table, entries)
        for node in found.confirmed:
            self._hear_of(node, now)
        if found.wanted:
            self._answer(peer, Want(tuple(found.wanted)), now)
        if found.unlisted:
            lives = tuple(found.unlisted[: exchange.ENTRIES_LIMIT])
            self._answer(peer, Entries((), lives, is_reply=True), now)
        theirs = {life.node: life.rank for life in entries.lives}
        self._tell(peer, {node: theirs[node] for node in found.newer}, now)
        self._tell_gone(peer, found.gone, now)

    def _tell(self, peer: NodeId, ranks: Mapping[NodeId, Rank], now: float) -> None:
        """Tell the peer what is newer than these lives, as far as it may make us."""
        if not ranks:
            return
        answers = self._allowances[peer].answers
        known = [
            (found, rank)
            for node, rank in ranks.items()
            if (found := self._table.peek(node)) is not None and found.rank > rank
        ]
        messages = exchange.telling(known, lambda size_bytes: answers.take(size_bytes, now))
        if known and not messages:
            self._refuse(peer, TOO_MANY, 1.0, now)
        self._out += [Send(peer, message) for message in messages]

    def _tell_gone(self, peer: NodeId, nodes: Iterable[NodeId], now: float) -> None:
        """The peer holds them present in the life in which they died here: doubt that."""
        lives = []
        for node in nodes:
            known = self._table.peek(node)
            if known is None:
                continue
            if signs_lives(known):
                lives.append(known.life())
            elif self._choice.call_on(node, now):
                self._call(node)
        doubts = [self._testify(batch) for batch in exchange.in_batches(lives)]
        if doubts:
            self._answer(peer, Rumour(tuple(doubts)), now)

    def _hear_of(self, node: NodeId, now: float) -> None:
        if self._table.hear(node, now):
            self._changed(node)

    # -- records --

    def _take_delta(self, peer: NodeId, delta: Delta, now: float) -> None:
        fresh: list[NodeId] = []
        gone: list[NodeId] = []
        checks = self._allowances[peer].checks
        for envelope in delta.records:
            node = NodeId(envelope.author.hex())
            known = self._table.peek(node)
            if known is not None and known.signed.envelope == envelope:
                if known.is_unverified:
                    self._hear_of(node, now)
                elif known.is_confirmed_dead:
                    gone.append(node)
                continue
            # Checking a signature costs a tenth of a millisecond of ours.
            if not checks.take(1, now):
                self._refuse(peer, TOO_MANY, 1.0, now)
                break
            if node == self._self:
                self._own_came_back(envelope)
            elif self._take_record(node, envelope, known, now):
                fresh.append(node)
        if peer not in self._previous.peers:
            self._tell_gone(peer, gone, now)
        if len(fresh) <= RECORDS_AT_ONCE:
            for node in fresh:
                self._spreading.record(node, peer)
        elif now < self._pulling_until:
            # A part of a whole table: ask for the rest.
            self._pulling_until = now + _PULL_AGAIN_S
            self._out.append(Send(peer, exchange.all_leaves(self._table)))
        if fresh and len(self._choice.connected) < self._config.choice.wanted:
            self._dial(now)

    def _take_record(
        self, node: NodeId, envelope: Envelope, known: Known | None, now: float
    ) -> bool:
        signed = self._gate.examine(envelope, known.signed if known is not None else None)
        if signed is None:
            return False
        if (reason := self._table.put(signed, now)) is not None:
            self._gate.refusals[reason] += 1
            return False
        self._changed(node)
        return True

    def _take_announcement(self, peer: NodeId, announce: Announce, now: float) -> None:
        for life in announce.lives:
            known = self._table.peek(life.node)
            if known is None or known.rank < life.rank:
                self._spreading.promised(life, peer, now)

    # -- testimonies --

    def _take_rumour(self, peer: NodeId, rumour: Rumour, now: float) -> None:
        checks = self._allowances[peer].checks
        for envelope in rumour.testimonies:
            if envelope.signature in self._heard:
                continue
            if not checks.take(1, now):
                self._refuse(peer, TOO_MANY, 1.0, now)
                return
            testimony = self._gate.hear(envelope)
            if testimony is None:
                continue
            author = self._table.peek(testimony.author)
            if author is None:
                self._answer(peer, Want((Life(envelope.author, -1),)), now)
                continue
            if testimony.is_statement:
                is_news = self._take_statement(peer, testimony, author, now)
            else:
                is_news = self._take_doubts(peer, testimony, now)
            if is_news:
                self._heard[envelope.signature] = None
                if len(self._heard) > _HEARD_LIMIT:
                    self._heard.popitem(last=False)
                self._spreading.testimony(envelope, peer)

    def _take_statement(
        self, peer: NodeId, statement: Testimony, author: Known, now: float
    ) -> bool:
        """The author says that it is here; whether that is news."""
        life, node = statement.lives[0], statement.author
        if life.rank <= author.rank:
            return False
        if life.version != author.version:
            if node == self._self:
                self._out.append(OwnVersionBehind(life.version))
            elif life.version > author.version:
                self._answer(peer, Want((author.life(),)), now)
            return False
        if node == self._self:
            # Ours, though we do not remember: our key ran elsewhere, or a life ended untimely.
            self._restate(life.incarnation, now)
            return False
        if author.state is not NodeState.ALIVE:
            self._choice.note_refuted(node, now)
        if self._table.advance(node, life.incarnation, statement.envelope, now):
            self._changed(node)
        return True

    def _take_doubts(self, peer: NodeId, doubts: Testimony, now: float) -> bool:
        """Somebody doubts lives; whether any of it is news to be passed on."""
        is_news = False
        newer: dict[NodeId, Rank] = {}
        is_direct = peer == doubts.author
        for life in doubts.lives:
            node = life.node
            known = self._table.peek(node)
            if known is None:
                continue
            if life.rank > known.rank:
                # It must know better than we; of ourselves nobody can.
                if node == self._self and life.version == known.version:
                    self._refuse(peer, FALSE_CLAIM, 2.0, now)
                else:
                    self._answer(peer, Want((known.life(),)), now)
            elif life.rank < known.rank:
                # Who only passes it on will hear the answer as we did.
                if known.is_present and is_direct:
                    newer[node] = life.rank
            elif node == self._self:
                self._restate_soon(now)
            elif self._choice.is_connected(node) and signs_lives(known):
                # We hear it, so it hears us: let it speak for itself.
                if not known.is_doubted:
                    self._table.note_doubted(node)
                    self._out.append(Send(node, Rumour((doubts.envelope,))))
            elif known.state is NodeState.ALIVE:
                nodes = len(self._table)
                if self._conduct.may_doubt(doubts.author, nodes, now, is_direct=is_direct):
                    self._doubted(node, known, now)
                    is_news = True
                else:
                    self._refuse(peer, TOO_MANY_DOUBTS, 3.0 if is_direct else 0.0, now)
        self._tell(peer, newer, now)
        return is_news

    def _doubted(self, node: NodeId, known: Known, now: float) -> None:
        """The life that we hold it to lead is doubted, and we do not hear it."""
        if signs_lives(known):
            if self._table.suspect(node, now):
                self._changed(node)
        elif not self._choice.is_connected(node) and self._choice.call_on(node, now):
            # It cannot answer: only what we find ourselves counts.
            self._calls[node] = 0
            self._call(node)

    def _restate_soon(self, now: float) -> None:
        """Answer a doubt about our present life, but not a hundred liars one by one."""
        if self._restate_at is None:
            self._restate_at = max(now, self._restated_at + self._config.restate_interval_s)
            self._restate_when_due(now)

    def _restate_when_due(self, now: float) -> None:
        if self._restate_at is not None and self._restate_at <= now:
            self._restate_at = None
            self._restated_at = now
            self._restate(self._own.incarnation, now)

    def _restate(self, incarnation: int, now: float) -> None:
        """Say that we are here, in a life after this one."""
        own = self._own
        life = Life(own.signed.envelope.author, own.version, incarnation + 1)
        statement = self._testify((life,))
        self._table.advance(self._self, life.incarnation, statement, now)
        self._spreading.testimony(statement, None)

    def _take_call(self, peer: NodeId, call: Call, now: float) -> None:
        """A peer does not get through to a node: see whether we do."""
        node = call.life.node
        known = self._table.peek(node)
        if known is None or call.life.rank != known.rank or node == self._self:
            return
        if known.is_confirmed_dead:
            self._tell_gone(peer, (node,), now)
        elif known.state is NodeState.ALIVE and not self._choice.is_connected(node):
            if not self._allowances[peer].checks.take(_CALL_CHECKS, now):
                self._refuse(peer, TOO_MANY, 1.0, now)
            elif self._choice.call_on(node, now):
                self._calls[node] = call.tries
                self._call(node)

    # -- the previous version --

    def _take_digest(self, peer: NodeId, digest: Digest, now: float) -> None:
        if peer not in self._previous.peers:
            self._refuse(peer, TOO_MANY, 1.0, now)
            return
        found = self._previous.take(digest)
        for node in found.confirmed:
            self._hear_of(node, now)
        for node in found.doubted:
            if self._choice.call_on(node, now):
                self._calls[node] = 0
                self._call(node)
        if found.answers:
            self._answer(peer, Digest(tuple(found.answers), is_reply=True), now)
        answers = self._allowances[peer].answers
        known = [
            (held, (version, 0))
            for node, version in found.lacking.items()
            if (held := self._table.peek(node)) is not None
        ]
        for message in exchange.telling(known, lambda size_bytes: answers.take(size_bytes, now)):
            if isinstance(message, Delta):
                self._out.append(Send(peer, message))

    # -- ourselves --

    @property
    def _own(self) -> Known:
        known = self._table.peek(self._self)
        assert known is not None, "we are in our own table from the start"
        return known

    def _own_changed(self, signed: SignedRecord, now: float) -> None:
        if signed.record.node != self._self or signed.record.version <= self._own.version:
            return
        self._table.put(signed, now)
        self._changed(self._self)
        self._spreading.record(self._self, None)

    def _own_came_back(self, envelope: Envelope) -> None:
        """A record of ours that we do not hold: we lost our disk, or our key runs twice."""
        signed = self._gate.examine(envelope, None)
        if signed is None:
            return
        if signed.record.version < self._own.version:
            self._gate.refusals[OLD] += 1
            return
        self._out.append(OwnVersionBehind(signed.record.version))

    # -- telling others --

    def _changed(self, node: NodeId) -> None:
        """Its record or state is another one: whoever drives us wants to know."""
        self._out.append(NodeChanged(node))
        if self._previous.peers:
            self._previous.changed[node] = None
