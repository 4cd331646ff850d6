"""Have the router open our port: by PCP, NAT-PMP or UPnP, whichever it speaks.

UDP and TCP get the same outer port, so that one address serves for peers and for the relay. Only
the default gateway is asked and believed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from p2prc.errors import P2prcError, WireError
from p2prc.protocol.port_mapping import (
    ANSWER_LIMIT_BYTES,
    ROUTER_PORT,
    Opened,
    Protocol,
    Unwilling,
    pcp_request,
    pmp_address_request,
    pmp_request,
    read_pcp,
    read_pmp,
    read_pmp_address,
)
from p2prc.reachability import upnp
from p2prc.reachability.gateway import Gateway

LIFETIME_S = 1200
"""Renewed at half of it: so long a router that was switched off and on stays closed."""
SCHEDULE_S = (0.25, 0.5, 1.0)
"""Waits for an answer, the packet being sent anew before each (RFC 6886, 3.1, cut short)."""
OUTER_PORTS = 4
"""So many outer ports are tried when others hold the first ones."""
CLOSE_S = 2.0
PATIENCE_S = 6.0

Method = Literal["pcp", "nat-pmp", "upnp"]
METHODS: tuple[Method, ...] = ("pcp", "nat-pmp", "upnp")

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Mapping:
    """Our port as the outside sees it. `close` gives it back."""

    host: str
    port: int
    method: str
    lifetime_s: float
    close: Callable[[], Awaitable[None]] = field(compare=False)


class NoMapping(P2prcError):
    """No router here opens ports."""

    code = "no-mapping"


async def open_mapping(
    gateway: Gateway, port: int, *, nonce: bytes, methods: Sequence[Method] = METHODS
) -> Mapping:
    """Open the port for UDP and TCP, by the first of the methods that the router grants.

    `nonce` (12 bytes) makes a PCP mapping ours: to ask again with it is to renew. Takes
    `PATIENCE_S` at most. Raises NoMapping with what the router said to each.
    """
    reasons = []
    searching = asyncio.create_task(upnp.find_service(gateway), name="search the gateway")
    known: dict[Method, Callable[[], Awaitable[Mapping]]] = {
        "pcp": lambda: _by_pcp(gateway, port, nonce),
        "nat-pmp": lambda: _by_pmp(gateway, port),
        "upnp": lambda: _by_upnp(searching, port),
    }
    try:
        async with asyncio.timeout(PATIENCE_S):
            for method in methods:
                try:
                    return await known[method]()
                except (P2prcError, TimeoutError) as error:
                    reasons.append(f"{method}: {_reason(error)}")
    except TimeoutError:
        reasons.append("it was too slow")
    finally:
        searching.cancel()
        await asyncio.wait({searching})
    raise NoMapping("; ".join(reasons))


def _reason(error: Exception) -> str:
    if isinstance(error, Unwilling):
        return f"refused ({error.message})"
    return error.message if isinstance(error, P2prcError) else "no answer"


async def _with_equal_ports(
    port: int,
    open_one: Callable[[Protocol, int], Awaitable[Opened]],
    close_one: Callable[[Protocol, int], Awaitable[None]],
) -> tuple[Opened, Opened]:
    """Open UDP and TCP at one outer port, trying others where that one is taken."""
    wanted = port
    for _ in range(OUTER_PORTS):
        try:
            by_udp = await open_one("udp", wanted)
            by_tcp = await open_one("tcp", by_udp.port)
        except upnp.PortConflict:
            wanted = secrets.randbelow(20_000) + 40_000
            continue
        if by_udp.port == by_tcp.port:
            return by_udp, by_tcp
        for protocol, opened in (("udp", by_udp), ("tcp", by_tcp)):
            with suppress(P2prcError, TimeoutError):
                await close_one("udp" if protocol == "udp" else "tcp", opened.port)
        wanted = secrets.randbelow(20_000) + 40_000
    raise Unwilling("it opens UDP and TCP at different ports only")


# -- the three ways -----------------------------------------------------------------------------


async def _by_pcp(gateway: Gateway, port: int, nonce: bytes) -> Mapping:
    async def ask(protocol: Protocol, outer_port: int, lifetime_s: int) -> Opened:
        request = pcp_request(
            protocol, port, outer_port, client=gateway.own, nonce=nonce, lifetime_s=lifetime_s
        )
        return await _ask(
            gateway,
            request,
            lambda answer: read_pcp(answer, protocol, port, nonce=nonce),
            # A router that does not know it keeps silent, and the next protocol waits.
            schedule_s=SCHEDULE_S[:2],
        )

    async def close(protocol: Protocol, outer_port: int) -> None:
        await ask(protocol, outer_port, 0)

    by_udp, by_tcp = await _with_equal_ports(
        port, lambda protocol, outer: ask(protocol, outer, LIFETIME_S), close
    )
    return Mapping(
        by_udp.host,
        by_udp.port,
        "pcp",
        min(by_udp.lifetime_s, by_tcp.lifetime_s),
        lambda: _close_both(close, by_udp.port),
    )


async def _by_pmp(gateway: Gateway, port: int) -> Mapping:
    async def ask(protocol: Protocol, outer_port: int, lifetime_s: int) -> Opened:
        request = pmp_request(protocol, port, outer_port, lifetime_s=lifetime_s)
        return await _ask(gateway, request, lambda answer: read_pmp(answer, protocol, port))

    async def close(protocol: Protocol, _: int) -> None:
        # RFC 6886, 3.4: lifetime and outer port 0.
        await ask(protocol, 0, 0)

    host = await _ask(gateway, pmp_address_request(), read_pmp_address)
    by_udp, by_tcp = await _with_equal_ports(
        port, lambda protocol, outer: ask(protocol, outer, LIFETIME_S), close
    )
    return Mapping(
        host,
        by_udp.port,
        "nat-pmp",
        min(by_udp.lifetime_s, by_tcp.lifetime_s),
        lambda: _close_both(close, by_udp.port),
    )


async def _by_upnp(searching: asyncio.Task[upnp.Service], port: int) -> Mapping:
    service = await asyncio.shield(searching)
    host = await upnp.outer_host(service)

    async def close(protocol: Protocol, outer_port: int) -> None:
        await upnp.close_port(service, protocol, outer_port)

    by_udp, by_tcp = await _with_equal_ports(
        port,
        lambda protocol, outer: upnp.open_port(
            service, protocol, port, outer, lifetime_s=LIFETIME_S
        ),
        close,
    )
    return Mapping(
        host,
        by_udp.port,
        "upnp",
        min(by_udp.lifetime_s, by_tcp.lifetime_s),
        lambda: _close_both(close, by_udp.port),
    )


async def _close_both(close: Callable[[Protocol, int], Awaitable[None]], outer_port: int) -> None:
    protocols: tuple[Protocol, ...] = ("udp", "tcp")
    for protocol in protocols:
        try:
            async with asyncio.timeout(CLOSE_S):
                await close(protocol, outer_port)
        except (P2prcError, TimeoutError) as error:
            log.info("a port stays open at the router", extra={"reason": str(error)})


async def _ask(
    gateway: Gateway,
    request: bytes,
    read: Callable[[bytes], Answer],
    *,
    schedule_s: Sequence[float] = SCHEDULE_S,
) -> Answer:
    """Send until answered. Raises TimeoutError, Unwilling, WireError when it cannot be sent."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        try:
            # Connected: the kernel drops what others send.
            asking.bind((gateway.own, 0))
            asking.connect((gateway.host, ROUTER_PORT))
            for wait_s in schedule_s:
                await loop.sock_sendall(asking, request)
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        return await _first_fitting(loop, asking, read)
        except OSError as error:
            raise WireError(f"no answer ({error.strerror})") from error
    raise TimeoutError


async def _first_fitting(
    loop: asyncio.AbstractEventLoop, asking: socket.socket, read: Callable[[bytes], Answer]
) -> Answer:
    while True:
        answer = await loop.sock_recv(asking, ANSWER_LIMIT_BYTES + 1)
        try:
            return read(answer)
        except Unwilling:
            raise
        except WireError as error:
            log.debug("not the router's answer", extra={"reason": error.message})
