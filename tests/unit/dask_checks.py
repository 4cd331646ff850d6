"""Dask over the network: who reaches whom, what comes first, and what is refused. No node.

A program of its own, which `test_dask.py` runs: Dask keeps threads, sockets and loggers for good.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from p2prc.dask.cluster import named_nodes, pinned
from p2prc.dask.hub import SCHEDULER, Hub, Member
from p2prc.dask.sent import p2prc_dask_comm as comm
from p2prc.errors import InvalidInput


def check_nodes_are_named_or_every_member_is_trusted() -> None:
    assert named_nodes("grace", trust_any=False) == ("grace",)
    assert named_nodes(["grace", "linus"], trust_any=False) == ("grace", "linus")
    assert named_nodes("any", trust_any=True) == ("any",)
    for untrusted in ("any", (), ["grace", "any"]):
        with pytest.raises(InvalidInput, match="name nodes"):
            named_nodes(untrusted, trust_any=False)


def check_workers_get_the_versions_that_are_here() -> None:
    assert any(each.startswith("distributed==") for each in pinned())


def check_the_first_bytes_of_a_connection_are_whole_or_refused() -> None:
    assert comm.read_head(comm.head("take", "17")) == ("take", "17")
    assert len(comm.head("serve", "worker-0")) == comm.HEAD_BYTES
    full = comm.head("take", "17")
    for broken in (b"", full[:-1], full[1:] + b"\xff", b" " * comm.HEAD_BYTES):
        with pytest.raises(ValueError):
            comm.read_head(broken)
    with pytest.raises(ValueError, match="too long"):
        comm.head("serve", "w" * comm.HEAD_BYTES)


class _Doors:
    """Two workers' ports, as sockets here, and what they were refused."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.refused: list[tuple[str, str]] = []
        self.came: asyncio.Queue[tuple[str, str, asyncio.StreamReader, asyncio.StreamWriter]] = (
            asyncio.Queue()
        )
        self._hub = hub
        self._folder = folder
        self._servers: list[asyncio.Server] = []

    async def open(self, *names: str) -> None:
        for name in names:
            path = str(self._folder / name)
            server = await asyncio.start_unix_server(self._taker(name), path)
            self._servers.append(server)
            self._hub.add(
                Member(name, path, lambda number, why: self.refused.append((number, why)))
            )

    def close(self) -> None:
        for server in self._servers:
            server.close()

    def _taker(
        self, name: str
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            first = await reader.readexactly(comm.HEAD_BYTES)
            await self.came.put((name, first.decode().strip(), reader, writer))

        return take


async def check_workers_reach_their_scheduler_and_each_other_alone() -> None:
    hub = Hub("cafe")
    doors = _Doors(hub, Path())
    await doors.open("worker-0", "worker-1")
    scheduled: asyncio.Queue[str] = asyncio.Queue()

    async def schedule(found: socket.socket, peer: str) -> None:
        found.close()
        await scheduled.put(peer)

    hub.listeners[SCHEDULER] = schedule
    try:
        hub.asked("worker-0", "1", "worker-1")
        ends = {}
        for _ in range(2):
            name, first, reader, writer = await asyncio.wait_for(doors.came.get(), 60)
            ends[name] = (first, reader, writer)
        assert ends["worker-0"][0] == "take 1"
        assert ends["worker-1"][0] == "serve worker-0"
        ends["worker-0"][2].write(b"to a fellow")
        assert await asyncio.wait_for(ends["worker-1"][1].readexactly(11), 60) == b"to a fellow"

        hub.asked("worker-1", "2", SCHEDULER)
        assert await asyncio.wait_for(scheduled.get(), 60) == "worker-1"

        for number, stranger in enumerate(("client", "worker-9", "127.0.0.1", "")):
            hub.asked("worker-0", str(number), stranger)
        assert [number for number, _ in doors.refused] == ["0", "1", "2", "3"]
        assert hub.refusals == 4

        # Who is gone asks for nothing, and is not reached.
        hub.remove("worker-0")
        hub.asked("worker-0", "5", SCHEDULER)
        hub.asked("worker-1", "6", "worker-0")
        assert [number for number, _ in doors.refused] == ["0", "1", "2", "3", "6"]
        with pytest.raises(ConnectionRefusedError):
            await hub.dial("worker-0")
        for _, _, writer in ends.values():
            writer.close()
    finally:
        hub.close()
        doors.close()


async def check_a_comm_carries_what_dask_sends() -> None:
    hub = Hub("beef")
    comm.switches["beef"] = hub
    got: asyncio.Queue[object] = asyncio.Queue()

    async def handle(found: comm.PeerComm) -> None:
        got.put_nowait(await found.read())
        await found.write({"op": "answer"})
        await found.close()

    address = comm.address(SCHEDULER, "beef")
    from distributed.comm import connect, listen  # noqa: PLC0415

    try:
        async with listen(address, handle):
            ours = await connect(address)
            await ours.write({"op": "ask", "x": b"y" * 300_000})
            assert await asyncio.wait_for(ours.read(), 60) == {"op": "answer"}
            assert (await got.get()) == {"op": "ask", "x": b"y" * 300_000}
            await ours.close()
        with pytest.raises(OSError):
            await connect(address, timeout=0.1)
    finally:
        comm.switches.pop("beef")
        hub.close()
    with pytest.raises(OSError):
        await connect(address, timeout=0.1)


if __name__ == "__main__":
    check_nodes_are_named_or_every_member_is_trusted()
    check_workers_get_the_versions_that_are_here()
    check_the_first_bytes_of_a_connection_are_whole_or_refused()
    asyncio.run(check_workers_reach_their_scheduler_and_each_other_alone())
    asyncio.run(check_a_comm_carries_what_dask_sends())
    print("all held")
