"""How the contract suite opens endpoints of each adapter."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from p2prc.model.identity import NodeId
from p2prc.transport.iroh_calls import SlowCalls
from p2prc.transport.iroh_endpoint import open_iroh_endpoint
from p2prc.transport.iroh_fastpath import FastCalls
from p2prc.transport.memory import MemoryNetwork
from p2prc.transport.port import READ_SIZE_BYTES, Channel, Connection, Endpoint, Stream
from p2prc.wire.signed import public_key_of
from tests.contract.tls_endpoint import TlsNetwork

PATIENCE_S = 30.0
"""Longer than any step of a test takes: it turns a hang into a failure."""


@dataclass(frozen=True)
class Pair:
    """Both sides of something."""

    ours: Stream
    theirs: Stream


class Harness:
    """Opens endpoints of one adapter and closes them at the end."""

    def __init__(self, name: str, open_one: Callable[[], Awaitable[Endpoint]]) -> None:
        self.name = name
        self._open_one = open_one
        self._stack = AsyncExitStack()

    @property
    def bulk_bytes(self) -> int:
        """How much a large transfer carries: the slow path copies byte by byte."""
        return (3 << 20) if self.name == "iroh-slow" else (64 << 20)

    @property
    def too_much_bytes(self) -> int:
        """More than fits between two sides of which one does not read."""
        return (64 << 20) if self.name == "tls" else (4 << 20)

    async def endpoint(self) -> Endpoint:
        endpoint = await self._open_one()
        self._stack.push_async_callback(endpoint.close)
        return endpoint

    async def dead_address(self) -> str:
        """Return an address where nobody listens."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            return f"127.0.0.1:{free.getsockname()[1]}"

    async def close(self) -> None:
        await self._stack.aclose()


def harness(name: str) -> Harness:
    """Return a harness for `memory`, `iroh`, `iroh-slow`, or for streams alone `tls`."""
    if name == "tls":
        return Harness(name, TlsNetwork().endpoint)
    if name == "memory":
        network = MemoryNetwork()

        async def in_memory() -> Endpoint:
            return network.endpoint(random_node())

        return Harness(name, in_memory)
    calls = SlowCalls() if name == "iroh-slow" else FastCalls()

    async def over_udp() -> Endpoint:
        return await open_iroh_endpoint(os.urandom(32), bind_addr="127.0.0.1:0", calls=calls)

    return Harness(name, over_udp)


def random_node() -> NodeId:
    """Return the key of a node that nobody runs."""
    return NodeId(public_key_of(os.urandom(32)).hex())


async def connected(
    dialler: Endpoint, acceptor: Endpoint, channel: Channel = Channel.CONTROL
) -> tuple[Connection, Connection]:
    """Return both sides of a new connection."""
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        accepting = group.create_task(acceptor.accept())
        dialling = group.create_task(
            dialler.connect(
                acceptor.node, await acceptor.addresses(), channel, timeout_s=PATIENCE_S
            )
        )
    accepted = accepting.result()
    assert accepted is not None
    return dialling.result(), accepted


async def opened(ours: Connection, theirs: Connection) -> Pair:
    """Return both sides of a new stream on which `ours` has said one byte."""
    stream = await ours.open_stream()
    await stream.write(b"!")
    accepted = await theirs.accept_stream()
    assert await accepted.read() == b"!"
    return Pair(stream, accepted)


async def read_all(stream: Stream, limit_bytes: int = READ_SIZE_BYTES) -> bytes:
    """Read until the peer finished."""
    pieces = []
    while piece := await stream.read(limit_bytes):
        pieces.append(piece)
    return b"".join(pieces)
