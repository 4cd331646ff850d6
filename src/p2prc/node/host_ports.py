"""Ports of this machine and its neighbourhood for other nodes, where the owner names them."""

from __future__ import annotations

import asyncio
from collections import Counter

from p2prc.errors import PeerBusy, PortClosed
from p2prc.model.identity import NodeId
from p2prc.node.carriage import Carriages
from p2prc.node.counted import CountedLink, Traffic, until_idle
from p2prc.node.datagrams import UdpLink
from p2prc.node.framed import FramedStream
from p2prc.node.splicing import SocketBytes, splice
from p2prc.protocol.forwarding import UDP, ForwardRules, Protocol
from p2prc.protocol.messages import DialService, Done, Session
from p2prc.runtime.port import Link

DIAL_TIMEOUT_S = 10.0
PER_PEER_LIMIT = 256
IDLE_S = 3600.0
UDP_IDLE_S = 120.0


class HostPorts:
    """Serves streams to services of this side."""

    def __init__(self, carriages: Carriages) -> None:
        self._carriages = carriages
        self.rules = ForwardRules()
        self._open: Counter[NodeId] = Counter()

    async def serve(
        self, peer: NodeId, session: FramedStream[Session], request: DialService
    ) -> None:
        """Connect and carry bytes to the end. Raises PolicyRefuses, PeerBusy, PortClosed."""
        host, port = self.rules.address_of(request.service, peer)
        if self._open[peer] >= PER_PEER_LIMIT:
            raise PeerBusy(f"you have {PER_PEER_LIMIT} connections through this node already")
        self._open[peer] += 1
        try:
            await self._carry(peer, session, request, host, port)
        finally:
            self._open[peer] -= 1
            if not self._open[peer]:
                del self._open[peer]

    async def _carry(
        self,
        peer: NodeId,
        session: FramedStream[Session],
        request: DialService,
        host: str,
        port: int,
    ) -> None:
        service = await dialled(host, port, request.service, request.protocol)
        traffic = Traffic()
        try:
            await session.send(Done())
            idle_s = UDP_IDLE_S if request.protocol == UDP else IDLE_S
            counted = CountedLink(service, traffic)
            async with self._carriages.served(peer, session, request.carriage) as remote:
                await until_idle(splice(remote, counted), traffic, idle_s=idle_s)
        finally:
            # Not the stream: what it still carries would be lost. Who serves it ends it.
            await service.close()


async def dialled(host: str, port: int, name: str, protocol: Protocol) -> Link:
    """Return a link to a service of this side. Raises PortClosed."""
    try:
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            if protocol == UDP:
                return await UdpLink.open(host, port)
            return SocketBytes(*await asyncio.open_connection(host, port))
    except (OSError, TimeoutError) as error:
        raise PortClosed(
            f"nothing answers at `{name[:80]}` there", hint="is the service running?"
        ) from error
