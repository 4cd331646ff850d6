"""What of a lease is on disk for the node's next life."""

from __future__ import annotations

from math import inf
from pathlib import Path

from p2prc.model.identity import LeaseId, NodeId
from p2prc.model.moments import Moment
from p2prc.model.resources import Limits
from p2prc.model.workload import MainProcess, Workload
from p2prc.node.kept_leases import KeptLeases
from p2prc.protocol.messages import RequestLease
from p2prc.storage.state import State, open_state

PEER = NodeId("a" * 64)
LEASE = LeaseId("1" * 20)
REQUEST = RequestLease(
    LEASE,
    Workload(Limits(lifetime_s=100.0)),
    has_sessions=True,
    variables={"GREETING": "hello"},
    main=MainProcess(("true",), "on-failure"),
)


def keep(state: State) -> KeptLeases:
    kept = KeptLeases(state)
    kept.keep(PEER, REQUEST, runtime="process", tier="userns", lifetime_s=100.0)
    return kept


def test_a_lease_is_read_as_it_was_written_and_forgotten_for_good(tmp_path: Path) -> None:
    with open_state(tmp_path / "state.db") as state:
        keep(state).main_ended(LEASE, 3)
    with open_state(tmp_path / "state.db") as state:
        kept = KeptLeases(state)
        [one] = kept.load()
        assert (one.peer, one.request) == (PEER, REQUEST)
        assert (one.runtime, one.tier) == ("process", "userns")
        assert (one.is_main_ended, one.main_status) == (True, 3)
        kept.forget(LEASE)
        assert KeptLeases(state).load() == []


def test_a_clock_that_was_set_back_gives_no_lease_more_than_its_time(tmp_path: Path) -> None:
    with open_state(tmp_path / "state.db") as state:
        keep(state)
        [one] = KeptLeases(state).load()
    begun = one.begun
    assert begun is not None
    # After another start of the machine only the wall clock tells.
    assert abs(one.left_s(Moment(begun.at + 40)) - 60) < 1e-3
    assert one.left_s(Moment(begun.at - 1e6)) == 100
    assert one.left_s(Moment(begun.at + 1e6)) < 0


def test_a_clock_that_is_set_takes_nothing_from_a_lease_and_gives_nothing(tmp_path: Path) -> None:
    with open_state(tmp_path / "state.db") as state:
        keep(state)
        [one] = KeptLeases(state).load()
    begun = one.begun
    assert begun is not None and begun.boot
    for jump_s in (-1e6, 1e6):
        later = Moment(begun.at + jump_s, begun.boot, begun.booted_s + 40)
        assert abs(one.left_s(later) - 60) < 1e-3
        assert abs(one.age_s(later) - 40) < 1e-3


def test_a_lease_without_an_end_has_none_in_the_next_life_either(tmp_path: Path) -> None:
    endless = RequestLease(LEASE, Workload(Limits(lifetime_s=None)), has_sessions=True)
    with open_state(tmp_path / "state.db") as state:
        kept = KeptLeases(state)
        kept.keep(PEER, endless, runtime="process", tier="userns", lifetime_s=inf)
        [one] = KeptLeases(state).load()
    assert one.left_s(Moment(one.created_at + 1e9)) == inf


def test_a_main_process_that_ends_with_its_lease_brings_nothing_back(tmp_path: Path) -> None:
    with open_state(tmp_path / "state.db") as state:
        kept = keep(state)
        kept.forget(LEASE)
        kept.main_ended(LEASE, None)
        assert state.kept_leases() == []


def test_a_row_that_cannot_be_read_is_forgotten_and_the_others_stay(tmp_path: Path) -> None:
    with open_state(tmp_path / "state.db") as state:
        keep(state)
        state.keep_lease(LeaseId("2" * 20), b"\xc1 garbage")
        assert [one.lease for one in KeptLeases(state).load()] == [LEASE]
        assert [lease for lease, _ in state.kept_leases()] == [LEASE]
