"""Neighbours on the local network: found by multicast, dialled when nobody else leads to them.

Most of those that are announced are known and alive already: gossip tells of them, and dialling
each would make a link between any two machines of a large LAN. Dialled are strangers, those that
seem dead or silent, and, while there is no link at all, everybody.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from p2prc.errors import MachineCannot, P2prcError
from p2prc.model.identity import NodeId
from p2prc.node.links import Links
from p2prc.node.network import Network
from p2prc.node.tasks import Tasks
from p2prc.protocol.neighbour_list import NeighbourList
from p2prc.protocol.reachability_events import split
from p2prc.transport.port import Endpoint

LOOK_S = 5.0
RETRY_S = 60.0
"""After no multicast, or a flood of names; the latter doubles it up to `RETRY_LIMIT_S`."""
RETRY_LIMIT_S = 960.0
REFUSED, FLOOD = "lan-word", "lan-flood"
"""What `refusals` counts: announcements that were none, and how often there were too many."""

log = logging.getLogger(__name__)


class LanAnnouncement(Protocol):
    """What `OpenLan` returns."""

    @property
    def is_flooded(self) -> bool: ...

    @property
    def refused(self) -> int: ...

    @property
    def unforeseen(self) -> int: ...

    async def close(self) -> None: ...


class OpenLan(Protocol):
    """Announces a node at a port of its addresses; raises MachineCannot."""

    def __call__(
        self,
        network: NodeId,
        node: NodeId,
        port: int,
        hosts: Sequence[str],
        *,
        found: Callable[[NodeId, tuple[str, ...]], None],
    ) -> Awaitable[LanAnnouncement]: ...


@dataclass(frozen=True, slots=True)
class _Place:
    """What we announce; another one is announced anew."""

    network: NodeId
    port: int
    hosts: tuple[str, ...]


class Neighbours:
    """Announces us on the local network and dials whom it finds."""

    def __init__(
        self,
        open_lan: OpenLan | None,
        *,
        endpoint: Endpoint,
        links: Links,
        network: Network,
        tasks: Tasks,
    ) -> None:
        self._open_lan = open_lan
        self._endpoint = endpoint
        self._links = links
        self._network = network
        self._tasks = tasks
        self._lan: LanAnnouncement | None = None
        self._place: _Place | None = None
        self._known = NeighbourList()
        self._open_at = 0.0
        self._floods = 0
        self._refusals: Counter[str] = Counter()
        self._unforeseen = 0
        self.trouble = "" if open_lan else "switched off"
        """Why nobody is looked for, "" when all is well."""

    @property
    def count(self) -> int:
        """How many nodes of our network were heard on the local network."""
        return len(self._known)

    def refusals(self) -> dict[str, int]:
        """Return how often what was refused since the node started."""
        now = 0 if self._lan is None else self._lan.refused
        return dict(self._refusals + Counter({REFUSED: now}))

    @property
    def unforeseen(self) -> int:
        """How many announcements met a bug since the node started."""
        return self._unforeseen + (0 if self._lan is None else self._lan.unforeseen)

    def start(self) -> None:
        """Begin to announce and to look."""
        if self._open_lan is not None:
            self._tasks.start(self._run(self._open_lan), "neighbours")

    async def close(self) -> None:
        """Take the announcement back."""
        lan, self._lan = self._lan, None
        if lan is not None:
            await lan.close()
            self._refusals[REFUSED] += lan.refused
            self._unforeseen += lan.unforeseen

    def found(self, node: NodeId, addresses: tuple[str, ...]) -> None:
        """Somebody of our network is announced."""
        self._known.heard(node, addresses)
        self._dial_due()

    # -- announcing --

    async def _run(self, open_lan: OpenLan) -> None:
        while True:
            await self._keep_announced(open_lan)
            self._dial_due()
            await asyncio.sleep(LOOK_S)

    async def _keep_announced(self, open_lan: OpenLan) -> None:
        now = asyncio.get_running_loop().time()
        place = await self._place_now()
        if self._lan is not None and self._lan.is_flooded:
            log.warning("the local network is flooded with names")
            self._refusals[FLOOD] += 1
            self.trouble = "somebody floods the local network with names"
            self._open_at = now + min(RETRY_LIMIT_S, RETRY_S * 2.0**self._floods)
            self._floods = min(self._floods + 1, 10)
            await self.close()
        if place != self._place:
            if place is None or self._place is None or place.network != self._place.network:
                self._known.forget()
            await self.close()
            self._place = place
        if place is None:
            self.trouble = "the node listens on no local network"
            return
        if self._lan is not None or now < self._open_at:
            return
        try:
            self._lan = await open_lan(
                place.network, self._network.own, place.port, place.hosts, found=self.found
            )
        except MachineCannot as error:
            log.info("neighbours are not looked for", extra={"reason": error.message})
            self.trouble, self._open_at = error.message, now + RETRY_S
        else:
            self.trouble = ""

    async def _place_now(self) -> _Place | None:
        found = [at for each in await self._endpoint.addresses() if (at := split(each))]
        away = [(host, port) for host, port in found if not _is_loopback(host)]
        four = [(host, port) for host, port in away if ":" not in host]
        if not four:
            return None
        port = four[0][1]
        hosts = tuple(dict.fromkeys(host for host, at in (*four, *away) if at == port))
        return _Place(self._network.standing.network, port, hosts)

    # -- dialling --

    def _dial_due(self) -> None:
        now = asyncio.get_running_loop().time()
        alive: set[NodeId] = set()
        if self._links.peers():
            # Alone, we dial even those that seem alive.
            views = self._network.nodes()
            alive = {view.record.node for view in views if view.state == "alive"}
        for node, addresses in self._known.due(now, is_wanted=partial(self._is_wanted, alive)):
            self._tasks.start_for_peer(self._dial(node, addresses), "dial a neighbour")

    def _is_wanted(self, alive: set[NodeId], node: NodeId) -> bool:
        return (
            node not in alive
            and self._links.get(node) is None
            and not self._network.is_put_out(node)
        )

    async def _dial(self, node: NodeId, addresses: tuple[str, ...]) -> None:
        is_reached = False
        try:
            await self._links.reach_at(node, addresses)
            is_reached = True
            log.info("found on the local network", extra={"peer": node})
        except P2prcError as error:
            log.info("a neighbour is not reached", extra={"peer": node, "why": error.message})
        finally:
            now = asyncio.get_running_loop().time()
            self._known.dialled(node, is_reached=is_reached, now=now)


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host == "::1"
