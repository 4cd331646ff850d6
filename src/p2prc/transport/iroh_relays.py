"""The relays through which an endpoint can be reached, with iroh."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit

import iroh

from p2prc.transport.port import RelayAccess

_URL_LIMIT = 200


class IrohRelays:
    """The relays through which one endpoint can be reached."""

    def __init__(self, endpoint: iroh.Endpoint) -> None:
        self._endpoint = endpoint
        self._used: dict[str, RelayAccess] = {}
        self._changing = asyncio.Lock()

    async def use(self, relays: Sequence[RelayAccess]) -> None:
        """Replace the whole set; a URL that iroh cannot read is left out."""
        wanted = {_plain(each.url): each for each in relays if is_relay_url(each.url)}
        async with self._changing:
            for url, access in list(self._used.items()):
                if wanted.get(url) != access:
                    with suppress(iroh.IrohError):
                        await self._endpoint.remove_relay(access.url)
                    del self._used[url]
            for url, access in wanted.items():
                if url not in self._used:
                    config = iroh.RelayConfig(url=access.url, auth_token=access.token or None)
                    with suppress(iroh.IrohError):
                        await self._endpoint.insert_relay(config)
                        self._used[url] = access

    def home(self) -> tuple[str, ...]:
        """Return the relay that iroh keeps a connection to, by the name that we know it by."""
        url = self._endpoint.addr().relay_url()
        if url is None:
            return ()
        known = self._used.get(_plain(url))
        return () if known is None else (known.url,)


def is_relay_url(url: str) -> bool:
    """Whether iroh can be told to use it. A peer may have published anything."""
    if len(url) > _URL_LIMIT or not url.isascii() or not url.isprintable():
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _plain(url: str) -> str:
    return url.rstrip("/").lower()
