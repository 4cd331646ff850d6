"""What one peer alone can tell of our NAT: it looks at us from a second port of its own.

A packet has to leave by the very socket that links use. So we dial a key that nobody has at that
port: what arrives is no connection, and all that it needs to be.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from p2prc.errors import P2prcError, PeerBusy, PeerRefused, PeerUnreachable
from p2prc.model.identity import NodeId
from p2prc.node.link import Answer, Link
from p2prc.node.links import Links
from p2prc.node.tasks import Tasks
from p2prc.protocol.messages import PROBES_SINCE_VERSION, LookAtMe, Looking, SeenBeside
from p2prc.protocol.reachability_events import host_of, join
from p2prc.transport.onlooker import OPEN_S, open_onlooker
from p2prc.transport.port import Channel, Endpoint
from p2prc.wire.signed import public_key_of

AGAIN_S = 20.0
"""A peer is asked for it this often, while nothing came of it."""
PAUSE_S = 5.0
"""Between two looks at one peer."""
AT_ONCE_LIMIT = 16
REMEMBERED_LIMIT = 1024
ASK_TIMEOUT_S = 3.0
SHOW_S = 1.0

log = logging.getLogger(__name__)


class SecondLook:
    """Asks for such looks, and gives them."""

    def __init__(self, endpoint: Endpoint, links: Links, tasks: Tasks) -> None:
        self._endpoint = endpoint
        self._links = links
        self._tasks = tasks
        self._asked_at: dict[NodeId, float] = {}
        self._looked_at: dict[NodeId, float] = {}

    # -- we ask --

    def ask_one(self, peers: list[tuple[NodeId, str]]) -> None:
        """Ask one of these, with their addresses, that was not asked a moment ago."""
        now = asyncio.get_running_loop().time()
        for peer, remote in peers:
            if now - self._asked_at.get(peer, -AGAIN_S) >= AGAIN_S:
                _remember(self._asked_at, peer, now)
                self._tasks.start_for_peer(self._ask(peer, remote), "be seen from a second port")
                return

    async def _ask(self, peer: NodeId, remote: str) -> None:
        link = self._links.get(peer)
        if link is None or link.version < PROBES_SINCE_VERSION:
            return
        looking = await link.ask(LookAtMe(), Looking, timeout_s=ASK_TIMEOUT_S)
        nobody = NodeId(public_key_of(os.urandom(32)).hex())
        where = join(host_of(remote), looking.port)
        try:
            await self._endpoint.connect(nobody, (where,), Channel.PROBE, timeout_s=SHOW_S)
        except PeerUnreachable:
            log.debug("was shown to a second port", extra={"peer": peer, "at": where})

    # -- we are asked --

    async def look(self, link: Link, seen_at: str, answer: Answer) -> None:
        """Open a second port for the peer, and tell it what is seen there.

        Raises PeerRefused, PeerBusy, MachineCannot.
        """
        host = host_of(seen_at)
        if not host:
            raise PeerRefused("you are seen through a relay alone")
        now = asyncio.get_running_loop().time()
        is_busy = sum(now - at < OPEN_S for at in self._looked_at.values()) >= AT_ONCE_LIMIT
        if is_busy or now - self._looked_at.get(link.peer, -PAUSE_S) < PAUSE_S:
            raise PeerBusy("asked to look too often")
        _remember(self._looked_at, link.peer, now)
        answer(Looking(await open_onlooker(host, _teller(link))))


def _teller(link: Link) -> Callable[[str], None]:
    def tell(address: str) -> None:
        try:
            link.tell(SeenBeside(address))
        except P2prcError as error:
            log.debug("who was looked at is gone", extra={"why": error.message})

    return tell


def _remember(times: dict[NodeId, float], peer: NodeId, now: float) -> None:
    while len(times) >= REMEMBERED_LIMIT:
        del times[next(iter(times))]
    times.pop(peer, None)
    times[peer] = now
