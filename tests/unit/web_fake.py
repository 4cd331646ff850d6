"""A client's connection and services behind domains, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from p2prc.node.splicing import splice
from p2prc.web.exchange import HttpClient, NoSuchHost
from p2prc.web.heads import Origin
from p2prc.web.links import Bytes


class Pipe:
    """One end of a connection; `other` is the far one."""

    def __init__(self) -> None:
        self.other: Pipe = self
        self._came: asyncio.Queue[bytes | OSError] = asyncio.Queue()
        self._is_over = False
        self.is_closed = False

    async def read(self) -> bytes:
        if self._is_over:
            return b""
        content = await self._came.get()
        if isinstance(content, OSError):
            raise content
        self._is_over = not content
        return content

    async def write(self, content: bytes) -> None:
        if self.other.is_closed:
            raise ConnectionResetError
        if content:
            self.other._came.put_nowait(content)

    async def end_writing(self) -> None:
        self.other._came.put_nowait(b"")

    async def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.other._came.put_nowait(b"")

    def break_off(self) -> None:
        """Be reset."""
        self.is_closed = True
        self.other._came.put_nowait(ConnectionResetError())

    async def all(self) -> bytes:
        """Return everything up to the end."""
        found = b""
        with suppress(OSError):
            while content := await self.read():
                found += content
        return found

    async def until(self, mark: bytes) -> bytes:
        """Return what comes up to a mark."""
        found = b""
        while mark not in found:
            content = await self.read()
            assert content, found
            found += content
        return found


def pair() -> tuple[Pipe, Pipe]:
    """Return both ends of a connection."""
    one, other = Pipe(), Pipe()
    one.other, other.other = other, one
    return one, other


class Web:
    """A client's connection that is served; services are the test's, by host."""

    def __init__(self, *hosts: str, origin: Origin | None = None) -> None:
        self.hosts = hosts
        self.client, near = pair()
        self._near = near
        self.opened: asyncio.Queue[tuple[str, Pipe]] = asyncio.Queue()
        self.http = HttpClient(
            near,
            origin or Origin("192.0.2.7", "http", 80),
            open_service=self._open,
            join=self._join,
        )

    async def _join(self, one: Bytes, other: Bytes) -> None:
        await splice(one, other)

    @asynccontextmanager
    async def _open(self, host: str) -> AsyncIterator[Bytes]:
        if host not in self.hosts:
            raise NoSuchHost
        here, there = pair()
        self.opened.put_nowait((host, there))
        try:
            yield here
        finally:
            await here.close()

    async def serve(self) -> None:
        """Serve until it ends, and close."""
        try:
            await self.http.serve()
        finally:
            await self._near.close()
