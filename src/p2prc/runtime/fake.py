"""A runtime without processes, for tests of the rooms above: programs are coroutines.

It keeps the port's promises that need no kernel: one command at a time, output that waits for
its reader, `cancel`, `timeout_s`, `lifetime_s` and folders that are gone after `end`. A few
programs of every Linux are there; tests add their own.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2prc.errors import JobInvalid, LeaseEnded, MachineCannot, PeerBusy, PortClosed, RuntimeMissing
from p2prc.model.resources import RuntimeOffer, Usage
from p2prc.model.tiers import Attack, unstopped
from p2prc.runtime.archive import pack, unpack
from p2prc.runtime.port import (
    Execution,
    Exit,
    Feature,
    Link,
    OutputChunk,
    Sandbox,
    SandboxSpec,
    Terminal,
    check_features,
)
from p2prc.runtime.process import folders

_QUEUED_CHUNKS = 4
_CHUNK_BYTES = 64 * 1024
_CLOSED = None
_ECHO_PORT = 7


@dataclass(frozen=True, slots=True)
class FakeCommand:
    """What a program gets: its words, its variables, its folder, and where to print."""

    argv: tuple[str, ...]
    variables: Mapping[str, str]
    work: Path
    inputs: Path
    print: Callable[[int, bytes], Awaitable[None]]
    read: Callable[[], Awaitable[bytes]]
    """Return what was written to the command's input, nothing at its end."""


Program = Callable[[FakeCommand], Awaitable[int]]


class FakeExecution:
    """A program that runs as a task of its sandbox."""

    def __init__(self) -> None:
        self._chunks: asyncio.Queue[OutputChunk | None] = asyncio.Queue(_QUEUED_CHUNKS)
        self._input: asyncio.Queue[bytes] = asyncio.Queue(_QUEUED_CHUNKS)
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        self._cause = ("", "")

    def start(self, program: Program, command: FakeCommand, timeout_s: float | None) -> None:
        """Run the program; `timeout_s` ends it."""
        self._task = asyncio.get_running_loop().create_task(self._run(program, command, timeout_s))

    async def print(self, channel: int, content: bytes) -> None:
        for start in range(0, len(content), _CHUNK_BYTES):
            part = content[start : start + _CHUNK_BYTES]
            await self._chunks.put(OutputChunk(channel, part))

    async def read(self) -> bytes:
        return await self._input.get()

    async def write(self, content: bytes) -> None:
        if content:
            await self._input.put(content)

    async def end_input(self) -> None:
        await self._input.put(b"")

    async def resize(self, terminal: Terminal) -> None:
        """Do nothing: no program of ours has a terminal."""

    async def output(self) -> AsyncIterator[OutputChunk]:
        while (chunk := await self._chunks.get()) is not _CLOSED:
            yield chunk

    async def wait(self) -> Exit:
        return await asyncio.shield(self._exit)

    async def cancel(self) -> None:
        await self.stop("lease-ended", "cancelled")

    async def stop(self, code: str, reason: str) -> None:
        """End the program for a reason; the first reason counts."""
        if self._task is not None and not self._exit.done():
            self._cause = (code, reason)
            self._task.cancel()
            await asyncio.wait([self._task])
            self.finish(Exit(None, code, reason))

    def finish(self, result: Exit) -> None:
        if not self._exit.done():
            self._exit.set_result(result)
        while self._chunks.full() and self._cause[0]:
            self._chunks.get_nowait()
        if not self._chunks.full():
            self._chunks.put_nowait(_CLOSED)

    @property
    def is_over(self) -> bool:
        return self._exit.done()

    async def _run(self, program: Program, command: FakeCommand, timeout_s: float | None) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                status = await program(command)
        except TimeoutError:
            self._cause = ("timed-out", f"the command ran longer than {timeout_s:g} s")
            self.finish(Exit(None, *self._cause))
        else:
            await self._chunks.put(_CLOSED)
            self._exit.set_result(Exit(status))


class _Echo:
    """A link that says what it hears."""

    def __init__(self) -> None:
        self._heard: asyncio.Queue[bytes] = asyncio.Queue(_QUEUED_CHUNKS)

    async def read(self) -> bytes:
        return await self._heard.get()

    async def write(self, content: bytes) -> None:
        await self._heard.put(content)

    async def end_writing(self) -> None:
        await self._heard.put(b"")

    async def close(self) -> None:
        """Nothing is held."""


