"""A TCP port brought from another node, beside `ssh -L` and frp, on this machine.

`python -m benchmarks.forwards`: the same service behind all of them, the same client in front, in
turns. frp's two programs are looked for in `BENCH_FRP` or `~/go/bin`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.containers.daemon import open_pair
from benchmarks.network import quiet_environment
from benchmarks.report import FIGURES, Figure, Record

ROUNDS = 3
BYTES = 400_000_000
REQUESTS_PER_S = 1000
REQUESTS_S = 3.0
REQUEST_CONNECTIONS = 16
CONNECTIONS_S = 3.0
AT_LEAST = 0.9
FRP_TOLD = (
    "frp is not there: `go install github.com/fatedier/frp/cmd/frps@v0.61.0 "
    "github.com/fatedier/frp/cmd/frpc@v0.61.0`"
)
_SSH_PORT, _FRP_PORT, _FRP_PUBLIC = 2296, 2295, 2294
_PIECE = bytes(256 * 1024)
_READY_S = 20.0
Address = tuple[str, int]


def measure(rounds: int) -> Record:
    """Let all carry the same, in turns."""
    missing: list[str] = []
    found: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p2prc-bench-")))
        port = stack.enter_context(serving())
        ways = {"p2prc": stack.enter_context(_ours(folder, port))}
        if shutil.which("/usr/sbin/sshd") and shutil.which("ssh"):
            ways["ssh -L"] = stack.enter_context(_ssh(folder, port))
        else:
            missing.append("sshd and ssh: `apt-get install openssh-server openssh-client`")
        if (programs := _frp_programs()) is not None:
            ways["frp"] = stack.enter_context(_frp(folder, port, *programs))
        else:
            missing.append(FRP_TOLD)
        for number in range(rounds + 1):
            for name, address in ways.items():
                taken = asyncio.run(_all_of(address))
                if number:  # The first shows that it works, and warms what there is to warm.
                    for what, value in taken.items():
                        found.setdefault(name, {}).setdefault(what, []).append(value)
    return Record("forwards", _figures(found), {"rounds": found}, missing)


def _figures(found: dict[str, dict[str, list[float]]]) -> list[Figure]:
    figures: list[Figure] = []
    units = {"one": "MB/s", "eight": "MB/s", "p50": "ms", "p99": "ms", "connections": "/s"}
    titles = {
        "one": "one connection",
        "eight": "eight connections",
        "p50": f"{REQUESTS_PER_S} requests a second, median",
        "p99": f"{REQUESTS_PER_S} requests a second, 99th of a hundred",
        "connections": "connections, one after another in eight rows",
    }
    for what, unit in units.items():
        middles = {name: statistics.median(each[what]) for name, each in found.items()}
        figures += [
            Figure(f"{titles[what]}: {name}", value, unit) for name, value in middles.items()
        ]
        rivals = [value for name, value in middles.items() if name != "p2prc"]
        if not rivals:
            continue
        if unit == "ms":
            ratio, word = min(rivals) / middles["p2prc"], "quickness"
        else:
            ratio, word = middles["p2prc"] / max(rivals), "rate"
        title = f"{titles[what]}, {word}: p2prc / the better of the others"
        figures.append(Figure(title, round(ratio, 3), "x", at_least=AT_LEAST))
    return figures


# -- what is asked of each


async def _all_of(address: Address) -> dict[str, float]:
    p50, p99 = await _requests(address)
    return {
        "one": await _bulk(address, 1),
        "eight": await _bulk(address, 8),
        "p50": p50,
        "p99": p99,
        "connections": await _connections(address),
    }


async def _bulk(address: Address, count: int) -> float:
    """Return the megabytes a second of so many connections together."""
    size = BYTES // count

    async def fetch() -> None:
        reader, writer = await asyncio.open_connection(*address, limit=1 << 20)
        writer.write(b"get %d\n" % size)
        left = size
        while left > 0:
            content = await reader.read(1 << 20)
            if not content:
                raise RuntimeError("a connection ended too soon")
            left -= len(content)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(fetch() for _ in range(count)))
    return size * count / 1e6 / (time.perf_counter() - began)


async def _requests(address: Address) -> tuple[float, float]:
    """Return the median and the 99th percentile in milliseconds, at a steady rate."""
    loop = asyncio.get_running_loop()
    taken: list[float] = []
    begins = loop.time() + 0.2
    count = int(REQUESTS_PER_S * REQUESTS_S)

    async def ask(first: int) -> None:
        reader, writer = await asyncio.open_connection(*address)
        for number in range(first, count, REQUEST_CONNECTIONS):
            due = begins + number / REQUESTS_PER_S
            await asyncio.sleep(max(0.0, due - loop.time()))
            writer.write(b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(13)
            # From when it was due: a request that had to wait for another counts its wait.
            taken.append(1000 * (loop.time() - due))
        writer.close()

    await asyncio.gather(*(ask(first) for first in range(REQUEST_CONNECTIONS)))
    taken.sort()
    return taken[len(taken) // 2], taken[len(taken) * 99 // 100]


async def _connections(address: Address) -> float:
    """Return how many connections a second come about, say something and end."""
    ends_at = time.perf_counter() + CONNECTIONS_S
    made = 0

    async def row() -> None:
        nonlocal made
        while time.perf_counter() < ends_at:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"get 1\n")
            if not await reader.read(1):
                raise RuntimeError("a connection was refused")
            writer.close()
            made += 1

    began = time.perf_counter()
    await asyncio.gather(*(row() for _ in range(8)))
    return made / (time.perf_counter() - began)


# -- the service, and the ways to it


async def _serve(port: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                if line.startswith(b"get "):
                    left = int(line[4:])
                    while left > 0:
                        writer.write(_PIECE[:left])
                        await writer.drain()
                        left -= len(_PIECE)
                elif line == b"\r\n":
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\nhello, world!")
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


@contextmanager
def serving() -> Iterator[int]:
    """Run the service until the block ends; the block has its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    words = [sys.executable, "-m", "benchmarks.forwards", "--serve", str(port)]
    with _program(words, ("127.0.0.1", port)):
        yield port


