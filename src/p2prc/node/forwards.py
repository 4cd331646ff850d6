"""Remote ports brought here: local listeners whose connections end at another node.

They stay until they are ended, over restarts of either side: each connection finds its own way, so
a peer that was away serves the next one again.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import msgspec

from p2prc.errors import InvalidInput, MachineCannot, NotFound, P2prcError, PeerBusy, PortTaken
from p2prc.model.identity import LeaseId, NodeId
from p2prc.node.counted import CountedLink, Traffic, until_idle
from p2prc.node.datagrams import QueueLink
from p2prc.node.host_ports import IDLE_S, UDP_IDLE_S
from p2prc.node.inside import Inside
from p2prc.node.splicing import SocketBytes, splice
from p2prc.protocol.forwarding import THIS_MACHINE, UDP, Protocol
from p2prc.runtime.port import Link
from p2prc.storage.state import State

FORWARDS_LIMIT = 1000
CONNECTIONS_LIMIT = 2500
"""Of one forward at once; what comes on top of them is hung up on."""
_KEY = "forward:"

log = logging.getLogger(__name__)


class Forward(msgspec.Struct, frozen=True):
    """A forward as it is remembered. `lease` is "" for a port of the node itself.

    `local` is HOST:PORT or the path of a Unix socket; `service` a port or a name.
    """

    id: str
    node: NodeId
    lease: LeaseId | None
    service: str
    protocol: Protocol
    local: str
    created_at: float


@dataclass(slots=True)
class Running:
    """A forward now: `trouble` says why it does not listen, or what its last connection met."""

    forward: Forward
    traffic: Traffic = field(default_factory=Traffic)
    connections: int = 0
    trouble: str = ""
    close: Callable[[], Awaitable[None]] | None = None


class Forwards:
    """The forwards of this node."""

    def __init__(self, inside: Inside, state: State) -> None:
        self._inside = inside
        self._state = state
        self._running: dict[str, Running] = {}
        self._carrying: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Take up those of the last run; one that cannot listen now says so in its row."""
        for key, content in self._state.values().items():
            if not key.startswith(_KEY):
                continue
            running = Running(msgspec.json.decode(content, type=Forward))
            self._running[running.forward.id] = running
            try:
                await self._listen(running, fallback=False)
            except P2prcError as error:
                running.trouble = error.message

    async def stop(self) -> None:
        """Hang up; they come back with the next start."""
        for running in self._running.values():
            if running.close is not None:
                await running.close()
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    async def add(
        self, node: NodeId, lease: LeaseId | None, service: str, protocol: Protocol, local: str
    ) -> Running:
        """Listen here for a remote port. `local` "" is the same port, or any if that is taken.

        Raises PortTaken, MachineCannot, InvalidInput, PeerBusy.
        """
        if len(self._running) >= FORWARDS_LIMIT:
            raise PeerBusy(f"there are {FORWARDS_LIMIT} forwards already")
        wanted = local or f"{THIS_MACHINE}:{service if service.isdecimal() else 0}"
        identity = secrets.token_hex(5)
        forward = Forward(identity, node, lease, service, protocol, wanted, time.time())
        running = Running(forward)
        await self._listen(running, fallback=not local)
        self._running[identity] = running
        self._state.set_values({_KEY + identity: msgspec.json.encode(running.forward)})
        return running

    async def end(self, identity: str) -> Running:
        """End a forward, by its id or the beginning of one. Raises NotFound."""
        found = [each for each in self._running if each.startswith(identity)]
        if len(found) != 1 or not identity:
            raise NotFound(f"no forward has the id `{identity[:40]}`", hint="see `p2prc tunnels`")
        running = self._running.pop(found[0])
        self._state.set_values({_KEY + found[0]: None})
        if running.close is not None:
            await running.close()
        return running

    def all(self) -> list[Running]:
        """Return every forward, the oldest first."""
        return sorted(self._running.values(), key=lambda each: each.forward.created_at)

    # -- listening

    async def _listen(self, running: Running, *, fallback: bool) -> None:
        try:
            await self._bind(running)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and fallback:
                host = running.forward.local.rpartition(":")[0]
                running.forward = msgspec.structs.replace(running.forward, local=f"{host}:0")
                await self._listen(running, fallback=False)
                return
            local = running.forward.local
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(
                    f"`{local}` is in use here", hint="name another: `LOCAL:REMOTE`"
                ) from error
            reason = error.strerror or str(error)
            raise MachineCannot(f"cannot listen on `{local}`: {reason}") from error

    async def _bind(self, running: Running) -> None:
        forward = running.forward
        if "/" in forward.local:
            if forward.protocol == UDP:
                raise InvalidInput("a Unix socket carries no datagrams here")
            await self._bind_path(running, Path(forward.local))
            return
        host, _, port = forward.local.rpartition(":")
        bind = self._bind_udp if forward.protocol == UDP else self._bind_tcp
        bound = await bind(running, host.strip("[]"), int(port))
        running.forward = msgspec.structs.replace(forward, local=f"{host}:{bound}")

    async def _bind_tcp(self, running: Running, host: str, port: int) -> int:
        server = await asyncio.start_server(self._on_client(running), host, port)
        self._close_with(running, server)
        found: int = server.sockets[0].getsockname()[1]
        return found

    async def _bind_path(self, running: Running, path: Path) -> None:
        _make_way(path)
        server = await asyncio.start_unix_server(self._on_client(running), path)
        self._close_with(running, server, path)

    def _close_with(
        self, running: Running, server: asyncio.Server, path: Path | None = None
    ) -> None:
        async def close() -> None:
            server.close()
            if path is not None:
                _remove(path)

        running.close = close

    async def _bind_udp(self, running: Running, host: str, port: int) -> int:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Clients(self, running), local_addr=(host, port)
        )

        async def close() -> None:
            transport.close()

        running.close = close
        found: int = transport.get_extra_info("sockname")[1]
        return found

    # -- carrying

    def _on_client(
        self, running: Running
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.carry(running, SocketBytes(reader, writer), idle_s=IDLE_S)

        return on_client

    def carry(
        self, running: Running, client: Link, *, idle_s: float = UDP_IDLE_S
    ) -> asyncio.Task[None]:
        """Connect a client with the far end, in the background."""
        task = asyncio.create_task(
            self._carry(running, client, idle_s), name=f"forward {running.forward.id}"
        )
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        return task

    async def _carry(self, running: Running, client: Link, idle_s: float) -> None:
        try:
            if running.connections >= CONNECTIONS_LIMIT:
                running.trouble = f"{CONNECTIONS_LIMIT} connections at once: more are refused"
                return
            async with self._far_end(running) as far:
                own = Traffic()
                counted = CountedLink(far, own, running.traffic)
                await until_idle(splice(client, counted), own, idle_s=idle_s)
        except P2prcError as error:
            _note_answer(running, error)
        finally:
            await client.close()

    @asynccontextmanager
    async def _far_end(self, running: Running) -> AsyncIterator[Link]:
        forward = running.forward
        running.connections += 1
        try:
            if forward.lease is None:
                # What the client says first travels with the request: a round trip less.
                far: Link = await self._inside.begin_service(
                    forward.node,
                    forward.service,
                    forward.protocol,
                    lambda error: _note_answer(running, error),
                )
            else:
                far = await self._inside.dial(forward.node, forward.lease, int(forward.service))
                running.trouble = ""
            try:
                yield far
            finally:
                await far.close()
        finally:
            running.connections -= 1


class _Clients(asyncio.DatagramProtocol):
    """A local UDP port: each client has a stream of its own."""

    def __init__(self, forwards: Forwards, running: Running) -> None:
        self._forwards = forwards
        self._running = running
        self._links: dict[tuple[str, int], QueueLink] = {}
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not every loop's transports are of asyncio's class.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self._transport is None:
            return
        link = self._links.get(addr)
        if link is None:
            link = self._links[addr] = QueueLink(self._transport, addr)
            task = self._forwards.carry(self._running, link)
            task.add_done_callback(lambda _: self._links.pop(addr, None))
        link.came(data)


def _note_answer(running: Running, error: P2prcError | None) -> None:
    running.trouble = "" if error is None else error.message
    if error is not None:
        log.info(
            "a forward did not connect",
            extra={"forward": running.forward.id, "reason": error.message},
        )


def _make_way(path: Path) -> None:
    """Remove what a listener that is gone left there. Raises PortTaken."""
    if path.is_socket() and not _is_answered(path):
        path.unlink()
    elif path.exists():
        raise PortTaken(f"`{path}` is there already")


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
        probe.settimeout(1)
        probe.connect(str(path))
        return True
    return False
