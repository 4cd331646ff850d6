"""One running command in a container, as the daemon sees it.

Theory of operation. A pump reads the engine's stream into a small buffer and stands still while
that is full, which holds the command back. Once the command has ended, the pump reads on without
a bound, for the engine throws away what is not read two seconds later; by then nobody writes any
more, so it is little. The end is seen by the process itself where it is on this machine (a
pidfd), else by asking the engine now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from p2prc.errors import LeaseEnded, MachineCannot
from p2prc.runtime.docker import handles
from p2prc.runtime.docker.engine import EngineExec, EngineStream, Facts
from p2prc.runtime.port import Exit, OutputChunk, Terminal

_ROOM_BYTES = 256 * 1024
_FIRST_LOOK_S = 0.004
_LONGEST_LOOK_S = 0.5
_LAST_WORDS_S = 5.0
_END_OF_INPUT = b"\x04"
_COULD_NOT_START = (126, 127)

Verdict = Callable[[int], Awaitable[Exit]]
"""From an exit status to what is told of a command that nobody here killed."""


class DockerExecution:
    """A command in a container. `kill` ends it, `settle` what it left behind."""

    def __init__(
        self,
        command: EngineExec,
        stream: EngineStream,
        *,
        container: str,
        name: str,
        is_terminal: bool,
        kill: Callable[[DockerExecution], Awaitable[None]],
        settle: Callable[[DockerExecution], Awaitable[None]],
        verdict: Verdict,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.pid = 0
        self._command = command
        self._stream = stream
        self._container = container
        self._name = name
        self._is_terminal = is_terminal
        self._kill = kill
        self._settle = settle
        self._verdict = verdict
        self._cause = ("", "")
        self._chunks: deque[OutputChunk] = deque()
        self._size = 0
        self._changed = asyncio.Event()
        self._heard = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_unbounded = self._is_closed = False
        self._started: asyncio.Future[bool] = loop.create_future()
        self._exit: asyncio.Future[Exit] = loop.create_future()
        self._pumping = loop.create_task(self._pump(), name="output")
        self._killing: asyncio.Task[None] | None = None
        self._living: asyncio.Task[None] | None = None

    def begin(self, timeout_s: float | None) -> None:
        """Follow the command to its end."""
        loop = asyncio.get_running_loop()
        self._living = loop.create_task(self._live(timeout_s), name="command")

    async def output(self) -> AsyncIterator[OutputChunk]:
        if not await asyncio.shield(self._started):
            return
        while True:
            while self._chunks:
                chunk = self._chunks.popleft()
                self._size -= len(chunk.content)
                if self._size < _ROOM_BYTES:
                    self._has_room.set()
                yield chunk
            if self._is_closed:
                return
            self._changed.clear()
            await self._changed.wait()

    async def write(self, content: bytes) -> None:
        if not self._exit.done():
            await self._stream.write(content)

    async def end_input(self) -> None:
        if self._exit.done():
            return
        if self._is_terminal:
            await self._stream.write(_END_OF_INPUT)
        else:
            self._stream.end_input()

    async def resize(self, terminal: Terminal) -> None:
        if not self._is_terminal or not await asyncio.shield(self._started) or self._exit.done():
            return
        # The command may have ended meanwhile.
        with contextlib.suppress(MachineCannot):
            await self._command.resize(terminal)

    async def wait(self) -> Exit:
        return await asyncio.shield(self._exit)

    async def cancel(self) -> None:
        self.stop("lease-ended", "cancelled")

    def when_over(self, act: Callable[[DockerExecution], None]) -> None:
        """Have `act` called with this execution once it has ended."""
        self._exit.add_done_callback(lambda _: act(self))

    @property
    def is_over(self) -> bool:
        return self._exit.done()

    def stop(self, code: str, reason: str) -> None:
        """Kill the command, for a reason; the first reason counts."""
        if self._exit.done() or self._cause[0]:
            return
        self._cause = (code, reason)
        self._killing = asyncio.get_running_loop().create_task(self._put_down(), name="kill")

    async def may_run(self) -> bool:
        """Ask the engine whether the command's own process may still be there."""
        return bool((await self._command.facts()).get("Running"))

    def doom(self, code: str, reason: str) -> None:
        """Say why the command is about to be killed with all others; the first reason counts."""
        if not self._cause[0]:
            self._cause = (code, reason)

    async def abandon(self, code: str, reason: str) -> None:
        """End what is told of the command: its container is gone."""
        self.doom(code, reason)
        for task in (self._living, self._killing, self._pumping):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        self._close_output()
        await self._stream.close()
        if not self._started.done():
            self._started.set_result(True)
        self._finish(Exit(None))

    async def _put_down(self) -> None:
        with contextlib.suppress(MachineCannot, LeaseEnded):
            if await asyncio.shield(self._started):
                await self._kill(self)

    async def _live(self, timeout_s: float | None) -> None:
        try:
            await self._from_start_to_end(timeout_s)
        except (MachineCannot, LeaseEnded) as error:
            if not self._started.done():
                self._started.set_result(False)
            # The container went from under it: nobody else would close its stream.
            self._pumping.cancel()
            await asyncio.wait([self._pumping])
            self._close_output()
            await self._stream.close()
            self._finish(Exit(None, error.code, error.message))
        finally:
            self._is_unbounded = True
            self._has_room.set()

    async def _from_start_to_end(self, timeout_s: float | None) -> None:
        facts = await self._first_facts()
        self.pid = int(facts.get("Pid") or 0)
        has_started = bool(self.pid) or facts.get("ExitCode") not in _COULD_NOT_START
        self._started.set_result(has_started)
        if not has_started:
            await self._let_it_close()
            # A container that is dying starts nothing either: one that lives settles.
            await self._settle(self)
            reason = f"`{self._name[:200]}` does not exist there or cannot be run"
            self._finish(Exit(None, "command-not-found", reason))
            return
        try:
            async with asyncio.timeout(timeout_s):
                status = await self._status()
        except TimeoutError:
            self.stop("timed-out", f"the command ran longer than {timeout_s:g} s")
            status = await self._status()
        self._is_unbounded = True
        self._has_room.set()
        await self._settle(self)
        await self._let_it_close()
        self._finish(await self._verdict(status))

    async def _first_facts(self) -> Facts:
        """Ask until the command has started or could not.

        Most take some 40 ms to start, and then have something to say or end: that is the moment.
        """
        begun = asyncio.get_running_loop().time()
        while True:
            facts = await self._command.facts()
            if facts.get("Pid") or facts.get("ExitCode") is not None:
                return facts
            waited_s = asyncio.get_running_loop().time() - begun
            pause_s = min(max(_FIRST_LOOK_S, waited_s / 4), _LONGEST_LOOK_S)
            if self._heard.is_set():
                await asyncio.sleep(pause_s)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._heard.wait()

    async def _status(self) -> int:
        """Wait for the exit status; a lease's lifetime bounds the wait."""
        await handles.gone(self.pid, self._container)
        pause_s = _FIRST_LOOK_S
        while True:
            facts = await self._command.facts()
            if not facts.get("Running") and facts.get("ExitCode") is not None:
                return int(facts["ExitCode"])
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_LOOK_S)

    async def _let_it_close(self) -> None:
        """Read what is left; a background process may keep the stream open, but not for ever."""
        self._is_unbounded = True
        self._has_room.set()
        await asyncio.wait([self._pumping], timeout=_LAST_WORDS_S)
        self._close_output()
        await self._stream.close()

    def _finish(self, result: Exit) -> None:
        if self._cause[0]:
            result = Exit(None, *self._cause, result.usage)
        if not self._exit.done():
            self._exit.set_result(result)

    async def _pump(self) -> None:
        while True:
            if not self._is_unbounded:
                await self._has_room.wait()
            said = await self._stream.read()
            self._heard.set()
            if said is None:
                break
            self._chunks.append(OutputChunk(*said))
            self._size += len(said[1])
            if self._size >= _ROOM_BYTES and not self._is_unbounded:
                self._has_room.clear()
            self._changed.set()
        self._close_output()

    def _close_output(self) -> None:
        self._is_closed = True
        self._changed.set()
