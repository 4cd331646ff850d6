"""Trying out, for a peer, whether it can be reached where we see it.

Only the host at which we see the asker is dialled, so that nobody can aim us at somebody else; and
seldom, so that nobody can wear us out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from p2prc.errors import P2prcError, PeerBusy, PeerRefused
from p2prc.model.identity import NodeId
from p2prc.node.lookup import look_up
from p2prc.protocol.messages import Probed
from p2prc.protocol.reachability_events import join, split

AT_ONCE_LIMIT = 4
PAUSE_S = 5.0
"""Between two tries for one peer."""
REMEMBERED_LIMIT = 1024
TCP_TIMEOUT_S = 4.0

Probe = Callable[[NodeId, str], Awaitable[bool]]
"""Dial a node afresh over UDP; say whether it answered."""


class DialBack:
    """Answers those who ask to be dialled."""

    def __init__(self, probe: Probe | None) -> None:
        self._probe = probe
        self._running = 0
        self._last_at: dict[NodeId, float] = {}

    async def try_out(self, peer: NodeId, seen_at: str, port: int) -> Probed:
        """Dial the peer at the port, where we see it. Raises PeerRefused, PeerBusy."""
        seen = split(seen_at)
        if seen is None:
            raise PeerRefused("you are seen through a relay alone")
        self._take_turn(peer)
        address = join(seen[0], port)
        try:
            async with asyncio.TaskGroup() as group:
                by_tcp = group.create_task(_by_tcp(peer, address))
                by_udp = group.create_task(self._by_udp(peer, address))
        finally:
            self._running -= 1
        return Probed(by_tcp=by_tcp.result(), by_udp=by_udp.result())

    def _take_turn(self, peer: NodeId) -> None:
        now = asyncio.get_running_loop().time()
        if self._running >= AT_ONCE_LIMIT or now - self._last_at.get(peer, -PAUSE_S) < PAUSE_S:
            raise PeerBusy("asked to be dialled too often")
        while len(self._last_at) >= REMEMBERED_LIMIT:
            del self._last_at[next(iter(self._last_at))]
        self._last_at.pop(peer, None)
        self._last_at[peer] = now
        self._running += 1

    async def _by_udp(self, peer: NodeId, address: str) -> bool:
        return False if self._probe is None else await self._probe(peer, address)


async def _by_tcp(peer: NodeId, address: str) -> bool:
    try:
        async with asyncio.timeout(TCP_TIMEOUT_S):
            return (await look_up(address)).node == peer
    except (P2prcError, TimeoutError):
        return False