class FakeSandbox:
    """A folder and at most one program."""

    def __init__(self, spec: SandboxSpec, programs: Mapping[str, Program]) -> None:
        self._spec = spec
        self._programs = programs
        self._running: FakeExecution | None = None
        self._beside: set[FakeExecution] = set()
        self._ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._is_ending = False
        self.is_suspended = False
        for name in ("inputs", "work", "tmp"):
            (spec.folder / name).mkdir(parents=True, exist_ok=True)
        self._lifetime = asyncio.get_running_loop().create_task(self._live())

    @property
    def spec(self) -> SandboxSpec:
        return self._spec

    @property
    def inputs_path(self) -> str:
        return str(self._spec.folder / "inputs")

    @property
    def work_path(self) -> str:
        return str(self._spec.folder / "work")

    async def execute(
        self,
        argv: Sequence[str],
        *,
        variables: Mapping[str, str],
        timeout_s: float | None = None,
        takes_input: bool = False,
        terminal: Terminal | None = None,
    ) -> Execution:
        if terminal is not None and not self._spec.has_sessions:
            raise RuntimeMissing("there are no terminals here")
        takes_input = takes_input or terminal is not None
        if self._is_ending:
            raise LeaseEnded
        if self._spec.has_sessions and self._running is not None:
            self._beside = {each for each in (*self._beside, self._running) if not each.is_over}
        elif self._running is not None and not self._running.is_over:
            raise PeerBusy("a command is running in this sandbox already")
        if any("\0" in word for word in (*argv, *variables.values())):
            raise JobInvalid("an argument or variable holds a NUL character")
        execution = self._running = FakeExecution()
        program = self._programs.get(argv[0])
        if program is None:
            reason = f"`{argv[0][:200]}` does not exist there"
            execution.finish(Exit(None, "command-not-found", reason))
            return execution
        command = FakeCommand(
            argv=tuple(argv),
            variables=dict(variables),
            work=Path(self.work_path),
            inputs=Path(self.inputs_path),
            print=execution.print,
            read=execution.read,
        )
        if not takes_input:
            await execution.end_input()
        execution.start(program, command, timeout_s)
        return execution

    async def dial(self, port: int) -> Link:
        """Open an echo at port 7, which every sandbox with sessions has."""
        if not self._spec.has_sessions:
            raise RuntimeMissing("there are no ports here")
        if port != _ECHO_PORT:
            raise PortClosed(f"nothing listens at port {port} there")
        return _Echo()

    async def socket_inside(self) -> socket.socket:
        raise RuntimeMissing("there is no network here")

    async def put_files(self, stream: AsyncIterator[bytes], folder: str = "") -> int:
        if self._is_ending:
            raise LeaseEnded
        used = folders.used_bytes(self.work_path)
        room = max(0, self._spec.limits.disk_bytes - used)
        return await unpack(stream, Path(self.work_path), folder, owner=0, limit_bytes=room)

    async def get_files(self, path: str = "") -> AsyncIterator[bytes]:
        if self._is_ending:
            raise LeaseEnded
        async for content in pack(Path(self.work_path), path):
            yield content

    async def reset(self) -> None:
        if self._is_ending:
            raise LeaseEnded
        if self._running is not None and not self._running.is_over:
            raise MachineCannot("a command is running")
        for name in ("work", "tmp"):
            shutil.rmtree(self._spec.folder / name)
            (self._spec.folder / name).mkdir()

    async def usage(self) -> Usage:
        is_busy = self._running is not None and not self._running.is_over
        return Usage(processes=int(is_busy))

    async def suspend(self) -> None:
        self.is_suspended = True

    async def resume(self) -> None:
        self.is_suspended = False

    async def wait_ended(self) -> Exit:
        return await asyncio.shield(self._ended)

    async def end(self) -> None:
        self._lifetime.cancel()
        await self._stop("lease-ended", "the lease was ended")

    async def _live(self) -> None:
        lifetime_s = self._spec.limits.lasts_s
        await asyncio.sleep(lifetime_s)
        await self._stop("limit-exceeded", f"the lease's lifetime of {lifetime_s:g} s is over")

    async def _stop(self, code: str, reason: str) -> None:
        if not self._is_ending:
            self._is_ending = True
            for each in (*self._beside, *filter(None, [self._running])):
                await each.stop(code, reason)
            shutil.rmtree(self._spec.folder, ignore_errors=True)
            self._ended.set_result(Exit(None, code, reason))
        await asyncio.shield(self._ended)


