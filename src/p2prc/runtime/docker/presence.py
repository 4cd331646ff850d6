"""Find a container engine without loading anything for it: a socket, and who answers there."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

ANSWER_S = 2.0
_PING = b"GET /_ping HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n"
_ANSWER_BYTES = 4096
_LIST = (
    b"GET /containers/json?all=true&filters=%7B%22label%22%3A%5B%22p2prc.home%22%5D%7D HTTP/1.0\r\n"
    b"Host: engine\r\n\r\n"
)
_LIST_BYTES = 4 << 20
_CONTAINER = re.compile(r"[0-9a-f]{12,64}")
_SHORT_ID = 12


class _Listed(msgspec.Struct):
    """One container, as the engine lists it."""

    identity: str = msgspec.field(name="Id")
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)


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


async def strays(sockets: tuple[Path, ...]) -> tuple[str, ...]:
    """Return the containers of nodes whose home folder is no longer there; nobody ends those.

    Without loading anything for it, as `find_engine`; nothing where no engine answers in time.
    """
    socket = await find_engine(sockets)
    if socket is None:
        return ()
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(os.fspath(socket))
            try:
                writer.write(_LIST)
                answer = bytearray()
                while len(answer) < _LIST_BYTES and (more := await reader.read(1 << 16)):
                    answer += more
            finally:
                writer.close()
        listed = msgspec.json.decode(answer.partition(b"\r\n\r\n")[2], type=list[_Listed])
    except (OSError, TimeoutError, msgspec.MsgspecError):
        return ()
    found = [each.identity for each in listed if _is_stray(each.labels or {})]
    return tuple(each[:_SHORT_ID] for each in found if _CONTAINER.fullmatch(each))


def _is_stray(labels: Mapping[str, str]) -> bool:
    folder = Path(labels.get("p2prc.folder", ""))
    if not folder.is_absolute():
        return False
    try:
        # HOME/leases/LEASE
        folder.parent.parent.stat()
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return False
