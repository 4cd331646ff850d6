"""Our end of the network through iroh: dial by key, accept, and nothing of iroh further in.

Theory of operation. One task takes attempts to connect from iroh and hands each to a task of its
own, which has `HANDSHAKE_TIMEOUT_S` to finish the handshake. An attempt holds one of
`HANDSHAKES_LIMIT` slots until it failed or its connection was taken by `accept`; while no slot is
free, attempts wait inside iroh.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

import iroh

from p2prc.errors import PeerUnreachable
from p2prc.model.identity import NodeId, short
from p2prc.transport import addresses as address_text
from p2prc.transport.iroh_calls import SlowCalls, StreamCalls
from p2prc.transport.iroh_connection import IrohConnection
from p2prc.transport.iroh_errors import errors_of_binding, errors_of_dialling, text_of
from p2prc.transport.iroh_fastpath import FastCalls
from p2prc.transport.port import Channel, Endpoint

HANDSHAKE_TIMEOUT_S = 10.0
HANDSHAKES_LIMIT = 128
_CLOSE_TIMEOUT_S = 3.0

log = logging.getLogger(__name__)


def stream_calls() -> StreamCalls:
    """Return the fast way to move bytes when it fits the installed iroh, else the slow one."""
    try:
        return FastCalls()
    except (AttributeError, OSError, ValueError) as error:
        log.warning("iroh's fast paths are off", extra={"reason": str(error)})
        return SlowCalls()


async def open_iroh_endpoint(
    secret: bytes,
    *,
    bind_addr: str = "0.0.0.0:0",
    calls: StreamCalls | None = None,
) -> Endpoint:
    """Listen on UDP with a 32-byte Ed25519 seed as identity.

    Raises PortTaken, SettingInvalid, MachineCannot.
    """
    address_text.listening_address(bind_addr)
    options = iroh.EndpointOptions(
        preset=_OneMachine(bind_addr),
        bind_addr=bind_addr,
        secret_key=secret,
        alpns=[channel.value for channel in Channel],
        relay_mode=iroh.RelayMode.disabled(),
    )
    with errors_of_binding(bind_addr):
        endpoint = await iroh.Endpoint.bind(options)
    return IrohEndpoint(endpoint, calls or stream_calls())


class _OneMachine(iroh.Preset):
    """iroh without the services of its makers; listens on no interface that was not asked for.

    Left alone, iroh also binds the IPv6 wildcard when told to listen on one IPv4 address.
    """

    def __init__(self, bind_address: str) -> None:
        host, _ = address_text.parse(bind_address)
        self._is_wildcard = host.is_unspecified
        self._version = host.version

    def apply(self, builder: iroh.EndpointBuilder) -> None:
        builder.apply_minimal()
        if not self._is_wildcard:
            builder.bind_addr("127.0.0.1:0" if self._version == 6 else "[::1]:0")


class IrohEndpoint:
    """The adapter. Made by `open_iroh_endpoint`; whoever opened it closes it."""

    def __init__(self, endpoint: iroh.Endpoint, calls: StreamCalls) -> None:
        self._endpoint = endpoint
        self._calls = calls
        self.node = NodeId(str(endpoint.id()))
        self._slots = asyncio.Semaphore(HANDSHAKES_LIMIT)
        self._arrived: asyncio.Queue[IrohConnection | None] = asyncio.Queue()
        self._is_closing = False
        self._welcoming = asyncio.create_task(self._welcome(), name="accept connections")

    async def addresses(self) -> tuple[str, ...]:
        return address_text.of_sockets(self._endpoint.bound_sockets())

    async def connect(
        self, peer: NodeId, addresses: Sequence[str], channel: Channel, *, timeout_s: float
    ) -> IrohConnection:
        try:
            async with asyncio.timeout(timeout_s):
                with errors_of_dialling(peer):
                    target = iroh.EndpointAddr(
                        iroh.EndpointId.from_string(peer), None, address_text.dialable(addresses)
                    )
                    connection = await self._endpoint.connect(target, channel.value)
        except TimeoutError as error:
            reason = f"{short(peer)} did not answer within {timeout_s:g} s"
            raise PeerUnreachable(reason) from error
        return IrohConnection(connection, self._calls)

    async def accept(self) -> IrohConnection | None:
        connection = await self._arrived.get()
        if connection is None:
            # For whoever else waits.
            self._arrived.put_nowait(None)
            return None
        self._slots.release()
        return connection

    async def close(self) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        self._welcoming.cancel()
        await asyncio.wait({self._welcoming})
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._endpoint.close()

    async def _welcome(self) -> None:
        try:
            async with asyncio.TaskGroup() as handshakes:
                while (incoming := await self._next_incoming()) is not None:
                    handshakes.create_task(self._shake_hands(incoming), name="handshake")
        finally:
            self._arrived.put_nowait(None)

    async def _next_incoming(self) -> iroh.Incoming | None:
        await self._slots.acquire()
        return await self._endpoint.accept_next()

    async def _shake_hands(self, incoming: iroh.Incoming) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                accepting = await incoming.accept()
                connection = IrohConnection(await accepting.connect(), self._calls)
        except (iroh.IrohError, TimeoutError) as error:
            self._slots.release()
            reason = text_of(error) if isinstance(error, iroh.IrohError) else "silence"
            log.debug("a handshake failed", extra={"reason": reason})
            return
        self._arrived.put_nowait(connection)
