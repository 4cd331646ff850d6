"""Our line to the first process of a container: who is to be killed, and word that it is done."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable

from p2prc.errors import LeaseEnded, MachineCannot
from p2prc.runtime.docker.engine import EngineStream

_READY = b"ready"
_ANSWER_S = 5.0
_LINE_LIMIT_BYTES = 128


class Control:
    """Requests on the first process's input, answers on its output.

    `is_over` is told once when the stream ends: the container died, or the engine did.
    """

    def __init__(self, stream: EngineStream, over: Callable[[], None]) -> None:
        self._stream = stream
        self._over = over
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[None]] = {}
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.get_running_loop().create_task(self._read(), name="control")

    async def ready(self, limit_s: float) -> None:
        """Wait for the first process to serve. Raises MachineCannot."""
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.shield(self._ready)
        except TimeoutError as error:
            raise MachineCannot("the container does not get ready") from error

    async def kill_all(self) -> None:
        """Kill every other process inside; returns when they are gone. Raises MachineCannot."""
        await self._ask("a")

    async def kill_group(self, pid: int) -> None:
        """Kill one process group, by its number inside."""
        await self._ask(f"g {pid}")

    async def answer(self) -> None:
        """Do nothing inside but answer."""
        await self._ask("g 0")

    async def close(self) -> None:
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading
        await self._stream.close()
        self._forget()

    async def _ask(self, request: str) -> None:
        number = next(self._numbers)
        done = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._stream.write(f"{request} {number}\n".encode())
                await done
        except TimeoutError as error:
            raise MachineCannot("what runs in the container does not die") from error
        finally:
            self._asked.pop(number, None)

    async def _read(self) -> None:
        rest = b""
        while (said := await self._stream.read()) is not None:
            *lines, rest = (rest + said[1]).split(b"\n")
            rest = rest[-_LINE_LIMIT_BYTES:]
            for line in lines:
                self._hear(line)
        self._forget()
        self._over()

    def _hear(self, line: bytes) -> None:
        if line == _READY and not self._ready.done():
            self._ready.set_result(None)
        elif line.isdigit() and len(line) < 20:
            done = self._asked.get(int(line))
            if done is not None and not done.done():
                done.set_result(None)

    def _forget(self) -> None:
        if not self._ready.done():
            self._ready.set_exception(MachineCannot("the container ended at once"))
            self._ready.exception()
        for done in self._asked.values():
            if not done.done():
                done.set_exception(LeaseEnded())
