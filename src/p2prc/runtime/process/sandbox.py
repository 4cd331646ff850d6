"""One lease's sandbox as the daemon sees it: requests to its supervisor, and their answers."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from p2prc.errors import DiskFull, JobInvalid, LeaseEnded, MachineCannot, PeerBusy, RuntimeMissing
from p2prc.model.resources import Usage
from p2prc.runtime import archive
from p2prc.runtime.network_namespace import dial_with
from p2prc.runtime.port import Execution, Exit, Link, SandboxSpec, Terminal
from p2prc.runtime.process import folders
from p2prc.runtime.process.execution import ProcessExecution, set_size
from p2prc.runtime.process.messages import (
    BARE_TIERS,
    NO_SPACE,
    Adopt,
    Cancel,
    Dial,
    Dialed,
    Done,
    End,
    Ended,
    Execute,
    Exited,
    Garbled,
    Listening,
    Measure,
    Measured,
    Message,
    Ready,
    Reset,
    Start,
    Suspend,
    Unable,
    UseCores,
    receive,
    send,
)
from p2prc.runtime.way_out import PROXY_VARIABLES, WayOut

log = logging.getLogger(__name__)

_START_S = 15.0
_ANSWER_S = 10.0
_LARGE_PIPE_BYTES = 1 << 18
_END_S = 6.0
_LAST_WORDS_S = 1.0
"""How long the output of a command that has ended is kept open for what it left behind."""
_LEFTOVER_TRIES = 50
_LEFTOVER_PAUSE_S = 0.02


class Host(Protocol):
    """What a sandbox needs of the runtime that made it."""

    def cores_for(self, spec: SandboxSpec) -> list[int]: ...

    def command_ended(self, spec: SandboxSpec) -> None: ...

    def sandbox_ended(self, sandbox: ProcessSandbox) -> None: ...


class ProcessSandbox:
    """A sandbox whose supervisor listens at the other end of `channel`."""

    def __init__(
        self,
        spec: SandboxSpec,
        *,
        uid: int,
        channel: socket.socket,
        host: Host,
        first_number: int = 1,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.uid = uid
        self._spec = spec
        self._channel = channel
        self._host = host
        self._numbers = itertools.count(first_number)
        self._asked: dict[int, asyncio.Future[Message]] = {}
        self._ready: asyncio.Future[Ready] = loop.create_future()
        self._ended: asyncio.Future[Exit] = loop.create_future()
        self._cleaned: asyncio.Task[None] | None = None
        self._running: dict[int, ProcessExecution] = {}
        self._last: ProcessExecution | None = None
        self._way_out: WayOut | None = None
        self._last_word: Ended | None = None
        self._supervisor = -1
        self._usage = Usage()
        self._dialed: dict[int, socket.socket] = {}
        self._paths = Ready("", "")
        loop.add_reader(channel.fileno(), self._hear)

    @property
    def spec(self) -> SandboxSpec:
        return self._spec

    @property
    def inputs_path(self) -> str:
        return self._paths.inputs

    @property
    def work_path(self) -> str:
        return self._paths.work

    async def start(self, request: Start | Adopt) -> None:
        """Have the supervisor make the sandbox, or take it up. Raises RuntimeMissing, DiskFull."""
        self._tell(request)
        try:
            async with asyncio.timeout(_START_S):
                self._paths = await asyncio.shield(self._ready)
        except TimeoutError as error:
            raise RuntimeMissing("the sandbox does not get ready") from error

    async def execute(
        self,
        argv: Sequence[str],
        *,
        variables: Mapping[str, str],
        timeout_s: float | None = None,
        takes_input: bool = False,
        terminal: Terminal | None = None,
    ) -> Execution:
        if terminal is not None and self._spec.is_isolated:
            raise RuntimeMissing("a sandbox for one command has no terminal")
        if self._ended.done() or self._cleaned is not None:
            raise LeaseEnded
        has_sessions = self._spec.has_sessions
        if self._running and not has_sessions:
            raise PeerBusy("a command is running in this sandbox already")
        _check_words(argv, variables)
        if self._last is not None and not has_sessions:
            self._last.discard()
        number = next(self._numbers)
        if terminal is None:
            pipes, source, ends = self._pipes(takes_input=takes_input)
        else:
            pipes, source, ends = self._terminal(terminal)
            variables = {"TERM": "xterm-256color", **variables}
        if self._spec.egress is not None:
            variables = {**PROXY_VARIABLES, **variables}
        has_terminal = terminal is not None
        execution = ProcessExecution(
            pipes,
            lambda: self._tell(Cancel(number)),
            source=source,
            is_terminal=has_terminal,
            last_words_s=_LAST_WORDS_S if has_sessions else None,
        )
        cores = self._host.cores_for(self._spec)
        self._running[number] = self._last = execution
        request = Execute(number, list(argv), dict(variables), timeout_s, cores, has_terminal)
        try:
            self._tell(request, ends)
        finally:
            for end in set(ends):
                os.close(end)
        return execution

    async def dial(self, port: int) -> Link:
        if self._spec.tier in BARE_TIERS or self._spec.is_isolated:
            raise RuntimeMissing(f"the tier `{self._spec.tier}` has no ports of its own")
        return await dial_with(self._socket_inside, port)

    async def socket_inside(self) -> socket.socket:
        if self._spec.is_isolated:
            raise RuntimeMissing("a sandbox for each command alone has no bridge")
        if self._spec.tier in BARE_TIERS:
            raise RuntimeMissing(f"the tier `{self._spec.tier}` has no network of its own")
        return await self._socket_inside(socket.AF_INET)

    async def _socket_inside(self, family: int) -> socket.socket:
        number = next(self._numbers)
        answer = await self._ask(Dial(number, family))
        made = self._dialed.pop(number, None)
        if made is None:
            reason = answer.reason if isinstance(answer, Dialed) else "no answer"
            raise MachineCannot(f"no port can be reached: {reason}")
        return made

    async def put_files(self, stream: AsyncIterator[bytes], folder: str = "") -> int:
        if self._ended.done() or self._cleaned is not None:
            raise LeaseEnded
        used = await asyncio.to_thread(self._used_bytes)
        return await archive.unpack(
            stream,
            self._spec.folder / "work",
            folder,
            owner=self.uid,
            limit_bytes=max(0, self._spec.limits.disk_bytes - used),
        )

    def _used_bytes(self) -> int:
        """Return what the tenant's folders hold; what cannot be told counts as nothing."""
        places = [self._spec.folder / "work", self._spec.folder / "tmp"]
        places += [volume.source for volume in self._spec.volumes]
        try:
            return sum(folders.used_bytes(str(place)) for place in places)
        except (OSError, folders.TooDeep):
            return 0

    async def get_files(self, path: str = "") -> AsyncIterator[bytes]:
        if self._ended.done() or self._cleaned is not None:
            raise LeaseEnded
        async for content in archive.pack(self._spec.folder / "work", path):
            yield content

    async def reset(self) -> None:
        answer = await self._ask(Reset(next(self._numbers)))
        if isinstance(answer, Done) and answer.reason:
            raise MachineCannot(f"the working folder cannot be emptied: {answer.reason}")

    async def usage(self) -> Usage:
        if self._ended.done():
            return self._usage
        answer = await self._ask(Measure(next(self._numbers)))
        if isinstance(answer, Measured):
            self._usage = Usage(
                cpu_s=answer.cpu_s,
                cpu_percent=answer.cpu_percent,
                memory_bytes=answer.memory_bytes,
                memory_peak_bytes=answer.memory_peak_bytes,
                disk_bytes=answer.disk_bytes,
                processes=answer.processes,
            )
        return self._usage

    async def suspend(self) -> None:
        self._tell(Suspend(is_suspended=True))

    async def resume(self) -> None:
        self._tell(Suspend(is_suspended=False))

    async def wait_ended(self) -> Exit:
        return await asyncio.shield(self._ended)

    async def end(self) -> None:
        if self._cleaned is None:
            self._tell(End())
            try:
                async with asyncio.timeout(_END_S):
                    await asyncio.shield(self._ended)
            except TimeoutError:
                self._kill_supervisor()
        # Without a time limit: the kernel closes the socket of a process that was killed.
        await asyncio.shield(self._ended)
        if self._last is not None:
            self._last.discard()

    async def detach(self) -> None:
        """Let go of it without ending it: the next life of the node takes it up."""
        if self._cleaned is not None:
            await asyncio.shield(self._ended)
            return
        asyncio.get_running_loop().remove_reader(self._channel.fileno())
        self._channel.close()
        self._last_word = Ended("lease-ended", "the node stopped")
        self._cleaned = asyncio.get_running_loop().create_task(self._clean_up())
        await self._cleaned

    def use_cores(self, cores: list[int]) -> None:
        """Move what runs to other cores."""
        self._tell(UseCores(cores))

    def _listen(self, listener: socket.socket) -> None:
        """Serve the only way out of the sandbox's network, at the new socket in there."""
        if self._spec.egress is None:
            listener.close()
            return
        if self._way_out is None:
            self._way_out = WayOut(self._spec.egress)
        self._way_out.serve(listener)

    def _terminal(self, size: Terminal) -> tuple[dict[int, int], int, tuple[int, ...]]:
        """Make a terminal out here: what is ours of it, the tenant must never hold."""
        ours, theirs = os.openpty()
        set_size(ours, size)
        os.set_blocking(ours, False)
        if self.uid:
            os.fchown(theirs, self.uid, self.uid)
        return {1: ours}, os.dup(ours), (theirs, theirs)

    def _pipes(self, *, takes_input: bool) -> tuple[dict[int, int], int, tuple[int, ...]]:
        pipes: dict[int, int] = {}
        ends: list[int] = []
        for channel in (1, 2):
            pipes[channel], end = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(pipes[channel], False)
            if self.uid:
                # Programs open /dev/stdout by name, which only the pipe's owner may.
                os.fchown(end, self.uid, self.uid)
            ends.append(end)
        if not takes_input:
            return pipes, -1, tuple(ends)
        end, source = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(source, False)
        if self.uid:
            os.fchown(end, self.uid, self.uid)
        for pipe in (pipes[1], source):
            # Files often go this way: fewer, larger pieces. A user may have few large pipes.
            with contextlib.suppress(OSError):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _LARGE_PIPE_BYTES)
        return pipes, source, (*ends, end)

    async def _ask(self, request: Reset | Measure | Dial) -> Message:
        if self._ended.done() or self._cleaned is not None:
            raise LeaseEnded
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._asked[request.number] = answer
        self._tell(request)
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await answer
        except TimeoutError as error:
            raise MachineCannot("the lease's supervisor does not answer") from error
        finally:
            self._asked.pop(request.number, None)

    def _tell(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Send to the supervisor. One that does not listen is killed: it cannot be trusted."""
        try:
            send(self._channel, message, fds)
        except BlockingIOError:
            self._kill_supervisor()
        except OSError:
            log.debug("the supervisor is gone already", extra={"lease": self._spec.lease})

    def _hear(self) -> None:
        try:
            received = receive(self._channel)
        except (BlockingIOError, ConnectionResetError):
            # Reset: it went with a word of ours unread. Its own last words are still to come.
            return
        except (OSError, Garbled) as error:
            log.warning("the supervisor is not understood", extra={"reason": str(error)})
            self._kill_supervisor()
            received = None
        if received is None:
            self._supervisor_gone()
            return
        message, fds = received
        match message:
            case Ready():
                self._supervisor = fds[0]
                if not self._ready.done():
                    self._ready.set_result(message)
            case Unable(reason):
                if not self._ready.done():
                    kind = DiskFull if reason == NO_SPACE else RuntimeMissing
                    self._ready.set_exception(kind(reason))
            case Exited():
                self._command_ended(message)
            case Listening():
                self._listen(socket.socket(fileno=fds[0]))
            case Done() | Measured() | Dialed():
                if (asker := self._asked.get(message.number)) and not asker.done():
                    if fds:
                        self._dialed[message.number] = socket.socket(fileno=fds.pop())
                    asker.set_result(message)
                for descriptor in fds:
                    os.close(descriptor)
            case Ended():
                self._last_word = message
            case _:
                log.warning("an unexpected message", extra={"message_name": type(message).__name__})

    def _command_ended(self, report: Exited) -> None:
        execution = self._running.pop(report.number, None)
        if execution is None:
            return
        if not self._spec.has_sessions:
            self._host.command_ended(self._spec)
        usage = Usage(
            cpu_s=report.cpu_s,
            cpu_percent=report.cpu_percent,
            memory_peak_bytes=report.memory_peak_bytes,
            disk_bytes=report.disk_bytes,
        )
        execution.finish(Exit(report.status, report.code, report.reason, usage))

    def _supervisor_gone(self) -> None:
        """Close our side; delete what a supervisor that died could not."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._channel.fileno())
        self._channel.close()
        self._cleaned = loop.create_task(self._clean_up())

    async def _clean_up(self) -> None:
        word = self._last_word
        if word is None:
            await self._delete_folder()
            word = Ended("lease-ended", "the lease's supervisor died")
        if self._supervisor >= 0:
            os.close(self._supervisor)
            self._supervisor = -1
        result = Exit(None, word.code, word.reason or "the lease was ended", self._usage)
        for execution in self._running.values():
            execution.finish(result)
        self._running.clear()
        if self._way_out is not None:
            await self._way_out.close()
        if not self._ready.done():
            self._ready.set_exception(RuntimeMissing("the sandbox's supervisor died"))
        for asker in self._asked.values():
            if not asker.done():
                asker.set_exception(LeaseEnded())
        self._host.sandbox_ended(self)
        if not self._ended.done():
            self._ended.set_result(result)

    async def _delete_folder(self) -> None:
        """Delete the folder while the kernel kills the last of those who write to it."""
        for _ in range(_LEFTOVER_TRIES):
            try:
                await asyncio.to_thread(folders.remove, str(self._spec.folder))
            except OSError as error:
                log.debug("a leftover resists", extra={"reason": str(error)})
                await asyncio.sleep(_LEFTOVER_PAUSE_S)
            else:
                return
        log.warning("a folder is left over", extra={"folder": str(self._spec.folder)})

    def _kill_supervisor(self) -> None:
        if self._supervisor >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._supervisor, signal.SIGKILL)


def _check_words(argv: Sequence[str], variables: Mapping[str, str]) -> None:
    if any("\0" in word for word in (*argv, *variables, *variables.values())):
        raise JobInvalid("an argument or variable holds a NUL character")
    if any(not name or "=" in name for name in variables):
        raise JobInvalid("a variable has no name, or one with `=`")
    if not argv or not argv[0]:
        raise JobInvalid("there is no command")
