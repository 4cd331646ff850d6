"""What only the iroh adapter promises: its fast path, its manners on a real socket."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import cast

import psutil
import pytest

from p2prc.errors import MachineCannot, PeerLost, PeerUnreachable, PortTaken, SettingInvalid
from p2prc.transport import iroh_endpoint, iroh_fastpath
from p2prc.transport.iroh_calls import SlowCalls
from p2prc.transport.iroh_endpoint import open_iroh_endpoint, stream_calls
from p2prc.transport.iroh_fastpath import FastCalls
from p2prc.transport.port import READ_SIZE_BYTES, Channel, Endpoint
from p2prc.wire.signed import public_key_of
from tests.contract.transport_harness import (
    PATIENCE_S,
    Pair,
    connected,
    harness,
    opened,
    random_node,
)


async def _local() -> Endpoint:
    return await open_iroh_endpoint(os.urandom(32), bind_addr="127.0.0.1:0")


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Endpoint, Endpoint]]:
    alice, bob = await _local(), await _local()
    yield alice, bob
    await alice.close()
    await bob.close()


# -- the fast path ----------------------------------------------------------------------------


def test_the_fast_path_fits_the_installed_iroh() -> None:
    assert isinstance(stream_calls(), FastCalls)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IROH_VERSION", "1.2.1"),
        ("_CONTRACT_VERSION", 31),
        ("_CHECKSUMS", {"recvstream_read": 1}),
        ("_CHECKSUMS", {"no_such_method": 1}),
    ],
)
def test_another_iroh_is_used_the_slow_way(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    monkeypatch.setattr(iroh_fastpath, name, value)
    assert isinstance(stream_calls(), SlowCalls)


async def test_the_slow_way_carries_the_same_bytes() -> None:
    slow = harness("iroh-slow")
    pair = await opened(*await connected(await slow.endpoint(), await slow.endpoint()))
    content = Random(1).randbytes(300_000)
    async with asyncio.TaskGroup() as group:
        group.create_task(pair.ours.write(content))
        received = b""
        while len(received) < len(content):
            received += await pair.theirs.read()
    assert received == content
    await slow.close()


async def _move(pair: Pair, blocks: int) -> None:
    block = os.urandom(READ_SIZE_BYTES)

    async def send() -> None:
        for _ in range(blocks):
            await pair.ours.write(block)

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        left = blocks * len(block)
        while left:
            left -= len(await pair.theirs.read())


async def test_three_hundred_megabytes_leave_no_memory_behind(
    ends: tuple[Endpoint, Endpoint],
) -> None:
    pair = await opened(*await connected(*ends))
    await _move(pair, 200)
    process = psutil.Process()
    before = process.memory_info().rss
    await _move(pair, 1200)
    assert process.memory_info().rss - before < 30_000_000


async def test_ten_thousand_cancelled_reads_leave_nothing_behind(
    ends: tuple[Endpoint, Endpoint],
) -> None:
    pair = await opened(*await connected(*ends))
    for _ in range(10_000):
        reading = asyncio.create_task(pair.ours.read())
        await asyncio.sleep(0)
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
    assert not iroh_fastpath._waiting
    await pair.theirs.write(b"still here")
    assert await pair.ours.read() == b"still here"


# -- listening --------------------------------------------------------------------------------


async def test_an_endpoint_is_its_key() -> None:
    secret = os.urandom(32)
    endpoint = await open_iroh_endpoint(secret, bind_addr="127.0.0.1:0")
    assert endpoint.node == public_key_of(secret).hex()
    await endpoint.close()


async def test_a_loopback_endpoint_listens_nowhere_else() -> None:
    endpoint = await _local()
    told = set(await endpoint.addresses())
    ports = {int(text.rpartition(":")[2]) for text in told}
    bound = {
        connection.laddr.ip
        for connection in psutil.Process().net_connections(kind="udp")
        if connection.laddr and connection.laddr.port in ports
    }
    # A machine may have no IPv6 at all.
    assert {"127.0.0.1"} <= bound <= {"127.0.0.1", "::1"}
    assert {text.rpartition(":")[0] for text in told} <= {"127.0.0.1", "[::1]"}
    await endpoint.close()


async def test_a_wildcard_is_told_as_addresses_that_work_with_loopback_last() -> None:
    alice = await open_iroh_endpoint(os.urandom(32))
    bob = await open_iroh_endpoint(os.urandom(32))
    addresses = await bob.addresses()
    assert addresses
    assert not any(text.startswith(("0.0.0.0:", "[::]:")) for text in addresses)
    is_loopback = [text.startswith(("127.", "[::1]")) for text in addresses]
    assert is_loopback == sorted(is_loopback)
    for address in addresses:
        connection = await alice.connect(bob.node, [address], Channel.CONTROL, timeout_s=PATIENCE_S)
        await connection.close()
    await alice.close()
    await bob.close()


async def test_a_port_in_use_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(PortTaken, match=address):
            await open_iroh_endpoint(os.urandom(32), bind_addr=address)


async def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(MachineCannot):
        await open_iroh_endpoint(os.urandom(32), bind_addr="198.51.100.1:0")


@pytest.mark.parametrize("text", ["", "nonsense", "127.0.0.1", "127.0.0.1:port", "127.0.0.1:65536"])
async def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingInvalid):
        await open_iroh_endpoint(os.urandom(32), bind_addr=text)


async def test_a_closed_endpoint_gives_its_port_back() -> None:
    endpoint = await _local()
    (address, *_) = await endpoint.addresses()
    await endpoint.close()
    gc.collect()
    again = await open_iroh_endpoint(os.urandom(32), bind_addr=address)
    await again.close()


# -- strangers at the door ------------------------------------------------------------------------


async def test_garbage_at_the_port_disturbs_nobody(ends: tuple[Endpoint, Endpoint]) -> None:
    alice, bob = ends
    rng = Random(4)
    target = _udp_address(await bob.addresses())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for size in (1, 20, 1200, 1500, 65_000):
            for first in (0x00, 0x40, 0xC0, 0xFF):
                stranger.sendto(bytes([first]) + rng.randbytes(size), target)
        pair = await opened(*await connected(alice, bob))
        stranger.sendto(rng.randbytes(1200), target)
    await pair.ours.write(b"undisturbed")
    assert await pair.theirs.read() == b"undisturbed"


class _Deaf(asyncio.DatagramProtocol):
    """Carries what a dialler says to its target, and nothing back: a handshake that stalls."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self.carried = asyncio.Event()
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, content: bytes, sender: tuple[str, int]) -> None:
        assert self.transport is not None
        if sender != self._target:
            self.transport.sendto(content, self._target)
            self.carried.set()


