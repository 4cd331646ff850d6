"""The main process of a worker's container.

It has no network. It dials by asking, on its output, for a connection to come in; its input says
what to start and what was refused. Each is a line of JSON. Connections come in at one local port.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import dask
import distributed
import p2prc_dask_comm as comm

DIAL_TIMEOUT_S = 30.0
LISTEN_BACKLOG = 512


class InsideSwitch:
    """The switch of one worker: everything goes by who asked for the container."""

    def __init__(self, say: Callable[[dict[str, Any]], None]) -> None:
        self.listeners: dict[str, Callable[[socket.socket, str], Awaitable[None]]] = {}
        self.name = ""
        self._say = say
        self._dials: dict[str, asyncio.Future[socket.socket]] = {}
        self._count = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def dial(self, target: str) -> socket.socket:
        """Return a connection. Raises OSError."""
        self._count += 1
        number = str(self._count)
        coming: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        self._dials[number] = coming
        self._say({"dial": [number, target]})
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                return await coming
        finally:
            self._dials.pop(number, None)

    def refused(self, number: str, reason: str) -> None:
        """Say to who dials that it will not be."""
        coming = self._dials.get(number)
        if coming is not None and not coming.done():
            coming.set_exception(ConnectionRefusedError(reason))

    async def serve(self, door: socket.socket) -> None:
        """Take what comes to the port, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            found, _ = await loop.sock_accept(door)
            found.setblocking(False)
            task = asyncio.create_task(self._accept(found))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _accept(self, found: socket.socket) -> None:
        content = b""
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                while len(content) < comm.HEAD_BYTES:
                    piece = await asyncio.get_running_loop().sock_recv(
                        found, comm.HEAD_BYTES - len(content)
                    )
                    if not piece:
                        break
                    content += piece
            word, name = comm.read_head(content)
        except (OSError, ValueError):
            found.close()
            return
        coming = self._dials.get(name)
        listener = self.listeners.get(self.name)
        if word == "take" and coming is not None and not coming.done():
            coming.set_result(found)
        elif word == "serve" and listener is not None:
            await listener(found, name)
        else:
            found.close()


async def main() -> None:
    """Run a worker until the input ends."""
    # What tasks print must not be taken for lines of ours.
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(line: dict[str, Any]) -> None:
        lines.write(json.dumps(line) + "\n")

    switch = InsideSwitch(say)
    door = socket.create_server(("127.0.0.1", 0), backlog=LISTEN_BACKLOG)
    door.setblocking(False)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    serving = asyncio.create_task(switch.serve(door))
    say(
        {
            "hello": {
                "python": list(sys.version_info[:2]),
                "distributed": distributed.__version__,
                "dask": dask.__version__,
                "port": door.getsockname()[1],
            }
        }
    )
    start = json.loads(await reader.readline())
    switch.name = start["name"]
    comm.switches[start["cluster"]] = switch
    dask.config.set(start["config"])
    running = asyncio.create_task(run_worker(start, say))
    # Its input ends when whoever asked for it is gone.
    while line := await reader.readline():
        said = json.loads(line)
        if "refuse" in said:
            switch.refused(*said["refuse"])
    running.cancel()
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def run_worker(start: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
    """Be a worker of the cluster until the scheduler closes it."""
    own = comm.address(start["name"], start["cluster"])
    try:
        worker = distributed.Worker(
            start["scheduler"],
            host=own,
            name=start["worker"],
            nthreads=start["nthreads"],
            memory_limit=start["memory_limit"],
            resources=start["resources"],
            dashboard=False,
            dashboard_address="127.0.0.1:0",
            local_directory=os.getcwd(),  # noqa: PTH109 - stands alone
        )
        async with worker:
            say({"ready": worker.address})
            await worker.finished()
    except Exception as error:  # noqa: BLE001 - whoever waits is told
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        say({"failed": f"{type(cause).__name__}: {cause}"})
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
