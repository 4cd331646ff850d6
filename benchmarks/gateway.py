"""A gateway with many connections and many tunnels, and how soon a public port is of use.

`python -m benchmarks.gateway`: two daemons on this machine, one lends public ports to the other,
whose service answers what it is sent. About a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import socket
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.containers.daemon import open_pair
from benchmarks.forwards import serving
from benchmarks.idle import resident_bytes
from benchmarks.network import MeasuredNode
from benchmarks.report import FIGURES, Figure, Record
from p2prc.api.client import ControlClient
from p2prc.api.tunnel_schema import ExposeRequest

CONNECTIONS = 2000
TUNNELS = 1000
MAPPINGS = 7
USABLE_MS = 300.0
IDLE_MB = 100.0
_ANSWER_S = 60.0
_FILES_BESIDE = 200


def measure() -> Record:
    """Have one node lend to the other."""
    allow_files(CONNECTIONS + _FILES_BESIDE)
    with (
        tempfile.TemporaryDirectory(prefix="p2prc-bench-") as folder,
        serving() as port,
        open_pair(Path(folder)) as (owner, gateway),
    ):
        _lend(gateway)
        typed, asked = _usable_ms(owner, port)
        pids = owner.pid, gateway.pid
        public = _expose(owner, port)
        asyncio.run(_together(public, 8))
        idle = [resident_bytes(pid) for pid in pids]
        for _ in range(TUNNELS - 1):
            _expose(owner, port)
        before = [resident_bytes(pid) for pid in pids]
        lost, took_s, held = asyncio.run(_together(public, CONNECTIONS, pids))
        _wait_until_gone(owner, gateway)
    grown = [now - was for now, was in zip(before, idle, strict=True)]
    names = ("owner", "gateway")
    figures = [
        Figure("from the command line to the first answer", typed, "ms", at_most=USABLE_MS),
        Figure("from the request to the first answer", asked, "ms", at_most=USABLE_MS),
        Figure(f"{CONNECTIONS} connections at once, lost", lost, at_most=0),
        Figure("until all were answered", took_s, "s"),
        *(
            Figure(f"memory of the {name} for them", (now - was) / 1e6, "MB")
            for name, now, was in zip(names, held, before, strict=True)
        ),
        *(
            Figure(f"{TUNNELS} idle tunnels at the {name}", each / 1e6, "MB", at_most=IDLE_MB)
            for name, each in zip(names, grown, strict=True)
        ),
    ]
    return Record("gateway", figures, {"before": before, "held": held, "idle": idle})


def _lend(gateway: MeasuredNode) -> None:
    rules = {
        "listen": "127.0.0.1",
        "host": "127.0.0.1",
        "connections": str(CONNECTIONS),
        "per_peer.connections": str(CONNECTIONS),
        "per_peer.ports": str(TUNNELS + MAPPINGS),
        "to": "members",
    }
    for key, value in rules.items():
        gateway.p2prc("policy", "set", f"gateway.{key}", value)


def _expose(owner: MeasuredNode, port: int) -> tuple[str, int]:
    row = ControlClient(str(owner.home)).expose(ExposeRequest(str(port)))
    host, _, number = row.remote.rpartition(":")
    return host, int(number)


def _usable_ms(owner: MeasuredNode, port: int) -> tuple[float, float]:
    """Return the median milliseconds until a new public port answers: by command, and by API."""
    typed: list[float] = []
    asked: list[float] = []
    client = ControlClient(str(owner.home))
    for number in range(MAPPINGS + 1):
        began = time.perf_counter()
        address = owner.p2prc("expose", str(port), "--name", f"typed{number}").strip()
        host, _, public = address.rpartition(":")
        _ask(host, int(public))
        typed.append(1000 * (time.perf_counter() - began))
        owner.p2prc("unexpose", f"typed{number}")
        began = time.perf_counter()
        row = client.expose(ExposeRequest(str(port)))
        host, _, public = row.remote.rpartition(":")
        _ask(host, int(public))
        asked.append(1000 * (time.perf_counter() - began))
        client.end_tunnel(row.id)
    # The first loads what is loaded only once.
    return statistics.median(typed[1:]), statistics.median(asked[1:])


def _ask(host: str, port: int) -> None:
    with socket.create_connection((host, port), timeout=_ANSWER_S) as connection:
        connection.sendall(b"get 1\n")
        if not connection.recv(1):
            raise RuntimeError("a new public port answers nothing")


def _wait_until_gone(*nodes: MeasuredNode) -> None:
    ends_at = time.monotonic() + _ANSWER_S
    for node in nodes:
        client = ControlClient(str(node.home))
        while any(row.connections for row in client.tunnels()):
            if time.monotonic() > ends_at:
                raise RuntimeError("connections that were closed are still there")
            time.sleep(0.1)


async def _together(
    address: tuple[str, int], count: int, pids: tuple[int, ...] = ()
) -> tuple[int, float, list[int]]:
    """Hold so many connections; return how many were lost, the seconds, and the memory then.

    Each asks as soon as it is there, and once more when all are.
    """
    all_there = asyncio.Barrier(count + 1)
    lost = 0

    async def one() -> None:
        nonlocal lost
        writer: asyncio.StreamWriter | None = None
        is_whole = False
        try:
            async with asyncio.timeout(_ANSWER_S):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(b"get 100\n")
                is_whole = len(await reader.readexactly(100)) > 0
        except (OSError, EOFError, TimeoutError):
            lost += 1
        # Once when all have come, and once when the memory was looked at.
        await all_there.wait()
        await all_there.wait()
        if writer is None:
            return
        try:
            async with asyncio.timeout(_ANSWER_S):
                if is_whole:
                    writer.write(b"get 100\n")
                    await reader.readexactly(100)
        except (OSError, EOFError, TimeoutError):
            lost += 1
        finally:
            writer.close()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one())
        await all_there.wait()
        took_s = time.perf_counter() - began
        held = [resident_bytes(pid) for pid in pids]
        await all_there.wait()
    return lost, took_s, held


def allow_files(count: int) -> None:
    """Raise this process's limit of open files as far as needed. Raises ValueError beyond."""
    present, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if present != resource.RLIM_INFINITY and present < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, most))


def main() -> None:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--to", type=Path, default=FIGURES, help="the folder for the record")
    given = parser.parse_args()
    record = measure()
    for figure in record.figures:
        print(figure, flush=True)
    print(f"kept in {record.keep(given.to)}")


if __name__ == "__main__":
    main()
