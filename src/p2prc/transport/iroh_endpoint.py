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
from p2prc.transport.iroh_dialling import Dialler
from p2prc.transport.iroh_errors import errors_of_binding, text_of
from p2prc.transport.iroh_fastpath import FastCalls
from p2prc.transport.iroh_relays import IrohRelays
from p2prc.transport.iroh_release import free_on
from p2prc.transport.port import Channel, Endpoint, RelayAccess

HANDSHAKE_TIMEOUT_S = 10.0
HANDSHAKES_LIMIT = 128
_CLOSE_TIMEOUT_S = 1.0

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
        preset=_OnlyWhatWasAsked(bind_addr),
        bind_addr=bind_addr,
        secret_key=secret,
        alpns=[channel.value for channel in Channel],
        # Empty, not disabled: a disabled one takes no relay later either.
        relay_mode=iroh.RelayMode.custom(iroh.RelayMap.empty()),
    )
    free_on(asyncio.get_running_loop())
    # What was let go of before may hold the port.
    await asyncio.sleep(0)
    with errors_of_binding(bind_addr):
        endpoint = await iroh.Endpoint.bind(options)
    return IrohEndpoint(endpoint, calls or stream_calls())


class _OnlyWhatWasAsked(iroh.Preset):
    """iroh without the services of its makers, listening on no interface beyond the chosen one.

    Left alone, iroh also binds the IPv6 wildcard when told to listen on one IPv4 address. Told to
    listen on all of IPv4, it is told the same port of all of IPv6, so that one port serves both.
    """

    def __init__(self, bind_address: str) -> None:
        host, port = address_text.parse(bind_address)
        if host.is_unspecified:
            other = "0.0.0.0" if host.version == 6 else "::"  # noqa: S104 - as we were told
            is_bound = port != 0 and address_text.can_bind(other)
        else:
            other, port = "127.0.0.1" if host.version == 6 else "::1", 0
            is_bound = address_text.can_bind(other)
        # What iroh binds by itself may fail, what it is told to bind may not: it is told only
        # where there is such an address.
        self._other = address_text.join(other, port) if is_bound else None

    def apply(self, builder: iroh.EndpointBuilder) -> None:
        builder.apply_minimal()
        if self._other is not None:
            builder.bind_addr(self._other)


class IrohEndpoint:
    """The adapter. Made by `open_iroh_endpoint`; whoever opened it closes it."""

    def __init__(self, endpoint: iroh.Endpoint, calls: StreamCalls) -> None:
        self._endpoint: iroh.Endpoint | None = endpoint
        self._calls = calls
        self.node = NodeId(str(endpoint.id()))
        self._relays: IrohRelays | None = IrohRelays(endpoint)
        self._slots = asyncio.Semaphore(HANDSHAKES_LIMIT)
        self._arrived: asyncio.Queue[IrohConnection | None] = asyncio.Queue()
        self._welcoming: asyncio.Task[None] | None = asyncio.create_task(
            self._welcome(endpoint), name="accept connections"
        )

    async def addresses(self) -> tuple[str, ...]:
        return address_text.of_sockets(self._endpoint.bound_sockets() if self._endpoint else ())

    async def use_relays(self, relays: Sequence[RelayAccess]) -> None:
        if self._relays is not None:
            await self._relays.use(relays)

    def home_relays(self) -> tuple[str, ...]:
        return () if self._relays is None else self._relays.home()

    async def add_external_address(self, address: str) -> None:
        if self._endpoint is None or not address_text.dialable([address]):
            return
        with suppress(iroh.IrohError):
            await self._endpoint.add_external_addr(address)

    async def remove_external_address(self, address: str) -> None:
        if self._endpoint is None or not address_text.dialable([address]):
            return
        with suppress(iroh.IrohError):
            await self._endpoint.remove_external_addr(address)

    async def connect(
        self,
        peer: NodeId,
        addresses: Sequence[str],
        channel: Channel,
        *,
        timeout_s: float,
        relays: Sequence[str] = (),
    ) -> IrohConnection:
        if self._endpoint is None:
            raise PeerUnreachable(f"cannot reach {short(peer)}: this endpoint is closed")
        try:
            async with asyncio.timeout(timeout_s):
                known = address_text.dialable(await address_text.resolved(addresses))
                dialler = Dialler(self._endpoint, peer, channel)
                own = address_text.of_sockets(self._endpoint.bound_sockets(), with_loopback=True)
                if self._relays is not None:
                    relays = [self._relays.name_at(url) for url in relays]
                connection = await dialler.dial(known, relays, own)
        except TimeoutError as error:
            reason = f"{short(peer)} did not answer within {timeout_s:.3g} s"
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
        endpoint, self._endpoint = self._endpoint, None
        relays, self._relays = self._relays, None
        if relays is not None:
            await relays.close()
        welcoming, self._welcoming = self._welcoming, None
        if endpoint is None or welcoming is None:
            return
        welcoming.cancel()
        await asyncio.wait({welcoming})
        # iroh drains for 3 s after a dial that nobody answered; what is left drains by itself.
        # The port becomes free when iroh has drained and nobody holds the endpoint any more.
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await endpoint.close()

    async def _welcome(self, endpoint: iroh.Endpoint) -> None:
        try:
            async with asyncio.TaskGroup() as handshakes:
                await self._slots.acquire()
                while (incoming := await endpoint.accept_next()) is not None:
                    handshakes.create_task(self._shake_hands(incoming), name="handshake")
                    await self._slots.acquire()
        finally:
            self._arrived.put_nowait(None)

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
