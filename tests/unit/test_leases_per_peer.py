"""What one peer may have and how often it may ask; what an owner who is back does to leases."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.model.identity import LeaseId, NodeId
from p2prc.model.resources import GIBIBYTE, Limits, RuntimeOffer
from p2prc.model.workload import Workload
from p2prc.protocol.lease_events import (
    CreateSandbox,
    EndSandbox,
    Granted,
    LeaseEndRequested,
    LeaseRequested,
    OwnerNeedsMachine,
    Refuse,
    ResumeSandbox,
    SandboxEnded,
    SandboxReady,
    SuspendSandbox,
    TellEnded,
    TermsChanged,
)
from p2prc.protocol.lending import CONTINUE, END, UNBOUNDED, LendingPolicy, Refusal, select_runtime
from p2prc.protocol.messages import RequestLease
from p2prc.protocol.request_rates import BURST_S, PEERS_LIMIT, RequestRates
from tests.unit.test_leases import (
    ALICE,
    BOB,
    CAPACITY,
    NIGHTLY,
    OTHER,
    USERNS,
    book,
    wanting,
    with_active,
)

ONE_CORE = UNBOUNDED.__class__(1000, UNBOUNDED.memory_bytes, UNBOUNDED.disk_bytes, 64)


def test_what_one_peer_holds_is_bounded_and_others_still_get_theirs() -> None:
    lending = book(LendingPolicy(per_peer=ONE_CORE))
    [refusal] = lending.handle(LeaseRequested(ALICE, wanting(cores=2)), 0)
    assert isinstance(refusal, Refuse)
    assert refusal.code == "policy-refuses"
    assert "one peer at most 1 core" in refusal.message
    lending.handle(LeaseRequested(ALICE, wanting()), 0)
    [refusal] = lending.handle(LeaseRequested(ALICE, wanting(OTHER)), 0)
    assert isinstance(refusal, Refuse)
    assert refusal.code == "peer-busy"
    [creation] = lending.handle(LeaseRequested(BOB, wanting(OTHER)), 0)
    assert isinstance(creation, CreateSandbox)


def test_a_peers_share_is_free_again_once_its_sandbox_is_gone() -> None:
    lending = with_active(LendingPolicy(per_peer_leases=1))
    lending.handle(LeaseEndRequested(ALICE, NIGHTLY), 1)
    [refusal] = lending.handle(LeaseRequested(ALICE, wanting(OTHER)), 1)
    assert isinstance(refusal, Refuse)
    lending.handle(SandboxEnded(NIGHTLY), 2)
    [creation] = lending.handle(LeaseRequested(ALICE, wanting(OTHER)), 2)
    assert isinstance(creation, CreateSandbox)


def test_a_thousand_requests_in_a_second_are_mostly_refused_and_cost_others_nothing() -> None:
    lending = book(LendingPolicy(requests_per_s=10))
    asked = [
        lending.handle(LeaseRequested(ALICE, wanting(LeaseId(f"{n:020x}"))), n / 1000)
        for n in range(1000)
    ]
    hasty = [
        effect
        for effects in asked
        for effect in effects
        if isinstance(effect, Refuse) and "faster" in effect.message
    ]
    assert 900 <= len(hasty) < 1000
    [refusal] = lending.handle(LeaseRequested(BOB, wanting(OTHER)), 1)
    assert isinstance(refusal, Refuse)
    assert "faster" not in refusal.message


def test_rates_of_ever_new_peers_take_no_more_memory() -> None:
    rates = RequestRates()
    for number in range(3 * PEERS_LIMIT):
        assert rates.is_allowed(NodeId(f"{number:064x}"), 1, 0)
    assert len(rates._buckets) == PEERS_LIMIT


@given(
    st.lists(st.floats(0, 1, allow_nan=False), min_size=1, max_size=300),
    st.integers(1, 100),
)
def test_nobody_gets_more_than_rate_and_burst(pauses: list[float], rate: int) -> None:
    rates, now, allowed = RequestRates(), 0.0, 0
    for pause in pauses:
        now += pause
        allowed += rates.is_allowed(ALICE, rate, now)
    assert allowed <= max(8, BURST_S * rate) + rate * now + 1


def test_an_owner_who_comes_back_finds_leases_suspended_and_nothing_new_lent() -> None:
    lending = with_active()
    assert lending.handle(OwnerNeedsMachine("the owner is back"), 1) == [SuspendSandbox(NIGHTLY)]
    assert lending.handle(OwnerNeedsMachine("the owner is back"), 2) == []
    assert lending.leases()[0].is_suspended
    [refusal] = lending.handle(LeaseRequested(BOB, wanting(OTHER)), 3)
    assert isinstance(refusal, Refuse)
    assert refusal.code == "lending-paused"
    assert "owner is back" in refusal.message
    assert lending.handle(OwnerNeedsMachine(), 4) == [ResumeSandbox(NIGHTLY)]
    assert lending.handle(OwnerNeedsMachine(), 5) == []


def test_a_lease_that_becomes_ready_while_the_owner_is_back_is_suspended() -> None:
    lending = book()
    lending.handle(LeaseRequested(ALICE, wanting()), 0)
    assert lending.handle(OwnerNeedsMachine("back"), 1) == []
    granted, suspended = lending.handle(SandboxReady(NIGHTLY), 2)
    assert isinstance(granted, Granted)
    assert suspended == SuspendSandbox(NIGHTLY)


def test_leases_end_or_go_on_where_the_owner_says_so() -> None:
    lending = with_active(LendingPolicy(when_needed=END))
    assert lending.handle(OwnerNeedsMachine("back"), 1) == [
        EndSandbox(NIGHTLY, "owner", "back"),
        TellEnded(ALICE, NIGHTLY, "owner", "back"),
    ]
    lending = with_active(LendingPolicy(when_needed=CONTINUE))
    assert lending.handle(OwnerNeedsMachine("back"), 1) == []
    assert not lending.leases()[0].is_suspended


def test_another_rule_holds_at_once() -> None:
    lending = with_active()
    lending.handle(OwnerNeedsMachine("back"), 1)
    goes_on = TermsChanged(CAPACITY, LendingPolicy(when_needed=CONTINUE), (USERNS,))
    assert lending.handle(goes_on, 2) == [ResumeSandbox(NIGHTLY)]


def test_a_lifetime_of_a_thousand_years_is_no_request_and_a_long_one_is_refused() -> None:
    year_s = 366 * 86400.0
    words = msgspec.json.encode({"lifetime_s": 1000 * year_s})
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(words, type=Limits)
    lending = book(LendingPolicy(lifetime_limit_s=3600))
    [refusal] = lending.handle(LeaseRequested(ALICE, wanting(lifetime_s=year_s)), 0)
    assert isinstance(refusal, Refuse)
    assert refusal.code == "policy-refuses"
    endless = book(LendingPolicy(lifetime_limit_s=year_s))
    [creation] = endless.handle(LeaseRequested(ALICE, wanting(lifetime_s=year_s)), 0)
    assert isinstance(creation, CreateSandbox)


def test_who_has_no_graphics_card_says_so() -> None:
    request = RequestLease(NIGHTLY, Workload(Limits(gpus=1)))
    [refusal] = book().handle(LeaseRequested(ALICE, request), 0)
    assert isinstance(refusal, Refuse)
    assert "no graphics card" in refusal.message
    assert CAPACITY.memory_bytes == 8 * GIBIBYTE


def test_a_graphics_card_is_lent_where_it_can_be_seen() -> None:
    sandbox, bare = RuntimeOffer("process", "userns"), RuntimeOffer("process", "none")
    container = RuntimeOffer("docker", "container")
    wanted = Workload(Limits(gpus=1))
    policy = LendingPolicy()
    assert select_runtime(policy, (sandbox, container, bare), ALICE, wanted) == container
    refusal = select_runtime(policy, (sandbox,), ALICE, wanted)
    assert isinstance(refusal, Refusal)
    assert "containers" in refusal.message
    assert select_runtime(policy, (sandbox, container), ALICE, Workload()) == sandbox
