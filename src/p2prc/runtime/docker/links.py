"""Reach a port inside a container without the right to enter its network: by our own program."""

from __future__ import annotations

import asyncio
from collections import deque

from p2prc.errors import PortClosed
from p2prc.runtime.docker.config import FIRST
from p2prc.runtime.docker.engine import Engine, EngineStream

_OPENING_S = 10.0
_OPENED = b"+"


class ExecLink:
    """A connection that a program of ours inside joins to its input and output."""

    def __init__(self, stream: EngineStream, first: bytes) -> None:
        self._stream = stream
        self._first = deque([first] if first else [])

    async def read(self) -> bytes:
        if self._first:
            return self._first.popleft()
        while (said := await self._stream.read()) is not None:
            if said[0] == 1 and said[1]:
                return said[1]
        return b""

    async def write(self, content: bytes) -> None:
        await self._stream.write(content)

    async def end_writing(self) -> None:
        self._stream.end_input()

    async def close(self) -> None:
        await self._stream.close()


async def dial_by_exec(engine: Engine, container: str, port: int) -> ExecLink:
    """Connect to a port of the loopback inside. Raises PortClosed, MachineCannot."""
    if not 0 < port < 1 << 16:
        raise PortClosed(f"{port} is no port")
    command = await engine.exec(
        container,
        [FIRST, "dial", str(port)],
        variables={},
        folder="/",
        takes_input=True,
        is_terminal=False,
    )
    stream = await command.start()
    try:
        async with asyncio.timeout(_OPENING_S):
            said = await stream.read()
    except TimeoutError:
        said = None
    if said is None or said[0] != 1 or not said[1].startswith(_OPENED):
        await stream.close()
        raise PortClosed(f"nothing listens at port {port} there")
    return ExecLink(stream, said[1][len(_OPENED) :])
