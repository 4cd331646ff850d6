from __future__ import annotations

from math import inf

import msgspec

from p2prc.model.identity import JobId, LeaseId, NodeId
from p2prc.model.resources import GIBIBYTE, Capacity, Limits, RuntimeOffer
from p2prc.model.workload import Workload
from p2prc.protocol.lease_events import (
    ConfirmEnd,
    CreateSandbox,
    EndSandbox,
    Granted,
    LeaseAdopted,
    LeaseEndRequested,
    LeaseRequested,
    OwnerKilled,
    Paused,
    PeerGone,
    PeerReturned,
    Refuse,
    Resumed,
    SandboxEnded,
    SandboxFailed,
    SandboxReady,
    TellEnded,
    TermsChanged,
    Tick,
)
from p2prc.protocol.leases import LeaseBook, LeaseState
from p2prc.protocol.lending import LendingPolicy
from p2prc.protocol.messages import RequestLease

ALICE = NodeId("a" * 64)
BOB = NodeId("b" * 64)
NIGHTLY = LeaseId("1" * 20)
OTHER = LeaseId("2" * 20)
JOB = JobId("9" * 20)
CAPACITY = Capacity(cpu_millis=4000, memory_bytes=8 * GIBIBYTE, disk_bytes=40 * GIBIBYTE)
USERNS = RuntimeOffer("process", "userns")
BARE = RuntimeOffer("process", "none")


def book(policy: LendingPolicy | None = None, *runtimes: RuntimeOffer) -> LeaseBook:
    return LeaseBook(CAPACITY, policy or LendingPolicy(), runtimes or (USERNS,))


def wanting(
    lease: LeaseId = NIGHTLY,
    *,
    cores: int = 1,
    lifetime_s: float | None = 100.0,
    job: JobId | None = None,
    workload: Workload | None = None,
) -> RequestLease:
    limits = Limits(cpu_millis=cores * 1000, lifetime_s=lifetime_s)
    return RequestLease(lease, workload or Workload(limits), job)


def with_active(
    policy: LendingPolicy | None = None, request: RequestLease | None = None
) -> LeaseBook:
    made = book(policy)
    made.handle(LeaseRequested(ALICE, request or wanting()), 0)
    made.handle(SandboxReady(NIGHTLY), 0)
    return made


def test_a_lease_is_made_then_granted_and_counted_from_when_it_is_ready() -> None:
    lending = book()
    [creation] = lending.handle(LeaseRequested(ALICE, wanting()), 0)
    assert creation == CreateSandbox(NIGHTLY, ALICE, wanting().workload, "process", "userns", False)
    assert lending.free.cpu_millis == 3000
    assert lending.handle(SandboxReady(NIGHTLY), 30) == [Granted(ALICE, NIGHTLY, 100, "userns")]
    assert lending.deadline == 130


def test_asking_twice_is_asking_once() -> None:
    lending = book()
    lending.handle(LeaseRequested(ALICE, wanting()), 0)
    assert lending.handle(LeaseRequested(ALICE, wanting()), 1) == []
    lending.handle(SandboxReady(NIGHTLY), 2)
    again = lending.handle(LeaseRequested(ALICE, wanting()), 12)
    assert again == [Granted(ALICE, NIGHTLY, 90, "userns")]
    assert lending.free.cpu_millis == 3000


def test_the_same_id_with_other_terms_is_refused() -> None:
    lending = with_active()
    [refusal] = lending.handle(LeaseRequested(ALICE, wanting(cores=2)), 1)
    assert isinstance(refusal, Refuse)
    assert refusal.code == "invalid-input"


def test_nobody_ends_or_finds_out_another_peers_lease() -> None:
    lending = with_active()
    [ended] = lending.handle(LeaseEndRequested(BOB, NIGHTLY), 1)
    [unknown] = lending.handle(LeaseEndRequested(BOB, OTHER), 1)
    assert isinstance(ended, Refuse)
    assert isinstance(unknown, Refuse)
    assert (ended.code, ended.message) == (unknown.code, unknown.message)
    assert ended.code == "lease-unknown"
    [taken] = lending.handle(LeaseRequested(BOB, wanting()), 1)
    assert isinstance(taken, Refuse)
    assert taken.code == "peer-busy"
    assert lending.holder_of(NIGHTLY) == ALICE


