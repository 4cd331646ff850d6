"""From an address to a node: a look at `http://HOST:PORT/.well-known/p2prc`.

Whoever listens there may be anything: the answer is read to a small bound, in a short time, and
believed only as to which key to expect; the connection that follows proves it.
"""

from __future__ import annotations

import asyncio
import re
import socket
from dataclasses import dataclass

import msgspec

from p2prc.errors import NodeUnknown, NotP2prc, PeerError, PeerUnreachable, SettingInvalid
from p2prc.model.identity import NodeId, NodeIdField
from p2prc.transport.doorplate import read_doorplate

DEFAULT_PORT = 8088
LOOKUP_TIMEOUT_S = 4.0
_ADDRESSES_LIMIT = 4
_HOST = re.compile(r"[A-Za-z0-9_.:-]{1,253}")


@dataclass(frozen=True, slots=True)
class Doorplate:
    """Where somebody is to be asked, and who is there."""

    node: NodeId
    host: str
    port: int
    addresses: tuple[str, ...]

    @property
    def address(self) -> str:
        """What was typed, in full."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST[:PORT]`, `[IPv6]:PORT`. Raises SettingInvalid."""
    host, port_text = text, ""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        port_text = rest.removeprefix(":")
        if not closed or rest == port_text != "":
            raise _not_an_address(text)
    elif text.count(":") == 1:
        host, _, port_text = text.partition(":")
    if port_text and not (port_text.isascii() and port_text.isdigit() and len(port_text) <= 5):
        raise _not_an_address(text)
    port = int(port_text) if port_text else DEFAULT_PORT
    if _HOST.fullmatch(host) is None or not 0 < port <= 65535:
        raise _not_an_address(text)
    return host, port


async def look_up(text: str) -> Doorplate:
    """Return who answers at an address. Raises PeerUnreachable, NotP2prc, NodeUnknown."""
    node_text, at, rest = text.rpartition("@")
    host, port = parse_address(rest if at else text)
    shown = f"{host}:{port}"
    node = _node_id(node_text) if at else None
    try:
        async with asyncio.timeout(LOOKUP_TIMEOUT_S):
            addresses = await _resolve(host, port)
            if node is not None:
                # Who knows the whole id needs no look, nor the port's TCP side.
                return Doorplate(node, host, port, addresses)
            found = await _ask(addresses, shown)
    except TimeoutError as error:
        raise _nobody(shown) from error
    return Doorplate(found, host, port, addresses)


def _node_id(text: str) -> NodeId:
    try:
        return msgspec.convert(text, NodeIdField)
    except msgspec.ValidationError as error:
        raise SettingInvalid(f"`{text[:80]}` is not a node's id: it has 64 digits") from error


async def _resolve(host: str, port: int) -> tuple[str, ...]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NodeUnknown(
            f"there is no host `{host}`", hint="an address, or a name that can be looked up"
        ) from error
    shown = [
        f"[{each[4][0]}]:{port}" if each[0] == socket.AF_INET6 else f"{each[4][0]}:{port}"
        for each in found
    ]
    return tuple(dict.fromkeys(shown))[:_ADDRESSES_LIMIT]


async def _ask(addresses: tuple[str, ...], shown: str) -> NodeId:
    for address in addresses:
        try:
            return await read_doorplate(address)
        except OSError:
            continue
        except NotP2prc as error:
            raise NotP2prc(f"something else than p2prc answers at {shown}") from error
    raise _nobody(shown)


def _not_an_address(text: str) -> SettingInvalid:
    return SettingInvalid(
        f"`{text[:80]}` is neither a ticket nor an address",
        hint="a ticket is one long word that starts with `p2prc`; an address is HOST or HOST:PORT",
    )


def _nobody(shown: str) -> PeerError:
    return PeerUnreachable(
        f"nobody answers at {shown}",
        hint="is the node up there, and does its firewall let TCP and UDP of that port in? "
        "or ask for a ticket: `p2prc invite`",
    )
