"""How far the clocks of those we are linked with are from ours: asked when a person wants to know.

Nothing of membership depends on it. Tickets expire by the clock of the member that admits, and a
person reads times.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from p2prc.errors import P2prcError
from p2prc.node.link import Link
from p2prc.protocol.messages import CLOCK_SINCE_VERSION, AskClock, Clock

PATIENCE_S = 2.0
"""For all of them together: whoever is slower does not count."""
PEERS_LIMIT = 15
"""So many answers make a majority that a few liars do not move."""


def tell_clock() -> Clock:
    """Return what our wall clock shows."""
    return Clock(max(0, time.time_ns() // 1_000_000))


async def clock_skews_s(links: Iterable[Link]) -> tuple[float, ...]:
    """Return by how many seconds the clock of each peer that answers is ahead of ours."""
    asked = [link for link in links if link.version >= CLOCK_SINCE_VERSION][:PEERS_LIMIT]
    if not asked:
        return ()
    found = await asyncio.gather(*(_skew_s(link) for link in asked))
    return tuple(skew for skew in found if skew is not None)


async def _skew_s(link: Link) -> float | None:
    loop = asyncio.get_running_loop()
    asked_at = loop.time()
    try:
        said = await link.ask(AskClock(), Clock, timeout_s=PATIENCE_S)
    except P2prcError:
        return None
    # The peer looked at its clock half a round trip ago, as far as anybody can tell.
    return said.unix_ms / 1000 - (time.time() - (loop.time() - asked_at) / 2)
