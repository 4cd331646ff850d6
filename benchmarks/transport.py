"""How fast the transport is beside asyncio over TCP with TLS, in one run on this machine.

`python -m benchmarks.transport` prints a table; `measure()` returns the same as data. There are
three contenders: our lanes over TCP, which is how bulk goes where two nodes reach each other so;
iroh, which carries requests always and bulk elsewhere; and asyncio's own streams over TLS. They
carry the same bytes between two processes with reads and writes of the same size, and take turns,
so that a busy machine is unfair to all.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from p2prc.errors import NotAllowed, NotMember, PeerLost
from p2prc.model.identity import NodeId
from p2prc.protocol.bulk_tokens import TOKEN_BYTES
from p2prc.protocol.relay_events import RelayTerms
from p2prc.relay.connection import Upgrade
from p2prc.relay.server import WellKnown, open_relay
from p2prc.transport.iroh_endpoint import open_iroh_endpoint
from p2prc.transport.port import READ_SIZE_BYTES, Channel, Connection, Endpoint, Stream
from p2prc.transport.tls_connection import DialledConnection
from p2prc.transport.tls_door import BULK_PATH, BULK_PROTOCOL, SESSION_BYTES, TlsDoor, dial_lane
from p2prc.transport.tls_lane import Lane

REQUEST_BYTES = 104
REQUESTS = 1000
BULK_BYTES = 512 << 20
ROUNDS = 7
TARGET_BULK_RATIO = 0.35
_ECHO, _SOURCE = b"E", b"S"
_HEADER_BYTES = 9
_PATIENCE_S = 300.0
_NODE = NodeId("ab" * 32)

log = logging.getLogger(__name__)


class Pipe(Protocol):
    """What both contenders offer: a stream of bytes in both directions."""

    async def read(self, limit_bytes: int) -> bytes: ...

    async def write(self, payload: bytes) -> None: ...

    async def finish(self) -> None: ...


Dial = Callable[[], Awaitable[Pipe]]


@dataclass
class TlsPipe:
    """asyncio's own streams."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read(self, limit_bytes: int) -> bytes:
        return await self.reader.read(limit_bytes)

    async def write(self, payload: bytes) -> None:
        self.writer.write(payload)
        await self.writer.drain()

    async def finish(self) -> None:
        """Leave it open: it is closed with the measurement."""


# -- the serving process ------------------------------------------------------------------------