@asynccontextmanager
async def _stalled_at(endpoint: Endpoint) -> AsyncIterator[None]:
    """While inside, somebody has begun a handshake with the endpoint and does not go on."""
    target = _udp_address(await endpoint.addresses())
    transport, deaf = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Deaf(target), local_addr=("127.0.0.1", 0)
    )
    host, port = transport.get_extra_info("sockname")
    staller = await _local()
    stalling = asyncio.create_task(
        staller.connect(endpoint.node, [f"{host}:{port}"], Channel.BULK, timeout_s=PATIENCE_S)
    )
    async with asyncio.timeout(PATIENCE_S):
        await deaf.carried.wait()
    try:
        yield
        assert not stalling.done(), "the handshake did not stall"
    finally:
        transport.close()
        stalling.cancel()
        await asyncio.wait({stalling})
        await staller.close()


async def test_a_stalled_handshake_delays_nobody(
    monkeypatch: pytest.MonkeyPatch, ends: tuple[Endpoint, Endpoint]
) -> None:
    monkeypatch.setattr(iroh_endpoint, "HANDSHAKE_TIMEOUT_S", 3600)
    alice, bob = ends
    async with _stalled_at(bob):
        for _ in range(5):
            await connected(alice, bob)


async def test_a_stalled_handshake_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iroh_endpoint, "HANDSHAKE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(iroh_endpoint, "HANDSHAKES_LIMIT", 1)
    alice, bob = await _local(), await _local()
    async with _stalled_at(bob):
        await connected(alice, bob)
    await alice.close()
    await bob.close()


async def test_connections_that_nobody_accepts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iroh_endpoint, "HANDSHAKES_LIMIT", 2)
    alice, bob = await _local(), await _local()

    async def dial(timeout_s: float) -> None:
        addresses = await bob.addresses()
        await alice.connect(bob.node, addresses, Channel.CONTROL, timeout_s=timeout_s)

    for _ in range(2):
        await dial(PATIENCE_S)
    with pytest.raises(PeerUnreachable):
        await dial(0.3)
    assert await bob.accept() is not None
    await dial(PATIENCE_S)
    await alice.close()
    await bob.close()


async def test_a_peer_that_dies_in_silence_does_not_hold_up_our_close(
    ends: tuple[Endpoint, Endpoint],
) -> None:
    ours, theirs = await connected(*ends)
    pair = await opened(ours, theirs)
    reading = asyncio.create_task(pair.ours.read())
    writing = asyncio.create_task(pair.ours.write(bytes(8 << 20)))
    await pair.theirs.read(1)
    async with asyncio.timeout(1):
        await ours.close("gave up")
        for pending in (reading, writing):
            with pytest.raises(PeerLost):
                await pending


def _udp_address(addresses: tuple[str, ...]) -> tuple[str, int]:
    host, port = addresses[0].rsplit(":", 1)
    return host, int(port)


async def test_an_error_says_who_and_why(ends: tuple[Endpoint, Endpoint]) -> None:
    ours, theirs = await connected(*ends)
    await theirs.close("no strangers")
    with pytest.raises(PeerLost, match=f"{ours.peer[:10]}.*no strangers"):
        await ours.accept_stream()
    with pytest.raises(PeerUnreachable) as caught:
        await ends[0].connect(
            random_node(), await ends[1].addresses(), Channel.CONTROL, timeout_s=5
        )
    assert ".rs:" not in str(caught.value)
