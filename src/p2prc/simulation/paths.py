"""Which way two nodes find to each other: direct, through a relay, or none.

What was seen of iroh between network namespaces: a public node is reached directly from behind any
NAT. Two cone NATs are punched once a relay has brought the two together; when one side draws
another port for each peer, the path stays relayed. Without UDP everything goes through a relay's
TCP. Nobody calls into a NAT without a relay.
"""

from __future__ import annotations

from enum import IntEnum
from random import Random

from p2prc.simulation.scenario import Nat


class Place(IntEnum):
    """Where a node stands."""

    PUBLIC = 0
    CONE = 1
    SYMMETRIC = 2
    BLOCKED = 3


class Way(IntEnum):
    """How packets get from one node to another."""

    NONE = 0
    DIRECT = 1
    RELAYED = 2


def way_between(caller: Place, callee: Place, *, has_relay: bool) -> Way:
    """Return the way that a call takes once it has settled."""
    if Place.BLOCKED not in (caller, callee):
        if callee is Place.PUBLIC or (caller is Place.PUBLIC and has_relay):
            # A call from a public node into a NAT goes by the relay first; the callee then
            # comes out to it.
            return Way.DIRECT
        if has_relay and caller is Place.CONE and callee is Place.CONE:
            return Way.DIRECT
    return Way.RELAYED if has_relay else Way.NONE


def places(nat: Nat, count: int, rng: Random, *, public_first: int) -> list[Place]:
    """Deal the places out at random; at least the first so many are public when any are."""
    shares = (nat.public, nat.cone, nat.symmetric, nat.blocked)
    dealt: list[Place] = []
    for place, share in zip(Place, shares, strict=True):
        dealt += [place] * round(share * count)
    filler = Place(max(range(4), key=lambda index: shares[index]))
    dealt = (dealt + [filler] * count)[:count]
    rng.shuffle(dealt)
    # Relays among the members, and whoever founds the network, have to be reached.
    for index in range(public_first):
        if dealt[index] is not Place.PUBLIC and Place.PUBLIC in dealt[index:]:
            other = dealt.index(Place.PUBLIC, index)
            dealt[index], dealt[other] = dealt[other], dealt[index]
    return dealt
