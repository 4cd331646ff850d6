"""The only way out of a sandbox's network: a port inside, joined to a Unix socket of the host.

The socket at the port was made in the sandbox's network and is served from out here: nothing of
ours runs inside, and nothing that the tenant does in there changes where the bytes go.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

PROXY_PORT = 3128
PROXY_VARIABLES = {
    **dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"),
        f"http://127.0.0.1:{PROXY_PORT}",
    ),
    **dict.fromkeys(("no_proxy", "NO_PROXY"), "localhost,127.0.0.1,::1"),
}
_CHUNK_BYTES = 64 * 1024
_CONNECTIONS_LIMIT = 256


class WayOut:
    """Joins whoever connects inside with the Unix socket at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._server: asyncio.Task[None] | None = None
        self._listener: socket.socket | None = None
        self._links: set[asyncio.Task[None]] = set()

    def serve(self, listener: socket.socket) -> None:
        """Serve at this socket from now on, in place of the one before."""
        self._stop_listening()
        listener.setblocking(False)
        self._listener = listener
        self._server = asyncio.get_running_loop().create_task(
            self._accept(listener), name="way out of a sandbox"
        )

    async def close(self) -> None:
        """End all connections. Twice is safe."""
        server = self._server
        self._stop_listening()
        ending = [task for task in (server, *self._links) if task is not None]
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending)

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.cancel()
            self._server = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            taken, _ = await loop.sock_accept(listener)
            if len(self._links) >= _CONNECTIONS_LIMIT:
                taken.close()
                continue
            link = loop.create_task(self._join(taken), name="connection out of a sandbox")
            self._links.add(link)
            link.add_done_callback(self._links.discard)

    async def _join(self, inside: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with inside, socket.socket(socket.AF_UNIX) as outside:
            outside.setblocking(False)
            with contextlib.suppress(OSError), _short_name(self._path) as name:
                await loop.sock_connect(outside, name)
            with contextlib.suppress(OSError):
                await asyncio.gather(_pour(inside, outside), _pour(outside, inside))


@contextlib.contextmanager
def _short_name(path: Path) -> Iterator[str]:
    """Name a socket by its folder's descriptor: a name has room for 107 bytes only."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


async def _pour(source: socket.socket, sink: socket.socket) -> None:
    """Copy until the end of the source; then say so to the sink."""
    loop = asyncio.get_running_loop()
    while content := await loop.sock_recv(source, _CHUNK_BYTES):
        await loop.sock_sendall(sink, content)
    sink.shutdown(socket.SHUT_WR)
