"""What peers used: counted once, kept over deaths of the node, and bounded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.model.identity import LeaseId, NodeId
from p2prc.model.resources import Usage
from p2prc.model.workload import Outcome, Workload
from p2prc.node.history import USAGE_RETENTION_S, USAGE_ROWS_LIMIT, History
from p2prc.node.places import Used
from p2prc.protocol.leases import LeaseState, LeaseView
from p2prc.storage.schema import PeerUsage
from p2prc.storage.state import State, open_state

ALICE = NodeId("a" * 64)
LEASE = LeaseId("1" * 20)


def view(lease: LeaseId = LEASE, peer: NodeId = ALICE) -> LeaseView:
    return LeaseView(
        lease, peer, Workload(), None, False, "process", "userns", LeaseState.ACTIVE, 0.0, 100.0
    )


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with open_state(tmp_path / "state.db") as opened:
        yield opened


def used_in_all(history: History) -> PeerUsage:
    [row] = history.usage(since_at=time.time() - 86400)
    return row


def test_readings_are_summed_as_they_grow(state: State) -> None:
    history = History(state)
    history.read(view(), Usage(cpu_s=1, memory_bytes=100, disk_bytes=9), Used(), 10)
    history.read(view(), Usage(cpu_s=3, memory_bytes=100, disk_bytes=5, net_rx_bytes=7), Used(), 12)
    row = used_in_all(history)
    assert (row.cpu_s, row.memory_byte_s, row.disk_peak_bytes) == (3, 200, 9)
    assert (row.net_rx_bytes, row.net_tx_bytes, row.leases) == (7, 0, 1)


def test_a_killed_node_has_kept_what_was_saved_and_counts_none_of_it_twice(tmp_path: Path) -> None:
    with open_state(tmp_path / "state.db") as state:
        history = History(state)
        history.read(view(), Usage(cpu_s=5), Used(), 0)
        history.save()
        history.read(view(), Usage(cpu_s=6), Used(), 1)
    with open_state(tmp_path / "state.db") as state:
        history = History(state)
        assert used_in_all(history).cpu_s == 5
        history.take_up(LEASE, Usage(cpu_s=6), 0)
        history.read(view(), Usage(cpu_s=8), Used(), 1)
        row = used_in_all(history)
        assert (row.cpu_s, row.leases) == (7, 1)


def test_a_command_that_ended_between_two_readings_is_counted_when_its_lease_ends(
    state: State,
) -> None:
    history, used = History(state), Used()
    used.add(Outcome(0, usage=Usage(cpu_s=0.5, memory_peak_bytes=1000), duration_s=2))
    history.ended(view(), Usage(), used, ended_by="requester", reason="", now=2)
    row = used_in_all(history)
    assert (row.cpu_s, row.memory_byte_s, row.tasks, row.leases) == (0.5, 2000, 1, 1)
    [ended] = state.ended_leases()
    assert (ended.cpu_s, ended.ended_by) == (0.5, "requester")


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20))
def test_sums_never_shrink_and_end_at_the_largest_reading(readings: list[float]) -> None:
    history = History(None)  # type: ignore[arg-type]
    for at, cpu_s in enumerate(readings):
        history.read(view(), Usage(cpu_s=cpu_s), Used(), at)
    [sums] = history._sums.values()
    assert sums.cpu_s == pytest.approx(max(readings))
    assert history.cpu_s == pytest.approx(max(readings))


def test_old_days_and_too_many_rows_are_forgotten(state: State) -> None:
    old = time.strftime("%Y-%m-%d", time.gmtime(time.time() - USAGE_RETENTION_S - 2 * 86400))
    today = time.strftime("%Y-%m-%d", time.gmtime())
    state.add_usage([PeerUsage(ALICE, old, 1.0)])
    many = [PeerUsage(NodeId(f"{n:064x}"), today) for n in range(USAGE_ROWS_LIMIT + 5)]
    state.add_usage(many)
    History(state).start()
    rows = state.usage()
    assert len(rows) == USAGE_ROWS_LIMIT
    assert all(row.day == today for row in rows)
