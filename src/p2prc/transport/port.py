"""What the rest of the house knows of a network: endpoints dial by key, connections carry streams.

Two channels exist between two members, each a connection of its own, so that heartbeats never wait
behind a gigabyte. Every error raised here is a `PeerError`; every wait is bounded by the caller's
timeout or by the connection's end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, Protocol

from p2prc.model.identity import NodeId

READ_SIZE_BYTES = 256 * 1024
"""The best size of one read or write (measured: docs/adr/0003-transport.md)."""


class Channel(Enum):
    """What a connection is for; the value is its ALPN."""

    CONTROL = b"p2prc/1/control"
    BULK = b"p2prc/1/bulk"
    PROBE = b"p2prc/1/probe"
    """Does an address lead to a node? Nothing is said on it."""


@dataclass(frozen=True, slots=True)
class RelayAccess:
    """A relay that we may be reached through; `token` is the bearer shown to it, "" for none."""

    url: str
    token: str = ""


@dataclass(frozen=True, slots=True)
class Path:
    """The way that a connection takes now.

    `remote` is the peer's `host:port` as we see it, or the URL of the relay between us.
    """

    kind: Literal["direct", "relayed"]
    remote: str
    latency_s: float | None = None


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
        """Say that nothing more will be written; reading goes on. Twice is safe."""
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

    def allow_streams(self, count: int) -> None:
        """Let the peer have so many streams open at once, where there is a bound at all."""
        ...

    async def path(self) -> Path:
        """Return the way that it takes now: it may change while the connection lives."""
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
        self,
        peer: NodeId,
        addresses: Sequence[str],
        channel: Channel,
        *,
        timeout_s: float,
        relays: Sequence[str] = (),
    ) -> Connection:
        """Dial by key, directly and through the relays. Raises PeerUnreachable within the timeout.

        `relays` are the URLs at which the peer can be reached, best first. One that wants a token
        must be among those of `use_relays`.
        """
        ...

    async def use_relays(self, relays: Sequence[RelayAccess]) -> None:
        """Be reachable through these and no others; replaces the whole set, returns at once."""
        ...

    def home_relays(self) -> tuple[str, ...]:
        """Return the URLs of the relays at which we can be reached now, best first."""
        ...

    async def add_external_address(self, address: str) -> None:
        """Tell peers also this `host:port` where we are seen from outside: a path is punched."""
        ...

    async def remove_external_address(self, address: str) -> None:
        """Tell it no more. An unknown one is no error."""
        ...

    async def accept(self) -> Connection | None:
        """Wait for a connection with one of our channels; None once the endpoint is closed.

        A dialler that fails or stalls its handshake delays nobody else.
        """
        ...

    async def close(self) -> None:
        """Close every connection, then the endpoint. Calling twice is safe."""
        ...
