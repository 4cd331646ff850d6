"""Bulk between whole nodes: over TCP where a door is open, else over the links' own transport."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from p2prc.errors import FileUnknown
from p2prc.model.tree import FileEntry, Tree
from p2prc.node import lanes as lanes_room
from p2prc.node.bulk import Bulk
from p2prc.node.lanes import _ways
from p2prc.node.node import Node
from p2prc.node.relaying import open_relaying
from p2prc.protocol.messages import AskBulkDoor, BulkDoor, Refused
from p2prc.transport.port import Path as Way
from p2prc.transport.tls_certificate import new_certificate
from p2prc.transport.tls_connection import DialledConnection
from tests.unit.test_node_in_memory import two_nodes

PATIENCE_S = 20.0
SIZES = (3, 300_000, 5_000_000, 0)


@asynccontextmanager
async def doors(folder: Path) -> AsyncIterator[tuple[Node, Node]]:
    """Two members of one network, the first of which has a TCP port."""
    async with (
        asyncio.timeout(PATIENCE_S),
        two_nodes(folder) as (ada, grace),
        AsyncExitStack() as stack,
    ):
        await stack.enter_async_context(open_relaying(ada, host="127.0.0.1", port=0))
        yield ada, grace


def tree_of(node: Node, reader: Node, *sizes: int) -> Tree:
    contents = [os.urandom(size) for size in sizes]
    tree = Tree(
        files=tuple(
            FileEntry(f"f{number}", node.blobs.put_bytes(content), len(content))
            for number, content in enumerate(contents)
        )
    )
    node.blobs.put_tree(tree)
    node.grants.allow(reader.id, tree.digest, reason="test")
    return tree


async def fetched(bulk: Bulk, source: Node, tree: Tree) -> bool:
    await bulk.obtain(source.id, tree.digest, "test")
    return bulk._blobs.missing(tree) == []


async def lane_of(grace: Node, ada: Node) -> DialledConnection:
    connection = await grace.links.bulk_connection(ada.id)
    assert isinstance(connection, DialledConnection)
    return connection


async def test_a_tree_comes_over_tcp(tmp_path: Path) -> None:
    async with doors(tmp_path) as (ada, grace):
        for _ in range(3):
            assert await fetched(grace.bulk, ada, tree_of(ada, grace, *SIZES))
        connection = await lane_of(grace, ada)
        assert (await connection.path()).remote.startswith("127.0.0.1:")
        assert 1 <= connection.lanes <= 4
        assert ada.links.refusals == {}


async def test_what_nobody_promised_is_refused_over_tcp_too(tmp_path: Path) -> None:
    async with doors(tmp_path) as (ada, grace):
        tree = tree_of(ada, grace, 5)
        ada.grants.revoke("test")
        with pytest.raises(FileUnknown):
            await grace.bulk.obtain(ada.id, tree.digest, "test")
        assert isinstance(await lane_of(grace, ada), DialledConnection)


async def test_without_a_door_it_comes_the_other_way(tmp_path: Path) -> None:
    async with asyncio.timeout(PATIENCE_S), two_nodes(tmp_path) as (ada, grace):
        assert await fetched(grace.bulk, ada, tree_of(ada, grace, *SIZES))
        connection = await grace.links.bulk_connection(ada.id)
        assert not isinstance(connection, DialledConnection)


async def test_a_port_where_nobody_answers_costs_a_moment_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes_room, "TRY_S", 0.1)
    async with doors(tmp_path) as (ada, grace):
        held: list[asyncio.StreamWriter] = []
        silent = await asyncio.start_server(lambda _, writer: held.append(writer), "127.0.0.1", 0)
        ada.links.lanes.door_opened(silent.sockets[0].getsockname()[1])
        assert await fetched(grace.bulk, ada, tree_of(ada, grace, *SIZES))
        silent.close()
        assert held
        for writer in held:
            writer.close()
        assert grace.links.lanes._failures.keys() == {ada.id}
        # The next one does not even ask.
        link = grace.links.get(ada.id)
        assert link is not None
        monkeypatch.setattr(link, "ask", None)
        assert await grace.links.lanes.connection(ada.id) is None


async def test_somebody_in_the_middle_gets_nothing_and_the_tree_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with doors(tmp_path) as (ada, grace):
        ada.links.lanes._door._certificate = new_certificate()
        told = new_certificate().der
        monkeypatch.setattr(type(ada.links.lanes._door), "certificate", told)
        assert await fetched(grace.bulk, ada, tree_of(ada, grace, *SIZES))
        assert not isinstance(await grace.links.bulk_connection(ada.id), DialledConnection)
        while not ada.links.refusals:
            await asyncio.sleep(0.01)
        assert set(ada.links.refusals) == {"bulk-handshake"}


async def test_a_lane_that_breaks_is_no_end_of_a_transfer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with doors(tmp_path) as (ada, grace):
        connection = await lane_of(grace, ada)
        opening = connection.open_stream
        opened = 0

        async def breaking() -> object:
            nonlocal opened
            stream = await opening()
            opened += 1
            if opened == 2:
                await stream.abort()
            return stream

        monkeypatch.setattr(connection, "open_stream", breaking)
        assert await fetched(grace.bulk, ada, tree_of(ada, grace, 9_000_000, 9_000_000))
        assert opened >= 2
        assert not isinstance(await grace.links.bulk_connection(ada.id), DialledConnection)


async def test_a_peer_that_is_dismissed_has_no_lane_and_no_token(tmp_path: Path) -> None:
    async with doors(tmp_path) as (ada, grace):
        connection = await lane_of(grace, ada)
        link = grace.links.get(ada.id)
        assert link is not None
        await link.ask(AskBulkDoor(), BulkDoor)
        assert len(ada.links.lanes._tokens) > 0
        ada.links.dismiss(grace.id, "put out")
        assert len(ada.links.lanes._tokens) == 0
        while not connection.is_closed:
            await asyncio.sleep(0.01)


async def test_a_lost_link_takes_its_lanes_along(tmp_path: Path) -> None:
    async with doors(tmp_path) as (ada, grace):
        connection = await lane_of(grace, ada)
        await ada.links.drop(grace.id, "test")
        while not connection.is_closed or connection.lanes:
            await asyncio.sleep(0.01)


async def test_a_node_without_a_port_says_so(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (ada, _):
        said: list[object] = []
        ada.links.lanes.asked(ada.id, said.append)
        assert isinstance(said[0], Refused)


async def test_a_peer_behind_a_relay_is_looked_for_at_public_addresses_alone() -> None:
    told = ("192.168.1.2:8088", "127.0.0.1:8088", "8.8.8.8:9000", "nonsense")
    relayed = Way("relayed", "http://relay/")
    assert await _ways(relayed, told, 8088) == ["8.8.8.8:8088", "8.8.8.8:9000"]
    direct = await _ways(Way("direct", "192.168.1.7:5"), told, 8088)
    assert direct == ["192.168.1.7:8088", "192.168.1.2:8088", "8.8.8.8:8088", "8.8.8.8:9000"]
