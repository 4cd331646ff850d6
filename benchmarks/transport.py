"""How fast the transport is beside asyncio over TCP with TLS, in one run on this machine.

`python -m benchmarks.transport` prints a table; `measure()` returns the same as data. Both
contenders carry the same bytes between two processes with reads and writes of the same size, and
take turns, so that a busy machine is unfair to both.
"""

from __future__ import annotations

import asyncio
import json
import logging
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

from p2prc.errors import PeerLost
from p2prc.model.identity import NodeId
from p2prc.transport.iroh_endpoint import open_iroh_endpoint
from p2prc.transport.port import READ_SIZE_BYTES, Channel, Endpoint

REQUEST_BYTES = 104
REQUESTS = 1000
BULK_BYTES = 512 << 20
ROUNDS = 7
TARGET_BULK_RATIO = 0.35
_ECHO, _SINK = b"E", b"S"
_HEADER_BYTES = 9
_PATIENCE_S = 120.0

log = logging.getLogger(__name__)


class Pipe(Protocol):
    """What both contenders offer: a stream of bytes in both directions."""

    async def read(self, limit_bytes: int) -> bytes: ...

    async def write(self, payload: bytes) -> None: ...


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


# -- the serving process ------------------------------------------------------------------------


async def _serve_pipe(pipe: Pipe) -> None:
    header = await _read_exactly(pipe, _HEADER_BYTES)
    left = int.from_bytes(header[1:], "big")
    while left:
        piece = await pipe.read(READ_SIZE_BYTES)
        left -= len(piece)
        if header[:1] == _ECHO:
            await pipe.write(piece)
    if header[:1] == _SINK:
        await pipe.write(b"!")


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


async def _serve_connections(endpoint: Endpoint) -> None:
    while (connection := await endpoint.accept()) is not None:
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    group.create_task(_serve_pipe(await connection.accept_stream()))
        except* PeerLost:
            log.info("a client is done")


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
    return statistics.median(times) * 1000


async def _bulk_mb_per_s(dial: Dial, streams: int) -> float:
    """Return the rate at which the other process has taken `BULK_BYTES`."""
    pipes = [await dial() for _ in range(streams)]
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for pipe in pipes:
            group.create_task(_push(pipe, BULK_BYTES // streams))
    return BULK_BYTES / (time.perf_counter() - started) / 1e6


async def _push(pipe: Pipe, size_bytes: int) -> None:
    block = bytes(READ_SIZE_BYTES)
    await pipe.write(_SINK + size_bytes.to_bytes(8, "big"))
    for _ in range(size_bytes // READ_SIZE_BYTES):
        await pipe.write(block)
    await _read_exactly(pipe, 1)


async def measure(rounds: int = ROUNDS) -> dict[str, object]:
    """Return medians over the rounds, and the median of what ours was of TCP+TLS in each.

    The contenders take turns at every figure, so both sides of a ratio saw the same machine, and
    take turns at being first, so what the one leaves behind is as often in the other's way.
    """
    found: dict[str, list[tuple[float, float]]] = {figure: [] for figure in _FIGURES}
    async with _iroh() as ours, _tls() as tls:
        for number in range(rounds):
            for figure, probe in _FIGURES.items():
                if number % 2:
                    of_tls = await probe(tls)
                    found[figure].append((await probe(ours), of_tls))
                else:
                    found[figure].append((await probe(ours), await probe(tls)))
    return {
        "p2prc": {figure: _median(ours for ours, _ in pairs) for figure, pairs in found.items()},
        "tcp_tls": {figure: _median(tls for _, tls in pairs) for figure, pairs in found.items()},
        "ratio": {
            figure: _median(ours / tls for ours, tls in pairs) for figure, pairs in found.items()
        },
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
    lines = [f"{'':<26}{'p2prc':>10}{'TCP+TLS':>10}{'ratio':>8}"]
    columns = [summary["p2prc"], summary["tcp_tls"], summary["ratio"]]
    for figure in _FIGURES:
        ours, tls, ratio = (column[figure] for column in columns if isinstance(column, dict))
        lines.append(f"{figure:<26}{ours:>10}{tls:>10}{ratio:>8}")
    return "\n".join(lines)


async def _serve(contender: str) -> None:
    if contender == "iroh":
        await _serve_iroh()
        return
    with tempfile.TemporaryDirectory() as folder:
        await _serve_tls(Path(folder))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", ("iroh" | "tls") as contender]:
            asyncio.run(_serve(contender))
        case _:
            print(_table(asyncio.run(measure())))