class FakeRuntime:
    """Sandboxes without walls or processes. `programs` adds to and replaces the built-in ones."""

    def __init__(
        self,
        programs: Mapping[str, Program] | None = None,
        *,
        offers: Sequence[RuntimeOffer] = (RuntimeOffer("process", "userns"),),
        has_sessions: bool = False,
    ) -> None:
        self._programs = BUILT_IN | dict(programs or {})
        self._offers = tuple(offers)
        self._features = frozenset({Feature.INPUT, *(_SESSIONS if has_sessions else ())})
        self.sandboxes: list[FakeSandbox] = []

    @property
    def name(self) -> str:
        return "process"

    def unstopped(self, tier: str) -> frozenset[Attack]:
        return unstopped(tier)

    async def probe(self) -> tuple[RuntimeOffer, ...]:
        return self._offers

    def features(self, tier: str) -> frozenset[Feature]:
        is_ours = tier in {offer.tier for offer in self._offers}
        return self._features if is_ours else frozenset()

    async def adopt(self, kept: Sequence[SandboxSpec]) -> list[Sandbox]:
        return []

    async def create(self, spec: SandboxSpec) -> Sandbox:
        if spec.tier not in {offer.tier for offer in self._offers}:
            raise RuntimeMissing(f"there is no tier `{spec.tier}` in the runtime `{self.name}`")
        check_features(spec, self.features(spec.tier))
        sandbox = FakeSandbox(spec, self._programs)
        self.sandboxes.append(sandbox)
        return sandbox

    async def let_go(self) -> None:
        await self.close()

    async def close(self) -> None:
        for sandbox in self.sandboxes:
            await sandbox.end()


async def _true(_: FakeCommand) -> int:
    return 0


async def _false(_: FakeCommand) -> int:
    return 1


async def _echo(command: FakeCommand) -> int:
    await command.print(1, " ".join(command.argv[1:]).encode() + b"\n")
    return 0


async def _sleep(command: FakeCommand) -> int:
    await asyncio.sleep(float(command.argv[1]))
    return 0


async def _printenv(command: FakeCommand) -> int:
    value = command.variables.get(command.argv[1])
    if value is None:
        return 1
    await command.print(1, value.encode() + b"\n")
    return 0


async def _pwd(command: FakeCommand) -> int:
    await command.print(1, os.fsencode(command.work) + b"\n")
    return 0


async def _touch(command: FakeCommand) -> int:
    for name in command.argv[1:]:
        (command.work / name).touch()
    return 0


async def _cat(command: FakeCommand) -> int:
    while len(command.argv) == 1 and (content := await command.read()):
        await command.print(1, content)
    for name in command.argv[1:]:
        file = command.work / name
        if not file.is_file():
            await command.print(2, f"cat: {name}: No such file or directory\n".encode())
            return 1
        await command.print(1, file.read_bytes())
    return 0


async def _head(command: FakeCommand) -> int:
    """`head -c N /dev/zero` alone: a lot of output."""
    await command.print(1, bytes(int(command.argv[2])))
    return 0


async def _sh(command: FakeCommand) -> int:
    """`sh -c 'exit N'` and `sh -c 'echo TEXT >&2'` alone."""
    words = command.argv[2].split()
    if words[0] == "exit":
        return int(words[1])
    await command.print(2, " ".join(words[1:-1]).encode() + b"\n")
    return 0


_SESSIONS = (Feature.SESSIONS, Feature.TERMINAL, Feature.DIAL)
BUILT_IN: dict[str, Program] = {
    "cat": _cat,
    "echo": _echo,
    "false": _false,
    "head": _head,
    "printenv": _printenv,
    "pwd": _pwd,
    "sh": _sh,
    "sleep": _sleep,
    "touch": _touch,
    "true": _true,
}
"""What `FakeRuntime` knows without being told."""
