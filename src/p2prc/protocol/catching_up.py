"""Records that peers bring, and tables compared with theirs."""

from __future__ import annotations

from typing import assert_never

from p2prc.model.identity import NodeId
from p2prc.protocol import exchange
from p2prc.protocol.membership_events import OwnVersionBehind, Send
from p2prc.protocol.membership_parts import TOO_MANY, Parts
from p2prc.protocol.messages import (
    Announce,
    Branches,
    Delta,
    Digest,
    Entries,
    Gossip,
    Leaves,
    Summary,
    Want,
)
from p2prc.protocol.node_table import SPONSOR_FULL, Known
from p2prc.protocol.record_gate import OLD
from p2prc.protocol.spreading import RECORDS_AT_ONCE
from p2prc.wire.signed import Envelope

_PULL_AGAIN_S = 2.0


class CatchingUp:
    """Takes records, and finds out with peers what either side lacks."""

    def __init__(self, parts: Parts, now: float) -> None:
        self._parts = parts
        self._pulling_until = now

    def compare(
        self, peer: NodeId, message: Summary | Branches | Leaves | Entries, now: float
    ) -> None:
        answer: Gossip | None = None
        match message:
            case Summary():
                table = self._parts.table
                told = exchange.present_if_told_at_once(table, message)
                self._parts.rng.shuffle(told)
                self._parts.tell(peer, dict.fromkeys(told, exchange.NOTHING), now)
                # It tells us of itself what we lack, unless that is too much at once.
                if not told or message.known > exchange.DELTA_RECORDS:
                    answer = exchange.answer_summary(table, message)
            case Branches():
                answer = exchange.answer_branches(self._parts.table, message)
            case Leaves():
                answer, nodes = exchange.answer_leaves(self._parts.table, message)
                self._parts.rng.shuffle(nodes)
                self._parts.tell(peer, dict.fromkeys(nodes, exchange.NOTHING), now)
            case Entries():
                self._weigh(peer, message, now)
            case _:
                assert_never(message)
        if isinstance(answer, Leaves) and len(answer.branches) == exchange.ALL_BRANCHES:
            if now < self._pulling_until:
                return
            self._pulling_until = now + _PULL_AGAIN_S
        self._parts.answer(peer, answer, now)

    def _weigh(self, peer: NodeId, entries: Entries, now: float) -> None:
        found = exchange.compare(self._parts.table, entries.lives)
        if not entries.is_reply:
            exchange.add_unlisted(found, self._parts.table, entries)
        for node in found.confirmed:
            self._parts.hear_of(node, now)
        if found.wanted:
            self._parts.answer(peer, Want(tuple(found.wanted)), now)
        if found.unlisted:
            lives = tuple(found.unlisted[: exchange.ENTRIES_LIMIT])
            self._parts.answer(peer, Entries((), lives, is_reply=True), now)
        theirs = {life.node: life.rank for life in entries.lives}
        self._parts.tell(peer, {node: theirs[node] for node in found.newer}, now)
        self._parts.tell_gone(peer, found.gone, now)

    def take_delta(self, peer: NodeId, delta: Delta, now: float) -> bool:
        """Take records; whether any of them was news."""
        fresh: list[NodeId] = []
        gone: list[NodeId] = []
        checks = self._parts.allowances[peer].checks
        for envelope in delta.records:
            node = NodeId(envelope.author.hex())
            known = self._parts.table.peek(node)
            if known is not None and known.signed.envelope == envelope:
                if known.is_unverified:
                    self._parts.hear_of(node, now)
                elif known.is_confirmed_dead:
                    gone.append(node)
                continue
            # Checking a signature costs a tenth of a millisecond of ours.
            if not checks.take(1, now):
                self._parts.refuse(peer, TOO_MANY, 1.0, now)
                break
            if node == self._parts.own:
                self._own_came_back(envelope)
            elif self._take_record(node, envelope, known, now):
                fresh.append(node)
        if peer not in self._parts.previous.peers:
            self._parts.tell_gone(peer, gone, now)
        if len(fresh) <= RECORDS_AT_ONCE:
            for node in fresh:
                self._parts.spreading.record(node, peer, now)
        elif now < self._pulling_until:
            # A part of a whole table: ask for the rest.
            self._pulling_until = now + _PULL_AGAIN_S
            self._parts.out.append(Send(peer, exchange.all_leaves(self._parts.table)))
        return bool(fresh)

    def _take_record(
        self, node: NodeId, envelope: Envelope, known: Known | None, now: float
    ) -> bool:
        signed = self._parts.gate.examine(envelope, known.signed if known is not None else None)
        if signed is None:
            return False
        if (reason := self._parts.table.put(signed, now)) is not None:
            self._parts.gate.refusals[reason] += 1
            return False
        if evicted := self._parts.table.take_evicted():
            self._parts.forget(evicted)
            if displaced := self._parts.table.take_displaced():
                self._parts.gate.refusals[SPONSOR_FULL] += displaced
        self._parts.changed(node)
        return True

    def take_announcement(self, peer: NodeId, announce: Announce, now: float) -> None:
        for life in announce.lives:
            known = self._parts.table.peek(life.node)
            if known is None or known.rank < life.rank:
                self._parts.spreading.promised(life, peer, now)

    def take_digest(self, peer: NodeId, digest: Digest, now: float) -> None:
        if peer not in self._parts.previous.peers:
            self._parts.refuse(peer, TOO_MANY, 1.0, now)
            return
        found = self._parts.previous.take(digest)
        for node in found.confirmed:
            self._parts.hear_of(node, now)
        for node in found.doubted:
            if self._parts.choice.call_on(node, now):
                self._parts.calls[node] = 0
                self._parts.call(node)
        if found.answers:
            self._parts.answer(peer, Digest(tuple(found.answers), is_reply=True), now)
        answers = self._parts.allowances[peer].answers
        known = [
            (held, (version, 0))
            for node, version in found.lacking.items()
            if (held := self._parts.table.peek(node)) is not None
        ]
        for message in exchange.telling(known, lambda size_bytes: answers.take(size_bytes, now)):
            if isinstance(message, Delta):
                self._parts.out.append(Send(peer, message))

    def _own_came_back(self, envelope: Envelope) -> None:
        """A record of ours that we do not hold: we lost our disk, or our key runs twice."""
        signed = self._parts.gate.examine(envelope, None)
        if signed is None:
            return
        if signed.record.version < self._parts.own_known.version:
            self._parts.gate.refusals[OLD] += 1
            return
        self._parts.out.append(OwnVersionBehind(signed.record.version))
