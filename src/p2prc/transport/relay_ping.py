"""How far away a relay is: one small request, timed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from p2prc.transport.iroh_relays import is_relay_url

PING_TIMEOUT_S = 2.5
_ANSWER_LIMIT_BYTES = 4096


async def ping_relay(url: str, *, is_ours: bool = True) -> float | None:
    """Return the seconds until the relay answered `GET /ping`; None when it did not.

    Nor does one that somebody else named and whose name leads to this machine itself: there it
    would be nearest to everybody, and through it nobody is reached.
    """
    if not is_relay_url(url):
        return None
    parts = urlsplit(url)
    is_secure = parts.scheme == "https"
    port = parts.port or (443 if is_secure else 80)
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                parts.hostname,
                port,
                ssl=ssl.create_default_context() if is_secure else None,
                limit=_ANSWER_LIMIT_BYTES,
            )
            try:
                if not is_ours and is_this_machine(writer.get_extra_info("peername")):
                    return None
                started = asyncio.get_running_loop().time()
                head = f"GET /ping HTTP/1.1\r\nhost: {parts.netloc}\r\nconnection: close\r\n\r\n"
                writer.write(head.encode())
                status = await reader.readline()
                took_s = asyncio.get_running_loop().time() - started
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return None
    return took_s if _is_good(status) else None


def is_this_machine(peer: Sequence[object] | None) -> bool:
    """Whether a connection with this peer name has not left the machine."""
    try:
        number = ip_address(str(peer[0]).partition("%")[0]) if peer else None
    except ValueError:
        return False
    if isinstance(number, IPv6Address) and number.ipv4_mapped is not None:
        number = number.ipv4_mapped
    return number is not None and (number.is_loopback or number.is_unspecified)


def _is_good(status: bytes) -> bool:
    with suppress(IndexError):
        return status.startswith(b"HTTP/1.") and status.split()[1].startswith(b"2")
    return False