async def _serve_pipe(pipe: Pipe) -> None:
    header = await _read_exactly(pipe, _HEADER_BYTES)
    left = int.from_bytes(header[1:], "big")
    if header[:1] == _SOURCE:
        block = bytes(READ_SIZE_BYTES)
        for _ in range(left // READ_SIZE_BYTES):
            await pipe.write(block)
        return
    while left:
        piece = await pipe.read(READ_SIZE_BYTES)
        left -= len(piece)
        await pipe.write(piece)


async def _read_exactly(pipe: Pipe, size_bytes: int) -> bytes:
    found = b""
    while len(found) < size_bytes:
        piece = await pipe.read(size_bytes - len(found))
        if not piece:
            raise EOFError
        found += piece
    return found


async def _serve_tls(folder: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(folder))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _serve_pipe(TlsPipe(reader, writer))
        writer.close()

    server = await asyncio.start_server(
        serve, "127.0.0.1", 0, ssl=context, limit=2 * READ_SIZE_BYTES
    )
    async with server:
        _announce({"port": server.sockets[0].getsockname()[1]})
        await _until_stdin_closes()


async def _serve_iroh() -> None:
    endpoint = await open_iroh_endpoint(b"\1" * 32, bind_addr="127.0.0.1:0")
    _announce({"node": endpoint.node, "addresses": await endpoint.addresses()})
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(_serve_connections(endpoint))
        await _until_stdin_closes()
        serving.cancel()
    await endpoint.close()


async def _serve_lanes() -> None:
    """Listen as a node does, with one token, which its control link would tell."""
    token = os.urandom(TOKEN_BYTES)

    def redeem(shown: bytes) -> NodeId:
        if not hmac.compare_digest(shown, token):
            raise NotAllowed
        return _NODE

    async with asyncio.TaskGroup() as group:
        door = TlsDoor(
            redeem,
            lambda connection: tasks.append(group.create_task(_serve_connection(connection))),
            refused=lambda code: log.warning("refused", extra={"code": code}),
        )
        tasks: list[asyncio.Task[None]] = []

        def knocked(transport: asyncio.Transport, address: str) -> None:
            if door.make_room(address):
                tasks.append(group.create_task(door.receive(transport, address)))

        server = await open_relay(
            "127.0.0.1",
            0,
            identity=WellKnown(_NODE, 1, serves_relay=False),
            admit=_nobody,
            upgrades={BULK_PATH: Upgrade(BULK_PROTOCOL, knocked)},
        )
        _announce(
            {"port": server.port, "certificate": door.certificate.hex(), "token": token.hex()}
        )
        await _until_stdin_closes()
        door.end_all("done")
        await server.close()


def _nobody(key: NodeId, bearer: str) -> RelayTerms:
    raise NotMember


async def _serve_connections(endpoint: Endpoint) -> None:
    while (connection := await endpoint.accept()) is not None:
        await _serve_connection(connection)


async def _serve_connection(connection: Connection) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(_serve_stream(await connection.accept_stream()))
    except* PeerLost:
        log.info("a client is done")


async def _serve_stream(stream: Stream) -> None:
    await _serve_pipe(stream)
    await stream.finish()


def _announce(found: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


async def _until_stdin_closes() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await reader.read()


def _certificate(folder: Path) -> Path:
    """Write a self-signed certificate and its key into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


# -- the measuring process ----------------------------------------------------------------------


@asynccontextmanager
async def _served(contender: str) -> AsyncIterator[dict[str, object]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.transport",
        "serve",
        contender,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_PATIENCE_S):
            yield json.loads(await process.stdout.readline())
    finally:
        process.stdin.close()
        await process.wait()


@asynccontextmanager
async def _tls() -> AsyncIterator[Dial]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    writers = []
    async with _served("tls") as told:

        async def dial() -> Pipe:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", int(str(told["port"])), ssl=context, limit=2 * READ_SIZE_BYTES
            )
            writers.append(writer)
            return TlsPipe(reader, writer)

        yield dial
        for writer in writers:
            writer.close()


@asynccontextmanager
async def _lanes() -> AsyncIterator[Dial]:
    session = os.urandom(SESSION_BYTES)
    async with _served("lanes") as told:
        address = f"127.0.0.1:{told['port']}"
        certificate, token = (bytes.fromhex(str(told[key])) for key in ("certificate", "token"))

        async def open_lane() -> Lane:
            return await dial_lane(address, certificate=certificate, token=token, session=session)

        connection = DialledConnection(_NODE, address, first=await open_lane(), open_lane=open_lane)
        yield connection.open_stream
        await connection.close()


@asynccontextmanager
async def _iroh() -> AsyncIterator[Dial]:
    async with _served("iroh") as told:
        endpoint = await open_iroh_endpoint(b"\2" * 32, bind_addr="127.0.0.1:0")
        addresses = told["addresses"]
        assert isinstance(addresses, list)
        connection = await endpoint.connect(
            NodeId(str(told["node"])), addresses, Channel.BULK, timeout_s=10
        )
        yield connection.open_stream
        await connection.close()
        await endpoint.close()


async def _round_trip_ms(dial: Dial) -> float:
    """Return the median of small requests, one after another on one stream."""
    pipe = await dial()
    await pipe.write(_ECHO + (REQUESTS * REQUEST_BYTES).to_bytes(8, "big"))
    request = bytes(REQUEST_BYTES)
    times = []
    for _ in range(REQUESTS):
        started = time.perf_counter()
        await pipe.write(request)
        await _read_exactly(pipe, REQUEST_BYTES)
        times.append(time.perf_counter() - started)
    await pipe.finish()
    return statistics.median(times) * 1000


async def _bulk_mb_per_s(dial: Dial, streams: int) -> float:
    """Return the rate at which `BULK_BYTES` come from the other process, as a fetched tree does."""
    pipes = [await dial() for _ in range(streams)]
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for pipe in pipes:
            group.create_task(_pull(pipe, BULK_BYTES // streams))
    rate = BULK_BYTES / (time.perf_counter() - started) / 1e6
    for pipe in pipes:
        await pipe.finish()
    return rate


async def _pull(pipe: Pipe, size_bytes: int) -> None:
    await pipe.write(_SOURCE + size_bytes.to_bytes(8, "big"))
    left = size_bytes
    while left:
        piece = await pipe.read(READ_SIZE_BYTES)
        if not piece:
            raise EOFError
        left -= len(piece)


async def measure(rounds: int = ROUNDS) -> dict[str, object]:
    """Return medians over the rounds, and the medians of what ours were of TCP+TLS in each.

    The contenders take turns at every figure, so both sides of a ratio saw the same machine, and
    take turns at being first, so what one leaves behind is as often in another's way.
    """
    found: dict[str, list[dict[str, float]]] = {figure: [] for figure in _FIGURES}
    async with _lanes() as lanes, _iroh() as iroh, _tls() as tls:
        contenders = [("lanes", lanes), ("iroh", iroh), ("tcp_tls", tls)]
        for number in range(rounds):
            turn = number % len(contenders)
            for figure, probe in _FIGURES.items():
                times = {}
                for name, dial in contenders[turn:] + contenders[:turn]:
                    times[name] = await probe(dial)
                found[figure].append(times)
    medians = {
        name: {figure: _median(each[name] for each in rows) for figure, rows in found.items()}
        for name, _ in contenders
    }
    ratios = {
        f"{name}_ratio": {
            figure: _median(each[name] / each["tcp_tls"] for each in rows)
            for figure, rows in found.items()
        }
        for name in ("lanes", "iroh")
    }
    return {
        **medians,
        **ratios,
        "target_bulk_ratio": TARGET_BULK_RATIO,
        "request_bytes": REQUEST_BYTES,
        "bulk_bytes": BULK_BYTES,
        "rounds": rounds,
    }


_FIGURES: dict[str, Callable[[Dial], Awaitable[float]]] = {
    "round_trip_ms": _round_trip_ms,
    "bulk_mb_per_s": partial(_bulk_mb_per_s, streams=1),
    "bulk_4_streams_mb_per_s": partial(_bulk_mb_per_s, streams=4),
}


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 3)


def _table(summary: dict[str, object]) -> str:
    columns = ("tcp_tls", "lanes", "lanes_ratio", "iroh", "iroh_ratio")
    lines = [f"{'':<26}" + "".join(f"{column:>13}" for column in columns)]
    for figure in _FIGURES:
        found = [column[figure] for name in columns if isinstance(column := summary[name], dict)]
        lines.append(f"{figure:<26}" + "".join(f"{number:>13}" for number in found))
    return "\n".join(lines)


async def _serve(contender: str) -> None:
    if contender == "iroh":
        await _serve_iroh()
        return
    if contender == "lanes":
        await _serve_lanes()
        return
    with tempfile.TemporaryDirectory() as folder:
        await _serve_tls(Path(folder))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", ("iroh" | "lanes" | "tls") as contender]:
            asyncio.run(_serve(contender))
        case _:
            print(_table(asyncio.run(measure())))
