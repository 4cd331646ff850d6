"""Which of a peer's addresses may be dialled: private ones belong to somebody else in every house.

Each home has its 192.168.1.2, and many have a node at its port 8088. iroh dials all addresses of a
peer at once; when one of them is answered by another node, the dial fails by that node's
certificate, and so do later ones for a minute or more. So an address that is not of the internet
is dialled when the peer itself answers there, and never when somebody else does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from p2prc.errors import NotP2prc
from p2prc.model.identity import NodeId
from p2prc.transport import addresses as address_text
from p2prc.transport.doorplate import read_doorplate

LOOK_S = 1.0
LOOKS_LIMIT = 8
"""How many addresses of one peer are looked at in one dial."""


@dataclass(frozen=True, slots=True)
class Sorted:
    """The peer's addresses: `wide` mean the same everywhere, `near` depend on where one is."""

    wide: tuple[str, ...]
    near: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Looked:
    """Addresses at which the peer says that it is, and those where nobody answers."""

    theirs: tuple[str, ...]
    silent: tuple[str, ...]


def sort_out(addresses: Sequence[str], own: Sequence[str]) -> Sorted:
    """Part a peer's addresses in two; leave out those at which we ourselves listen."""
    wide: list[str] = []
    near: list[str] = []
    for text in addresses:
        host, _ = address_text.parse(text)
        if text not in own:
            (wide if host.is_global else near).append(text)
    return Sorted(tuple(wide), tuple(near[:LOOKS_LIMIT]))


async def look_at(peer: NodeId, near: Sequence[str]) -> Looked:
    """Ask at each address who is there; takes `LOOK_S` at most."""
    async with asyncio.TaskGroup() as group:
        looks = [group.create_task(_who(address)) for address in near]
    found = [(address, look.result()) for address, look in zip(near, looks, strict=True)]
    return Looked(
        tuple(address for address, who in found if who == peer),
        tuple(address for address, who in found if who is None),
    )


async def _who(address: str) -> NodeId | str | None:
    """Return the node at an address, "" for something else, None when nobody answers in time."""
    try:
        async with asyncio.timeout(LOOK_S):
            return await read_doorplate(address)
    except NotP2prc:
        return ""
    except (OSError, ValueError):
        return None
