"""Finds nodes of our network on the local network, by multicast DNS (only importer of zeroconf).

What is told there is `lan_word`'s. What is heard is a stranger's: names wait in a bounded queue,
each is asked about for a short time, and of its addresses only those on our own local networks
are taken. When somebody floods the network with names, we close and come back later.

zeroconf is loaded when it is used first: who has it off pays nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import psutil

from p2prc.errors import MachineCannot, WireError
from p2prc.model.identity import NodeId
from p2prc.protocol.reachability_events import join
from p2prc.reachability.lan_word import NONCE_BYTES, ForeignWord, seal, unseal

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

KIND = "_p2prc._udp.local."
WORD = "w"
ADDRESSES_LIMIT = 6
NAMES_LIMIT = 256
"""So many names wait to be asked about."""
CACHE_LIMIT = 2000
"""So many names of any kind are remembered before we call it a flood."""
WORKERS = 4
_GROUP = "224.0.0.251"
ASK_S = 2.0
CLOSE_S = 1.0

Found = Callable[[NodeId, tuple[str, ...]], None]
log = logging.getLogger(__name__)


class LanUnavailable(MachineCannot):
    """This machine cannot speak to its local network by multicast."""


class Lan:
    """Announces one node and hears of others. Made by `open_lan`."""

    def __init__(self, network: NodeId, node: NodeId, port: int, found: Found) -> None:
        self._network = network
        self._node = node
        self._port = port
        self._found = found
        self._names: asyncio.Queue[str] = asyncio.Queue(NAMES_LIMIT)
        self._workers: list[asyncio.Task[None]] = []
        self._own_name = ""
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._has_overflowed = False
        self.heard: Counter[str] = Counter()
        """How many words were ours, of other networks (`foreign`), or unreadable (`refused`)."""
        self.unforeseen = 0
        """How many names made us fail in a way that nobody foresaw."""

    @property
    def is_flooded(self) -> bool:
        """Whether there are more names than an honest network has."""
        if self._zeroconf is None:
            return False
        return self._has_overflowed or len(self._zeroconf.zeroconf.cache.names()) > CACHE_LIMIT

    @property
    def refused(self) -> int:
        """How many announcements nobody honest makes."""
        return self.heard["refused"]

    async def open(self, hosts: Sequence[str]) -> None:
        """Announce ourselves at these addresses of ours. Raises LanUnavailable."""
        import zeroconf  # noqa: PLC0415 - three megabytes that not everybody needs
        from zeroconf.asyncio import (  # noqa: PLC0415
            AsyncServiceBrowser,
            AsyncServiceInfo,
            AsyncZeroconf,
        )

        label = secrets.token_hex(6)
        self._own_name = f"{label}.{KIND}"
        nonce = secrets.token_bytes(NONCE_BYTES)
        word = seal(self._node, network=self._network, port=self._port, nonce=nonce)
        interfaces = [host for host in hosts if ":" not in host and _has_multicast(host)]
        if not interfaces:
            raise LanUnavailable("no multicast on the local network")
        try:
            self._zeroconf = AsyncZeroconf(
                interfaces=list[str | int | tuple[tuple[str, int, int], int]](interfaces)
            )
            await self._zeroconf.zeroconf.async_wait_for_start()
            announcement = AsyncServiceInfo(
                KIND,
                self._own_name,
                port=self._port,
                properties={WORD: word},
                server=f"{label}.local.",
                parsed_addresses=list(hosts[:ADDRESSES_LIMIT]),
            )
            # The name is random: nobody else can have it, so nobody need be asked.
            await self._zeroconf.async_register_service(announcement, cooperating_responders=True)
        except (OSError, RuntimeError, zeroconf.Error) as error:
            await self.close()
            raise LanUnavailable(f"no multicast on the local network: {error}") from error
        self._workers = [
            asyncio.create_task(self._ask_about_names(), name="ask neighbours")
            for _ in range(WORKERS)
        ]
        self._browser = AsyncServiceBrowser(
            self._zeroconf.zeroconf, KIND, handlers=[self._name_heard]
        )

    async def close(self) -> None:
        """Say that we are gone, and hear nothing more. Calling twice is safe."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._workers = []
        opened, self._zeroconf = self._zeroconf, None
        if opened is None:
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                if self._browser is not None:
                    await self._browser.async_cancel()
                await opened.async_close()
        except (OSError, TimeoutError) as error:
            log.info("the local network was not told that we go", extra={"reason": str(error)})

    def _name_heard(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        del zeroconf, service_type
        if state_change.name == "Removed" or name == self._own_name:
            return
        try:
            self._names.put_nowait(name)
        except asyncio.QueueFull:
            self._has_overflowed = True

    async def _ask_about_names(self) -> None:
        while True:
            name = await self._names.get()
            try:
                await self._ask_about(name)
            except ForeignWord:
                self.heard["foreign"] += 1
            except WireError as error:
                self.heard["refused"] += 1
                log.debug("not a neighbour", extra={"reason": error.message})
            except Exception:
                # What is heard is a stranger's: one name must not end the looking for all others.
                self.unforeseen += 1
                log.exception("an unforeseen error, of one announcement alone")

    async def _ask_about(self, name: str) -> None:
        from zeroconf import BadTypeInNameException  # noqa: PLC0415
        from zeroconf.asyncio import AsyncServiceInfo  # noqa: PLC0415

        if self._zeroconf is None:
            return
        try:
            told = AsyncServiceInfo(KIND, name)
            if not await told.async_request(self._zeroconf.zeroconf, ASK_S * 1000):
                raise WireError("a name without an answer")
        except (BadTypeInNameException, OSError, ValueError) as error:
            raise WireError("a name that cannot be asked about") from error
        node = read_announcement(told.properties, told.port, network=self._network)
        if node == self._node:
            return
        addresses = near_addresses(told.parsed_addresses(), told.port or 0)
        if not addresses:
            raise WireError("a neighbour that is not on our local network")
        self.heard["ours"] += 1
        self._found(node, addresses)


async def open_lan(
    network: NodeId, node: NodeId, port: int, hosts: Sequence[str], *, found: Found
) -> Lan:
    """Announce a node that listens at `port` of `hosts`, its addresses; raises LanUnavailable.

    `found` is called for each node of the same network, with its addresses, perhaps repeatedly.
    """
    lan = Lan(network, node, port, found)
    await lan.open(hosts)
    return lan


def read_announcement(
    properties: dict[bytes, bytes | None], port: int | None, *, network: NodeId
) -> NodeId:
    """Return the node that is announced. Raises ForeignWord, WireError."""
    word = properties.get(WORD.encode())
    if not port or not 0 < port < 1 << 16 or word is None:
        raise WireError("an announcement without port or word")
    return unseal(word, network=network, port=port)


def near_addresses(hosts: Sequence[str], port: int) -> tuple[str, ...]:
    """Return the addresses on networks that this machine is in, and that are not its own."""
    networks = _own_networks()
    found = []
    for text in hosts[: 4 * ADDRESSES_LIMIT]:
        try:
            host = ipaddress.ip_address(text)
        except ValueError:
            # With a scope: iroh cannot dial it.
            continue
        if host.is_loopback or host.is_multicast or host.is_unspecified or host.is_link_local:
            continue
        if any(host in each.network and host != each.ip for each in networks):
            found.append(join(str(host), port))
    return tuple(dict.fromkeys(found))[:ADDRESSES_LIMIT]


def _has_multicast(host: str) -> bool:
    """Whether the interface with this address takes part in multicast (RFC 6762's group)."""
    member = socket.inet_aton(_GROUP) + socket.inet_aton(host)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        try:
            trial.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        except OSError:
            return False
    return True


def _own_networks() -> list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]:
    found = []
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            if each.family in (socket.AF_INET, socket.AF_INET6) and each.netmask:
                length = _prefix(each.netmask)
                try:
                    found.append(ipaddress.ip_interface(f"{each.address}/{length}"))
                except ValueError:
                    continue
    return found


def _prefix(netmask: str) -> int:
    try:
        return int(ipaddress.ip_address(netmask)).bit_count()
    except ValueError:
        return -1
