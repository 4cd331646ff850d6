"""The relay on a real TCP port: its pages, its clients, and those who mean it harm."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed

from p2prc.errors import NotMember, PortTaken
from p2prc.model.identity import NodeId
from p2prc.protocol import relay_frames as frames
from p2prc.protocol.relay_events import RelayConfig, RelayTerms
from p2prc.relay import connection as door
from p2prc.relay.server import ConnectionLimits, RelayServer, open_relay
from tests.fuzz.mutation import mutated
from tests.unit.relay_clients import (
    IDENTITY,
    PATIENCE_S,
    Prover,
    admitted,
    client,
    everybody,
    relay,
)


async def ask(server: RelayServer, request: bytes) -> bytes:
    """Send bytes and return everything that comes back."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            writer.write(request)
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


def get(path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: relay", *headers, "", ""]
    return "\r\n".join(lines).encode()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.01)


# -- pages -----------------------------------------------------------------------------------


async def test_ping_answers() -> None:
    async with relay() as server:
        assert (await ask(server, get("/ping"))).startswith(b"HTTP/1.1 200 ")


async def test_the_captive_portal_check_echoes_its_challenge() -> None:
    async with relay() as server:
        answer = await ask(server, get("/generate_204", "X-Iroh-Challenge: ts_abc.1"))
        assert answer.startswith(b"HTTP/1.1 204 ")
        assert b"X-Iroh-Response: response ts_abc.1\r\n" in answer
        odd = await ask(server, get("/generate_204", "X-Iroh-Challenge: a b<script>"))
        assert b"Iroh-Response" not in odd


async def test_the_well_known_page_says_three_things() -> None:
    async with relay() as server:
        head, _, body = (await ask(server, get("/.well-known/p2prc"))).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"application/json" in head
        assert json.loads(body) == {"id": IDENTITY.node, "relay": "/relay", "protocol": 1}


@pytest.mark.parametrize("path", ["/", "/relay/", "/relayx", "/.well-known/", "/ping/../etc"])
async def test_everything_else_is_not_found(path: str) -> None:
    async with relay() as server:
        answer = await ask(server, get(path))
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert server.stats.refusals == {"not-found": 1}


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\n",
        b"POST /ping HTTP/1.1\r\nHost: relay\r\nContent-Length: 3\r\n\r\nabc",
        b"GET /ping\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        get("/relay"),
        get("/relay", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
        get(
            "/relay",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            "Sec-WebSocket-Protocol: iroh-relay-v0",
        ),
    ],
)
async def test_what_is_no_request_of_ours_is_refused(request_bytes: bytes) -> None:
    async with relay() as server:
        answer = await ask(server, request_bytes)
        assert not answer.startswith((b"HTTP/1.1 2", b"HTTP/1.1 1"))
        assert sum(server.stats.refusals.values()) == 1
        await until(lambda: server.connections == 0)


# -- clients ---------------------------------------------------------------------------------


async def test_clients_exchange_datagrams() -> None:
    async with relay() as server, admitted(server, 1) as anna, admitted(server, 2) as ben:
        await anna.send(ben.key, b"hello")
        assert await ben.hear() == b"\x06" + anna.key + b"\x00hello"
        for number in range(200):
            await ben.send(anna.key, bytes([number]) * 1200)
        for number in range(200):
            assert await anna.hear() == b"\x06" + ben.key + b"\x00" + bytes([number]) * 1200
        stats = server.stats
        assert stats.clients == 2
        assert stats.forwarded_packets == 201
        assert stats.dropped_packets == 0


@pytest.mark.parametrize("version", frames.VERSIONS)
async def test_the_bearer_and_the_proved_key_decide(version: str) -> None:
    asked: list[tuple[NodeId, str]] = []

    def admit(key: NodeId, bearer: str) -> RelayTerms:
        asked.append((key, bearer))
        raise NotMember("nobody gets in")

    async with (
        relay(admit) as server,
        client(server, 1, bearer="secret", version=version) as anna,
    ):
        assert anna.connection.subprotocol == version
        assert await anna.prove() == frames.deny("nobody gets in")
        with pytest.raises(ConnectionClosed):
            await anna.hear()
        assert asked == [(anna.node, "secret")]
        assert server.stats.refusals == {"not-member": 1}


