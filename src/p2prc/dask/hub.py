"""The switch of a cluster, where its scheduler is: who may reach whom, and by which socket.

Workers have no network. Each is reached by a forward of the node to one port of its container, and
says on its command's stream whom it wants to reach: that stream is who it is, so there is nothing
to steal. What it may reach is the scheduler and the cluster's other workers.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from p2prc.dask.sent import p2prc_dask_comm as comm

SCHEDULER = "scheduler"
DIALS_LIMIT = 2000
"""Connections between workers, and being made, of one worker at once."""
_PIECE_BYTES = 1 << 20


@dataclass(slots=True)
class Member:
    """A worker: `path` is the socket here that leads to its port."""

    name: str
    path: str
    refuse: Callable[[str, str], None]
    dials: int = 0


class Hub:
    """The members of one cluster."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        self.name = SCHEDULER
        self.listeners: dict[str, Callable[[socket.socket, str], Awaitable[None]]] = {}
        self.refusals = 0
        self._members: dict[str, Member] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, member: Member) -> None:
        """Let a worker in."""
        self._members[member.name] = member

    def remove(self, name: str) -> None:
        """Let a worker go: nobody reaches it any more."""
        self._members.pop(name, None)

    async def dial(self, target: str) -> socket.socket:
        """Connect the scheduler, or the client, which both are in this process. Raises OSError."""
        if target == SCHEDULER:
            listener = self._listener()
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            theirs.setblocking(False)
            self._start(listener(theirs, "client"))
            return ours
        member = self._members.get(target)
        if member is None:
            raise ConnectionRefusedError(f"no worker is called `{target[:80]}`")
        return await _connect(member.path, comm.head("serve", SCHEDULER))

    def asked(self, source: str, number: str, target: str) -> None:
        """Do what a worker asks: connect it."""
        member = self._members.get(source)
        if member is None:
            return
        reason = self._refusal(member, target)
        if reason:
            self.refusals += 1
            member.refuse(number, reason)
            return
        member.dials += 1
        self._start(self._connect_worker(member, number, target))

    def close(self) -> None:
        """Hang up everything."""
        for task in self._tasks:
            task.cancel()
        self._members.clear()

    def _refusal(self, member: Member, target: str) -> str:
        if target != SCHEDULER and target not in self._members:
            return f"`{target[:80]}` is neither the scheduler nor a worker of this cluster"
        if member.dials >= DIALS_LIMIT:
            return f"{DIALS_LIMIT} connections at once"
        return ""

    async def _connect_worker(self, member: Member, number: str, target: str) -> None:
        try:
            listener = self._listener() if target == SCHEDULER else None
            near = await _connect(member.path, comm.head("take", number))
            if listener is not None:
                self._start(listener(near, member.name))
                return
            try:
                far = await _connect(self._members[target].path, comm.head("serve", member.name))
            except BaseException:
                near.close()
                raise
            await _splice(near, far)
        except (OSError, KeyError) as error:
            member.refuse(number, f"not reached: {error}")
        finally:
            member.dials -= 1

    def _listener(self) -> Callable[[socket.socket, str], Awaitable[None]]:
        found = self.listeners.get(SCHEDULER)
        if found is None:
            raise ConnectionRefusedError("the scheduler does not listen")
        return found

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()


async def _connect(path: str, head: bytes) -> socket.socket:
    found = socket.socket(socket.AF_UNIX)
    try:
        found.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(found, path)
        await loop.sock_sendall(found, head)
    except BaseException:
        found.close()
        raise
    return found


async def _splice(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until both sides have ended, or one breaks."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_pump(one, other))
            group.create_task(_pump(other, one))
    except* OSError:
        pass
    finally:
        one.close()
        other.close()


async def _pump(source: socket.socket, target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while piece := await loop.sock_recv(source, _PIECE_BYTES):
        await loop.sock_sendall(target, piece)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
