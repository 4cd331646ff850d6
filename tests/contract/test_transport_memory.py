"""What only the twin in memory promises: death on demand, and memory that stays bounded."""

from __future__ import annotations

import asyncio

import pytest

from p2prc.errors import PeerLost, PeerUnreachable
from p2prc.transport.memory import MemoryConnection, MemoryNetwork
from p2prc.transport.memory_pipe import INBOX_LIMIT, PIPE_LIMIT_BYTES
from p2prc.transport.port import READ_SIZE_BYTES, Channel, Path, RelayAccess
from tests.contract.transport_harness import connected, opened, random_node


async def test_a_killed_node_is_lost_to_all_and_reached_by_none() -> None:
    network = MemoryNetwork()
    alice, bob, carol = (network.endpoint(random_node()) for _ in range(3))
    to_bob, at_bob = await connected(alice, bob)
    from_carol, _ = await connected(carol, bob)
    pair = await opened(to_bob, at_bob)
    reading = [asyncio.create_task(side.read()) for side in (pair.ours, pair.theirs)]
    accepting = asyncio.create_task(bob.accept())
    await asyncio.sleep(0)
    network.kill(bob.node)
    for pending in reading:
        with pytest.raises(PeerLost):
            await pending
    assert await accepting is None
    assert to_bob.is_closed
    assert from_carol.is_closed
    with pytest.raises(PeerUnreachable):
        await alice.connect(bob.node, await bob.addresses(), Channel.CONTROL, timeout_s=1)
    with pytest.raises(PeerUnreachable):
        await bob.connect(alice.node, await alice.addresses(), Channel.CONTROL, timeout_s=1)
    await connected(alice, carol)


async def test_a_node_comes_back_at_its_address() -> None:
    network = MemoryNetwork()
    alice, bob = network.endpoint(random_node()), network.endpoint(random_node())
    network.kill(bob.node)
    network.kill(bob.node)
    again = network.endpoint(bob.node)
    assert await again.addresses() == await bob.addresses()
    await connected(alice, again)


def test_a_living_node_has_one_endpoint() -> None:
    network = MemoryNetwork()
    node = random_node()
    network.endpoint(node)
    with pytest.raises(ValueError, match="already"):
        network.endpoint(node)


async def test_killing_a_node_that_never_was_is_nothing() -> None:
    MemoryNetwork().kill(random_node())


async def test_a_writer_waits_for_its_reader() -> None:
    network = MemoryNetwork()
    pair = await opened(
        *await connected(network.endpoint(random_node()), network.endpoint(random_node()))
    )
    blocks = PIPE_LIMIT_BYTES // READ_SIZE_BYTES
    for _ in range(blocks):
        await pair.ours.write(bytes(READ_SIZE_BYTES))
    writing = asyncio.create_task(pair.ours.write(b"one too many"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not writing.done()
    await pair.theirs.read()
    await writing


async def test_connections_that_nobody_accepts_are_bounded() -> None:
    network = MemoryNetwork()
    alice, bob = network.endpoint(random_node()), network.endpoint(random_node())
    addresses = await bob.addresses()
    for _ in range(INBOX_LIMIT):
        await alice.connect(bob.node, addresses, Channel.CONTROL, timeout_s=1)
    with pytest.raises(PeerUnreachable):
        await alice.connect(bob.node, addresses, Channel.CONTROL, timeout_s=0.01)


async def test_streams_that_ended_are_forgotten() -> None:
    network = MemoryNetwork()
    ours, theirs = await connected(network.endpoint(random_node()), network.endpoint(random_node()))
    for _ in range(1000):
        pair = await opened(ours, theirs)
        await pair.ours.finish()
        await pair.theirs.finish()
    assert isinstance(ours, MemoryConnection)
    assert len(ours._pipes) <= 130


async def test_a_hidden_node_is_reached_through_a_relay_that_both_know() -> None:
    network = MemoryNetwork()
    alice, bob = (network.endpoint(random_node()) for _ in range(2))
    network.hide(bob.node)
    with pytest.raises(PeerUnreachable):
        await alice.connect(bob.node, await bob.addresses(), Channel.CONTROL, timeout_s=1)
    await bob.use_relays([RelayAccess("http://dead/"), RelayAccess("http://r/", "token")])
    assert bob.home_relays() == ()
    network.start_relay("http://r/")
    assert bob.home_relays() == ("http://r/",)
    connection = await alice.connect(
        bob.node, (), Channel.CONTROL, timeout_s=1, relays=["http://dead/", "http://r/"]
    )
    assert await connection.path() == Path("relayed", "http://r/")
    assert await connection.remote_address() == ""
    network.stop_relay("http://r/")
    assert connection.is_closed
    with pytest.raises(PeerUnreachable):
        await alice.connect(bob.node, (), Channel.CONTROL, timeout_s=1, relays=["http://r/"])
