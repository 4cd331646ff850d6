from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from p2prc.model.identity import LeaseId, NodeId
from p2prc.model.resources import GIBIBYTE, Capacity, Limits, RuntimeOffer
from p2prc.model.workload import Workload
from p2prc.protocol.lease_events import (
    CreateSandbox,
    EndSandbox,
    Event,
    Granted,
    LeaseAdopted,
    LeaseEndRequested,
    LeaseRequested,
    OwnerKilled,
    OwnerNeedsMachine,
    PeerGone,
    PeerReturned,
    Refuse,
    ResumeSandbox,
    SandboxEnded,
    SandboxFailed,
    SandboxReady,
    SuspendSandbox,
    Tick,
)
from p2prc.protocol.leases import LeaseBook, LeaseState
from p2prc.protocol.lending import LendingPolicy
from p2prc.protocol.messages import RequestLease

CAPACITY = Capacity(cpu_millis=4000, memory_bytes=4 * GIBIBYTE, disk_bytes=16 * GIBIBYTE)
PEERS = [NodeId(letter * 64) for letter in "ab"]
LEASES = [LeaseId(digit * 20) for digit in "12345678"]


USERNS = RuntimeOffer("process", "userns")


def new_book() -> LeaseBook:
    return LeaseBook(CAPACITY, LendingPolicy(leases_limit=6), (USERNS,))


class LeaseBookNeverOverlends(RuleBasedStateMachine):
    """What exists is counted here from effects and answers alone, not from the book's words."""

    def __init__(self) -> None:
        super().__init__()
        self.book = new_book()
        self.now = 0.0
        self.sandboxes: dict[LeaseId, Limits] = {}
        self.owners: dict[LeaseId, NodeId] = {}
        self.is_ending: set[LeaseId] = set()
        self.suspended: set[LeaseId] = set()
        self.is_owner_back = False
        self.unanswered: Counter[tuple[NodeId, LeaseId]] = Counter()

    def feed(self, event: Event) -> None:
        for effect in self.book.handle(event, self.now):
            match effect:
                case CreateSandbox():
                    assert effect.lease not in self.sandboxes
                    self.sandboxes[effect.lease] = effect.workload.limits
                    self.owners[effect.lease] = effect.peer
                case EndSandbox():
                    assert effect.lease in self.sandboxes
                    assert effect.lease not in self.is_ending
                    self.is_ending.add(effect.lease)
                    self.suspended.discard(effect.lease)
                case SuspendSandbox():
                    assert effect.lease in self.sandboxes
                    assert effect.lease not in self.suspended | self.is_ending
                    self.suspended.add(effect.lease)
                case ResumeSandbox():
                    self.suspended.remove(effect.lease)
                case Granted():
                    assert self.owners[effect.lease] == effect.peer
                    assert effect.lease not in self.is_ending
                    self.unanswered.pop((effect.peer, effect.lease), None)
                case Refuse():
                    self.unanswered.pop((effect.peer, effect.lease), None)

    @rule(
        peer=st.sampled_from(PEERS),
        lease=st.sampled_from(LEASES),
        cores=st.integers(0, 5),
        memory=st.integers(0, 5),
        lifetime_s=st.sampled_from([1.0, 10.0, 100.0]),
    )
    def request(
        self, peer: NodeId, lease: LeaseId, cores: int, memory: int, lifetime_s: float
    ) -> None:
        limits = Limits(
            cpu_millis=cores * 1000, memory_bytes=memory * GIBIBYTE, lifetime_s=lifetime_s
        )
        self.unanswered[peer, lease] += 1
        self.feed(LeaseRequested(peer, RequestLease(lease, Workload(limits))))

    @rule(peer=st.sampled_from(PEERS), lease=st.sampled_from(LEASES))
    def end(self, peer: NodeId, lease: LeaseId) -> None:
        before = self.is_ending.copy()
        self.feed(LeaseEndRequested(peer, lease))
        if self.owners.get(lease) != peer:
            assert self.is_ending == before

    @rule(index=st.integers(0, 7), becomes=st.sampled_from(["ready", "failed", "gone"]))
    def answer(self, index: int, becomes: str) -> None:
        if not self.sandboxes:
            return
        lease = sorted(self.sandboxes)[index % len(self.sandboxes)]
        if becomes == "ready":
            self.feed(SandboxReady(lease))
            return
        del self.sandboxes[lease]
        del self.owners[lease]
        self.is_ending.discard(lease)
        self.suspended.discard(lease)
        self.feed(
            SandboxFailed(lease, "disk-full", "full")
            if becomes == "failed"
            else SandboxEnded(lease)
        )

    @rule(peer=st.sampled_from(PEERS), is_all=st.booleans())
    def kill(self, peer: NodeId, is_all: bool) -> None:
        self.feed(OwnerKilled(peer=peer, is_all=is_all))

    @rule(peer=st.sampled_from(PEERS), is_back=st.booleans())
    def come_and_go(self, peer: NodeId, is_back: bool) -> None:
        self.feed(PeerReturned(peer) if is_back else PeerGone(peer))

    @rule(is_back=st.booleans())
    def owner_comes_and_goes(self, is_back: bool) -> None:
        self.is_owner_back = is_back
        self.feed(OwnerNeedsMachine("the owner is back" if is_back else ""))

    @rule(seconds=st.sampled_from([0.5, 5.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.feed(Tick())
        assert self.book.deadline is None or self.book.deadline > self.now

    @rule(away_s=st.sampled_from([0.5, 5.0, 61.0]), is_owner_back=st.booleans())
    def die_and_start_anew(self, away_s: float, is_owner_back: bool) -> None:
        before = [view for view in self.book.leases() if view.state is LeaseState.ACTIVE]
        self.now += away_s
        self.book = new_book()
        self.unanswered.clear()
        self.is_ending.clear()
        self.suspended.clear()
        self.is_owner_back = is_owner_back
        self.sandboxes = {view.lease: view.workload.limits for view in before}
        self.owners = {view.lease: view.peer for view in before}
        for view in before:
            request = RequestLease(view.lease, view.workload)
            age_s, left_s = self.now - view.created_at, view.expires_at - self.now
            self.feed(LeaseAdopted(view.peer, request, USERNS, age_s, left_s))
            assert (view.lease in self.is_ending) == (left_s <= 0)
        self.feed(OwnerNeedsMachine("the owner is back" if is_owner_back else ""))

    @invariant()
    def lends_only_what_it_has(self) -> None:
        assert sum(held.cpu_millis for held in self.sandboxes.values()) <= CAPACITY.cpu_millis
        assert sum(held.memory_bytes for held in self.sandboxes.values()) <= CAPACITY.memory_bytes
        assert sum(held.disk_bytes for held in self.sandboxes.values()) <= CAPACITY.disk_bytes
        assert len(self.sandboxes) <= 6

    @invariant()
    def nothing_runs_while_the_owner_is_back(self) -> None:
        for view in self.book.leases():
            if view.state is LeaseState.ACTIVE:
                assert (view.lease in self.suspended) == self.is_owner_back

    @invariant()
    def an_idle_machine_is_wholly_free(self) -> None:
        if not self.book.leases():
            assert self.sandboxes == {}
            assert self.book.free == CAPACITY

    @invariant()
    def every_unanswered_request_is_still_held(self) -> None:
        held = {(view.peer, view.lease) for view in self.book.leases()}
        assert set(self.unanswered) <= held


TestLeaseBookNeverOverlends = LeaseBookNeverOverlends.TestCase
