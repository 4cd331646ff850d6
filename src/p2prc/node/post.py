"""Letters by name: to a peer over its link, to this node itself without a network.

A node lends to itself by the same rules as to others, so the same letters serve both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from p2prc.errors import PeerLost
from p2prc.model.identity import NodeId
from p2prc.node.link import REQUEST_TIMEOUT_S, Answer, expect
from p2prc.node.links import Links
from p2prc.protocol.messages import Control

Reply = TypeVar("Reply")
Deliver = Callable[[NodeId, Control, Answer | None], None]


class Post:
    """Tell and ask members, ourselves included."""

    def __init__(self, own: NodeId, links: Links, deliver: Deliver) -> None:
        self._own = own
        self._links = links
        self._deliver = deliver

    def tell(self, peer: NodeId, body: Control) -> bool:
        """Send a notice; say whether somebody is there to get it."""
        if peer == self._own:
            # Later, not now: a machine must not be fed from inside its own effects.
            asyncio.get_running_loop().call_soon(self._deliver, peer, body, None)
            return True
        return self._links.tell(peer, body)

    async def ask(
        self, peer: NodeId, body: Control, expected: type[Reply], *, timeout_s: float | None = None
    ) -> Reply:
        """Send a request, dialling when needed. Raises PeerError and what the peer refuses with."""
        limit_s = REQUEST_TIMEOUT_S if timeout_s is None else timeout_s
        if peer != self._own:
            link = await self._links.reach(peer)
            return await link.ask(body, expected, timeout_s=limit_s)
        reply: asyncio.Future[Control] = asyncio.get_running_loop().create_future()
        self._deliver(peer, body, lambda said: None if reply.done() else reply.set_result(said))
        try:
            async with asyncio.timeout(limit_s):
                return expect(await reply, expected)
        except TimeoutError as error:
            raise PeerLost(f"this node did not answer itself within {limit_s:g} s") from error
