"""Relays and dialling through them, with iroh."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit

import iroh

from p2prc.model.identity import NodeId
from p2prc.transport.iroh_errors import errors_of_dialling
from p2prc.transport.port import Channel, RelayAccess

RELAYS_PER_DIAL = 4
"""How many of a peer's relays are tried: they come from the peer itself."""
NEXT_RELAY_AFTER_S = 1.0
"""A dial through the peer's best relay has this long before the next is tried as well."""
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


async def dial(
    endpoint: iroh.Endpoint,
    peer: NodeId,
    addresses: list[str],
    channel: Channel,
    *,
    relays: Sequence[str],
) -> iroh.Connection:
    """Try the addresses and the first relay at once, each further relay a little later.

    iroh takes one relay a dial. Raises PeerUnreachable; waits as long as iroh does.
    """
    usable = list(dict.fromkeys(url for url in relays if is_relay_url(url)))[:RELAYS_PER_DIAL]
    ways: list[str | None] = [*usable] or [None]
    tries: list[asyncio.Task[iroh.Connection]] = []
    chosen: iroh.Connection | None = None
    try:
        while chosen is None:
            if ways:
                trying = _dial_once(endpoint, peer, addresses, channel, ways.pop(0))
                tries.append(asyncio.create_task(trying))
            waiting = [each for each in tries if not each.done()]
            if not waiting and not ways:
                return tries[-1].result()
            patience_s = NEXT_RELAY_AFTER_S if ways else None
            done, _ = await asyncio.wait(
                waiting, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
            )
            chosen = next((each.result() for each in done if each.exception() is None), None)
        return chosen
    finally:
        await _let_go(tries, chosen)


async def _dial_once(
    endpoint: iroh.Endpoint,
    peer: NodeId,
    addresses: list[str],
    channel: Channel,
    relay: str | None,
) -> iroh.Connection:
    with errors_of_dialling(peer):
        target = iroh.EndpointAddr(iroh.EndpointId.from_string(peer), relay, addresses)
        return await endpoint.connect(target, channel.value)


async def _let_go(tries: list[asyncio.Task[iroh.Connection]], chosen: object) -> None:
    for each in tries:
        each.cancel()
    await asyncio.wait(tries)
    for each in tries:
        if not each.cancelled() and each.exception() is None and each.result() is not chosen:
            with suppress(iroh.IrohError):
                each.result().close(0, b"another path was faster")


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
