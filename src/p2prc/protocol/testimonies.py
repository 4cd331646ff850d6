"""Who says that it is here, who doubts whom, and what we say of ourselves and of those we miss."""

from __future__ import annotations

from collections import OrderedDict

from p2prc.model.identity import NodeId
from p2prc.model.testimony import Life, Rank, Testimony
from p2prc.protocol.membership_events import OwnVersionBehind, Send
from p2prc.protocol.membership_parts import TOO_MANY, Parts
from p2prc.protocol.messages import Call, Rumour, Want
from p2prc.protocol.node_table import Known, NodeState
from p2prc.protocol.previous_version import signs_lives

TOO_MANY_DOUBTS = "too-many-doubts"
FALSE_CLAIM = "false-claim"
CALL_TRIES = 2
_HEARD_LIMIT = 4_096
_CALL_CHECKS = 25
_MANY_DEAD = 3


class Testimonies:
    """Takes testimonies, and says ours."""

    def __init__(self, parts: Parts, now: float) -> None:
        self._parts = parts
        self._heard: OrderedDict[bytes, None] = OrderedDict()
        self.restate_at: float | None = None
        self._restated_at = now - parts.config.restate_interval_s

    def take_rumour(self, peer: NodeId, rumour: Rumour, now: float) -> None:
        checks = self._parts.allowances[peer].checks
        for envelope in rumour.testimonies:
            if envelope.signature in self._heard:
                continue
            if not checks.take(1, now):
                self._parts.refuse(peer, TOO_MANY, 1.0, now)
                return
            testimony = self._parts.gate.hear(envelope)
            if testimony is None:
                continue
            author = self._parts.table.peek(testimony.author)
            if author is None:
                self._parts.answer(peer, Want((Life(envelope.author, -1),)), now)
                continue
            if not self._parts.gate.speaks(author.signed.record):
                continue
            if testimony.is_statement:
                is_news = self._take_statement(peer, testimony, author, now)
            else:
                is_news = self._take_doubts(peer, testimony, now)
            if is_news:
                self._heard[envelope.signature] = None
                if len(self._heard) > _HEARD_LIMIT:
                    self._heard.popitem(last=False)
                self._parts.spreading.testimony(envelope, peer)

    def _take_statement(
        self, peer: NodeId, statement: Testimony, author: Known, now: float
    ) -> bool:
        """The author says that it is here; whether that is news."""
        life, node = statement.lives[0], statement.author
        if life.rank <= author.rank:
            return False
        if life.version != author.version:
            if node == self._parts.own:
                self._parts.out.append(OwnVersionBehind(life.version))
            elif life.version > author.version:
                self._parts.answer(peer, Want((author.life(),)), now)
            return False
        if node == self._parts.own:
            # Ours, though we do not remember: our key ran elsewhere, or a life ended untimely.
            self._restate(life.incarnation, now)
            return False
        if author.state is not NodeState.ALIVE:
            self._parts.choice.note_refuted(node, now)
        if self._parts.table.advance(node, life.incarnation, statement.envelope, now):
            self._parts.changed(node)
        return True

    def _take_doubts(self, peer: NodeId, doubts: Testimony, now: float) -> bool:
        """Somebody doubts lives; whether any of it is news to be passed on."""
        is_news = False
        newer: dict[NodeId, Rank] = {}
        is_direct = peer == doubts.author
        for life in doubts.lives:
            node = life.node
            known = self._parts.table.peek(node)
            if known is None:
                continue
            if life.rank > known.rank:
                # It must know better than we; of ourselves nobody can.
                if node == self._parts.own and life.version == known.version:
                    self._parts.refuse(peer, FALSE_CLAIM, 2.0, now)
                else:
                    self._parts.answer(peer, Want((known.life(),)), now)
            elif life.rank < known.rank:
                # Who only passes it on will hear the answer as we did.
                if known.is_present and is_direct:
                    newer[node] = life.rank
            elif node == self._parts.own:
                self._restate_soon(now)
            elif self._parts.choice.is_connected(node) and signs_lives(known):
                # We hear it, so it hears us: let it speak for itself.
                if not known.is_doubted:
                    self._parts.table.note_doubted(node)
                    self._parts.out.append(Send(node, Rumour((doubts.envelope,))))
            elif known.state is NodeState.ALIVE:
                nodes = len(self._parts.table)
                if self._parts.conduct.may_doubt(doubts.author, nodes, now, is_direct=is_direct):
                    self._doubted(node, known, now)
                    is_news = True
                else:
                    self._parts.refuse(peer, TOO_MANY_DOUBTS, 3.0 if is_direct else 0.0, now)
        self._parts.tell(peer, newer, now)
        return is_news

    def _doubted(self, node: NodeId, known: Known, now: float) -> None:
        """The life that we hold it to lead is doubted, and we do not hear it."""
        if signs_lives(known):
            if self._parts.table.suspect(node, now):
                self._parts.changed(node)
        elif not self._parts.choice.is_connected(node) and self._parts.choice.call_on(node, now):
            # It cannot answer: only what we find ourselves counts.
            self._parts.calls[node] = 0
            self._parts.call(node)

    def _restate_soon(self, now: float) -> None:
        """Answer a doubt about our present life, but not a hundred liars one by one."""
        if self.restate_at is None:
            self.restate_at = max(now, self._restated_at + self._parts.config.restate_interval_s)
            self.settle(now)

    def settle(self, now: float) -> None:
        if self.restate_at is not None and self.restate_at <= now:
            self.restate_at = None
            self._restated_at = now
            self._restate(self._parts.own_known.incarnation, now)

    def _restate(self, incarnation: int, now: float) -> None:
        """Say that we are here, in a life after this one."""
        own = self._parts.own_known
        life = Life(own.signed.envelope.author, own.version, incarnation + 1)
        statement = self._parts.testify((life,))
        self._parts.table.advance(self._parts.own, life.incarnation, statement, now)
        self._parts.spreading.testimony(statement, None)

    def take_call(self, peer: NodeId, call: Call, now: float) -> None:
        """A peer does not get through to a node: see whether we do."""
        node = call.life.node
        known = self._parts.table.peek(node)
        if known is None or call.life.rank != known.rank or node == self._parts.own:
            return
        if known.is_confirmed_dead:
            self._parts.tell_gone(peer, (node,), now)
        elif known.state is NodeState.ALIVE and not self._parts.choice.is_connected(node):
            if not self._parts.allowances[peer].checks.take(_CALL_CHECKS, now):
                self._parts.refuse(peer, TOO_MANY, 1.0, now)
            elif self._parts.choice.call_on(node, now):
                self._parts.calls[node] = call.tries
                self._parts.call(node)

    def missed(self, node: NodeId, now: float, *, tries: int) -> None:
        """We do not get through: ask others to try as well, or doubt that it is there."""
        known = self._parts.table.peek(node)
        if known is None or known.state is not NodeState.ALIVE:
            return
        others = [
            peer
            for peer in self._parts.choice.some_connected(2, besides=node)
            if peer not in self._parts.previous.peers
        ]
        if tries and others and len(self._parts.table.dead) < _MANY_DEAD and signs_lives(known):
            self._parts.out.append(Send(others[0], Call(known.life(), tries - 1)))
            return
        is_news = not known.is_doubted
        if self._parts.table.suspect(node, now):
            self._parts.changed(node)
            if is_news:
                self._parts.spreading.doubt(known.life(), now)
            self._parts.choice.call_more()
