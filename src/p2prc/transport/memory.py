"""The transport's twin in memory: the same promises within one process, for tests.

Streams have a bounded buffer in each direction, so a writer waits for its reader as it would on a
network. `MemoryNetwork.kill` is what a crashed process looks like to its peers once they noticed.
A node that is `hidden` is behind a NAT: only a relay that both know leads to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from p2prc.errors import PeerLost, PeerUnreachable
from p2prc.model.identity import NodeId, short
from p2prc.transport.memory_pipe import Inbox, MemoryStream, Pipe
from p2prc.transport.port import Channel, Path, RelayAccess

_CROWDED_AT = 64


class MemoryNetwork:
    """Where the endpoints of one process find each other."""

    def __init__(self) -> None:
        self._listening: dict[str, MemoryEndpoint] = {}
        self._addresses: dict[NodeId, str] = {}
        self._hidden: set[NodeId] = set()
        self._relays: set[str] = set()

    def hide(self, node: NodeId) -> None:
        """Let no address lead to the node any more; connections that are there go on."""
        self._hidden.add(node)

    def start_relay(self, url: str) -> None:
        """Let a relay answer at the URL."""
        self._relays.add(url)

    def stop_relay(self, url: str) -> None:
        """End a relay, and every connection through it."""
        self._relays.discard(url)
        for endpoint in list(self._listening.values()):
            endpoint.relay_lost(url)

    def has_relay(self, url: str) -> bool:
        """Whether a relay answers there."""
        return url in self._relays

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

    def find_directly(self, address: str) -> MemoryEndpoint | None:
        """Return who can be reached at the address without a relay."""
        found = self.find(address)
        return None if found is None or found.node in self._hidden else found

    def find_through(
        self, relays: Sequence[str], node: NodeId
    ) -> tuple[MemoryEndpoint, str] | None:
        """Return the node and the first relay at which it can be reached."""
        found = self.find(self._addresses.get(node, ""))
        for url in relays if found is not None else ():
            if found is not None and url in found.home_relays():
                return found, url
        return None

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
        self._relays: tuple[RelayAccess, ...] = ()
        self.external_addresses: dict[str, None] = {}
        self._is_closed = False

    async def addresses(self) -> tuple[str, ...]:
        return (self.address,)

    async def use_relays(self, relays: Sequence[RelayAccess]) -> None:
        self._relays = tuple(relays)

    def home_relays(self) -> tuple[str, ...]:
        return tuple(each.url for each in self._relays if self._network.has_relay(each.url))

    async def add_external_address(self, address: str) -> None:
        self.external_addresses[address] = None

    async def remove_external_address(self, address: str) -> None:
        self.external_addresses.pop(address, None)

    def relay_lost(self, url: str) -> None:
        """End what went through a relay."""
        for connection in list(self._connections):
            if connection.relay == url:
                connection.end("its relay went away")

    async def connect(
        self,
        peer: NodeId,
        addresses: Sequence[str],
        channel: Channel,
        *,
        timeout_s: float,
        relays: Sequence[str] = (),
    ) -> MemoryConnection:
        found = None if self._is_closed else self._find(peer, addresses, relays)
        if found is None:
            raise PeerUnreachable(f"cannot reach {short(peer)}: nobody there has its key")
        target, relay = found
        if channel not in tuple(Channel):
            raise PeerUnreachable(f"cannot reach {short(peer)}: it does not know that channel")
        ours, theirs = MemoryConnection.pair(self, target, channel, relay)
        try:
            async with asyncio.timeout(timeout_s):
                is_taken = await target.arrive(theirs)
        except TimeoutError as error:
            reason = f"{short(peer)} did not answer within {timeout_s:.3g} s"
            raise PeerUnreachable(reason) from error
        if not is_taken:
            raise PeerUnreachable(f"{short(peer)} went away while it was dialled")
        return ours

    def _find(
        self, peer: NodeId, addresses: Sequence[str], relays: Sequence[str]
    ) -> tuple[MemoryEndpoint, str] | None:
        if peer == self.node:
            return None
        for address in addresses:
            found = self._network.find_directly(address)
            if found is not None and found.node == peer:
                return found, ""
        return self._network.find_through(relays, peer)

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

    def __init__(
        self, owner: MemoryEndpoint, remote: MemoryEndpoint, channel: Channel, relay: str
    ) -> None:
        self.peer = remote.node
        self.channel = channel
        self.relay = relay
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
        cls, dialler: MemoryEndpoint, acceptor: MemoryEndpoint, channel: Channel, relay: str = ""
    ) -> tuple[MemoryConnection, MemoryConnection]:
        """Return both sides; `relay` is the URL of what is between them."""
        ours = cls(dialler, acceptor, channel, relay)
        theirs = cls(acceptor, dialler, channel, relay)
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

    def allow_streams(self, count: int) -> None:
        """There is no bound here."""

    async def path(self) -> Path:
        if self.relay:
            return Path("relayed", self.relay)
        return Path("direct", self._remote.address)

    async def remote_address(self) -> str:
        return "" if self.relay else self._remote.address

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
