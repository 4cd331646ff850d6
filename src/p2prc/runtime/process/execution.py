"""One running command, as the daemon sees it: two pipes to read and an end to wait for."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
from collections.abc import AsyncIterator, Callable

from p2prc.runtime.port import Exit, OutputChunk, Terminal

_CHUNK_BYTES = 256 * 1024
_END_OF_INPUT = b"\x04"


class ProcessExecution:
    """A command in a sandbox. Its output stays in the pipes until it is asked for."""

    def __init__(
        self,
        pipes: dict[int, int],
        cancel: Callable[[], None],
        *,
        source: int = -1,
        is_terminal: bool = False,
        last_words_s: float | None = None,
    ) -> None:
        self._pipes = pipes
        self._source = source
        self._is_terminal = is_terminal
        self._last_words_s = last_words_s
        self._ready: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._cancel = cancel
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    async def output(self) -> AsyncIterator[OutputChunk]:
        """Yield what is printed, until both streams are closed; ends early after `discard`.

        In sessions it also ends when the command has, and nothing more comes for a while.
        """
        while self._pipes:
            is_quiet = True
            for channel, pipe in list(self._pipes.items()):
                try:
                    content = os.read(pipe, _CHUNK_BYTES)
                except BlockingIOError:
                    continue
                except OSError:
                    # A terminal that nobody holds any more.
                    content = b""
                is_quiet = False
                if content:
                    yield OutputChunk(channel, content)
                else:
                    self._close(channel)
            if is_quiet and not await self._something_to_read():
                self.discard()

    async def write(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest and self._source >= 0:
            try:
                rest = rest[os.write(self._source, rest) :]
            except BlockingIOError:
                await self._room_for_more()
            except OSError:
                self._close_input()

    async def end_input(self) -> None:
        if self._is_terminal:
            await self.write(_END_OF_INPUT)
        else:
            self._close_input()

    async def resize(self, terminal: Terminal) -> None:
        if self._is_terminal and self._source >= 0:
            set_size(self._source, terminal)

    async def wait(self) -> Exit:
        return await asyncio.shield(self._exit)

    async def cancel(self) -> None:
        if not self._exit.done():
            self._cancel()

    def finish(self, result: Exit) -> None:
        """Tell who waits how it ended; the first word counts."""
        self._close_input()
        if not self._exit.done():
            self._exit.set_result(result)
        if self._last_words_s is not None and self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    def discard(self) -> None:
        """Forget the output that nobody read."""
        self._close_input()
        for channel in list(self._pipes):
            self._close(channel)

    @property
    def is_over(self) -> bool:
        return self._exit.done()

    def _close_input(self) -> None:
        if self._source >= 0:
            asyncio.get_running_loop().remove_writer(self._source)
            os.close(self._source)
            self._source = -1
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def _room_for_more(self) -> None:
        """Wait until the command reads, or is gone; a lease's lifetime bounds the wait."""
        loop = asyncio.get_running_loop()
        room = self._room = loop.create_future()
        loop.add_writer(self._source, lambda: None if room.done() else room.set_result(None))
        try:
            await room
        finally:
            if self._source >= 0:
                loop.remove_writer(self._source)

    def _close(self, channel: int) -> None:
        pipe = self._pipes.pop(channel, None)
        if pipe is not None:
            asyncio.get_running_loop().remove_reader(pipe)
            os.close(pipe)

    async def _something_to_read(self) -> bool:
        """Wait until a pipe has bytes or is closed, or the command has ended.

        A lease's lifetime bounds the wait. Says no once nobody is expected to write any more.
        """
        loop = asyncio.get_running_loop()
        ready = self._ready = loop.create_future()
        is_over = self._exit.done() and self._last_words_s is not None

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        watched = list(self._pipes.values())
        for pipe in watched:
            loop.add_reader(pipe, wake)
        try:
            async with asyncio.timeout(self._last_words_s if is_over else None):
                await ready
        except TimeoutError:
            return False
        finally:
            for pipe in self._pipes.values():
                loop.remove_reader(pipe)
        return True


def set_size(terminal: int, size: Terminal) -> None:
    """Tell a terminal its size; whoever runs on it is told by a signal."""
    packed = struct.pack("HHHH", min(size.rows, 0xFFFF), min(size.columns, 0xFFFF), 0, 0)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, packed)
