"""One running command, as the daemon sees it: two pipes to read and an end to wait for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable

from p2prc.runtime.port import Exit, OutputChunk, Terminal

_CHUNK_BYTES = 64 * 1024


class ProcessExecution:
    """A command in a sandbox. Its output stays in the pipes until it is asked for."""

    def __init__(self, pipes: dict[int, int], cancel: Callable[[], None]) -> None:
        self._pipes = pipes
        self._cancel = cancel
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    async def output(self) -> AsyncIterator[OutputChunk]:
        """Yield what is printed, until both streams are closed; ends early after `discard`."""
        while self._pipes:
            is_quiet = True
            for channel, pipe in list(self._pipes.items()):
                try:
                    content = os.read(pipe, _CHUNK_BYTES)
                except BlockingIOError:
                    continue
                is_quiet = False
                if content:
                    yield OutputChunk(channel, content)
                else:
                    self._close(channel)
            if is_quiet:
                await self._something_to_read()

    async def write(self, content: bytes) -> None:
        """Drop it: the command has no input."""

    async def end_input(self) -> None:
        """Do nothing: the command has no input."""

    async def resize(self, terminal: Terminal) -> None:
        """Do nothing: the command has no terminal."""

    async def wait(self) -> Exit:
        return await asyncio.shield(self._exit)

    async def cancel(self) -> None:
        if not self._exit.done():
            self._cancel()

    def finish(self, result: Exit) -> None:
        """Tell who waits how it ended; the first word counts."""
        if not self._exit.done():
            self._exit.set_result(result)

    def discard(self) -> None:
        """Forget the output that nobody read."""
        for channel in list(self._pipes):
            self._close(channel)

    @property
    def is_over(self) -> bool:
        return self._exit.done()

    def _close(self, channel: int) -> None:
        pipe = self._pipes.pop(channel, None)
        if pipe is not None:
            asyncio.get_running_loop().remove_reader(pipe)
            os.close(pipe)

    async def _something_to_read(self) -> None:
        """Wait until a pipe has bytes or is closed; a lease's lifetime bounds the wait."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        watched = list(self._pipes.values())
        for pipe in watched:
            loop.add_reader(pipe, wake)
        try:
            await ready
        finally:
            for pipe in self._pipes.values():
                loop.remove_reader(pipe)
