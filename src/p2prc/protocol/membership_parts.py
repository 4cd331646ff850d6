"""What the parts of the membership machine share: what is known, whom we talk with, what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random

from p2prc.model.identity import NodeId
from p2prc.model.testimony import Life, Rank
from p2prc.protocol import exchange
from p2prc.protocol.allowance import Conduct, PeerAllowances
from p2prc.protocol.membership_events import Dial, Effect, MembershipConfig, NodeChanged, Send, Shun
from p2prc.protocol.messages import Gossip, Rumour
from p2prc.protocol.node_table import Known, NodeTable
from p2prc.protocol.peer_choice import PeerChoice
from p2prc.protocol.previous_version import PreviousVersion, signs_lives
from p2prc.protocol.record_gate import RecordGate
from p2prc.protocol.spreading import Spreading
from p2prc.wire.signed import Envelope

TOO_MANY = "too-many"


@dataclass(slots=True)
class Parts:
    """One machine's state. `out` gathers the effects; `calls` is how often others are to repeat
    a call that fails.
    """

    config: MembershipConfig
    own: NodeId
    testify: Callable[[tuple[Life, ...]], Envelope]
    rng: Random
    gate: RecordGate
    table: NodeTable
    choice: PeerChoice
    spreading: Spreading
    previous: PreviousVersion
    conduct: Conduct
    allowances: dict[NodeId, PeerAllowances] = field(default_factory=dict)
    calls: dict[NodeId, int] = field(default_factory=dict)
    out: list[Effect] = field(default_factory=list)

    @property
    def own_known(self) -> Known:
        known = self.table.peek(self.own)
        assert known is not None, "we are in our own table from the start"
        return known

    def changed(self, node: NodeId) -> None:
        """Its record or state is another one: whoever drives us wants to know."""
        self.out.append(NodeChanged(node))
        if self.previous.peers:
            self.previous.changed[node] = None

    def forget(self, gone: Iterable[NodeId]) -> None:
        """They have left the table."""
        gone = list(gone)
        for node in gone:
            self.choice.forget(node)
            self.calls.pop(node, None)
            self.changed(node)
        self.previous.forget(gone)

    def hear_of(self, node: NodeId, now: float) -> None:
        if self.table.hear(node, now):
            self.changed(node)

    def call(self, node: NodeId) -> None:
        if (known := self.table.peek(node)) is not None:
            self.out.append(Dial(node, known.signed.record.addresses))

    def refuse(self, peer: NodeId, reason: str, weight: float, now: float) -> None:
        self.gate.refusals[reason] += 1
        self.blame(peer, weight, now)

    def blame(self, peer: NodeId, weight: float, now: float) -> None:
        if self.conduct.blame(peer, weight, now):
            self.gate.refusals["shunned"] += 1
            self.out.append(Shun(peer, "it sends what no honest node sends"))

    def answer(self, peer: NodeId, answer: Gossip | None, now: float) -> None:
        if answer is None:
            return
        if self.allowances[peer].answers.take(exchange.size_of(answer), now):
            self.out.append(Send(peer, answer))
        else:
            self.refuse(peer, TOO_MANY, 1.0, now)

    def tell(self, peer: NodeId, ranks: Mapping[NodeId, Rank], now: float) -> None:
        """Tell the peer what is newer than these lives, as far as it may make us."""
        if not ranks:
            return
        answers = self.allowances[peer].answers
        known = [
            (found, rank)
            for node, rank in ranks.items()
            if (found := self.table.peek(node)) is not None and found.rank > rank
        ]
        messages = exchange.telling(known, lambda size_bytes: answers.take(size_bytes, now))
        if known and not messages:
            self.refuse(peer, TOO_MANY, 1.0, now)
        self.out += [Send(peer, message) for message in messages]

    def tell_gone(self, peer: NodeId, nodes: Iterable[NodeId], now: float) -> None:
        """The peer holds them present in the life in which they died here: doubt that."""
        lives = []
        for node in nodes:
            known = self.table.peek(node)
            if known is None:
                continue
            if signs_lives(known):
                lives.append(known.life())
            elif self.choice.call_on(node, now):
                self.call(node)
        doubts = [self.testify(batch) for batch in exchange.in_batches(lives)]
        if doubts:
            self.answer(peer, Rumour(tuple(doubts)), now)