async def test_the_first_of_two_versions_is_chosen() -> None:
    async with relay() as server:
        offer = ", ".join(reversed(frames.VERSIONS))
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(get("/relay", *UPGRADE, f"Sec-WebSocket-Protocol: {offer}"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Sec-WebSocket-Protocol: iroh-relay-v2\r\n" in head
        writer.close()


UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


async def test_a_dropped_node_is_off_at_once() -> None:
    async with relay() as server, admitted(server, 1) as anna:
        server.drop(server.clients())
        with pytest.raises(ConnectionClosed):
            await anna.hear()
        assert server.stats.clients == 0


async def test_closing_tells_the_clients_to_come_back() -> None:
    async with relay() as server, admitted(server, 1) as anna:
        closing = asyncio.create_task(server.close())
        assert (await anna.hear())[:1] == bytes([frames.FrameType.RESTARTING])
        with pytest.raises(ConnectionClosed):
            await anna.hear()
        await closing
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", server.port)


async def test_a_taken_port_is_said() -> None:
    async with relay() as server:
        with pytest.raises(PortTaken):
            await open_relay("127.0.0.1", server.port, identity=IDENTITY, admit=everybody)


# -- attacks ---------------------------------------------------------------------------------


async def test_another_s_proof_is_worth_nothing_on_another_line() -> None:
    async with relay() as server, client(server, 1) as anna, client(server, 1) as thief:
        await thief.connection.send(anna.proof(anna.challenge))
        assert (await thief.hear())[:1] == bytes([frames.FrameType.DENY])
        assert await anna.prove() == frames.confirm()
        assert server.stats.refusals == {"bad-signature": 1}


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("text", "not-binary"),
        (bytes(frames.FRAME_LIMIT_BYTES + 1), "frame-too-large"),
        (bytes([4]) + bytes(frames.BODY_LIMIT_BYTES + 1), "malformed"),
        (b"\x3f", "malformed"),
    ],
)
async def test_a_bad_message_ends_the_line(message: str | bytes, code: str) -> None:
    async with relay() as server, admitted(server, 1) as anna:
        await anna.connection.send(message)
        with pytest.raises(ConnectionClosed):
            await anna.hear()
        assert server.stats.refusals == {code: 1}
        await until(lambda: server.connections == 0)


async def test_fragments_are_refused() -> None:
    async with relay() as server, admitted(server, 1) as anna:
        await anna.connection.send([b"\x04", b"\x00"])
        with pytest.raises(ConnectionClosed):
            await anna.hear()
        assert server.stats.refusals == {"not-binary": 1}


@asynccontextmanager
async def silent(server: RelayServer, request: bytes) -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    try:
        yield reader
    finally:
        writer.close()


async def test_who_sends_a_request_slowly_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HEAD_TIMEOUT_S", 0.1)
    async with relay() as server, silent(server, b"GET /ping HTT") as reader:
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.read() == b""
        assert server.stats.refusals == {"slow-request": 1}
        assert server.connections == 0


async def test_a_half_handshake_is_cut_off() -> None:
    async with relay(config=RelayConfig(handshake_s=0.1)) as server, client(server, 1) as anna:
        with pytest.raises(ConnectionClosed):
            await anna.hear()
        assert server.stats.refusals == {"half-handshake": 1}


async def test_endless_headers_are_cut_off() -> None:
    async with relay() as server:
        await ask(server, b"GET /ping HTTP/1.1\r\n" + b"X-A: b\r\n" * 100_000)
        assert sum(server.stats.refusals.values()) == 1
        assert server.connections == 0


async def test_a_thousand_connections_leave_room_for_members() -> None:
    limits = ConnectionLimits(total=200, per_address=150, unproven=100, unproven_per_address=20)
    async with relay(limits=limits) as server, AsyncExitStack() as stack:
        anna = await stack.enter_async_context(admitted(server, 1))
        for _ in range(1000):
            opened = socket.socket()
            stack.callback(opened.close)
            opened.setblocking(False)
            opened.connect_ex(("127.0.0.1", server.port))
            await asyncio.sleep(0)
        await until(lambda: server.stats.refusals.get("too-many-connections", 0) >= 980)
        assert server.connections <= 21
        await anna.connection.send(b"\x09" + b"12345678")
        assert await anna.hear() == b"\x0a12345678"


async def test_strangers_from_many_addresses_cannot_keep_members_out() -> None:
    limits = ConnectionLimits(total=200, per_address=50, unproven=20, unproven_per_address=10)
    async with relay(limits=limits) as server, AsyncExitStack() as stack:
        for number in range(60):
            opened = stack.enter_context(socket.socket())
            opened.setblocking(False)
            opened.bind((f"127.0.1.{number % 30}", 0))
            opened.connect_ex(("127.0.0.1", server.port))
        await until(lambda: server.stats.refusals.get("too-many-connections", 0) >= 40)
        await until(lambda: server.connections <= 20)
        anna = await stack.enter_async_context(admitted(server, 1))
        await anna.connection.send(b"\x09" + b"12345678")
        assert await anna.hear() == b"\x0a12345678"


