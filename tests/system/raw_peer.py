"""A peer that speaks our transport and not our manners: it sends whatever a test wants."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from p2prc.authority import found_network, verify_chain
from p2prc.errors import PeerError
from p2prc.model.identity import NodeId
from p2prc.node.framed import FramedStream
from p2prc.node.handshake import introduce, introduce_with_ticket
from p2prc.node.link import Answer, Link
from p2prc.node.standing import Standing
from p2prc.protocol.messages import (
    HELLO_FRAME_LIMIT_BYTES,
    Control,
    Hello,
    Opening,
    opening_codec,
)
from p2prc.transport.iroh_endpoint import open_iroh_endpoint
from p2prc.transport.port import Channel, Connection, Endpoint, Stream
from p2prc.wire.signed import public_key_of
from tests.system.nodes import NodeUnderTest

DIAL_TIMEOUT_S = 10.0


class RawPeer:
    """A key, an endpoint, and the node it bothers."""

    def __init__(self, secret: bytes, endpoint: Endpoint, target: NodeUnderTest) -> None:
        self.secret = secret
        self.node = NodeId(public_key_of(secret).hex())
        self.target = NodeId(target.id)
        self.network = NodeId(target.json("status")["network"])
        self._addresses = target.addresses
        self._endpoint = endpoint
        self.heard: list[Control] = []

    async def dial(self, channel: Channel = Channel.CONTROL) -> Connection:
        """Connect, and say nothing."""
        return await self._endpoint.connect(
            self.target, self._addresses, channel, timeout_s=DIAL_TIMEOUT_S
        )

    async def say(self, payload: bytes, channel: Channel = Channel.CONTROL) -> Stream:
        """Connect and write bytes on the first stream."""
        stream = await (await self.dial(channel)).open_stream()
        await stream.write(payload)
        return stream

    async def show(self, chain: bytes, channel: Channel = Channel.CONTROL) -> Opening | None:
        """Show a chain and return the first answer."""
        stream = await (await self.dial(channel)).open_stream()
        framed = FramedStream(stream, opening_codec, limit_bytes=HELLO_FRAME_LIMIT_BYTES)
        await framed.send(Hello(self.network, chain))
        return await framed.receive(timeout_s=15)

    async def join(self, ticket: str) -> Standing:
        """Become a member by a ticket."""
        connection = await self.dial()
        _, chain = await introduce_with_ticket(connection, ticket, network=self.network, name="raw")
        await connection.close()
        return Standing(self.network, chain, verify_chain(chain, network=self.network))

    async def enter(self, standing: Standing, channel: Channel = Channel.CONTROL) -> Connection:
        """Connect and introduce ourselves as a member: streams may be opened."""
        connection = await self.dial(channel)
        await introduce(connection, standing)
        return connection

    @asynccontextmanager
    async def link(self, standing: Standing) -> AsyncIterator[Link]:
        """A control link with a pulse; what the node tells lands in `heard`."""
        connection = await self.dial()
        link = Link(connection, await introduce(connection, standing), self._hear)
        running = asyncio.create_task(link.run())
        try:
            yield link
        finally:
            await link.close("done")
            await running

    def own_network_chain(self) -> bytes:
        """A chain that is good, in a network that we founded."""
        return found_network(self.secret)

    def _hear(self, _: Link, body: Control, __: Answer | None) -> None:
        self.heard.append(body)


@asynccontextmanager
async def raw_peer(target: NodeUnderTest) -> AsyncIterator[RawPeer]:
    """Open an endpoint with a key that nobody knows."""
    secret = secrets.token_bytes(32)
    endpoint = await open_iroh_endpoint(secret, bind_addr="127.0.0.1:0")
    try:
        yield RawPeer(secret, endpoint, target)
    finally:
        await endpoint.close()


async def seconds_until_closed(stream: Stream, *, within_s: float) -> float:
    """Read until the other side ends the stream or the connection; return how long it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(within_s):
        try:
            while await stream.read():
                pass
        except PeerError:
            pass
    return loop.time() - began
