"""Clients of a relay, well-behaved and otherwise, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from p2prc.model.identity import NodeId
from p2prc.protocol import relay_frames as frames
from p2prc.protocol.relay_events import RelayConfig, RelayTerms
from p2prc.relay.connection import RELAY_PATH
from p2prc.relay.server import Admit, ConnectionLimits, RelayServer, WellKnown, open_relay

PATIENCE_S = 10.0
IDENTITY = WellKnown(NodeId("ab" * 32), 1)


def everybody(key: NodeId, bearer: str) -> RelayTerms:
    """Admit whoever proved a key."""
    return RelayTerms()


@asynccontextmanager
async def relay(
    admit: Admit = everybody,
    *,
    limits: ConnectionLimits | None = None,
    config: RelayConfig | None = None,
) -> AsyncIterator[RelayServer]:
    """Our relay on loopback."""
    server = await open_relay(
        "127.0.0.1", 0, identity=IDENTITY, admit=admit, limits=limits, config=config
    )
    try:
        yield server
    finally:
        await server.close()


class Prover:
    """A key, and how it is proved to a relay."""

    def __init__(self, secret: bytes) -> None:
        self._secret = Ed25519PrivateKey.from_private_bytes(secret)
        self.key = self._secret.public_key().public_bytes_raw()
        self.node = NodeId(self.key.hex())

    def proof(self, challenge: bytes) -> bytes:
        """Return the frame that proves the key."""
        text = blake3(challenge, derive_key_context=frames.CHALLENGE_CONTEXT).digest()
        return b"\x01" + self.key + b"\x40" + self._secret.sign(text)


class Client(Prover):
    """A key with a connection to a relay that has been told the challenge."""

    def __init__(self, secret: bytes, connection: ClientConnection) -> None:
        super().__init__(secret)
        self.connection = connection
        self.challenge = b""

    async def hear(self) -> bytes:
        """Return the next frame."""
        async with asyncio.timeout(PATIENCE_S):
            heard = await self.connection.recv()
        assert isinstance(heard, bytes)
        return heard

    async def prove(self) -> bytes:
        """Prove the key; return the relay's verdict."""
        await self.connection.send(self.proof(self.challenge))
        return await self.hear()

    async def send(self, to: bytes, payload: bytes) -> None:
        """Send one datagram."""
        await self.connection.send(b"\x04" + to + b"\x00" + payload)


class OnPort(Protocol):
    """A relay, wherever it runs."""

    @property
    def port(self) -> int: ...


@asynccontextmanager
async def client(
    server: OnPort,
    seed: int | bytes,
    *,
    bearer: str = "",
    version: str = frames.VERSION_2,
) -> AsyncIterator[Client]:
    """Connect; the challenge is heard, nothing proved yet."""
    async with connect(
        f"ws://127.0.0.1:{server.port}{RELAY_PATH}",
        subprotocols=[Subprotocol(version)],
        additional_headers={"Authorization": f"Bearer {bearer}"} if bearer else None,
        compression=None,
        proxy=None,
        ping_interval=None,
        close_timeout=1.0,
    ) as connection:
        secret = seed if isinstance(seed, bytes) else bytes([seed]) * 32
        found = Client(secret, connection)
        challenge = await found.hear()
        assert challenge[:1] == b"\x00"
        found.challenge = challenge[1:]
        yield found


@asynccontextmanager
async def admitted(server: OnPort, seed: int | bytes, *, bearer: str = "") -> AsyncIterator[Client]:
    """Connect and be admitted."""
    async with client(server, seed, bearer=bearer) as found:
        assert await found.prove() == frames.confirm()
        yield found
