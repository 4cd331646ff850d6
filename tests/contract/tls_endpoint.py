"""Lanes over TCP behind the port's endpoint, as far as streams need one."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Sequence

from p2prc.errors import NotMember, PeerUnreachable
from p2prc.model.identity import NodeId
from p2prc.protocol.bulk_tokens import TOKEN_BYTES, BulkTokens
from p2prc.protocol.relay_events import RelayTerms
from p2prc.relay.connection import Upgrade
from p2prc.relay.server import ConnectionLimits, RelayServer, WellKnown, open_relay
from p2prc.transport.port import Channel, Connection, RelayAccess
from p2prc.transport.tls_connection import DialledConnection, ServedConnection
from p2prc.transport.tls_door import (
    BULK_PATH,
    BULK_PROTOCOL,
    SESSION_BYTES,
    DoorLimits,
    TlsDoor,
    dial_lane,
)
from p2prc.transport.tls_lane import Lane
from p2prc.wire.signed import public_key_of

MANY = DoorLimits(entering=400, entering_per_address=400, per_peer=400, total=400)


def nobody(key: NodeId, bearer: str) -> RelayTerms:
    raise NotMember


class TlsNetwork:
    """Endpoints that tell each other their doors, as control links do."""

    def __init__(self, limits: DoorLimits = MANY) -> None:
        self.limits = limits
        self.endpoints: dict[NodeId, TlsEndpoint] = {}

    async def endpoint(self) -> TlsEndpoint:
        endpoint = TlsEndpoint(self)
        await endpoint.listen()
        self.endpoints[endpoint.node] = endpoint
        return endpoint


class TlsEndpoint:
    """A port with a door for bulk."""

    def __init__(self, network: TlsNetwork) -> None:
        self.node = NodeId(public_key_of(os.urandom(32)).hex())
        self.refusals: Counter[str] = Counter()
        self.tokens = BulkTokens()
        self._told: dict[bytes, NodeId] = {}
        self.door = TlsDoor(
            self._redeem,
            self._entered,
            refused=lambda code: self.refusals.update((code,)),
            limits=network.limits,
        )
        self._network = network
        self._server: RelayServer | None = None
        self._incoming: asyncio.Queue[ServedConnection | None] = asyncio.Queue()
        self._served: list[ServedConnection] = []
        self._dialled: list[DialledConnection] = []
        self._receiving: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        self._server = await open_relay(
            "127.0.0.1",
            0,
            identity=WellKnown(self.node, 1, serves_relay=False),
            admit=nobody,
            limits=ConnectionLimits(unproven_per_address=400, unproven=400, per_address=400),
            upgrades={BULK_PATH: Upgrade(BULK_PROTOCOL, self._knocked)},
        )

    @property
    def port(self) -> int:
        assert self._server is not None
        return self._server.port

    def _knocked(self, transport: asyncio.Transport, address: str) -> None:
        if not self.door.make_room(address):
            transport.abort()
            return
        task = asyncio.create_task(self.door.receive(transport, address))
        self._receiving.add(task)
        task.add_done_callback(self._receiving.discard)

    def _entered(self, connection: ServedConnection) -> None:
        self._served.append(connection)
        self._incoming.put_nowait(connection)

    async def addresses(self) -> tuple[str, ...]:
        return (f"127.0.0.1:{self.port}",)

    @property
    def lanes(self) -> int:
        """How many lanes lead to us."""
        return sum(connection.lanes for connection in self._served)

    def token_for(self, peer: NodeId) -> bytes:
        """Return a token with one use."""
        token = os.urandom(TOKEN_BYTES)
        self._told[token] = peer
        return token

    def _redeem(self, token: bytes) -> NodeId:
        peer = self._told.pop(token, None)
        return peer or self.tokens.redeem(token, asyncio.get_running_loop().time())

    async def connect(
        self,
        peer: NodeId,
        addresses: Sequence[str],
        channel: Channel,
        *,
        timeout_s: float,
        relays: Sequence[str] = (),
    ) -> Connection:
        there = self._network.endpoints.get(peer)
        if there is None or channel is not Channel.BULK:
            raise PeerUnreachable
        session = os.urandom(SESSION_BYTES)
        address = addresses[0]

        async def lane() -> Lane:
            async with asyncio.timeout(timeout_s):
                return await dial_lane(
                    address,
                    certificate=there.door.certificate,
                    token=there.token_for(self.node),
                    session=session,
                )

        connection = DialledConnection(peer, address, first=await lane(), open_lane=lane)
        self._dialled.append(connection)
        return connection

    async def use_relays(self, relays: Sequence[RelayAccess]) -> None:
        return

    def home_relays(self) -> tuple[str, ...]:
        return ()

    async def add_external_address(self, address: str) -> None:
        return

    async def remove_external_address(self, address: str) -> None:
        return

    async def accept(self) -> Connection | None:
        return await self._incoming.get()

    async def close(self) -> None:
        for connection in self._dialled:
            connection.end("closed")
        self.door.end_all("closed")
        self._incoming.put_nowait(None)
        for task in list(self._receiving):
            task.cancel()
        await asyncio.gather(*self._receiving, return_exceptions=True)
        if self._server is not None:
            await self._server.close()