def test_time_ends_a_lease_and_its_room_is_free_once_the_sandbox_is_gone() -> None:
    lending = with_active()
    assert lending.handle(Tick(), 100) == [
        EndSandbox(NIGHTLY, "time", "its time is over"),
        TellEnded(ALICE, NIGHTLY, "time", "its time is over"),
    ]
    assert lending.free.cpu_millis == 3000
    assert lending.deadline is None
    assert lending.handle(SandboxEnded(NIGHTLY), 101) == []
    assert lending.free == CAPACITY
    assert lending.leases() == ()


def test_a_requester_may_end_its_lease_twice() -> None:
    lending = with_active()
    assert lending.handle(LeaseEndRequested(ALICE, NIGHTLY), 1) == [
        EndSandbox(NIGHTLY, "requester", "ended by its requester"),
        ConfirmEnd(ALICE, NIGHTLY),
    ]
    assert lending.handle(LeaseEndRequested(ALICE, NIGHTLY), 2) == [ConfirmEnd(ALICE, NIGHTLY)]
    lending.handle(SandboxEnded(NIGHTLY), 2)
    assert lending.handle(LeaseEndRequested(ALICE, NIGHTLY), 3) == [ConfirmEnd(ALICE, NIGHTLY)]


def test_a_late_request_does_not_bring_an_ended_lease_back() -> None:
    lending = with_active()
    lending.handle(LeaseEndRequested(ALICE, NIGHTLY), 1)
    lending.handle(SandboxEnded(NIGHTLY), 2)
    [refusal] = lending.handle(LeaseRequested(ALICE, wanting()), 3)
    assert isinstance(refusal, Refuse)
    assert refusal.code == "lease-ended"
    assert lending.free == CAPACITY


def test_a_full_machine_is_busy() -> None:
    lending = with_active(request=wanting(cores=4))
    [refusal] = lending.handle(LeaseRequested(BOB, wanting(OTHER)), 1)
    assert isinstance(refusal, Refuse)
    assert refusal.code == "peer-busy"


def test_a_request_waits_for_a_sandbox_that_is_just_ending() -> None:
    lending = with_active(request=wanting(cores=4))
    lending.handle(LeaseEndRequested(ALICE, NIGHTLY), 1)
    assert lending.handle(LeaseRequested(ALICE, wanting(OTHER, cores=4)), 1) == []
    [waiting] = [view for view in lending.leases() if view.lease == OTHER]
    assert waiting.state is LeaseState.WAITING
    [creation] = lending.handle(SandboxEnded(NIGHTLY), 1.2)
    assert isinstance(creation, CreateSandbox)
    assert creation.lease == OTHER


def test_a_request_waits_no_longer_than_the_policys_patience() -> None:
    lending = with_active(LendingPolicy(patience_s=5), wanting(cores=4))
    lending.handle(LeaseEndRequested(ALICE, NIGHTLY), 1)
    lending.handle(LeaseRequested(BOB, wanting(OTHER, cores=4)), 1)
    assert lending.deadline == 6
    [refusal] = lending.handle(Tick(), 6)
    assert isinstance(refusal, Refuse)
    assert (refusal.peer, refusal.code) == (BOB, "peer-busy")


def test_what_can_never_be_lent_is_refused_with_the_greatest_amount() -> None:
    [refusal] = book().handle(LeaseRequested(ALICE, wanting(cores=5)), 0)
    assert isinstance(refusal, Refuse)
    assert refusal.code == "policy-refuses"
    assert refusal.message == "this node lends at most 4 cores"
    too_long = wanting(lifetime_s=3601)
    [refusal] = book(LendingPolicy(lifetime_limit_s=3600)).handle(
        LeaseRequested(ALICE, too_long), 0
    )
    assert isinstance(refusal, Refuse)
    assert refusal.message == "this node lends for at most 1h"


def test_a_lease_without_an_end_is_lent_where_the_owner_sets_none() -> None:
    endless = wanting(lifetime_s=None)
    [refusal] = book().handle(LeaseRequested(ALICE, endless), 0)
    assert isinstance(refusal, Refuse)
    assert "lend.lifetime none" in refusal.hint
    lending = book(LendingPolicy(lifetime_limit_s=inf))
    [creation] = lending.handle(LeaseRequested(ALICE, endless), 0)
    assert isinstance(creation, CreateSandbox)
    assert lending.handle(SandboxReady(NIGHTLY), 30) == [Granted(ALICE, NIGHTLY, inf, "userns")]
    assert lending.deadline == inf
    assert lending.handle(Tick(), 1e12) == []


