"""What a node tells of its free capacity follows its leases to their very end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from p2prc.model.resources import Capacity
from p2prc.node.node import Node
from p2prc.node.places import Place
from tests.unit.test_node_in_memory import run, two_nodes
from tests.unit.test_node_troubles import until


def free_of(node: Node, seen_from: Node) -> Capacity:
    [offer] = [offer for offer in seen_from.offers() if offer.node == node.id]
    return offer.free


async def test_others_hear_that_a_place_is_free_also_when_it_was_slow_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        everything, may_end = free_of(grace, ada), asyncio.Event()
        end = grace.provider._places.end

        async def end_slowly(place: Place) -> None:
            await may_end.wait()
            await end(place)

        monkeypatch.setattr(grace.provider._places, "end", end_slowly)
        await run(ada, grace.id, "true")
        await until(lambda: free_of(grace, ada) != everything)
        may_end.set()
        await until(lambda: free_of(grace, ada) == everything)
