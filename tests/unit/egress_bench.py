"""An internet for tests: names and public addresses that are served on this machine's loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from p2prc.egress.dialing import BUFFER_BYTES, Connection
from p2prc.egress.proxy import EgressProxy
from p2prc.protocol.egress import Address, EgressTerms, Network

PUBLIC = "93.184.216.34"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class LittleInternet:
    """`names` gives each lookup's answer in turn, the last one for ever; `ports` the servers."""

    names: dict[str, list[list[str]]] = field(default_factory=dict)
    ports: dict[tuple[str, int], int] = field(default_factory=dict)
    own: list[Network] = field(default_factory=list)
    looked_up: list[str] = field(default_factory=list)
    connected: list[tuple[str, int]] = field(default_factory=list)

    def own_networks(self) -> list[Network]:
        return self.own

    async def resolve(self, name: str) -> list[str]:
        self.looked_up.append(name)
        if name not in self.names:
            raise OSError("no such name")
        answers = self.names[name]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def connect(self, address: Address, port: int) -> Connection:
        self.connected.append((str(address), port))
        if (str(address), port) not in self.ports:
            raise ConnectionRefusedError
        here = self.ports[str(address), port]
        return await asyncio.open_connection("127.0.0.1", here, limit=BUFFER_BYTES)


@contextlib.asynccontextmanager
async def serving(internet: LittleInternet, serve: Serve, port: int = 80) -> AsyncIterator[None]:
    """Have `example.org` at a public address, with a server at the port."""

    tasks: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
            writer.close()
            await writer.wait_closed()
        except (OSError, EOFError):
            pass
        finally:
            writer.transport.abort()

    def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(one(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(taken, "127.0.0.1", 0)
    internet.names.setdefault("example.org", [[PUBLIC]])
    internet.ports[PUBLIC, port] = server.sockets[0].getsockname()[1]
    try:
        yield
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(set(tasks))
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def open_proxy(
    folder: Path, internet: LittleInternet, terms: EgressTerms | None = None
) -> AsyncIterator[EgressProxy]:
    proxy = EgressProxy(folder / "proxy", terms or EgressTerms(), internet)
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.close()


async def ask(proxy: EgressProxy, content: bytes) -> bytes:
    """Send bytes and return all that comes back."""
    reader, writer = await asyncio.open_unix_connection(proxy.path)
    with contextlib.suppress(OSError):
        writer.write(content)
        await writer.drain()
    async with asyncio.timeout(10):
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := await reader.read(65536):
                answer += piece
    writer.close()
    return answer
