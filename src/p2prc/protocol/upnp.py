"""The texts of UPnP's Internet Gateway Device: what is sent, and what is read from answers.

Reading XML is not here (it needs a parser that refuses bombs); this is the rest: the search
(SSDP), the requests (SOAP) and the codes of refusals (IGD:1 and IGD:2, WANIPConnection).
"""

from __future__ import annotations

import re
from html import escape
from urllib.parse import urljoin, urlsplit

from p2prc.errors import WireError

SEARCH_GROUP = ("239.255.255.250", 1900)
ANSWER_LIMIT_BYTES = 4096
DEVICES = (
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
)
SERVICES = (
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
)
ONLY_PERMANENT = 725
CONFLICT = 718
REFUSALS = {
    501: "the action failed", 606: "it refuses", 715: "the source is fixed",
    716: "the outer port is fixed", 718: "another has that port", 724: "both ports must be equal",
    725: "it opens ports without an end only", 728: "no room", 729: "another has that port",
}  # fmt: skip
_LOCATION = re.compile(rb"^location:[ \t]*([\x21-\x7e]{1,300})[ \t]*\r?$", re.I | re.M)


def search(device: str) -> bytes:
    """Return the packet that asks gateways of a kind to say where they are described."""
    return (
        'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\n'
        f"MX: 1\r\nST: {device}\r\n\r\n"
    ).encode()


def read_location(answer: bytes, gateway: str) -> str:
    """Return where the gateway describes itself; only itself is believed. Raises WireError."""
    if len(answer) > ANSWER_LIMIT_BYTES or not answer.startswith(b"HTTP/1.1 200"):
        raise WireError("not an answer to a search")
    if (match := _LOCATION.search(answer)) is None:
        raise WireError("an answer without a location")
    return at_gateway(match[1].decode("ascii"), gateway)


def at_gateway(url: str, gateway: str, base: str = "") -> str:
    """Return the whole URL, when it is plain HTTP at the gateway. Raises WireError."""
    try:
        whole = urljoin(base, url)
        parts = urlsplit(whole)
        port = parts.port
    except ValueError as error:
        raise WireError("a location that is no URL") from error
    if parts.scheme != "http" or parts.hostname != gateway or port == 0 or parts.username:
        raise WireError("a location somewhere else than at the gateway")
    return whole


def soap(service: str, action: str, fields: dict[str, str]) -> bytes:
    """Return the body of a request."""
    inner = "".join(f"<{key}>{escape(value, quote=False)}</{key}>" for key, value in fields.items())
    return (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
        's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
        f'<u:{action} xmlns:u="{service}">{inner}</u:{action}></s:Body></s:Envelope>'
    ).encode()


def mapping_fields(
    protocol: str, port: int, outer_port: int, *, client: str, lifetime_s: int
) -> dict[str, str]:
    """Return the fields of AddPortMapping, in the order that routers want."""
    return {
        "NewRemoteHost": "",
        "NewExternalPort": str(outer_port),
        "NewProtocol": protocol.upper(),
        "NewInternalPort": str(port),
        "NewInternalClient": client,
        "NewEnabled": "1",
        "NewPortMappingDescription": "p2prc",
        "NewLeaseDuration": str(lifetime_s),
    }
