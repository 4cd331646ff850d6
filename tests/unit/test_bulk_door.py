"""The bulk door on a real TCP port, and those who mean it harm."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from p2prc.errors import PeerLost, PeerMisbehaved, PeerUnreachable
from p2prc.protocol.bulk_tokens import TOKEN_BYTES
from p2prc.transport import tls_connection, tls_door, tls_lane
from p2prc.transport.port import Channel
from p2prc.transport.tls_certificate import new_certificate
from p2prc.transport.tls_door import SESSION_BYTES, DoorLimits, dial_lane
from p2prc.transport.tls_lane import Lane
from tests.contract.tls_endpoint import TlsEndpoint, TlsNetwork
from tests.contract.transport_harness import connected, opened, read_all

PATIENCE_S = 10.0
REQUEST = b"GET /bulk HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: p2prc-bulk\r\n\r\n"


@asynccontextmanager
async def endpoints(limits: DoorLimits | None = None) -> AsyncIterator[list[TlsEndpoint]]:
    network = TlsNetwork(limits or DoorLimits())
    made = [await network.endpoint() for _ in range(2)]
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield made
    finally:
        for endpoint in made:
            await endpoint.close()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.01)


async def lane_to(door: TlsEndpoint, *, token: bytes, certificate: bytes | None = None) -> Lane:
    return await dial_lane(
        f"127.0.0.1:{door.port}",
        certificate=certificate or door.door.certificate,
        token=token,
        session=os.urandom(SESSION_BYTES),
    )


async def lane_for(dialler: TlsEndpoint, door: TlsEndpoint) -> Lane:
    return await lane_to(door, token=door.token_for(dialler.node))


async def test_a_token_is_asked_for_and_a_used_one_is_refused() -> None:
    async with endpoints() as (ada, grace):
        token = grace.token_for(ada.node)
        lane = await lane_to(grace, token=token)
        for bad in (token, os.urandom(TOKEN_BYTES)):
            with pytest.raises(PeerUnreachable):
                await lane_to(grace, token=bad)
        assert grace.refusals == {"bulk-token": 2}
        lane.abort("done")


async def test_another_certificate_than_was_told_is_no_way_in() -> None:
    async with endpoints() as (ada, grace):
        token = grace.token_for(ada.node)
        with pytest.raises(PeerUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
            await lane_to(grace, token=token, certificate=new_certificate().der)
        await until(lambda: grace.refusals == {"bulk-handshake": 1})
        # The man in the middle saw no token: it is good still.
        (await lane_to(grace, token=token)).abort("done")
        with pytest.raises(PeerUnreachable, match="not a certificate"):
            await lane_to(grace, token=token, certificate=b"nonsense")


@pytest.mark.parametrize("garbage", [b"\0" * 600, b"\x16\x03\x01\xff\xff" + b"a" * 600, b"GET /"])
async def test_garbage_instead_of_tls_is_refused_and_counted(garbage: bytes) -> None:
    async with endpoints() as (_, grace):
        reader, writer = await asyncio.open_connection("127.0.0.1", grace.port)
        writer.write(REQUEST)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        writer.write(garbage)
        writer.write_eof()
        await reader.read()
        await until(lambda: grace.refusals == {"bulk-handshake": 1})
        writer.close()


@pytest.mark.parametrize(
    "request_text",
    [
        REQUEST.replace(b"p2prc-bulk", b"websocket"),
        REQUEST.replace(b"Connection: Upgrade", b"Connection: close"),
        REQUEST.replace(b"GET", b"POST"),
    ],
)
async def test_who_does_not_ask_for_it_gets_no_upgrade(request_text: bytes) -> None:
    async with endpoints() as (_, grace):
        reader, writer = await asyncio.open_connection("127.0.0.1", grace.port)
        writer.write(request_text)
        assert not (await reader.read()).startswith(b"HTTP/1.1 101")
        writer.close()


async def test_silence_ends_and_holds_few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_door, "ENTER_S", 0.3)
    limits = DoorLimits(entering=2, entering_per_address=2)
    async with endpoints(limits) as (ada, grace):
        silent = [await asyncio.open_connection("127.0.0.1", grace.port) for _ in range(5)]
        for _, writer in silent:
            writer.write(REQUEST)
        await until(lambda: grace.refusals["bulk-too-many"] == 3)
        await until(lambda: grace.refusals["bulk-slow"] == 2)
        (await lane_for(ada, grace)).abort("done")
        for _, writer in silent:
            writer.close()


async def test_one_peer_has_a_bounded_number_of_lanes() -> None:
    async with endpoints(DoorLimits(per_peer=2)) as (ada, grace):
        lanes = [await lane_for(ada, grace) for _ in range(2)]
        with pytest.raises(PeerUnreachable):
            await lane_for(ada, grace)
        assert grace.refusals == {"bulk-too-many": 1}
        lanes[0].abort("done")
        await asyncio.sleep(0)
        await until(lambda: grace.lanes == 1)
        lanes.append(await lane_for(ada, grace))
        for lane in lanes:
            lane.abort("done")


async def test_a_record_that_is_too_large_ends_the_stream() -> None:
    async with endpoints() as (ada, grace):
        lane = await lane_for(ada, grace)
        served = await grace.accept()
        assert served is not None
        lane.write_plain((tls_lane.RECORD_LIMIT_BYTES + 1).to_bytes(4, "big") + b"x")
        stream = await served.accept_stream()
        with pytest.raises(PeerMisbehaved):
            await stream.read()
        await until(lambda: lane.is_lost)


async def test_a_stream_that_is_over_leaves_its_lane_to_the_next() -> None:
    async with endpoints() as (ada, grace):
        ours, theirs = await connected(ada, grace, Channel.BULK)
        for number in range(5):
            stream = await ours.open_stream()
            await stream.write(b"%d" % number)
            await stream.finish()
            served = await theirs.accept_stream()
            assert await read_all(served) == b"%d" % number
            await served.write(b"yes")
            await served.finish()
            assert await read_all(stream) == b"yes"
            # Whoever keeps a stream that is over cannot disturb the next one.
            await stream.abort()
            with pytest.raises(PeerLost):
                await served.write(b"more")
        assert grace.lanes == 1


async def test_the_peers_end_is_seen_by_who_no_longer_reads() -> None:
    async with endpoints() as (ada, grace):
        ours, theirs = await connected(ada, grace, Channel.BULK)
        for _ in range(3):
            pair = await opened(ours, theirs)
            await pair.ours.finish()
            assert await pair.theirs.read() == b""
            await pair.theirs.finish()
            await until(lambda: grace.lanes == 1)
            await asyncio.sleep(0.02)
        assert grace.lanes == 1


async def test_a_cut_is_not_an_end() -> None:
    async with endpoints() as (ada, grace):
        pair = await opened(*await connected(ada, grace, Channel.BULK))
        await pair.ours.write(b"half")
        await pair.ours.abort()
        with pytest.raises(PeerLost):
            await read_all(pair.theirs)


async def test_a_peer_that_never_ends_its_stream_loses_the_lane(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tls_lane, "LINGER_S", 0.05)
    async with endpoints() as (ada, grace):
        pair = await opened(*await connected(ada, grace, Channel.BULK))
        await pair.theirs.finish()
        await until(lambda: grace.lanes == 0)
        with pytest.raises(PeerLost):
            await pair.theirs.read()


async def test_lanes_without_use_are_closed_and_the_connection_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tls_connection, "IDLE_S", 0.02)
    async with endpoints() as (ada, grace):
        ours, theirs = await connected(ada, grace, Channel.BULK)
        await until(lambda: grace.lanes == 0)
        assert not ours.is_closed
        await opened(ours, theirs)


async def test_a_served_connection_ends_when_its_dialler_stays_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tls_connection, "EMPTY_S", 0.02)
    async with endpoints() as (ada, grace):
        (await lane_for(ada, grace)).abort("gone")
        served = await grace.accept()
        assert served is not None
        with pytest.raises(PeerLost):
            await served.accept_stream()
        assert served.is_closed
