"""Dask's comm backend `p2prc://NAME.CLUSTER:PORT`: connections that a cluster's switch makes.

A switch knows the members of one cluster by name and brings sockets to them; nothing here listens
on a network. Dask's own TCP comm carries the messages over those sockets.
"""

from __future__ import annotations

import socket
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from distributed.comm.addressing import parse_host_port
from distributed.comm.core import BaseListener, Comm, CommClosedError, Connector
from distributed.comm.registry import Backend, backends
from distributed.comm.tcp import MAX_BUFFER_SIZE, TCP, _close_comm
from tornado.iostream import IOStream

SCHEME = "p2prc"
PORT = 8786
"""Dask wants addresses with a port; a member has one listener, so it says nothing."""
HEAD_BYTES = 128
"""What comes first on a connection to a worker: a word and a name, filled up with spaces."""


class Switch(Protocol):
    """Brings connections to the members of a cluster, and theirs to the listeners here."""

    listeners: dict[str, Callable[[socket.socket, str], Awaitable[None]]]

    @property
    def name(self) -> str: ...

    async def dial(self, target: str) -> socket.socket: ...


switches: dict[str, Switch] = {}
"""By cluster: those that this process is a member of."""


def address(name: str, cluster: str) -> str:
    """Return the address of a member of a cluster."""
    return f"{SCHEME}://{name}.{cluster}:{PORT}"


def head(word: str, name: str) -> bytes:
    """Return the first bytes of a connection. Raises ValueError for a name too long."""
    content = f"{word} {name}".encode()
    if len(content) > HEAD_BYTES:
        raise ValueError("a name too long")
    return content.ljust(HEAD_BYTES)


def read_head(content: bytes) -> tuple[str, str]:
    """Return the word and the name. Raises ValueError."""
    word, _, name = content.decode("ascii").strip().partition(" ")
    if len(content) != HEAD_BYTES or not word or not name:
        raise ValueError("no head of a connection")
    return word, name


class PeerComm(TCP):
    """Dask's TCP comm on a socket that need not be of TCP."""

    def __init__(self, found: socket.socket, local: str, peer: str, *, deserialize: bool) -> None:
        self._closed = False
        Comm.__init__(self, deserialize=deserialize)
        self._local_addr = local
        self._peer_addr = peer
        self.stream = IOStream(found, max_buffer_size=MAX_BUFFER_SIZE)
        self._finalizer = weakref.finalize(self, self._get_finalizer())
        self._finalizer.atexit = False
        self._extra: dict[str, Any] = {}
        mine = weakref.ref(self)
        self.stream.set_close_callback(lambda: _close_comm(mine))
        if found.family != socket.AF_UNIX:
            self.stream.set_nodelay(True)


class PeerConnector(Connector):
    """Dials through the cluster's switch."""

    async def connect(self, address: str, deserialize: bool = True, **_: Any) -> Comm:  # noqa: FBT001, FBT002 - Dask's interface
        """Return a comm. Raises OSError, which Dask tries again, and CommClosedError."""
        name, switch = _switch(address)
        found = await switch.dial(name)
        local = f"{SCHEME}://{switch.name}.{_cluster(address)}:0"
        return PeerComm(found, local, f"{SCHEME}://{address}", deserialize=deserialize)


class PeerListener(BaseListener):
    """Gets what a switch brings to one name."""

    prefix = f"{SCHEME}://"

    def __init__(
        self,
        loc: str,
        handle_comm: Callable[[Comm], Awaitable[None]],
        deserialize: bool = True,  # noqa: FBT001, FBT002 - Dask's interface
        *,
        allow_offload: bool = True,
        **_: Any,
    ) -> None:
        super().__init__()
        self._own, self._switch = _switch(loc)
        self._address = address(self._own, _cluster(loc))
        self._handle = handle_comm
        self._deserialize = deserialize
        self._allow_offload = allow_offload

    async def start(self) -> None:
        if self._own in self._switch.listeners:
            raise OSError(f"{self._own} listens already")
        self._switch.listeners[self._own] = self._accept

    def stop(self) -> None:
        self._switch.listeners.pop(self._own, None)

    async def _accept(self, found: socket.socket, peer: str) -> None:
        whose = f"{SCHEME}://{peer}.{_cluster(self._address.removeprefix(self.prefix))}:0"
        comm = PeerComm(found, self._address, whose, deserialize=self._deserialize)
        comm.allow_offload = self._allow_offload
        try:
            await self.on_connection(comm)
        except CommClosedError:
            return
        await self._handle(comm)

    @property
    def listen_address(self) -> str:
        return self._address

    @property
    def contact_address(self) -> str:
        return self._address


class PeerBackend(Backend):
    """What Dask asks about such addresses."""

    def get_connector(self) -> PeerConnector:
        return PeerConnector()

    def get_listener(
        self,
        loc: str,
        handle_comm: Callable[[Comm], Awaitable[None]],
        deserialize: bool,  # noqa: FBT001 - Dask's interface
        **options: Any,
    ) -> PeerListener:
        return PeerListener(loc, handle_comm, deserialize, **options)

    def get_address_host(self, loc: str) -> str:
        # Dask's scheduler asks so where its web pages listen.
        return str(parse_host_port(loc, PORT)[0]) if loc else "127.0.0.1"

    def get_address_host_port(self, loc: str) -> tuple[str, int]:
        host, port = parse_host_port(loc, PORT)
        return str(host), int(port)

    def resolve_address(self, loc: str) -> str:
        return loc

    def get_local_address_for(self, loc: str) -> str:
        _, switch = _switch(loc)
        return f"{switch.name}.{_cluster(loc)}"


def _cluster(loc: str) -> str:
    return str(parse_host_port(loc, PORT)[0]).rpartition(".")[2]


def _switch(loc: str) -> tuple[str, Switch]:
    name, _, cluster = str(parse_host_port(loc, PORT)[0]).rpartition(".")
    found = switches.get(cluster)
    if found is None or not name:
        raise OSError(f"this process is no member of the cluster of `{loc[:80]}`")
    return name, found


backends[SCHEME] = PeerBackend()