@contextmanager
def _ours(folder: Path, port: int) -> Iterator[Address]:
    with open_pair(folder) as (asker, lender):
        lender.p2prc("policy", "set", "forward.ports", str(port))
        host, _, local = asker.p2prc("forward", lender.name, f"0:{port}").strip().rpartition(":")
        yield host, int(local)


@contextmanager
def _ssh(folder: Path, port: int) -> Iterator[Address]:
    keys = folder / "sshd"
    keys.mkdir()
    for name in ("host", "own"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name)]
        subprocess.run(words, check=True)
    (keys / "settings").write_text(
        f"Port {_SSH_PORT}\nListenAddress 127.0.0.1\nHostKey {keys}/host\n"
        f"AuthorizedKeysFile {keys}/own.pub\nPermitRootLogin prohibit-password\n"
        "StrictModes no\nUsePAM no\nPidFile none\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    local = _free_port()
    options = [f"Port={_SSH_PORT}", f"IdentityFile={keys}/own", "StrictHostKeyChecking=no"]
    options += ["UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ExitOnForwardFailure=yes"]
    words = ["ssh", "-N", "-F", "none", *(word for each in options for word in ("-o", each))]
    words += ["-L", f"127.0.0.1:{local}:127.0.0.1:{port}", "127.0.0.1"]
    server = ["/usr/sbin/sshd", "-D", "-f", str(keys / "settings")]
    with (
        _program(server, ("127.0.0.1", _SSH_PORT)),
        _program(words, ("127.0.0.1", local)),
    ):
        yield "127.0.0.1", local


@contextmanager
def _frp(folder: Path, port: int, server: str, client: str) -> Iterator[Address]:
    (folder / "frps.toml").write_text(f'bindAddr = "127.0.0.1"\nbindPort = {_FRP_PORT}\n')
    (folder / "frpc.toml").write_text(
        f'serverAddr = "127.0.0.1"\nserverPort = {_FRP_PORT}\n\n[[proxies]]\nname = "bench"\n'
        f'type = "tcp"\nlocalIP = "127.0.0.1"\nlocalPort = {port}\nremotePort = {_FRP_PUBLIC}\n'
    )
    with (
        _program([server, "-c", str(folder / "frps.toml")], ("127.0.0.1", _FRP_PORT)),
        _program([client, "-c", str(folder / "frpc.toml")], ("127.0.0.1", _FRP_PUBLIC)),
    ):
        yield "127.0.0.1", _FRP_PUBLIC


def _frp_programs() -> tuple[str, str] | None:
    folder = Path(os.environ.get("BENCH_FRP") or Path.home() / "go" / "bin")
    server, client = folder / "frps", folder / "frpc"
    return (str(server), str(client)) if server.exists() and client.exists() else None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def _program(words: Sequence[str], listens: Address) -> Iterator[None]:
    """Run a program until the block ends; it listens when the block begins."""
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, env=quiet_environment(), **quiet) as process:
        try:
            _wait(lambda: _listens(listens), words[0])
            yield
        finally:
            process.terminate()


def _listens(address: Address) -> bool:
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return False
    return True


def _wait(is_so: Callable[[], bool], what: str) -> None:
    ends_at = time.monotonic() + _READY_S
    while not is_so():
        if time.monotonic() > ends_at:
            raise RuntimeError(f"{what} does not listen")
        time.sleep(0.05)


def main() -> None:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forwards", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--to", type=Path, default=FIGURES, help="the folder for the record")
    given = parser.parse_args()
    if given.serve:
        asyncio.run(_serve(given.serve))
        return
    record = measure(max(1, given.rounds))
    for figure in record.figures:
        print(figure, flush=True)
    print(f"kept in {record.keep(given.to)}")


if __name__ == "__main__":
    main()
