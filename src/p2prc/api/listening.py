"""The API's server on its Unix socket: opened, ready and closed by one block."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from p2prc.api.address import short_address
from p2prc.api.duplex import HAS_HUNG_UP
from p2prc.errors import HomeBusy, HomeUnusable, P2prcError

_CLOSE_GRACE_S = 1
_START_TIMEOUT_S = 10.0
_ONE_WAY = getattr(select, "POLLRDHUP", 0)


@asynccontextmanager
async def open_server(app: Starlette, path: str) -> AsyncIterator[None]:
    """Answer requests inside the block. Leaving it cancels what is still being answered.

    Raises `HomeBusy` when another node answers on the socket, `HomeUnusable` when it cannot be
    made. A socket that nobody listens on any more is replaced.
    """
    listener = listen_on(path)
    try:
        async with serving(app, listener):
            yield
    finally:
        close_listener(listener, path)


@asynccontextmanager
async def serving(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Answer what comes to the socket inside the block."""
    server = _QuietServer(app)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.serve_on(listener), name="control API")
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await server.ready.wait()
            yield
        finally:
            server.stop.set()
            await asyncio.wait({task}, timeout=_CLOSE_GRACE_S + 2)
            task.cancel()


async def serve(app: Starlette, path: str) -> None:
    """Answer requests until cancelled."""
    async with open_server(app, path):
        await asyncio.get_running_loop().create_future()


class _Http(H11Protocol):
    """HTTP/1.1 that tells the app how to see a caller hang up whose request waits unread."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        self.app_state = {**self.app_state, HAS_HUNG_UP: lambda: _has_hung_up(connection)}


def _has_hung_up(connection: socket.socket) -> bool:
    """Say whether the other end is closed, without reading what it sent before."""
    if connection.fileno() < 0:
        return True
    poll = select.poll()
    # A Unix socket tells it unasked; of TCP one asks, and no client ends one way alone.
    is_local = connection.family == socket.AF_UNIX
    poll.register(connection.fileno(), 0 if is_local else _ONE_WAY)
    return any(found & (select.POLLHUP | select.POLLERR | _ONE_WAY) for _, found in poll.poll(0))


class _QuietServer(uvicorn.Server):
    """uvicorn without its ten wake-ups a second, its signal handlers and its log.

    The tick only refreshes a date header and polls a flag: an event does the second, and nobody
    misses the first. Signals belong to the daemon.
    """

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_Http,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                date_header=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_CLOSE_GRACE_S,
            )
        )
        self.ready = asyncio.Event()
        self.stop = asyncio.Event()

    async def serve_on(self, listener: socket.socket) -> None:
        await self._serve([listener])

    async def main_loop(self) -> None:
        self.ready.set()
        await self.stop.wait()


def listen_on(path: str) -> socket.socket:
    """Listen on a Unix socket that only this user may reach. Raises HomeBusy, HomeUnusable."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_address(path) as address:
            _remove_stale(path, address)
            # The mask, not a later chmod: there must be no moment at which others may connect.
            mask = os.umask(0o177)
            try:
                listener.bind(address)
            finally:
                os.umask(mask)
        listener.listen(128)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise HomeUnusable(f"cannot listen on {path}: {error.strerror}") from error
    except P2prcError:
        listener.close()
        raise
    return listener


def _remove_stale(path: str, address: str) -> None:
    if not Path(path).exists():
        return
    if not stat.S_ISSOCK(Path(path).stat().st_mode):
        raise HomeUnusable(f"{path} is in the way and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
    raise HomeBusy(f"another node answers on {path}")


def close_listener(listener: socket.socket, path: str) -> None:
    """Listen no more, and take the socket away."""
    listener.close()
    Path(path).unlink(missing_ok=True)
