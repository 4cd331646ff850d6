"""Dialling a peer by all the ways that there are, with iroh: the first that works is taken."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass

import iroh

from p2prc.errors import PeerUnreachable
from p2prc.model.identity import NodeId, short
from p2prc.transport.iroh_errors import errors_of_dialling
from p2prc.transport.iroh_relays import is_relay_url
from p2prc.transport.port import Channel
from p2prc.transport.whose import look_at, sort_out

RELAYS_PER_DIAL = 4
"""How many of a peer's relays are tried: they come from the peer itself."""
NEXT_RELAY_AFTER_S = 1.0
"""A dial through the peer's best relay has this long before the next is tried as well."""
SILENT_AFTER_S = 3.0
"""Other ways have this long before a private address is dialled where nobody said who is there."""


@dataclass(frozen=True, slots=True)
class Dialler:
    """Who is dialled, and what for."""

    endpoint: iroh.Endpoint
    peer: NodeId
    channel: Channel

    async def dial(
        self, addresses: Sequence[str], relays: Sequence[str], own: Sequence[str]
    ) -> iroh.Connection:
        """Try the addresses and the first relay at once, each further relay a little later.

        `own` are the addresses of this endpoint: a peer does not live there. Raises
        PeerUnreachable; waits as long as iroh does.
        """
        usable = list(dict.fromkeys(url for url in relays if is_relay_url(url)))[:RELAYS_PER_DIAL]
        sorted_out = sort_out(addresses, own)
        wide, near = list(sorted_out.wide), sorted_out.near
        ways: list[Coroutine[None, None, iroh.Connection]] = [
            self._later(number * NEXT_RELAY_AFTER_S, wide, url) for number, url in enumerate(usable)
        ]
        if wide and not usable:
            ways.append(self._once(wide))
        if near:
            ways.append(self._near(near, SILENT_AFTER_S if ways else 0.0))
        if not ways:
            raise PeerUnreachable(f"no address of {short(self.peer)} leads away from this node")
        return await _first([asyncio.create_task(way) for way in ways])

    async def _once(self, addresses: Sequence[str], relay: str | None = None) -> iroh.Connection:
        with errors_of_dialling(self.peer):
            key = iroh.EndpointId.from_string(self.peer)
            target = iroh.EndpointAddr(key, relay, list(addresses))
            return await self.endpoint.connect(target, self.channel.value)

    async def _later(self, delay_s: float, addresses: Sequence[str], relay: str) -> iroh.Connection:
        await asyncio.sleep(delay_s)
        return await self._once(addresses, relay)

    async def _near(self, near: Sequence[str], patience_s: float) -> iroh.Connection:
        """Dial where the peer answers; else, when nothing else worked, where nobody does."""
        looked = await look_at(self.peer, near)
        if looked.theirs:
            return await self._once(looked.theirs)
        if not looked.silent:
            raise PeerUnreachable(f"others live at the addresses of {short(self.peer)}")
        await asyncio.sleep(patience_s)
        return await self._once(looked.silent)


async def _first(tries: Sequence[asyncio.Task[iroh.Connection]]) -> iroh.Connection:
    """Return the first connection, ending all others; when none is made, raise why."""
    waiting = set(tries)
    chosen: iroh.Connection | None = None
    try:
        while waiting and chosen is None:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            chosen = next((each.result() for each in done if each.exception() is None), None)
        return tries[0].result() if chosen is None else chosen
    finally:
        await _let_go(tries, chosen)


async def _let_go(tries: Sequence[asyncio.Task[iroh.Connection]], chosen: object) -> None:
    for each in tries:
        each.cancel()
    await asyncio.wait(tries)
    for each in tries:
        if not each.cancelled() and each.exception() is None and each.result() is not chosen:
            with suppress(iroh.IrohError):
                each.result().close(0, b"another path was faster")
