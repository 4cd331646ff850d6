"""What every adapter of the transport promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from enum import Enum
from random import Random
from typing import cast

import blake3
import pytest

from p2prc.errors import PeerLost, PeerUnreachable
from p2prc.transport.port import READ_SIZE_BYTES, Channel, Connection, RelayAccess, Stream
from tests.contract.transport_harness import (
    PATIENCE_S,
    Harness,
    Pair,
    connected,
    harness,
    opened,
    random_node,
    read_all,
)


@pytest.fixture(params=["memory", "iroh", "iroh-slow"])
async def net(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    opened_harness = harness(request.param)
    yield opened_harness
    await opened_harness.close()


@pytest.fixture(params=["memory", "iroh", "iroh-slow", "tls"])
async def lines(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    """What carries streams: lanes over TCP have no endpoint of their own."""
    opened_harness = harness(request.param)
    yield opened_harness
    await opened_harness.close()


@pytest.fixture
async def link(lines: Harness) -> tuple[Connection, Connection]:
    return await connected(await lines.endpoint(), await lines.endpoint(), Channel.BULK)


@pytest.fixture
async def pair(link: tuple[Connection, Connection]) -> Pair:
    return await opened(*link)


async def test_what_is_written_is_read_in_both_directions(pair: Pair) -> None:
    await pair.ours.write(b"hello")
    assert await pair.theirs.read() == b"hello"
    await pair.theirs.write(memoryview(b"and back"))
    assert await pair.ours.read() == b"and back"
    await pair.ours.write(bytearray(b"twice"))
    assert await pair.theirs.read() == b"twice"


async def test_both_sides_know_each_other_by_key(net: Harness) -> None:
    alice, bob = await net.endpoint(), await net.endpoint()
    ours, theirs = await connected(alice, bob, Channel.BULK)
    assert (ours.peer, theirs.peer) == (bob.node, alice.node)
    assert (ours.channel, theirs.channel) == (Channel.BULK, Channel.BULK)
    path = await ours.path()
    assert (path.kind, path.remote) == ("direct", await ours.remote_address())
    assert await ours.remote_address() in await bob.addresses()


async def test_a_read_returns_no_more_than_its_limit_and_keeps_the_rest(pair: Pair) -> None:
    await pair.ours.write(b"0123456789")
    await pair.ours.finish()
    assert await read_all(pair.theirs, limit_bytes=3) == b"0123456789"


async def test_finishing_twice_is_safe_and_loses_nothing(pair: Pair) -> None:
    await pair.ours.write(b"x" * 100_000)
    await pair.ours.finish()
    await pair.ours.finish()
    found = 0
    async with asyncio.timeout(5):
        while content := await pair.theirs.read():
            found += len(content)
    assert found == 100_000


async def test_a_finished_direction_leaves_the_other_open(pair: Pair) -> None:
    await pair.ours.write(b"question")
    await pair.ours.finish()
    assert await read_all(pair.theirs) == b"question"
    assert await pair.theirs.read() == b""
    await pair.theirs.write(b"answer")
    await pair.theirs.finish()
    assert await read_all(pair.ours) == b"answer"


async def test_a_stream_may_carry_nothing_at_all(link: tuple[Connection, Connection]) -> None:
    ours, theirs = link
    stream = await ours.open_stream()
    await stream.write(b"")
    await stream.finish()
    assert await read_all(await theirs.accept_stream()) == b""


async def test_a_large_transfer_arrives_whole(lines: Harness, pair: Pair) -> None:
    block = Random(1).randbytes(READ_SIZE_BYTES)
    blocks = lines.bulk_bytes // READ_SIZE_BYTES
    sent, received = blake3.blake3(), blake3.blake3()

    async def send() -> None:
        for number in range(blocks):
            piece = number.to_bytes(4, "big") + block[4:]
            sent.update(piece)
            await pair.ours.write(piece)
        await pair.ours.finish()

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        while piece := await pair.theirs.read():
            received.update(piece)
    assert received.digest() == sent.digest()


async def test_one_write_larger_than_every_buffer_arrives_whole(pair: Pair) -> None:
    content = Random(2).randbytes(2_500_001)
    async with asyncio.TaskGroup() as group:
        group.create_task(pair.ours.write(content))
        received = b""
        while len(received) < len(content):
            received += await pair.theirs.read()
    assert received == content


async def test_three_hundred_streams_work_at_once(link: tuple[Connection, Connection]) -> None:
    ours, theirs = link
    ready = asyncio.Barrier(300)

    async def answer(stream: Stream) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await ready.wait()
        await stream.write(await read_all(stream) + b"!")
        await stream.finish()

    async def ask(number: int) -> bytes:
        stream = await ours.open_stream()
        await stream.write(b"%d" % number)
        await stream.finish()
        return await read_all(stream)

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        asking = [group.create_task(ask(number)) for number in range(300)]
        for _ in range(300):
            group.create_task(answer(await theirs.accept_stream()))
    assert [task.result() for task in asking] == [b"%d!" % number for number in range(300)]


async def test_a_full_bulk_connection_does_not_hold_up_control(net: Harness) -> None:
    alice, bob = await net.endpoint(), await net.endpoint()
    control = await opened(*await connected(alice, bob, Channel.CONTROL))
    bulk = await opened(*await connected(alice, bob, Channel.BULK))
    async with asyncio.timeout(PATIENCE_S):
        filling = asyncio.create_task(bulk.ours.write(bytes(4 << 20)))
        await control.ours.write(b"ping")
        assert await control.theirs.read() == b"ping"
    assert not filling.done(), "the bulk stream was never full"
    await bulk.ours.abort()
    with pytest.raises(PeerLost):
        await filling


async def test_closing_one_channel_leaves_the_other(net: Harness) -> None:
    alice, bob = await net.endpoint(), await net.endpoint()
    control = await connected(alice, bob, Channel.CONTROL)
    bulk = await connected(alice, bob, Channel.BULK)
    await bulk[0].close("done")
    with pytest.raises(PeerLost):
        await bulk[1].accept_stream()
    stream = await opened(*control)
    await stream.theirs.write(b"still here")
    assert await stream.ours.read() == b"still here"


async def test_an_aborted_stream_is_lost_to_the_peer_and_the_connection_lives(
    link: tuple[Connection, Connection],
) -> None:
    pair = await opened(*link)
    waiting = asyncio.create_task(pair.theirs.read())
    await asyncio.sleep(0)
    await pair.ours.abort()
    with pytest.raises(PeerLost):
        await waiting
    with pytest.raises(PeerLost):
        async with asyncio.timeout(PATIENCE_S):
            while True:
                await pair.theirs.write(b"anybody?")
    await opened(*link)


async def test_an_abort_ends_our_own_pending_read_and_write(lines: Harness, pair: Pair) -> None:
    reading = asyncio.create_task(pair.ours.read())
    writing = asyncio.create_task(pair.ours.write(bytes(lines.too_much_bytes)))
    # The peer has the first bytes: the write is under way, and nobody reads on.
    await pair.theirs.read(1)
    async with asyncio.timeout(5):
        await pair.ours.abort()
        await pair.ours.abort()
        for pending in (reading, writing):
            with pytest.raises(PeerLost):
                await pending
    assert not reading.cancelled()
    for call in (pair.ours.read(), pair.ours.write(b"more"), pair.ours.finish()):
        with pytest.raises(PeerLost):
            await call


async def test_a_close_fails_pending_reads_and_accepts_on_both_sides(
    link: tuple[Connection, Connection],
) -> None:
    ours, theirs = link
    pair = await opened(ours, theirs)
    pending = [
        asyncio.create_task(call)
        for call in (
            pair.ours.read(),
            pair.theirs.read(),
            ours.accept_stream(),
            theirs.accept_stream(),
        )
    ]
    await asyncio.sleep(0)
    await ours.close("enough")
    await ours.close("twice is safe")
    async with asyncio.timeout(5):
        for outcome in await asyncio.gather(*pending, return_exceptions=True):
            assert isinstance(outcome, PeerLost)
    assert ours.is_closed
    assert theirs.is_closed
    with pytest.raises(PeerLost):
        await ours.open_stream()
    with pytest.raises(PeerLost):
        await pair.theirs.write(b"late")


async def test_closing_an_endpoint_ends_its_connections_and_its_accept(net: Harness) -> None:
    alice, bob = await net.endpoint(), await net.endpoint()
    pair = await opened(*await connected(alice, bob))
    accepting = [asyncio.create_task(bob.accept()) for _ in range(2)]
    reading = [asyncio.create_task(side.read()) for side in (pair.ours, pair.theirs)]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await bob.close()
        await bob.close()
        assert [await task for task in accepting] == [None, None]
        assert await bob.accept() is None
        for pending in reading:
            with pytest.raises(PeerLost):
                await pending


async def test_a_closed_endpoint_is_not_reached_and_reaches_nobody(net: Harness) -> None:
    alice, bob = await net.endpoint(), await net.endpoint()
    addresses = await bob.addresses()
    await bob.close()
    with pytest.raises(PeerUnreachable):
        await alice.connect(bob.node, addresses, Channel.CONTROL, timeout_s=0.5)
    with pytest.raises(PeerUnreachable):
        await bob.connect(alice.node, await alice.addresses(), Channel.CONTROL, timeout_s=0.5)


async def test_a_dead_address_is_unreachable_within_the_timeout(net: Harness) -> None:
    alice = await net.endpoint()
    started = asyncio.get_running_loop().time()
    with pytest.raises(PeerUnreachable):
        await alice.connect(
            random_node(), [await net.dead_address()], Channel.CONTROL, timeout_s=0.5
        )
    assert asyncio.get_running_loop().time() - started < 2


@pytest.mark.parametrize(
    "addresses", [[], ["nonsense"], ["127.0.0.1"], ["127.0.0.1:99999"], ["[::1:4"], ["a b:1"] * 99]
)
async def test_a_peer_without_a_usable_address_is_unreachable(
    net: Harness, addresses: list[str]
) -> None:
    alice = await net.endpoint()
    with pytest.raises(PeerUnreachable):
        await alice.connect(random_node(), addresses, Channel.CONTROL, timeout_s=0.5)


async def test_an_unusable_address_among_good_ones_does_no_harm(net: Harness) -> None:
    alice, bob = await net.endpoint(), await net.endpoint()
    addresses = ["nonsense", "0.0.0.0:0", *await bob.addresses()]
    await alice.connect(bob.node, addresses, Channel.CONTROL, timeout_s=PATIENCE_S)


async def test_another_key_at_the_right_address_is_refused(net: Harness) -> None:
    alice, bob = await net.endpoint(), await net.endpoint()
    with pytest.raises(PeerUnreachable):
        await alice.connect(random_node(), await bob.addresses(), Channel.CONTROL, timeout_s=5)
    await connected(alice, bob)


async def test_a_name_that_is_no_key_is_unreachable(net: Harness) -> None:
    alice, bob = await net.endpoint(), await net.endpoint()
    nobody = type(bob.node)("zz" * 32)
    with pytest.raises(PeerUnreachable):
        await alice.connect(nobody, await bob.addresses(), Channel.CONTROL, timeout_s=1)


async def test_nobody_dials_itself(net: Harness) -> None:
    alice = await net.endpoint()
    with pytest.raises(PeerUnreachable):
        await alice.connect(alice.node, await alice.addresses(), Channel.CONTROL, timeout_s=1)


class _Foreign(Enum):
    CHAT = b"somebody-else/1"


async def test_an_unknown_channel_is_refused_and_disturbs_nobody(net: Harness) -> None:
    alice, bob = await net.endpoint(), await net.endpoint()
    with pytest.raises(PeerUnreachable):
        await alice.connect(
            bob.node, await bob.addresses(), cast("Channel", _Foreign.CHAT), timeout_s=5
        )
    await connected(alice, bob)


async def test_a_cancelled_read_loses_nothing(pair: Pair) -> None:
    rng = Random(3)
    content = rng.randbytes(200_000)
    cancelled = 0

    async def write() -> None:
        for start in range(0, len(content), 501):
            await pair.ours.write(content[start : start + 501])
        await pair.ours.finish()

    received = b""
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        group.create_task(write())
        while len(received) < len(content):
            reading = asyncio.create_task(pair.theirs.read(rng.randrange(1, 900)))
            for _ in range(rng.randrange(12)):
                await asyncio.sleep(0)
            reading.cancel()
            try:
                received += await reading
            except asyncio.CancelledError:
                cancelled += 1
                # Now and then somebody must wait, or nothing would ever arrive.
                received += await pair.theirs.read(1)
    assert received == content
    assert cancelled > 10


async def test_a_cancelled_write_leaves_a_stream_that_says_so(lines: Harness, pair: Pair) -> None:
    writing = asyncio.create_task(pair.ours.write(bytes(lines.too_much_bytes)))
    await pair.theirs.read(1)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    with pytest.raises(PeerLost):
        await pair.ours.write(b"the rest")
    with pytest.raises(PeerLost):
        await pair.ours.finish()
    await pair.ours.abort()
    with pytest.raises(PeerLost):
        await read_all(pair.theirs)


async def test_a_cancelled_accept_loses_no_connection(net: Harness) -> None:
    alice, bob = await net.endpoint(), await net.endpoint()
    accepting = asyncio.create_task(bob.accept())
    await asyncio.sleep(0)
    accepting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await accepting
    await connected(alice, bob)


async def test_external_addresses_and_relays_come_and_go_without_a_word(net: Harness) -> None:
    endpoint = await net.endpoint()
    for address in ("203.0.113.5:4433", "[2001:db8::5]:4433", "nonsense", "0.0.0.0:0"):
        await endpoint.add_external_address(address)
        await endpoint.add_external_address(address)
        await endpoint.remove_external_address(address)
        await endpoint.remove_external_address(address)
    await endpoint.use_relays([RelayAccess("nonsense"), RelayAccess("http://127.0.0.1:9/", "t")])
    await endpoint.use_relays([])
    assert endpoint.home_relays() == ()
    await endpoint.close()
    await endpoint.use_relays([RelayAccess("http://127.0.0.1:9/")])
    await endpoint.add_external_address("203.0.113.5:4433")
    assert endpoint.home_relays() == ()


async def test_relays_of_a_peer_that_lead_nowhere_do_not_hinder_a_direct_dial(net: Harness) -> None:
    alice, bob = await net.endpoint(), await net.endpoint()
    relays = ["http://127.0.0.1:9/", "", "nonsense", "http://[::bad/", "http://127.0.0.1:10/"]
    connection = await alice.connect(
        bob.node, await bob.addresses(), Channel.CONTROL, timeout_s=PATIENCE_S, relays=relays
    )
    assert (await connection.path()).kind == "direct"
    assert await bob.accept() is not None


async def test_a_dial_through_relays_that_lead_nowhere_ends_in_time(net: Harness) -> None:
    alice = await net.endpoint()
    with pytest.raises(PeerUnreachable):
        await alice.connect(
            random_node(),
            (),
            Channel.CONTROL,
            timeout_s=2.5,
            relays=["http://127.0.0.1:9/", "http://127.0.0.1:10/"],
        )
