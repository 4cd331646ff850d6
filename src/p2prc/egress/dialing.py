"""Names to addresses, once, and connections to exactly those; which addresses are our own."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_interface
from typing import Protocol

import psutil

from p2prc.protocol.egress import Address, Network

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
BUFFER_BYTES = 64 * 1024
_OWN_KEPT_S = 5.0
_RESOLVERS = 4
_SHORTEST_PREFIX = 8


class Internet(Protocol):
    """What the proxy needs of the world outside."""

    def own_networks(self) -> Sequence[Network]:
        """Return our addresses and the networks that are directly connected."""
        ...

    async def resolve(self, name: str) -> list[str]:
        """Return a name's addresses. Raises OSError."""
        ...

    async def connect(self, address: Address, port: int) -> Connection:
        """Connect to this address and no other. Raises OSError."""
        ...


class RealInternet:
    """The machine's resolver and network; `known` names further addresses of this node."""

    def __init__(self, known: Callable[[], Iterable[str]] = tuple) -> None:
        self._known = known
        # Tenants' names wait for each other here, and never for the node's own.
        self._resolvers = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="tenants' names")
        self._own: tuple[Network, ...] = ()
        self._own_until = float("-inf")

    def own_networks(self) -> Sequence[Network]:
        now = time.monotonic()
        if now >= self._own_until:
            self._own = tuple({*_interfaces(), *_networks((one, None) for one in self._known())})
            self._own_until = now + _OWN_KEPT_S
        return self._own

    async def resolve(self, name: str) -> list[str]:
        def look_up() -> list[str]:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            return [str(entry[4][0]) for entry in found]

        return await asyncio.get_running_loop().run_in_executor(self._resolvers, look_up)

    async def connect(self, address: Address, port: int) -> Connection:
        return await asyncio.open_connection(str(address), port, limit=BUFFER_BYTES)

    def close(self) -> None:
        """Let go of the threads; none is waited for."""
        self._resolvers.shutdown(wait=False, cancel_futures=True)


def _interfaces() -> set[Network]:
    return _networks(
        (entry.address, entry.netmask)
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    )


def _networks(found: Iterable[tuple[str, str | None]]) -> set[Network]:
    networks: set[Network] = set()
    for address, mask in found:
        plain = address.partition("%")[0]
        try:
            networks.add(ip_interface(plain).network)
            if mask is not None:
                prefix = sum(bin(byte).count("1") for byte in ip_interface(mask).ip.packed)
                network = ip_interface(f"{plain}/{prefix}").network
                if prefix >= _SHORTEST_PREFIX:
                    networks.add(network)
        except ValueError:
            continue
    return networks
