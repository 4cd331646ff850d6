"""A private address is another machine in every house: the transport dials whom it means."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from p2prc.errors import PeerUnreachable
from p2prc.model.identity import NodeId
from p2prc.transport.addresses import of_sockets
from p2prc.transport.iroh_endpoint import open_iroh_endpoint
from p2prc.transport.port import Channel, Endpoint
from p2prc.transport.whose import look_at, sort_out


async def local(port: int = 0) -> Endpoint:
    return await open_iroh_endpoint(os.urandom(32), bind_addr=f"127.0.0.1:{port}")


async def where(endpoint: Endpoint) -> str:
    return next(text for text in await endpoint.addresses() if text.startswith("127."))


@asynccontextmanager
async def doorplate(address: str, node: NodeId) -> AsyncIterator[None]:
    """Say on the TCP port of an endpoint's address who is there."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps({"id": node}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    host, _, port = address.rpartition(":")
    async with await asyncio.start_server(answer, host, int(port)):
        yield


def test_addresses_are_parted_by_whether_they_mean_the_same_everywhere() -> None:
    own = ("192.168.1.2:8088", "127.0.0.1:8088")
    found = sort_out(
        [*own, "192.168.1.2:8089", "5.6.7.8:1", "100.64.0.1:1", "[2a0b::1]:1", "[fd00::1]:1"],
        own,
    )
    assert found.wide == ("5.6.7.8:1", "[2a0b::1]:1")
    assert found.near == ("192.168.1.2:8089", "100.64.0.1:1", "[fd00::1]:1")


def test_a_wildcard_is_no_loopback_to_others() -> None:
    told = of_sockets(["0.0.0.0:8088", "[::]:8088"])
    everything = of_sockets(["0.0.0.0:8088", "[::]:8088"], with_loopback=True)
    assert "127.0.0.1:8088" in everything
    assert set(told) == {text for text in everything if text[:4] not in ("127.", "[::1")} or (
        set(told) == set(everything)
    )
    assert "127.0.0.1:9000" in of_sockets(["127.0.0.1:9000"])


async def test_who_answers_is_told_apart_from_nobody_and_from_something_else() -> None:
    alice, bob = await local(), await local()
    at_alice, at_bob = await where(alice), await where(bob)
    try:
        async with doorplate(at_alice, alice.node), doorplate(at_bob, bob.node):
            looked = await look_at(alice.node, [at_alice, at_bob, "127.0.0.1:1"])
        assert looked.theirs == (at_alice,)
        assert looked.silent == ("127.0.0.1:1",)
    finally:
        await alice.close()
        await bob.close()


async def test_another_node_at_a_peers_address_does_not_keep_us_from_the_peer() -> None:
    alice, bob, neighbour = await local(), await local(), await local()
    own, at_bob, at_neighbour = [await where(each) for each in (alice, bob, neighbour)]
    try:
        async with doorplate(at_bob, bob.node), doorplate(at_neighbour, neighbour.node):
            connection = await alice.connect(
                bob.node, [own, at_neighbour, at_bob], Channel.CONTROL, timeout_s=5
            )
            assert connection.peer == bob.node
            with pytest.raises(PeerUnreachable, match="others live at the addresses"):
                await alice.connect(NodeId("ab" * 32), [at_neighbour], Channel.CONTROL, timeout_s=5)
        with pytest.raises(PeerUnreachable, match="leads away from this node"):
            await alice.connect(bob.node, [own], Channel.CONTROL, timeout_s=5)
    finally:
        for each in (alice, bob, neighbour):
            await each.close()
