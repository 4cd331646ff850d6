"""What a requester remembers of its containers, for how long, and what it says of them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from p2prc.model.identity import LeaseId, NodeId
from p2prc.model.workload import Workload
from p2prc.node.containers import ENDED_KEPT_S, REMOVING_KEPT_S, Containers, Held
from p2prc.storage.state import open_state
from tests.unit.test_node_in_memory import two_nodes

DAY_S = 86400.0
LEASE, AWAY = LeaseId("1" * 20), NodeId("f" * 64)


def held(**fields: object) -> Held:
    now = time.time()
    usual = Held(
        lease=LEASE, node=AWAY, workload=Workload(), argv=(), ports={}, created_at=now,
        expires_at=now + DAY_S,
    )  # fmt: skip
    return msgspec.structs.replace(usual, **fields)


Told = Callable[..., Awaitable[list[tuple[str, str]]]]


@pytest.fixture
async def told_of(tmp_path: Path) -> AsyncIterator[Told]:
    """Give a node something to remember; return the states and who ended what in its next life."""
    async with two_nodes(tmp_path) as (ada, _):

        async def told(
            remembered: Held, then: Callable[[Containers], object] = id
        ) -> list[tuple[str, str]]:
            with open_state(tmp_path / "other.db") as state:
                state.set_values({f"container/{LEASE}": msgspec.json.encode(remembered)})
                containers = Containers(state=state, post=ada.post, runs=ada.runs)
                containers.start()
                then(containers)
                return [(each.state, each.ended_by) for each in await containers.check()]

        yield told


async def test_a_node_that_stays_away_is_waited_for_and_then_not_any_more(told_of: Told) -> None:
    now = time.time()
    waiting = held(state="removing", removed_at=now, expires_at=None)
    assert await told_of(waiting) == [("removing", "")]
    long_ago = held(state="removing", removed_at=now - REMOVING_KEPT_S - 60, expires_at=None)
    assert await told_of(long_ago) == [("ended", "lost")]
    over = held(state="removing", removed_at=now - 60, expires_at=now - 1)
    assert await told_of(over) == [("ended", "time")]
    forgotten = held(state="ended", ended_at=now - ENDED_KEPT_S - 60)
    assert await told_of(forgotten) == []


async def test_what_has_no_end_is_unreachable_for_ever_and_what_has_one_is_over(
    told_of: Told,
) -> None:
    assert await told_of(held(expires_at=None)) == [("unreachable", "")]
    assert await told_of(held(expires_at=time.time() - 1)) == [("ended", "time")]


async def test_giving_back_at_a_node_that_is_away_is_remembered(told_of: Told) -> None:
    def remove(containers: Containers) -> None:
        assert containers.remove(LEASE).state == "removing"

    assert await told_of(held(), remove) == [("removing", "")]
