"""The relays through which an endpoint can be reached, with iroh.

What iroh 1.2.0 does, seen by experiment. A relay map that is disabled takes no relay later; an
empty one does, and the relay is used 0.2 s after `insert_relay`. Plain `http://` is accepted. Of
several relays the one that answers `/ping` soonest becomes home. When the home relay dies, iroh
goes on naming it for 27 s, until its next report; a change of the map makes a report at once, so
whoever notices earlier takes the dead one out. The token of `RelayConfig` is shown to that relay
alone; a relay that is dialled through without being in the map is shown none. To any relay but
home iroh hangs up 60 s after the last packet: `IrohRelays` sends one now and then, so that peers
can come in by every relay that is used, and go on by the second when the first dies.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit

import iroh

from p2prc.transport.port import Channel, RelayAccess

RELAYS_HELD = 4
TOUCH_EVERY_S = 25.0
TOUCH_SOON_S = 1.5
TOUCH_S = 0.25
_QUIC_PORT = 7842
"""Where relays with a certificate tell clients the address that they see (iroh's default)."""
_URL_LIMIT = 200


class IrohRelays:
    """The relays through which one endpoint can be reached."""

    def __init__(self, endpoint: iroh.Endpoint) -> None:
        self._endpoint = endpoint
        self._used: dict[str, RelayAccess] = {}
        self._changing = asyncio.Lock()
        self._nobody = iroh.SecretKey.generate().public()
        self._has_changed = asyncio.Event()
        self._holding = asyncio.create_task(self._hold(), name="hold relays")

    async def close(self) -> None:
        """Hold none any more."""
        self._holding.cancel()
        await asyncio.wait({self._holding})

    async def use(self, relays: Sequence[RelayAccess]) -> None:
        """Replace the whole set; a URL that iroh cannot read is left out."""
        wanted = {_plain(each.url): each for each in relays if is_relay_url(each.url)}
        async with self._changing:
            for url, access in list(self._used.items()):
                if wanted.get(url) != access:
                    with suppress(iroh.IrohError):
                        await self._endpoint.remove_relay(name_of(access))
                    del self._used[url]
            for url, access in wanted.items():
                if url not in self._used:
                    config = iroh.RelayConfig(
                        url=name_of(access),
                        quic_port=_QUIC_PORT if url.startswith("https:") else None,
                        auth_token=access.token or None,
                    )
                    with suppress(iroh.IrohError):
                        await self._endpoint.insert_relay(config)
                        self._used[url] = access
            # The first ones are held even when they are not home.
            self._used = {url: self._used[url] for url in wanted if url in self._used}
            self._has_changed.set()

    def home(self) -> tuple[str, ...]:
        """Return the relays that we are connected to, iroh's own choice first."""
        home = self._home()
        if home is None:
            return ()
        return (home.url, *(access.url for access in self._used.values() if access != home))

    def name_at(self, url: str) -> str:
        """Return what iroh calls the relay with this URL."""
        access = self._used.get(_plain(url))
        return url if access is None else name_of(access)

    def _home(self) -> RelayAccess | None:
        url = _plain(self._endpoint.addr().relay_url() or "")
        return next((each for each in self._used.values() if _plain(name_of(each)) == url), None)

    async def _hold(self) -> None:
        """Keep the connections to relays that are not home."""
        while True:
            home = self._home()
            for access in list(self._used.values())[:RELAYS_HELD]:
                if access != home:
                    await self._touch(name_of(access))
            # A relay that is home now may not be so a second later: iroh measures them first.
            patience_s = TOUCH_SOON_S if self._has_changed.is_set() else TOUCH_EVERY_S
            self._has_changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._has_changed.wait()

    async def _touch(self, url: str) -> None:
        """Send something through a relay: to a key that nobody has."""
        with suppress(TimeoutError, iroh.IrohError):
            async with asyncio.timeout(TOUCH_S):
                nobody = iroh.EndpointAddr(self._nobody, url, [])
                await self._endpoint.connect(nobody, Channel.PROBE.value)


def relays_of_iroh() -> tuple[str, ...]:
    """Return the URLs of the public relays of iroh's makers."""
    return tuple(sorted(iroh.RelayMode.default_mode().relay_map().urls()))


def is_relay_url(url: str) -> bool:
    """Whether iroh can be told to use it. A peer may have published anything."""
    if len(url) > _URL_LIMIT or not url.isascii() or not url.isprintable():
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def name_of(access: RelayAccess) -> str:
    """Return the URL under which iroh knows a relay: another one for each token.

    iroh keeps a connection by the relay's URL, and does not make it anew for another token: who
    came as a guest would stay one. The path of the URL is not sent to the relay.
    """
    if not access.token:
        return access.url
    parts = urlsplit(access.url)
    mark = hashlib.blake2b(access.token.encode(), digest_size=6).hexdigest()
    return f"{parts.scheme}://{parts.netloc}/{mark}"


def shown_url(name: str) -> str:
    """Return a relay's URL without what `name_of` added."""
    parts = urlsplit(name)
    return f"{parts.scheme}://{parts.netloc}/"


def _plain(url: str) -> str:
    return url.rstrip("/").lower()
