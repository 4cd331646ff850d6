"""What the owner can look up later: leases that ended, and what each peer used."""

from __future__ import annotations

from pathlib import Path

from tests.unit.test_node_in_memory import run, two_nodes
from tests.unit.test_node_troubles import until


async def test_a_lease_that_ended_is_kept_with_whom_it_served_and_how_it_ended(
    tmp_path: Path,
) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        await run(ada, grace.id, "true")
        state = grace._adapters.state
        await until(lambda: bool(state.usage()))
        (lease,) = state.ended_leases()
        assert (lease.peer, lease.ended_by) == (ada.id, "requester")
        assert lease.created_at <= lease.ended_at
        (used,) = state.usage()
        assert (used.peer, used.tasks) == (ada.id, 1)


async def test_leases_that_ended_long_ago_are_forgotten_and_the_sums_stay(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        await run(ada, grace.id, "true")
        state = grace._adapters.state
        await until(lambda: bool(state.usage()))
        state.forget_leases_before(state.ended_leases()[0].ended_at + 1)
        assert state.ended_leases() == []
        assert len(state.usage()) == 1
