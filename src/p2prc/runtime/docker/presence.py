"""Find a container engine without loading anything for it: a socket, and who answers there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

ANSWER_S = 2.0
_PING = b"GET /_ping HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n"
_ANSWER_BYTES = 4096


def candidates(environment: Mapping[str, str], home: Path) -> tuple[Path, ...]:
    """Return where engines of this machine listen, rootful Docker first, Podman last."""
    named = environment.get("DOCKER_HOST", "")
    if named.startswith("unix://"):
        return (Path(named.removeprefix("unix://")),)
    found = [Path("/var/run/docker.sock")]
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        found += [Path(runtime, "docker.sock"), Path(runtime, "podman/podman.sock")]
    found += [home / ".docker/run/docker.sock", Path("/run/podman/podman.sock")]
    return tuple(found)


async def find_engine(sockets: tuple[Path, ...]) -> Path | None:
    """Return the socket of the first engine that answers within two seconds."""
    for socket in sockets:
        if socket.is_socket() and await _answers(socket):
            return socket
    return None


async def _answers(socket: Path) -> bool:
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(os.fspath(socket))
            try:
                writer.write(_PING)
                answer = await reader.read(_ANSWER_BYTES)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return b" 200 " in answer.split(b"\r\n", 1)[0]