async def test_a_flood_to_one_who_never_reads_is_bounded_and_ends() -> None:
    config = RelayConfig(stall_s=0.5)
    async with relay(config=config) as server, admitted(server, 1) as anna:
        lazy = LazyClient(server, 2)
        await lazy.join()
        most = 0
        async with asyncio.timeout(PATIENCE_S):
            while "never-reads" not in server.stats.refusals:
                await anna.send(lazy.key, bytes(60_000))
                most = max(most, server.stats.queued_bytes)
                await asyncio.sleep(0)
        stats = server.stats
        assert 0 < most <= config.queue_bytes
        assert stats.dropped_packets > 0
        assert stats.queued_bytes == 0
        assert stats.refusals == {"never-reads": 1}
        lazy.close()


async def test_a_flood_of_websocket_pings_by_one_who_never_reads_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(door, "LINGER_S", 0.1)
    async with relay() as server:
        lazy = LazyClient(server, 2)
        await lazy.join()
        ping = b"\x89\xfd" + bytes(4) + bytes(125)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(OSError):
                while True:
                    lazy.writer.write(ping * 1000)
                    await lazy.writer.drain()
        assert server.stats.refusals == {"never-reads": 1}
        lazy.close()


async def test_a_flood_is_slowed_to_its_rate_and_harms_nobody() -> None:
    def admit(key: NodeId, bearer: str) -> RelayTerms:
        return RelayTerms(bytes_per_s=200_000.0 if bearer == "slow" else None)

    async with (
        relay(admit) as server,
        admitted(server, 1, bearer="slow") as flooder,
        admitted(server, 2) as ben,
        admitted(server, 3) as cleo,
    ):
        loop, began = asyncio.get_running_loop(), asyncio.get_running_loop().time()

        async def flood() -> None:
            while True:
                await flooder.send(bytes(32), bytes(10_000))

        flooding = asyncio.create_task(flood())
        while loop.time() < began + 1.0:
            await ben.send(cleo.key, b"hello")
            assert await cleo.hear() == b"\x06" + ben.key + b"\x00hello"
        flooding.cancel()
        flooder.connection.transport.abort()
        # What it sent went nowhere; a quarter of a megabyte may be read before the first pause.
        assert server.stats.dropped_packets * 10_000 < 200_000 * 1.5 + (512 << 10)
        assert server.stats.refusals == {"rate-limited": 1}


class Wire(asyncio.Transport):
    """A transport that leads nowhere."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 4)})
        self.written = 0
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closed
        self.written += len(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True


_UPGRADED = get("/relay", *UPGRADE, f"Sec-WebSocket-Protocol: {frames.VERSION_2}")
_REQUESTS = (
    get("/ping"),
    get("/generate_204", "X-Iroh-Challenge: abc"),
    _UPGRADED,
    _UPGRADED + b"\x82\xe2" + bytes(4) + b"\x01" + bytes(32) + b"\x40" + bytes(64),
    _UPGRADED + b"\x89\x80" + bytes(4) + b"\x88\x82" + bytes(4) + b"\x03\xe8",
)


@given(st.binary(max_size=300) | mutated(_REQUESTS), st.integers(1, 200))
def test_any_bytes_on_the_port_are_answered_or_refused(content: bytes, step: int) -> None:
    async def take() -> None:
        server = RelayServer(IDENTITY, everybody, ConnectionLimits(), None)
        await server.listen("127.0.0.1", 0)
        wire, connection = Wire(), door.RelayConnection(server)
        try:
            connection.connection_made(wire)
            for start in range(0, min(len(content), 2000), step):
                if not wire.is_closed:
                    connection.data_received(content[start : start + step])
            connection.connection_lost(None)
            assert (server.connections, server.stats.clients) == (0, 0)
            assert wire.written < 5000
        finally:
            await server.close()

    asyncio.run(take())


class LazyClient:
    """A raw client that reads nothing after its admission."""

    def __init__(self, server: RelayServer, seed: int) -> None:
        self._server = server
        self._prover = Prover(bytes([seed]) * 32)
        self.key = self._prover.key
        self.writer: asyncio.StreamWriter

    async def join(self) -> None:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self._server.port))
        reader, self.writer = await asyncio.open_connection(sock=raw, limit=2048)
        self.writer.write(get("/relay", *UPGRADE, f"Sec-WebSocket-Protocol: {frames.VERSION_2}"))
        await reader.readuntil(b"\r\n\r\n")
        challenge = (await reader.readexactly(19))[3:]
        proof = self._prover.proof(challenge)
        self.writer.write(b"\x82\xfe" + struct.pack("!H", len(proof)) + bytes(4) + proof)
        assert await reader.readexactly(3) == b"\x82\x01\x02"
        assert isinstance(self.writer.transport, asyncio.Transport)
        self.writer.transport.pause_reading()

    def close(self) -> None:
        self.writer.close()
