"""One lease's container as the daemon sees it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from p2prc.errors import JobInvalid, LeaseEnded, MachineCannot, PeerBusy, RuntimeMissing
from p2prc.model.resources import MEBIBYTE, Usage
from p2prc.runtime import archive
from p2prc.runtime.docker import handles
from p2prc.runtime.docker.config import INPUTS, WORK, since_start_s
from p2prc.runtime.docker.control import Control
from p2prc.runtime.docker.engine import Engine, EngineStream
from p2prc.runtime.docker.execution import DockerExecution
from p2prc.runtime.docker.links import dial_by_exec
from p2prc.runtime.docker.usage import Sample, meter_of, sample_of
from p2prc.runtime.network_namespace import dial_in, listen_in, socket_in
from p2prc.runtime.port import Execution, Exit, Link, SandboxSpec, Terminal
from p2prc.runtime.process import folders, watch
from p2prc.runtime.way_out import PROXY_PORT, PROXY_VARIABLES, WayOut

log = logging.getLogger(__name__)

READY_S = 10.0
_RETURN_S = 15.0
"""How long an engine may be away before its leases are given up."""
_RETRY_S = 0.5
_FIRST_KILL_S = 1.0
_LOOK_S = 0.5
_LOOK_WHEN_IDLE_S = 5.0
_SHARE_OF_LOOKING = 20
_KILLED = 137
_DISK_FULL_BYTES = MEBIBYTE


class Host(Protocol):
    """What a sandbox needs of the runtime that made it."""

    def sandbox_ended(self, sandbox: DockerSandbox, *, is_removed: bool) -> None: ...


class DockerSandbox:
    """A container whose first process serves us. `until` counts from the machine's start."""

    def __init__(
        self,
        spec: SandboxSpec,
        engine: Engine,
        container: str,
        *,
        uid: int,
        until: float,
        host: Host,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.container = container
        self._spec = spec
        self._engine = engine
        self._uid = uid
        self._host = host
        self._lasts_until = loop.time() + max(0.0, until - since_start_s())
        self._control: Control | None = None
        self._pid = 0
        self._meter = meter_of(0, container)
        self._commands: set[DockerExecution] = set()
        self._is_starting = False
        self._is_suspended = False
        self._before = Sample()
        self._last = (loop.time(), 0.0, 0.0)
        self._usage = Usage()
        self._disk = 0
        self._ended: asyncio.Future[Exit] = loop.create_future()
        self._ending: asyncio.Task[None] | None = None
        self._way_out: WayOut | None = None
        self._end_words = ("lease-ended", "the lease was ended")
        self._returning: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def spec(self) -> SandboxSpec:
        return self._spec

    @property
    def inputs_path(self) -> str:
        return INPUTS

    @property
    def work_path(self) -> str:
        return WORK

    async def open(self) -> None:
        """Take up the line to the first process. Raises MachineCannot."""
        await self._take_up(await self._engine.attach(self.container), is_new=True)

    async def reopen(self) -> None:
        """Take up a container that runs already. Raises MachineCannot."""
        # The node before may have gone while its owner needed the machine.
        await self._engine.unpause(self.container)
        await self._take_up(await self._engine.attach(self.container), is_new=False)

    async def started(self) -> None:
        """Go on once the engine has started the container."""
        await self.warmed()
        await self._begin()

    async def warmed(self) -> None:
        """Wait until the first process listens; the lease begins with `hand_over`."""
        assert self._control is not None
        await self._control.ready(READY_S)
        await self._find_meter()

    async def hand_over(self, spec: SandboxSpec, until: float) -> None:
        """Be this lease's from now on. Raises MachineCannot, RuntimeMissing, LeaseEnded."""
        self._check_alive()
        self._spec = spec
        self._lasts_until = asyncio.get_running_loop().time() + max(0.0, until - since_start_s())
        await self._begin()

    async def _begin(self) -> None:
        await self._open_way_out()
        self._watching = asyncio.get_running_loop().create_task(self._watch(), name="watch")

    async def execute(
        self,
        argv: Sequence[str],
        *,
        variables: Mapping[str, str],
        timeout_s: float | None = None,
        takes_input: bool = False,
        terminal: Terminal | None = None,
    ) -> Execution:
        self._check_alive()
        if not self._spec.has_sessions and (self._commands or self._is_starting):
            raise PeerBusy("a command is running in this sandbox already")
        if self._spec.egress is not None:
            variables = {**PROXY_VARIABLES, **variables}
        _check_words(argv, variables)
        self._is_starting = True
        try:
            return await self._start(argv, variables, timeout_s, takes_input, terminal)
        finally:
            self._is_starting = False

    async def dial(self, port: int) -> Link:
        self._check_alive()
        if os.geteuid() == 0 and self._meter is not None:
            return await dial_in(f"/proc/{self._pid}/ns/net", port)
        return await dial_by_exec(self._engine, self.container, port)

    async def socket_inside(self) -> socket.socket:
        self._check_alive()
        if os.geteuid() != 0 or self._meter is None:
            raise RuntimeMissing("this node cannot enter the network of a container")
        return await socket_in(f"/proc/{self._pid}/ns/net")

    async def put_files(self, stream: AsyncIterator[bytes], folder: str = "") -> int:
        self._check_alive()
        await self._look_at_disk()
        room = max(0, self._spec.limits.disk_bytes - self._disk)
        return await archive.unpack(
            stream,
            self._spec.folder / "work",
            folder,
            owner=self._uid if os.geteuid() == 0 else 0,
            limit_bytes=room,
        )

    async def get_files(self, path: str = "") -> AsyncIterator[bytes]:
        self._check_alive()
        async for content in archive.pack(self._spec.folder / "work", path):
            yield content

    async def reset(self) -> None:
        self._check_alive()
        if self._commands:
            raise MachineCannot("a command is running")
        for name in ("work", "tmp"):
            try:
                await asyncio.to_thread(folders.empty, str(self._spec.folder / name))
            except OSError as error:
                raise MachineCannot(f"the working folder cannot be emptied: {error}") from error
        self._disk = 0

    async def usage(self) -> Usage:
        if not self._ended.done():
            with contextlib.suppress(MachineCannot):
                self._note(await self._sample())
        return self._usage

    async def wait_ended(self) -> Exit:
        return await asyncio.shield(self._ended)

    async def suspend(self) -> None:
        self._check_alive()
        self._is_suspended = True
        await self._engine.pause(self.container)

    async def resume(self) -> None:
        self._is_suspended = False
        await self._engine.unpause(self.container)

    async def end(self) -> None:
        self._begin_end("lease-ended", "the lease was ended")
        await asyncio.shield(self._ended)

    async def detach(self) -> None:
        """Forget it here without ending it: the next life of the node takes it up."""
        for task in (self._watching, self._returning):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        if self._way_out is not None:
            await self._way_out.close()
        for execution in tuple(self._commands):
            await execution.abandon("lease-ended", "the node stopped")
        if self._control is not None:
            await self._control.close()

    # -- commands -----------------------------------------------------------------------------

    async def _start(
        self,
        argv: Sequence[str],
        variables: Mapping[str, str],
        timeout_s: float | None,
        takes_input: bool,  # noqa: FBT001
        terminal: Terminal | None,
    ) -> DockerExecution:
        command = await self._engine.exec(
            self.container,
            argv,
            variables=variables if terminal is None else {"TERM": "xterm-256color"} | {**variables},
            folder=WORK,
            takes_input=takes_input,
            is_terminal=terminal is not None,
        )
        self._before = await self._sample()
        stream = await command.start()
        execution = DockerExecution(
            command,
            stream,
            container=self.container,
            name=argv[0],
            is_terminal=terminal is not None,
            kill=self._kill,
            settle=self._settle,
            verdict=self._verdict,
        )
        self._commands.add(execution)
        execution.when_over(self._commands.discard)
        execution.begin(timeout_s)
        if self._ending is not None:
            # The lease ended while the engine was at it.
            await execution.abandon(*self._end_words)
        elif terminal is not None:
            await execution.resize(terminal)
        return execution

    async def _kill(self, execution: DockerExecution) -> None:
        if self._control is None:
            return
        inside = _pid_inside(execution.pid) if self._spec.has_sessions else 0
        if inside:
            await self._control.kill_group(inside)
        elif not self._spec.has_sessions or await execution.may_run():
            # One of several that ended by itself meanwhile takes nobody along.
            await self._kill_all(self._control)

    async def _kill_all(self, control: Control, *, is_last: bool = False) -> None:
        if self._meter is not None and os.geteuid() == 0:
            if is_last:
                self._meter.lift_cpu_limit()
                if await handles.kill_with_all(self._pid, self.container):
                    return
            self._meter.signal_all(self.container, spared=self._pid)
        await control.kill_all()

    async def _settle(self, execution: DockerExecution) -> None:
        """Leave nothing of a command, unless the lease is for sessions."""
        if self._control is None:
            # The container died, or the engine did: so the command did not end by itself.
            raise LeaseEnded
        if self._spec.has_sessions:
            await self._control.answer()
        else:
            try:
                await self._control.kill_all()
            except MachineCannot:
                self._begin_end("lease-ended", "a process in it could not be killed")
                raise

    async def _verdict(self, status: int) -> Exit:
        """Say why a command ended, where it was not by itself."""
        sample = await self._sample()
        self._note(sample)
        usage = Usage(
            cpu_s=max(0.0, sample.cpu_s - self._before.cpu_s),
            memory_peak_bytes=sample.memory_peak_bytes,
            disk_bytes=self._disk,
        )
        if status == _KILLED and sample.kills > self._before.kills:
            limit = self._spec.limits.memory_bytes
            reason = f"memory: more than the {limit / MEBIBYTE:.0f} MiB allowed"
            return Exit(None, "limit-exceeded", reason, usage)
        if excess := await self._look_at_disk():
            return Exit(None, "limit-exceeded", excess, usage)
        if status != 0 and _free_bytes(self._spec.folder) < _DISK_FULL_BYTES:
            return Exit(None, "disk-full", "no space is left on the node's disk", usage)
        return Exit(status, usage=usage)

    # -- looking ------------------------------------------------------------------------------

    async def _sample(self) -> Sample:
        found = None if self._meter is None else self._meter.sample()
        if found is None:
            found = sample_of(await self._engine.statistics(self.container))
        return found

    def _note(self, sample: Sample) -> None:
        now = asyncio.get_running_loop().time()
        then, before_s, percent = self._last
        if now - then >= 0.1:
            percent = max(0.0, round(100 * (sample.cpu_s - before_s) / (now - then), 1))
            self._last = (now, sample.cpu_s, percent)
        self._usage = Usage(
            cpu_s=sample.cpu_s,
            cpu_percent=percent,
            memory_bytes=max(0, sample.memory_bytes),
            memory_peak_bytes=sample.memory_peak_bytes,
            disk_bytes=self._disk,
            processes=sample.processes,
        )

    async def _watch(self) -> None:
        """End the lease with its time; hold it to its disk, which the engine does not."""
        loop = asyncio.get_running_loop()
        while (now := loop.time()) < self._lasts_until:
            is_busy = bool(self._commands) or self._spec.has_sessions
            pause_s = _LOOK_S if is_busy else _LOOK_WHEN_IDLE_S
            if is_busy and (excess := await self._look_at_disk()):
                for execution in tuple(self._commands):
                    execution.stop("limit-exceeded", excess)
                if self._spec.has_sessions:
                    self._begin_end("limit-exceeded", excess)
                    return
            pause_s = max(pause_s, _SHARE_OF_LOOKING * (loop.time() - now))
            await asyncio.sleep(min(pause_s, max(0.0, self._lasts_until - loop.time())))
        limit_s = self._spec.limits.lasts_s
        self._begin_end("limit-exceeded", f"the lease's lifetime of {limit_s:g} s is over")

    async def _look_at_disk(self) -> str:
        """Measure the disk; say what is wrong with it, or nothing."""
        try:
            self._disk = await asyncio.to_thread(self._used_bytes)
        except folders.TooDeep as error:
            return f"disk: {error}"
        except OSError:
            return ""
        limit = self._spec.limits.disk_bytes
        if self._disk <= limit:
            return ""
        return f"disk: {self._disk / MEBIBYTE:.0f} MiB used, {limit / MEBIBYTE:.0f} MiB allowed"

    def _used_bytes(self) -> int:
        folder = self._spec.folder
        used = folders.used_bytes(str(folder / "work")) + folders.used_bytes(str(folder / "tmp"))
        used += sum(folders.used_bytes(str(each.source)) for each in self._spec.volumes)
        if self._meter is not None and os.geteuid() == 0:
            unnamed, _ = watch.unnamed_bytes(self._meter.processes(), folder.stat().st_dev)
            used += unnamed
        return used

    # -- the end ------------------------------------------------------------------------------

    def _check_alive(self) -> None:
        if self._ending is not None or self._ended.done():
            raise LeaseEnded
        if self._control is None:
            raise RuntimeMissing("the container engine is being restarted")

    def _begin_end(self, code: str, reason: str, *, is_gone: bool = False) -> None:
        if self._ending is None:
            self._end_words = (code, reason)
            loop = asyncio.get_running_loop()
            self._ending = loop.create_task(
                self._finish(code, reason, is_gone=is_gone), name="end of a lease"
            )

    async def _finish(self, code: str, reason: str, *, is_gone: bool) -> None:
        """Kill all, tell who waits, leave nothing."""
        for task in (self._watching, self._returning):
            if task is not None and not task.done():
                task.cancel()
        with contextlib.suppress(MachineCannot):
            self._note(await self._sample())
            if self._is_suspended:
                # What is frozen does not hear that it has to end.
                await self.resume()
        for execution in tuple(self._commands):
            execution.doom(code, reason)
        if self._control is not None and not is_gone:
            # The engine takes its time; the first process does not.
            with contextlib.suppress(MachineCannot, LeaseEnded, TimeoutError):
                async with asyncio.timeout(_FIRST_KILL_S):
                    await self._kill_all(self._control, is_last=True)
        is_removed = await self._is_removed()
        for execution in tuple(self._commands):
            await execution.abandon(code, reason)
        if self._way_out is not None:
            await self._way_out.close()
        if self._control is not None:
            await self._control.close()
        try:
            await asyncio.to_thread(folders.remove, str(self._spec.folder))
        except OSError as error:
            log.warning("a lease's folder is left over", extra={"reason": str(error)})
        self._host.sandbox_ended(self, is_removed=is_removed)
        self._ended.set_result(Exit(None, code, reason, self._usage))

    async def _is_removed(self) -> bool:
        try:
            await self._engine.remove(self.container)
        except MachineCannot as error:
            log.warning("a container is left over", extra={"reason": error.message})
            return False
        return True

    async def _take_up(self, stream: EngineStream, *, is_new: bool) -> None:
        self._control = Control(stream, self._line_lost)
        if not is_new:
            # It said that it is ready long ago: an answer shows that it still listens.
            await self._control.answer()
            await self._find_meter()
            with contextlib.suppress(MachineCannot):
                # The tenant took the port while nobody held it: it has no way out, by its own hand.
                await self._open_way_out()
            loop = asyncio.get_running_loop()
            if self._watching is None:
                self._watching = loop.create_task(self._watch(), name="watch")

    async def _open_way_out(self) -> None:
        """Serve the lease's proxy inside. Raises MachineCannot, RuntimeMissing."""
        if self._spec.egress is None or self._way_out is not None:
            return
        if os.geteuid() != 0 or self._meter is None:
            raise RuntimeMissing("this node cannot open the way to its proxy in a container")
        listener = await listen_in(f"/proc/{self._pid}/ns/net", PROXY_PORT)
        self._way_out = WayOut(self._spec.egress)
        self._way_out.serve(listener)

    async def _find_meter(self) -> None:
        facts = await self._engine.facts(self.container)
        state = {} if facts is None else facts["State"]
        self._pid = int(state.get("Pid") or 0)
        self._meter = meter_of(self._pid, self.container)

    def _line_lost(self) -> None:
        """The stream to the first process ended: the container died, or the engine did."""
        if self._ending is None and (self._returning is None or self._returning.done()):
            lost, self._control = self._control, None
            self._returning = asyncio.get_running_loop().create_task(self._come_back(lost))

    async def _come_back(self, lost: Control | None) -> None:
        """Find out what happened; go on where the container lives."""
        if lost is not None:
            await lost.close()
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _RETURN_S
        reason = "the container engine is gone"
        while loop.time() < give_up_at:
            try:
                facts = await self._engine.facts(self.container)
                if facts is None or not facts["State"].get("Running"):
                    reason = _why_dead(facts)
                    break
                await self._take_up(await self._engine.attach(self.container), is_new=False)
            except (MachineCannot, LeaseEnded):
                await asyncio.sleep(_RETRY_S)
            else:
                for execution in tuple(self._commands):
                    await execution.abandon("lease-ended", "the container engine was restarted")
                return
        self._begin_end("lease-ended", reason, is_gone=True)


def _check_words(argv: Sequence[str], variables: Mapping[str, str]) -> None:
    words = (*argv, *variables, *variables.values())
    if any("\0" in word for word in words):
        raise JobInvalid("an argument or variable holds a NUL character")
    if any(not name or "=" in name for name in variables):
        raise JobInvalid("a variable has no name, or one with `=`")
    if not argv or not argv[0]:
        raise JobInvalid("there is no command")
    try:
        "".join(words).encode()
    except UnicodeEncodeError as error:
        # The engine's API is JSON: it would arrive changed.
        raise JobInvalid("in a container arguments and variables must be UTF-8") from error


def _why_dead(facts: Mapping[str, object] | None) -> str:
    if facts is None:
        return "somebody removed its container"
    state = facts.get("State")
    if isinstance(state, dict) and state.get("OOMKilled"):
        return "its container ran out of memory"
    return "its container was stopped"


def _pid_inside(pid: int) -> int:
    """Return a process's number inside its container, 0 where it cannot be known."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("NSpid:"):
            numbers = line.split()[1:]
            return int(numbers[-1]) if len(numbers) > 1 else 0
    return 0


def _free_bytes(folder: Path) -> int:
    try:
        facts = os.statvfs(folder)
    except OSError:
        return _DISK_FULL_BYTES
    return facts.f_bavail * facts.f_frsize
