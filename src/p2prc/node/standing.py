"""Our place in a network: which one, and the chain that proves it."""

from __future__ import annotations

from dataclasses import dataclass

from p2prc.authority import Member
from p2prc.model.identity import NodeId


@dataclass(frozen=True, slots=True)
class Standing:
    """A network, our membership chain in it, and what the chain says of us."""

    network: NodeId
    chain: bytes
    member: Member
