"""How far away a relay is: one small request, timed."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from urllib.parse import urlsplit

from p2prc.transport.iroh_relays import is_relay_url

PING_TIMEOUT_S = 2.5
_ANSWER_LIMIT_BYTES = 4096


async def ping_relay(url: str) -> float | None:
    """Return the seconds until the relay answered `GET /ping`; None when it did not."""
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


def _is_good(status: bytes) -> bool:
    with suppress(IndexError):
        return status.startswith(b"HTTP/1.") and status.split()[1].startswith(b"2")
    return False
