"""The transport's twin in memory: the same promises within one process, for tests.

Streams have a bounded buffer in each direction, so a writer waits for its reader as it would on a
network. `MemoryNetwork.kill` is what a crashed process looks like to its peers once they noticed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from p2prc.errors import PeerLost, PeerUnreachable
from p2prc.model.identity import NodeId, short
from p2prc.transport.memory_pipe import Inbox, MemoryStream, Pipe
from p2prc.transport.port import Channel

_CROWDED_AT = 64


class MemoryNetwork:
    """Where the endpoints of one process find each other."""

    def __init__(self) -> None:
        self._listening: dict[str, MemoryEndpoint] = {}
        self._addresses: dict[NodeId, str] = {}

    def endpoint(self, node: NodeId) -> MemoryEndpoint:
        """Return a new endpoint; one that restarts after a crash keeps its address."""
        address = self._addresses.setdefault(node, f"127.0.0.1:{len(self._addresses) + 1}")
        if address in self._listening:
            raise ValueError(f"{short(node)} already has an endpoint here")
        endpoint = MemoryEndpoint(self, node, address)
        self._listening[address] = endpoint
        return endpoint

    def kill(self, node: NodeId) -> None:
        """End a node without a word: its connections fail, and nobody reaches it any more."""
        endpoint = self.find(self._addresses.get(node, ""))
        if endpoint is not None:
            endpoint.end("it did not answer")

    def find(self, address: str) -> MemoryEndpoint | None:
        """Return who listens at the address."""
        return self._listening.get(address)

    def forget(self, address: str) -> None:
        """Let nobody listen at the address any more."""
        self._listening.pop(address, None)


class MemoryEndpoint:
    """One node's end of the network."""

    def __init__(self, network: MemoryNetwork, node: NodeId, address: str) -> None:
        self.node = node
        self.address = address
        self._network = network
        self._arrived: Inbox[MemoryConnection] = Inbox()
        # A dict, for its order: what a simulation repeats must not depend on hashes.
        self._connections: dict[MemoryConnection, None] = {}
        self._is_closed = False

    async def addresses(self) -> tuple[str, ...]:
        return (self.address,)

    async def connect(
        self, peer: NodeId, addresses: Sequence[str], channel: Channel, *, timeout_s: float
    ) -> MemoryConnection:
        target = self._find(peer, addresses)
        if target is None or self._is_closed:
            raise PeerUnreachable(f"cannot reach {short(peer)}: nobody there has its key")
        if channel not in tuple(Channel):
            raise PeerUnreachable(f"cannot reach {short(peer)}: it does not know that channel")
        ours, theirs = MemoryConnection.pair(self, target, channel)
        try:
            async with asyncio.timeout(timeout_s):
                is_taken = await target.arrive(theirs)
        except TimeoutError as error:
            reason = f"{short(peer)} did not answer within {timeout_s:g} s"
            raise PeerUnreachable(reason) from error
        if not is_taken:
            raise PeerUnreachable(f"{short(peer)} went away while it was dialled")
        return ours

    def _find(self, peer: NodeId, addresses: Sequence[str]) -> MemoryEndpoint | None:
        for address in addresses:
            found = self._network.find(address)
            if found is not None and found is not self and found.node == peer:
                return found
        return None

    async def arrive(self, connection: MemoryConnection) -> bool:
        """Take a connection that a peer dialled; say whether there was still somebody to."""
        return await self._arrived.put(connection)

    async def accept(self) -> MemoryConnection | None:
        return await self._arrived.get()

    async def close(self) -> None:
        self.end("it closed")

    def keep(self, connection: MemoryConnection) -> None:
        """Count a connection as ours until it ends."""
        self._connections[connection] = None

    def drop(self, connection: MemoryConnection) -> None:
        """Count it no more."""
        self._connections.pop(connection, None)

    def end(self, told: str) -> None:
        """Be gone: `told` is what the peers learn. Twice is once."""
        if self._is_closed:
            return
        self._is_closed = True
        self._network.forget(self.address)
        self._arrived.end()
        for connection in list(self._connections):
            connection.end(told)


class MemoryConnection:
    """One side of a connection; the other side is another object, its twin."""

    def __init__(self, owner: MemoryEndpoint, remote: MemoryEndpoint, channel: Channel) -> None:
        self.peer = remote.node
        self.channel = channel
        self._owner = owner
        self._remote = remote
        self._twin = self
        self._incoming: Inbox[MemoryStream] = Inbox()
        self._pipes: dict[Pipe, None] = {}
        self._crowded_at = _CROWDED_AT
        self._lost: str | None = None
        owner.keep(self)

    @classmethod
    def pair(
        cls, dialler: MemoryEndpoint, acceptor: MemoryEndpoint, channel: Channel
    ) -> tuple[MemoryConnection, MemoryConnection]:
        """Return both sides."""
        ours, theirs = cls(dialler, acceptor, channel), cls(acceptor, dialler, channel)
        ours._twin, theirs._twin = theirs, ours
        return ours, theirs

    @property
    def is_closed(self) -> bool:
        return self._lost is not None

    async def open_stream(self) -> MemoryStream:
        self._check_alive()
        self._forget_what_is_over()
        outward, inward = Pipe(), Pipe()
        self._pipes |= {outward: None, inward: None}
        twin = self._twin
        theirs = MemoryStream(outward, inward, twin.peer, announce=None)

        async def announce() -> None:
            await twin._incoming.put(theirs)

        return MemoryStream(inward, outward, self.peer, announce=announce)

    def _forget_what_is_over(self) -> None:
        if len(self._pipes) >= self._crowded_at:
            self._pipes = {pipe: None for pipe in self._pipes if not pipe.is_over}
            self._crowded_at = max(_CROWDED_AT, 2 * len(self._pipes))

    async def accept_stream(self) -> MemoryStream:
        stream = await self._incoming.get()
        if stream is None:
            raise self._error()
        return stream

    async def path(self) -> str:
        return "direct"

    async def remote_address(self) -> str:
        return self._remote.address

    async def close(self, reason: str = "") -> None:
        self.end(f"it closed: {reason}" if reason else "it closed")

    def end(self, told: str) -> None:
        """End both sides; `told` is what the peer learns."""
        self._end_here("this side closed")
        self._twin._end_here(told)

    def _end_here(self, reason: str) -> None:
        if self._lost is not None:
            return
        self._lost = reason
        self._owner.drop(self)
        self._incoming.end()
        for pipe in self._pipes:
            pipe.fail(f"the connection ended: {reason}", keep_content=True)
        self._pipes.clear()

    def _check_alive(self) -> None:
        if self._lost is not None:
            raise self._error()

    def _error(self) -> PeerLost:
        return PeerLost(f"lost {short(self.peer)}: {self._lost}")
