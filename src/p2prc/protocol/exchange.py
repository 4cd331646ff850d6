"""Comparing two tables by their fingerprints, and what either side then tells the other.

    Summary -> Branches -> Leaves -> Entries -> what is newer, what is wanted, who is doubted

Each answer goes one level down where the two differ; equal tables cost one small message. Small
tables skip two levels. Whoever knows hardly anybody is sent the records without being asked, and
whoever knows nobody but itself says who it is and is told all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from p2prc.model.identity import NodeId
from p2prc.model.testimony import LIVES_LIMIT, Life, Rank
from p2prc.protocol.messages import (
    Branches,
    Delta,
    Digest,
    Entries,
    Gossip,
    Leaves,
    Rumour,
    Summary,
    Want,
)
from p2prc.protocol.node_table import Known, NodeTable
from p2prc.wire.signed import Envelope

NOTHING: Rank = (-1, 0)
SMALL_TABLE = 48
ENTRIES_LIMIT = 2_000
DELTA_RECORDS = 500
DELTA_BYTES = 256 * 1024
BULK_MESSAGES = 4
LIFE_BYTES = 48
_ENVELOPE_OVERHEAD_BYTES = 16
ALL_BRANCHES = 32
_ALL = tuple(range(ALL_BRANCHES))


@dataclass(slots=True)
class Findings:
    """What the peer's entries brought to light.

    `newer`: nodes of which we know more. `wanted`: our lives of those of which it knows more.
    `gone`: nodes that it holds present in a life in which they died here. `confirmed`: nodes that
    we knew from the disk alone. `unlisted`: what it does not list.
    """

    newer: list[NodeId] = field(default_factory=list)
    wanted: list[Life] = field(default_factory=list)
    gone: list[NodeId] = field(default_factory=list)
    confirmed: list[NodeId] = field(default_factory=list)
    unlisted: list[Life] = field(default_factory=list)


def summary_of(table: NodeTable) -> Summary:
    return Summary(table.fingerprint.root, len(table))


def answer_summary(table: NodeTable, summary: Summary) -> Gossip | None:
    """Return what to ask or tell next; None when the tables are equal."""
    if summary.root == table.fingerprint.root:
        return None
    if is_newcomer(len(table), summary.known):
        return all_leaves(table)
    if is_newcomer(summary.known, len(table)):
        return summary_of(table)
    if len(table) <= SMALL_TABLE:
        return Entries((), lives_in(table, ()))
    return Branches(table.fingerprint.branches)


def is_newcomer(known: int, known_to_other: int) -> bool:
    """Whether one knows so little of what the other knows that records are best sent unasked."""
    return known_to_other > SMALL_TABLE and known * 4 < known_to_other


def present_if_told_at_once(table: NodeTable, summary: Summary) -> list[NodeId]:
    """Return whom to tell without a comparison: one of the two knows itself alone."""
    if summary.root == table.fingerprint.root:
        return []
    is_told_all = summary.known <= 1 and len(table) <= DELTA_RECORDS
    if len(table) > 1 and not is_told_all:
        return []
    return [node for node, _ in table.in_leaves(())]


def all_leaves(table: NodeTable) -> Leaves:
    return Leaves(_ALL, table.fingerprint.leaves(_ALL), len(table))


def answer_branches(table: NodeTable, branches: Branches) -> Leaves | None:
    differing = table.fingerprint.differing_branches(branches.marks)
    if not differing:
        return None
    return Leaves(differing, table.fingerprint.leaves(differing), len(table))


def answer_leaves(table: NodeTable, leaves: Leaves) -> tuple[Entries | None, list[NodeId]]:
    """Return our entries where the peer's leaves differ, and whose records it needs anyway."""
    differing = table.fingerprint.differing_leaves(leaves.branches, leaves.marks)
    is_bulk = is_newcomer(leaves.known, len(table))
    lives: list[Life] = []
    listed: list[int] = []
    records: list[NodeId] = []
    for leaf, is_empty in differing.items():
        if is_bulk and is_empty:
            records += [node for node, _ in table.in_leaf(leaf)]
            continue
        here = [known.life() for _, known in table.in_leaf(leaf)]
        if len(lives) + len(here) > ENTRIES_LIMIT:
            break
        lives += here
        listed.append(leaf)
    return (Entries(tuple(listed), tuple(lives)) if listed else None), records


def lives_in(table: NodeTable, leaves: Iterable[int]) -> tuple[Life, ...]:
    return tuple(known.life() for _, known in table.in_leaves(leaves))[:ENTRIES_LIMIT]


def compare(table: NodeTable, lives: Iterable[Life]) -> Findings:
    """Weigh a peer's lives of present nodes against what we know of them."""
    found = Findings()
    for life in lives:
        node = life.node
        known = table.peek(node)
        if known is None:
            found.wanted.append(Life(life.key, -1))
        elif life.rank > known.rank:
            found.wanted.append(known.life())
        elif life.rank < known.rank:
            found.newer.append(node)
        elif known.is_unverified:
            found.confirmed.append(node)
        elif known.is_confirmed_dead:
            found.gone.append(node)
    return found


def add_unlisted(found: Findings, table: NodeTable, entries: Entries) -> None:
    """The entries are all that the peer has in those leaves: find what it lacks."""
    if len(entries.lives) >= ENTRIES_LIMIT:
        return
    listed = {life.key for life in entries.lives}
    for _, known in table.in_leaves(entries.leaves):
        if known.signed.envelope.author not in listed:
            found.unlisted.append(known.life())


def in_batches(lives: list[Life]) -> list[tuple[Life, ...]]:
    """Cut into what one testimony holds."""
    return [tuple(lives[at : at + LIVES_LIMIT]) for at in range(0, len(lives), LIVES_LIMIT)]


def telling(known_ones: Iterable[tuple[Known, Rank]], take: Callable[[int], bool]) -> list[Gossip]:
    """Return messages with what is newer than the lives given, as far as `take` allows."""
    messages: list[Gossip] = []
    records: list[Envelope] = []
    statements: list[Envelope] = []
    total_bytes = 0
    for known, (version, _) in known_ones:
        envelope = known.signed.envelope
        size_bytes = _size_of(envelope) if known.version > version else 0
        if known.statement is not None:
            size_bytes += _size_of(known.statement)
        if not take(size_bytes):
            break
        if known.version > version:
            records.append(envelope)
            total_bytes += size_bytes
        if known.statement is not None:
            statements.append(known.statement)
        if len(records) == DELTA_RECORDS or total_bytes > DELTA_BYTES:
            messages.append(Delta(tuple(records)))
            records, total_bytes = [], 0
            if len(messages) == BULK_MESSAGES:
                break
    if records:
        messages.append(Delta(tuple(records)))
    messages += [Rumour(tuple(statements[at : at + 500])) for at in range(0, len(statements), 500)]
    return messages


def size_of(message: Gossip) -> int:
    """Return about how many bytes an answer costs."""
    match message:
        case Entries() | Want():
            return LIFE_BYTES * (1 + len(message.lives))
        case Branches() | Leaves():
            return LIFE_BYTES + len(message.marks)
        case Rumour():
            return sum(map(_size_of, message.testimonies))
        case Digest():
            return 2 * LIFE_BYTES * len(message.entries)
        case _:
            return LIFE_BYTES


def _size_of(envelope: Envelope) -> int:
    parts = len(envelope.author) + len(envelope.payload) + len(envelope.signature)
    return parts + _ENVELOPE_OVERHEAD_BYTES
