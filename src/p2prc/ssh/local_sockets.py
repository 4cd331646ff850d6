"""Unix sockets inside a sandbox, reached by a program inside that joins one to its own streams.

A path means something only where the sandbox's folders are, and only what the tenant may open may
be opened: so the one who opens is a command of the tenant's, never the node.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path

from p2prc.errors import PathInvalid, PortClosed
from p2prc.runtime.port import Execution, OutputChunk, Sandbox

_OPENING_S = 30.0
_OPENED = b"+"
_LONGEST_PATH_BYTES = 107
"""What the kernel takes."""
_NEEDS = "it needs python3 in the image"
_PROGRAM = 'command -v python3 >/dev/null 2>&1 || exit 127; exec python3 -IS -c "$1" "$2"'
_NO_PYTHON = 127


class LocalSocketLink:
    """A connection that a command inside joins to its input and output."""

    def __init__(
        self, execution: Execution, output: AsyncIterator[OutputChunk], first: bytes
    ) -> None:
        self._execution = execution
        self._output = output
        self._first = first

    async def read(self) -> bytes:
        if first := self._first:
            self._first = b""
            return first
        async for chunk in self._output:
            if chunk.channel == 1 and chunk.content:
                return chunk.content
        return b""

    async def write(self, content: bytes) -> None:
        await self._execution.write(content)

    async def end_writing(self) -> None:
        await self._execution.end_input()

    async def close(self) -> None:
        await self._execution.cancel()


async def dial_path(sandbox: Sandbox, path: str) -> LocalSocketLink:
    """Connect to a Unix socket inside; a relative path begins in the working folder.

    Raises PathInvalid, PortClosed when nobody listens there, and what `execute` raises.
    """
    if not path or "\0" in path or len(path.encode()) > _LONGEST_PATH_BYTES:
        raise PathInvalid("this is no path of a socket")
    argv = ["sh", "-c", _PROGRAM, "socket", _joiner(), path]
    execution = await sandbox.execute(argv, variables={}, takes_input=True)
    output = execution.output()
    said = b""
    try:
        async with asyncio.timeout(_OPENING_S):
            async for chunk in output:
                if chunk.channel == 1 and chunk.content:
                    said = chunk.content
                    break
            if said.startswith(_OPENED):
                return LocalSocketLink(execution, output, said[len(_OPENED) :])
            exited = await execution.wait()
    except TimeoutError:
        await execution.cancel()
        raise PortClosed("the socket did not open in time") from None
    except BaseException:
        await execution.cancel()
        raise
    why = _NEEDS if exited.status == _NO_PYTHON else "nobody listens at that socket there"
    raise PortClosed(why)


@cache
def _joiner() -> str:
    return (Path(__file__).parent / "socket_inside.py").read_text()
