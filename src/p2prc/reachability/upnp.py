"""Open a port by UPnP: find the gateway's description, then ask its connection service.

Everything is HTTP to the gateway itself, bounded in size and time. XML is read by
`xml_values`, which refuses entities, and with them bombs.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from p2prc.errors import WireError
from p2prc.protocol.port_mapping import Opened, Protocol, Unwilling
from p2prc.protocol.upnp import (
    CONFLICT,
    DEVICES,
    ONLY_PERMANENT,
    REFUSALS,
    SEARCH_GROUP,
    SERVICES,
    at_gateway,
    mapping_fields,
    read_location,
    search,
    soap,
)
from p2prc.reachability.gateway import Gateway
from p2prc.reachability.small_http import Request, ask
from p2prc.reachability.xml_values import read_xml

SEARCH_S = 2.0
_ANSWERS_LIMIT = 20


class PortConflict(Unwilling):
    """Another has that port."""


@dataclass(frozen=True, slots=True)
class Service:
    """The service of the gateway that opens ports."""

    gateway: Gateway
    kind: str
    url: str


async def find_service(gateway: Gateway) -> Service:
    """Return the gateway's service. Raises TimeoutError when nobody answers, WireError."""
    location = await _search(gateway)
    return await _describe(gateway, location)


async def outer_host(service: Service) -> str:
    """Return the gateway's outer address. Raises WireError, Unwilling."""
    found = await _call(service, "GetExternalIPAddress", {})
    return (found.get("NewExternalIPAddress") or "").strip()


async def open_port(
    service: Service, protocol: Protocol, port: int, outer_port: int, *, lifetime_s: int
) -> Opened:
    """Open one port. Raises PortConflict, Unwilling, WireError."""
    own = service.gateway.own
    for asked_s in (lifetime_s, 0):
        fields = mapping_fields(protocol, port, outer_port, client=own, lifetime_s=asked_s)
        try:
            await _call(service, "AddPortMapping", fields)
        except _OnlyPermanent:
            # Some routers know no end: we close it when we stop.
            continue
        return Opened("", outer_port, float(asked_s or lifetime_s))
    raise Unwilling(REFUSALS[ONLY_PERMANENT])


async def close_port(service: Service, protocol: Protocol, outer_port: int) -> None:
    """Close it again. Raises WireError, Unwilling."""
    fields = {
        "NewRemoteHost": "",
        "NewExternalPort": str(outer_port),
        "NewProtocol": protocol.upper(),
    }
    await _call(service, "DeletePortMapping", fields)


# -- search -------------------------------------------------------------------------------------


async def _search(gateway: Gateway) -> str:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        asking.bind((gateway.own, 0))
        asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(gateway.own))
        async with asyncio.timeout(SEARCH_S):
            for device in DEVICES:
                await loop.sock_sendto(asking, search(device), SEARCH_GROUP)
            for _ in range(_ANSWERS_LIMIT):
                answer, source = await loop.sock_recvfrom(asking, 8192)
                if source[0] != gateway.host:
                    continue
                try:
                    return read_location(answer, gateway.host)
                except WireError:
                    continue
    raise WireError("too many answers to a search, and none of the gateway's")


# -- HTTP ---------------------------------------------------------------------------------------


class _OnlyPermanent(Unwilling):
    """The router opens ports without an end only."""


async def _describe(gateway: Gateway, location: str) -> Service:
    root = read_xml(await _http(gateway, location))
    found = {
        service.value("serviceType"): service.value("controlURL")
        for service in root.every("service")
    }
    for kind in SERVICES:
        if found.get(kind):
            return Service(gateway, kind, at_gateway(found[kind], gateway.host, location))
    raise WireError("a gateway without a service that opens ports")


async def _call(service: Service, action: str, fields: dict[str, str]) -> dict[str, str]:
    headers = {
        "Content-Type": 'text/xml; charset="utf-8"',
        "SOAPAction": f'"{service.kind}#{action}"',
    }
    asked = soap(service.kind, action, fields)
    root = read_xml(await _http(service.gateway, service.url, asked, headers))
    if (code := next((each.text.strip() for each in root.every("errorCode")), "")) != "":
        number = int(code) if code.isascii() and code.isdigit() and len(code) < 6 else 0
        reason = REFUSALS.get(number, f"error {number}")
        if number == ONLY_PERMANENT:
            raise _OnlyPermanent(reason)
        raise PortConflict(reason) if number == CONFLICT else Unwilling(reason)
    return root.leaves()


async def _http(
    gateway: Gateway, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> bytes:
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    request = Request(
        gateway.host, parts.port or 80, path, own=gateway.own, headers=headers or {}, body=body
    )
    try:
        answer = await ask(request)
    except OSError as error:
        raise WireError(f"the gateway cannot be asked: {error}"[:200]) from error
    # A refusal of SOAP comes with status 500.
    if answer.status not in (200, 500):
        raise WireError(f"the gateway answers with status {answer.status}")
    return answer.body
