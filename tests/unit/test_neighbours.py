"""Neighbours on the local network: how many are remembered and dialled, and how often."""

from __future__ import annotations

from p2prc.model.identity import NodeId
from p2prc.protocol.neighbour_list import (
    AGAIN_LIMIT_S,
    AGAIN_S,
    DIALS_AT_ONCE,
    NEIGHBOURS_LIMIT,
    NeighbourList,
)

NODES = [NodeId(f"{number:064x}") for number in range(2 * NEIGHBOURS_LIMIT)]
HERE, THERE = ("192.168.1.5:8088",), ("192.168.1.6:8088",)


def anybody(_: NodeId) -> bool:
    return True


def test_who_is_heard_is_dialled_once() -> None:
    known = NeighbourList()
    known.heard(NODES[0], HERE)
    assert known.due(0, is_wanted=anybody) == [(NODES[0], HERE)]
    assert known.due(0, is_wanted=anybody) == []
    known.dialled(NODES[0], is_reached=True, now=1)
    known.heard(NODES[0], HERE)
    assert known.due(1, is_wanted=anybody) == []


def test_whom_nobody_wants_is_left_alone_and_not_forgotten() -> None:
    known = NeighbourList()
    known.heard(NODES[0], HERE)
    assert known.due(0, is_wanted=lambda _: False) == []
    assert known.due(0, is_wanted=anybody) == [(NODES[0], HERE)]


def test_failures_make_it_ever_rarer_and_a_new_address_starts_afresh() -> None:
    known, now, pauses = NeighbourList(), 0.0, []
    known.heard(NODES[0], HERE)
    for _ in range(10):
        assert known.due(now, is_wanted=anybody)
        known.dialled(NODES[0], is_reached=False, now=now)
        pause = AGAIN_S
        while not known.due(now + pause, is_wanted=lambda _: True):
            pause += AGAIN_S
        known.dialled(NODES[0], is_reached=False, now=now)
        pauses.append(pause)
        now += AGAIN_LIMIT_S
    assert pauses[0] == 2 * AGAIN_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == AGAIN_LIMIT_S
    known.heard(NODES[0], THERE)
    assert known.due(now, is_wanted=anybody) == [(NODES[0], THERE)]


def test_a_crowd_is_bounded_in_memory_and_in_dials() -> None:
    known = NeighbourList()
    for node in NODES:
        known.heard(node, HERE)
    assert len(known) == NEIGHBOURS_LIMIT
    assert len(known.due(0, is_wanted=anybody)) == DIALS_AT_ONCE
    assert known.due(0, is_wanted=anybody) == []


def test_a_dial_that_ends_after_its_node_was_forgotten_is_no_trouble() -> None:
    known = NeighbourList()
    known.heard(NODES[0], HERE)
    known.due(0, is_wanted=anybody)
    known.forget()
    known.dialled(NODES[0], is_reached=True, now=1)
    assert len(known) == 0
