"""Keeps our port open at the router: asks, renews at half the lifetime, gives back at the end."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
from collections.abc import Callable

from p2prc.errors import P2prcError
from p2prc.protocol.diagnosis import NatKind
from p2prc.protocol.mapping_schedule import (
    Failed,
    Lost,
    MappingEvent,
    MappingSchedule,
    Opened,
    RouteChanged,
    Tick,
)
from p2prc.protocol.port_mapping import NONCE_BYTES
from p2prc.protocol.reachability_events import Mapped, host_of, is_outside, join, split
from p2prc.reachability.gateway import Gateway, default_gateway
from p2prc.reachability.hops import second_hop
from p2prc.reachability.mapping import CLOSE_S, Mapping, open_mapping
from p2prc.transport.port import Endpoint

LOOK_S = 5.0
"""How often we look whether we stand behind another router."""
_CARRIER = ipaddress.ip_network("100.64.0.0/10")

log = logging.getLogger(__name__)


def mapping_nonce(secret: bytes) -> bytes:
    """Return the same 12 bytes at every start: a port that a killed node left is its own again."""
    return hashlib.blake2b(b"p2prc port mapping", key=secret, digest_size=NONCE_BYTES).digest()


class PortMapping:
    """Our port at the router."""

    def __init__(self, endpoint: Endpoint, nonce: bytes, *, tell: Callable[[Mapped], None]) -> None:
        self._endpoint = endpoint
        self._nonce = nonce
        self._tell = tell
        self._mapping: Mapping | None = None
        self._gateway: Gateway | None = None
        self._schedule = MappingSchedule()

    async def run(self) -> None:
        """Keep it open until cancelled."""
        now = asyncio.get_running_loop().time
        is_first = True
        while True:
            gateway, port, why_not = await self._situation()
            event: MappingEvent = Tick()
            if is_first or gateway != self._gateway:
                event, is_first = RouteChanged(has_router=gateway is not None), False
                self._gateway = gateway
            for effect in self._schedule.handle(event, now()):
                if isinstance(effect, Lost):
                    # Unasked, the router closes it by itself.
                    self._mapping = None
                    self._tell(Mapped("", trouble="the router's promise is over"))
                elif gateway is not None:
                    outcome = await self._ask(gateway, port)
                    self._schedule.handle(outcome, now())
            if gateway is None:
                self._tell(Mapped("", trouble=why_not))
            await asyncio.sleep(LOOK_S)

    async def close(self) -> None:
        """Give the port back, within `CLOSE_S` or not at all."""
        if (mapping := self._mapping) is None:
            return
        self._mapping = None
        try:
            async with asyncio.timeout(CLOSE_S):
                await mapping.close()
        except TimeoutError:
            log.info("the router did not answer that it closed our port")

    async def _situation(self) -> tuple[Gateway | None, int, str]:
        """Return the router to be asked and our port, or why none is asked."""
        local = [found for each in await self._endpoint.addresses() if (found := split(each))]
        gateway = default_gateway()
        if gateway is None:
            return None, 0, "no router is known here"
        if is_outside(gateway.own):
            return None, 0, "this machine has an address of the internet"
        ports = [port for host, port in local if host == gateway.own]
        if not ports:
            return None, 0, "the node does not listen on the side of the router"
        return gateway, ports[0], ""

    async def _ask(self, gateway: Gateway, port: int) -> Opened | Failed:
        """Open the port or renew it."""
        try:
            mapping = await open_mapping(gateway, port, nonce=self._nonce)
        except P2prcError as error:
            log.info("the router opens no port", extra={"reason": error.message})
            if self._schedule.is_open:
                return Failed()
            self._mapping = None
            behind = await second_hop(gateway.own)
            kind = _kind_of(behind) if behind and not is_outside(behind) else "unknown"
            self._tell(Mapped("", trouble=error.message, nat=kind))
            return Failed()
        self._mapping = mapping
        address = join(mapping.host, mapping.port)
        if not is_outside(host_of(address)):
            kind, trouble = _inner_router(mapping.host)
            self._tell(Mapped("", mapping.method, trouble, kind))
            return Opened(mapping.lifetime_s)
        log.info("the router opened a port", extra={"address": address, "by": mapping.method})
        self._tell(Mapped(address, mapping.method))
        return Opened(mapping.lifetime_s)


def _inner_router(host: str) -> tuple[NatKind, str]:
    """Say what a router is that has itself no address of the internet."""
    if not host:
        return "double", "the router opened a port and does not tell where"
    return _kind_of(host), f"the router's own address, {host}, is none of the internet"


def _kind_of(host: str) -> NatKind:
    """Return what an inner address outside of our router means."""
    try:
        return "carrier" if ipaddress.ip_address(host) in _CARRIER else "double"
    except ValueError:
        return "double"