def test_a_lease_of_nothing_is_refused_because_it_would_have_no_end() -> None:
    nothing = wanting(workload=Workload(Limits(cpu_millis=0, memory_bytes=0, disk_bytes=0)))
    [refusal] = book().handle(LeaseRequested(ALICE, nothing), 0)
    assert isinstance(refusal, Refuse)
    assert refusal.code == "policy-refuses"


def test_a_paused_node_keeps_its_leases_and_lends_nothing_new() -> None:
    lending = with_active()
    assert lending.handle(Paused(), 1) == []
    [refusal] = lending.handle(LeaseRequested(BOB, wanting(OTHER)), 2)
    assert isinstance(refusal, Refuse)
    assert refusal.code == "lending-paused"
    assert lending.holder_of(NIGHTLY) == ALICE
    lending.handle(Resumed(), 3)
    [creation] = lending.handle(LeaseRequested(BOB, wanting(OTHER)), 4)
    assert isinstance(creation, CreateSandbox)


def test_a_policy_names_who_is_lent_to() -> None:
    lending = book(LendingPolicy(lends_to=frozenset({BOB})))
    [refusal] = lending.handle(LeaseRequested(ALICE, wanting()), 0)
    assert isinstance(refusal, Refuse)
    assert refusal.code == "policy-refuses"
    [creation] = lending.handle(LeaseRequested(BOB, wanting()), 0)
    assert isinstance(creation, CreateSandbox)


def test_a_node_without_isolation_lends_only_to_nodes_that_its_owner_names() -> None:
    lending = book(LendingPolicy(trusted=frozenset({BOB})), BARE)
    [refusal] = lending.handle(LeaseRequested(ALICE, wanting()), 0)
    assert isinstance(refusal, Refuse)
    assert refusal.code == "policy-refuses"
    [creation] = lending.handle(LeaseRequested(BOB, wanting()), 0)
    assert isinstance(creation, CreateSandbox)
    assert creation.tier == "none"


def test_the_requesters_tiers_are_kept() -> None:
    lending = book(LendingPolicy(trusted=frozenset({ALICE})), BARE)
    isolated = wanting(workload=Workload(tiers=("userns",)))
    [refusal] = lending.handle(LeaseRequested(ALICE, isolated), 0)
    assert isinstance(refusal, Refuse)
    assert refusal.message == "this node offers other tiers: none"


def test_a_sandbox_that_cannot_be_made_is_a_refusal_and_may_be_tried_again() -> None:
    lending = book()
    lending.handle(LeaseRequested(ALICE, wanting()), 0)
    failed = SandboxFailed(NIGHTLY, "environment-broken", "no wheel for numpy")
    assert lending.handle(failed, 5) == [
        Refuse(ALICE, NIGHTLY, "environment-broken", "no wheel for numpy")
    ]
    assert lending.free == CAPACITY
    [creation] = lending.handle(LeaseRequested(ALICE, wanting()), 6)
    assert isinstance(creation, CreateSandbox)


def test_the_requester_is_told_which_limit_ended_its_lease() -> None:
    lending = with_active()
    ended = lending.handle(SandboxEnded(NIGHTLY, "limit-exceeded", "used 2 GiB of 1 GiB"), 5)
    assert ended == [TellEnded(ALICE, NIGHTLY, "limit", "used 2 GiB of 1 GiB")]
    crashed = with_active().handle(SandboxEnded(NIGHTLY), 5)
    assert crashed == [TellEnded(ALICE, NIGHTLY, "lost", "the sandbox is gone")]


def test_the_owner_ends_one_lease_all_of_a_peer_or_all() -> None:
    lending = with_active()
    lending.handle(LeaseRequested(BOB, wanting(OTHER)), 0)
    lending.handle(SandboxReady(OTHER), 0)
    ended = lending.handle(OwnerKilled(peer=BOB), 1)
    assert [type(effect) for effect in ended] == [EndSandbox, TellEnded]
    assert ended[1] == TellEnded(BOB, OTHER, "owner", "ended by the owner of the node")
    assert lending.handle(OwnerKilled(leases=(OTHER,)), 1) == []
    ended = lending.handle(OwnerKilled(is_all=True), 2)
    assert EndSandbox(NIGHTLY, "owner", "ended by the owner of the node") in ended


