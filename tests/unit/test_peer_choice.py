"""Whom a node dials again, and when."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from p2prc.model.identity import NodeId
from p2prc.protocol.peer_choice import ChoiceConfig, PeerChoice

US, PEER = NodeId("01" * 32), NodeId("02" * 32)
HOUR_S = 3600.0


def refuted_after_each_failure(choice: PeerChoice, hours: float) -> list[float]:
    """Return when a node is called on whom everybody else reaches."""
    tries, now = [], 0.0
    while now < hours * HOUR_S:
        if choice.call_on(PEER, now):
            tries.append(now)
            choice.note_failed(PEER, now)
            choice.note_refuted(PEER, now)
        now += 0.5
    return tries


def test_a_node_that_others_reach_is_tried_again_soon_and_then_ever_more_seldom() -> None:
    choice = PeerChoice(ChoiceConfig(), Random(1), US, now=0.0)
    tries = refuted_after_each_failure(choice, hours=3)
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    assert gaps[0] <= 6.0
    assert sum(each <= 30.0 for each in gaps) >= 3
    assert all(300.0 <= each <= 601.0 for each in gaps[-5:])


def test_a_link_makes_up_for_all_refutations() -> None:
    choice = PeerChoice(ChoiceConfig(), Random(1), US, now=0.0)
    refuted_after_each_failure(choice, hours=1)
    choice.note_connected(PEER, HOUR_S)
    choice.note_lost(PEER, HOUR_S)
    choice.note_refuted(PEER, HOUR_S)
    assert choice.call_on(PEER, HOUR_S + 6.0)
