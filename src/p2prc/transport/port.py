"""What the rest of the house knows of a network: endpoints dial by key, connections carry streams.

Two channels exist between two nodes, each a connection of its own, so that heartbeats never wait
behind a gigabyte. Every error raised here is a `PeerError`; every wait is bounded by the caller's
timeout or by the connection's end.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from p2prc.model.identity import NodeId

READ_SIZE_BYTES = 256 * 1024
"""The best size of one read or write (measured: docs/adr/0003-transport.md)."""


class Channel(Enum):
    """What a connection is for; the value is its ALPN."""

    CONTROL = b"p2prc/1/control"
    BULK = b"p2prc/1/bulk"


class Stream(Protocol):
    """A two-way stream of bytes. One reader and one writer at a time."""

    async def read(self, limit_bytes: int = READ_SIZE_BYTES) -> bytes:
        """Return some bytes, b"" at the end. Safe to cancel: nothing is lost.

        Raises PeerLost when the peer or the connection went away or aborted the stream.
        """
        ...

    async def write(self, payload: bytes | bytearray | memoryview) -> None:
        """Hand over all bytes, waiting for room. A stream is dead after a cancelled write."""
        ...

    async def finish(self) -> None:
        """Say that nothing more will be written; reading goes on."""
        ...

    async def abort(self) -> None:
        """Drop both directions at once. Never raises; calling twice is safe."""
        ...


class Connection(Protocol):
    """An encrypted connection to a peer whose key was proved."""

    @property
    def peer(self) -> NodeId: ...

    @property
    def channel(self) -> Channel: ...

    @property
    def is_closed(self) -> bool: ...

    async def open_stream(self) -> Stream:
        """Open a stream; the peer sees it with the first byte written. Raises PeerLost."""
        ...

    async def accept_stream(self) -> Stream:
        """Wait for a stream that the peer opened. Raises PeerLost once the connection ended."""
        ...

    async def path(self) -> str:
        """Return `direct` or `relayed`."""
        ...

    async def remote_address(self) -> str:
        """Return the peer's address as we see it, `host:port`, or "" when relayed."""
        ...

    async def close(self, reason: str = "") -> None:
        """End it; streams in flight fail with PeerLost on both sides. Calling twice is safe."""
        ...


class Endpoint(Protocol):
    """Our own end of the network."""

    @property
    def node(self) -> NodeId: ...

    async def addresses(self) -> tuple[str, ...]:
        """Return `host:port` where we listen, without wildcards: loopback last."""
        ...

    async def connect(
        self, peer: NodeId, addresses: Sequence[str], channel: Channel, *, timeout_s: float
    ) -> Connection:
        """Dial by key. Raises PeerUnreachable within the timeout."""
        ...

    async def accept(self) -> Connection | None:
        """Wait for a connection with one of our channels; None once the endpoint is closed.

        A dialler that fails or stalls its handshake delays nobody else.
        """
        ...

    async def close(self) -> None:
        """Close every connection, then the endpoint. Calling twice is safe."""
        ...