def test_a_lease_killed_before_it_is_ready_answers_its_request_and_stays_dead() -> None:
    lending = book()
    lending.handle(LeaseRequested(ALICE, wanting()), 0)
    ended = lending.handle(OwnerKilled(is_all=True), 1)
    assert [type(effect) for effect in ended] == [EndSandbox, Refuse]
    assert lending.handle(SandboxReady(NIGHTLY), 2) == []
    assert lending.holder_of(NIGHTLY) is None
    assert lending.handle(SandboxEnded(NIGHTLY), 3) == []
    assert lending.free == CAPACITY


def test_an_absent_requester_keeps_a_run_for_a_minute_and_a_job_for_longer() -> None:
    lending = with_active(LendingPolicy(absence_s=60, job_absence_s=900), wanting(lifetime_s=5000))
    lending.handle(LeaseRequested(ALICE, wanting(OTHER, lifetime_s=5000, job=JOB)), 0)
    lending.handle(SandboxReady(OTHER), 0)
    lending.handle(PeerGone(ALICE), 10)
    lending.handle(PeerGone(ALICE), 40)
    assert lending.deadline == 70
    ended = lending.handle(Tick(), 70)
    assert [effect.lease for effect in ended if isinstance(effect, EndSandbox)] == [NIGHTLY]
    assert lending.deadline == 910
    lending.handle(PeerReturned(ALICE), 500)
    assert lending.deadline == 5000


def test_a_jobs_lease_with_sessions_does_not_wait_for_its_requester_for_ever() -> None:
    for job, due_at in ((JOB, 910), (None, 5000)):
        request = msgspec.structs.replace(wanting(lifetime_s=5000, job=job), has_sessions=True)
        lending = with_active(LendingPolicy(job_absence_s=900), request)
        lending.handle(PeerGone(ALICE), 10)
        assert lending.deadline == due_at


def test_lowered_ceilings_end_nothing_and_lend_nothing_more() -> None:
    lending = with_active(request=wanting(cores=3))
    small = Capacity(cpu_millis=2000, memory_bytes=8 * GIBIBYTE, disk_bytes=40 * GIBIBYTE)
    assert lending.handle(TermsChanged(small, LendingPolicy(), (USERNS,)), 1) == []
    assert lending.free.cpu_millis == 0
    [refusal] = lending.handle(LeaseRequested(BOB, wanting(OTHER)), 2)
    assert isinstance(refusal, Refuse)
    assert refusal.code == "peer-busy"


def test_an_adopted_lease_goes_on_and_ends_by_its_time() -> None:
    lending = book()
    assert lending.handle(LeaseAdopted(ALICE, wanting(), USERNS, age_s=60, left_s=40), 1000) == []
    assert lending.holder_of(NIGHTLY) == ALICE
    assert (lending.deadline, lending.free.cpu_millis) == (1040, 3000)
    assert lending.handle(LeaseAdopted(BOB, wanting(), USERNS, age_s=0, left_s=90), 1000) == []
    assert lending.holder_of(NIGHTLY) == ALICE
    [ending, told] = lending.handle(Tick(), 1040)
    assert ending == EndSandbox(NIGHTLY, "time", "its time is over")
    assert isinstance(told, TellEnded)


def test_what_is_adopted_beyond_a_ceiling_that_was_lowered_ends() -> None:
    lending = book()
    first, second = wanting(cores=3), wanting(OTHER, cores=3)
    assert lending.handle(LeaseAdopted(ALICE, first, USERNS, age_s=0, left_s=40), 0) == []
    [ending, told] = lending.handle(LeaseAdopted(BOB, second, USERNS, age_s=0, left_s=40), 0)
    assert isinstance(ending, EndSandbox)
    assert (ending.lease, ending.ended_by) == (OTHER, "owner")
    assert isinstance(told, TellEnded)
    lending.handle(SandboxEnded(OTHER), 1)
    assert [view.lease for view in lending.leases()] == [NIGHTLY]
