"""How a machine is shared between peers: whoever is turned away has its part in time."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

import pytest

from p2prc.model.identity import LeaseId, NodeId
from p2prc.model.resources import Capacity, Limits, RuntimeOffer
from p2prc.model.workload import Workload
from p2prc.protocol.fair_share import WANTING_LIMIT, WANTING_S, FairShare, part_of
from p2prc.protocol.lease_events import (
    EndSandbox,
    Granted,
    LeaseEndRequested,
    LeaseRequested,
    SandboxEnded,
    SandboxReady,
    TaskOver,
)
from p2prc.protocol.leases import LeaseBook
from p2prc.protocol.lending import LendingPolicy
from p2prc.protocol.messages import RequestLease

PEERS = [NodeId(f"{number:02x}" * 32) for number in range(1, 6)]
ADA, BOB, EVE, *_ = PEERS
GIB = 1 << 30
ONE_CORE = Limits(cpu_millis=1000, memory_bytes=GIB, disk_bytes=GIB)


@dataclass(slots=True)
class Peer:
    """One that wants as much as it can get, task after task."""

    node: NodeId
    task_s: float
    asks_every_s: float
    asked_at: float = -1e9
    held: dict[LeaseId, float] = field(default_factory=dict)
    got_s: float = 0.0


class Machine:
    """The shipped book of leases, and peers that ask it; a tenth of a second at a time."""

    def __init__(self, cores: int, peers: list[Peer]) -> None:
        capacity = Capacity(cpu_millis=1000 * cores, memory_bytes=64 * GIB, disk_bytes=64 * GIB)
        self.book = LeaseBook(
            capacity, LendingPolicy(), (RuntimeOffer("process", "userns", "polled"),)
        )
        self.peers = {peer.node: peer for peer in peers}
        self.now = 0.0
        self._leases = (LeaseId(f"{number:020x}") for number in count(1))

    def live(self, seconds: float) -> None:
        ends_at = self.now + seconds
        while self.now < ends_at:
            self.now = round(self.now + 0.1, 3)
            for peer in self.peers.values():
                for lease, ends in list(peer.held.items()):
                    peer.got_s += 0.1
                    if ends <= self.now:
                        peer.held[lease] = self.now + peer.task_s
                        self._feed(TaskOver(lease))
                # That there is room is heard of sooner than one asks in vain.
                has_room = self.book.free.cpu_millis > 0
                if peer.asked_at + min(peer.asks_every_s, 1.0 + 4.0 * (not has_room)) <= self.now:
                    peer.asked_at = self.now
                    self.ask(peer.node)

    def ask(self, node: NodeId) -> None:
        request = RequestLease(next(self._leases), Workload(ONE_CORE))
        self._feed(LeaseRequested(node, request))

    def _feed(self, event: object) -> None:
        for effect in self.book.handle(event, self.now):  # type: ignore[arg-type]
            match effect:
                case EndSandbox():
                    for peer in self.peers.values():
                        peer.held.pop(effect.lease, None)
                    self._feed(SandboxEnded(effect.lease))
                case Granted():
                    peer = self.peers[effect.peer]
                    peer.held[effect.lease] = self.now + peer.task_s
                case _ if type(effect).__name__ == "CreateSandbox":
                    self._feed(SandboxReady(effect.lease))


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 8])
def test_who_comes_later_and_asks_seldom_is_not_starved(cores: int) -> None:
    hog, late = Peer(ADA, 1.0, 0.1), Peer(BOB, 1.0, 5.0)
    machine = Machine(cores, [hog])
    machine.live(30.0)
    assert len(hog.held) == cores
    machine.peers[BOB] = late
    machine.live(60.0)
    hog.got_s = late.got_s = 0.0
    machine.live(600.0)
    assert late.got_s >= 0.3 * 600.0 * cores, (hog.got_s, late.got_s)
    # No room lies idle for it for long.
    assert hog.got_s + late.got_s >= 0.85 * 600.0 * cores


def test_five_peers_have_about_a_fifth_each() -> None:
    machine = Machine(10, [Peer(node, 2.0, 3.0 + number) for number, node in enumerate(PEERS)])
    machine.live(600.0)
    for peer in machine.peers.values():
        assert 0.5 <= peer.got_s / (600.0 * 10 / 5) <= 1.6, peer


def test_alone_a_peer_has_it_all_and_keeps_it() -> None:
    machine = Machine(4, [Peer(ADA, 0.5, 0.1)])
    machine.live(60.0)
    assert len(machine.peers[ADA].held) == 4
    assert machine.peers[ADA].got_s >= 0.95 * 4 * 59


def test_no_task_is_cut_off() -> None:
    hog = Peer(ADA, 1000.0, 0.1)
    machine = Machine(2, [hog, Peer(BOB, 1.0, 5.0)])
    for _ in range(2):
        machine.ask(ADA)
    held = set(hog.held)
    machine.live(300.0)
    assert held == set(hog.held)


def test_who_wants_more_than_the_other_holds_keeps_nobody_out() -> None:
    fair = FairShare()
    fair.turned_away(BOB, 1.0, 0.0)
    assert not fair.lets_pass(ADA, 0.75, holds={ADA: 0.5}, now=1.0)
    assert not fair.makes_way(ADA, holds={ADA: 0.75}, now=1.0)
    assert fair.makes_way(ADA, holds={ADA: 1.0}, now=1.0)
    assert not fair.makes_way(ADA, holds={ADA: 1.0}, now=WANTING_S + 1.0)


def test_who_has_waited_longer_comes_first() -> None:
    fair = FairShare()
    fair.turned_away(BOB, 1.0, 0.0)
    fair.turned_away(ADA, 1.0, 5.0)
    fair.turned_away(BOB, 1.0, 6.0)
    assert fair.lets_pass(ADA, 1.0, holds={}, now=7.0)
    assert not fair.lets_pass(BOB, 1.0, holds={}, now=7.0)


def test_who_wants_is_remembered_within_bounds() -> None:
    fair = FairShare()
    for number in range(10 * WANTING_LIMIT):
        fair.turned_away(NodeId(f"{number:064x}"), 0.01, 0.0)
    # All of them together count as so many parties, not more.
    due = 1 / (WANTING_LIMIT + 1)
    assert not fair.makes_way(ADA, holds={ADA: due}, now=1.0)
    assert fair.makes_way(ADA, holds={ADA: due + 0.01}, now=1.0)


def test_a_lease_given_back_is_no_reason_for_anything() -> None:
    machine = Machine(1, [Peer(ADA, 1.0, 1e9)])
    machine.ask(ADA)
    [lease] = machine.peers[ADA].held
    machine.book.handle(LeaseEndRequested(ADA, lease), 1.0)
    assert machine.book.handle(TaskOver(lease), 2.0) == []
    assert machine.book.handle(TaskOver(LeaseId("f" * 20)), 2.0) == []


def test_the_largest_part_of_any_resource_counts() -> None:
    capacity = Capacity(cpu_millis=4000, memory_bytes=8 * GIB, disk_bytes=100 * GIB, gpus=2)
    assert part_of(capacity, []) == 0.0
    assert part_of(capacity, [Limits(cpu_millis=1000, memory_bytes=6 * GIB)]) == 0.75
    assert part_of(capacity, [Limits(cpu_millis=1000, gpus=1)] * 2) == 1.0
