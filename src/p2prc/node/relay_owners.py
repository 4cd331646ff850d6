"""Whose relay a URL leads to: a p2prc node says on its page who it is, other relays say nothing.

A node's relay serves the members of its own network alone. One of another network would answer our
measurements, refuse us, and leave us believing that we can be reached through it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

from p2prc.errors import NotP2prc, P2prcError
from p2prc.model.identity import NodeId, short
from p2prc.node.lookup import look_up

LOOK_AGAIN_S = 60.0
REMEMBERED_LIMIT = 64
_HTTP_PORT = 80


def normal_url(url: str) -> str:
    """Return the URL as members write it: relays are told apart by scheme, host and port alone."""
    try:
        parts = urlsplit(url)
    except ValueError:
        # Nobody can be asked there, which the measurement finds out.
        return url
    return f"{parts.scheme.lower()}://{parts.netloc.lower()}/"


class RelayOwners:
    """What was seen on the pages of relays that no record names."""

    def __init__(self, is_member: Callable[[NodeId], bool]) -> None:
        self._is_member = is_member
        self._seen: dict[str, tuple[NodeId | None, float]] = {}

    def owner_of(self, url: str) -> NodeId | None:
        """Return the p2prc node that serves there; None: no such node, or not looked yet."""
        return self._seen.get(url, (None, 0.0))[0]

    def is_members(self, url: str) -> bool:
        """Whether a member of our network serves there."""
        owner = self.owner_of(url)
        return owner is not None and self._is_member(owner)

    def refusal(self, url: str) -> str:
        """Return why the relay will not serve us, "" when nothing speaks against it."""
        owner = self.owner_of(url)
        if owner is None or self._is_member(owner):
            return ""
        return f"it belongs to {short(owner)}, a node of another network, and serves that alone"

    def refused(self) -> list[str]:
        """Return the relays that will not serve us and need not be looked at again yet."""
        now = asyncio.get_running_loop().time()
        fresh = [url for url, (_, at) in self._seen.items() if now - at < LOOK_AGAIN_S]
        return [url for url in fresh if self.refusal(url)]

    async def look(self, url: str) -> None:
        """Look who serves there, unless that was done a moment ago; a silent one stays unknown."""
        now = asyncio.get_running_loop().time()
        parts = urlsplit(url)
        known = self._seen.get(url)
        if parts.scheme != "http" or (known is not None and now - known[1] < LOOK_AGAIN_S):
            return
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        try:
            owner: NodeId | None = (await look_up(f"{host}:{parts.port or _HTTP_PORT}")).node
        except NotP2prc:
            owner = None
        except P2prcError:
            return
        while len(self._seen) >= REMEMBERED_LIMIT:
            del self._seen[next(iter(self._seen))]
        self._seen.pop(url, None)
        self._seen[url] = (owner, now)
