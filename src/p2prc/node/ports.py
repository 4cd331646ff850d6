"""The ports that a lease has named: which numbers, and how its commands learn of them."""

from __future__ import annotations

import socket
from collections.abc import Collection, Sequence

from p2prc.protocol.egress import OPEN_TIERS

FIRST_PORT = 8000
_TRIES = 1000


def ports_for(tier: str, count: int, taken: Collection[int]) -> tuple[int, ...]:
    """Return so many ports: always the same ones in a network of its own, else free ones.

    `taken` are those of other leases. Who shares the machine's network finds them free now; nobody
    can keep others of the machine from taking one before the lease listens there.
    """
    if tier not in OPEN_TIERS:
        return tuple(range(FIRST_PORT, FIRST_PORT + count))
    found: list[int] = []
    for _ in range(_TRIES):
        if len(found) == count:
            break
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as any_socket:
            any_socket.bind(("", 0))
            port = int(any_socket.getsockname()[1])
        if port not in taken and port not in found:
            found.append(port)
    return tuple(found)


def port_variables(ports: Sequence[int]) -> dict[str, str]:
    """Return what tells the commands: `P2PRC_PORT1`, `P2PRC_PORT2`, ..."""
    return {f"P2PRC_PORT{number}": str(port) for number, port in enumerate(ports, 1)}
