"""The supervisor of one lease: the process that starts its commands and holds it to its limits.

Theory of operation. One thread, one `poll`: the daemon's messages, the ends of children, and a
clock that stands still while nothing runs (every few seconds it looks whether that is true).
When the daemon's end of the socket closes, for whatever reason, the lease ends at once. When
this process dies, the kernel kills the sandbox (`--die-with-parent`) and the daemon deletes the
folder.
"""

# ruff: noqa: PTH116, PTH119, PTH120, S108
# Works on descriptors and plain paths: pathlib would have to be loaded for every lease.
from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import time
from collections.abc import Iterator

from p2prc.runtime.process import bubblewrap, entering, folders, watch
from p2prc.runtime.process.bare import BarePlace
from p2prc.runtime.process.messages import (
    Cancel,
    Dial,
    Dialed,
    Done,
    Ended,
    Execute,
    Exited,
    Garbled,
    Measure,
    Measured,
    Message,
    Reset,
    Start,
    UseCores,
    receive,
    send,
)
from p2prc.runtime.process.places import Finished, Place, PlaceBroken, Streams

_LOOK_S = 0.1
_LOOK_AT_DISK_S = 0.5
_LOOK_WHEN_IDLE_S = 5.0
_SHARE_OF_LOOKING = 20
_DISK_FULL_BYTES = 1 << 20
_LAST_KILL_S = 4.0
_LONGEST_PAUSE_S = 0.02
_MEBIBYTE = 1 << 20


class Supervisor:
    """One lease, from its readiness to its end."""

    def __init__(self, channel: socket.socket, start: Start, place: Place, parent: int) -> None:
        self._channel = channel
        self._start = start
        self._place = place
        self._parent = parent
        self._device = os.stat(start.folder).st_dev
        self._ends_at = time.monotonic() + start.lifetime_s
        self._running: Execute | None = None
        self._started_at = 0.0
        self._cause = ("", "")
        self._end: tuple[str, str] | None = None
        self._look_at = self._look_at_disk_at = float("inf")
        self._look_when_idle_at = time.monotonic() + _LOOK_WHEN_IDLE_S
        self._used_before_s = self._used_when_killed_s = self._percent = 0.0
        self._sample = (time.monotonic(), 0.0)
        self._memory = self._peak = self._command_peak = self._disk = self._hidden_memory = 0

    def run(self) -> None:
        """Serve until the lease ends; then leave nothing."""
        wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            while self._end is None:
                self._wait(wake)
                self._settle()
                self._look(time.monotonic())
        finally:
            self._leave_nothing()
        self._tell(Ended(*(self._end or ("lease-ended", ""))))

    def _tell(self, message: Message) -> None:
        # A daemon that does not listen any more is noticed when we next hear.
        with contextlib.suppress(OSError):
            send(self._channel, message)

    def _wait(self, wake: int) -> None:
        poll = select.poll()
        watched = [self._channel.fileno(), wake, self._place.channel]
        for descriptor in watched:
            if descriptor >= 0:
                poll.register(descriptor, select.POLLIN)
        deadline = min(self._ends_at, self._look_at, self._look_when_idle_at)
        ready = poll.poll(max(0, int((deadline - time.monotonic()) * 1000) + 1))
        for descriptor, _ in ready:
            if descriptor == wake:
                os.read(wake, 4096)
            elif descriptor == watched[0]:
                self._hear()

    def _hear(self) -> None:
        """Take one message from the daemon; its silence for ever is the end of the lease."""
        try:
            received = receive(self._channel)
        except (OSError, Garbled):
            received = None
        if received is None:
            self._end = ("lease-ended", "the node stopped")
            return
        message, fds = received
        try:
            self._handle(message, fds)
        finally:
            for descriptor in fds:
                os.close(descriptor)

    def _handle(self, message: object, fds: list[int]) -> None:
        match message:
            case Execute():
                self._execute(message, fds)
            case Cancel(number):
                if self._running is not None and self._running.number == number:
                    self._stop("lease-ended", "cancelled")
            case Reset(number):
                self._tell(Done(number, self._reset()))
            case Measure(number):
                self._tell(self._measured(number))
            case Dial(number, family):
                self._dial(number, family)
            case UseCores(cores):
                watch.use_cores(self._place.processes(), cores)
            case _:
                self._end = ("lease-ended", "")

    def _execute(self, request: Execute, fds: list[int]) -> None:
        now = time.monotonic()
        self._running, self._started_at, self._cause = request, now, ("", "")
        self._look_at, self._look_at_disk_at = now + _LOOK_S, now + _LOOK_AT_DISK_S
        self._look_when_idle_at = float("inf")
        self._command_peak = self._hidden_memory = 0
        self._used_when_killed_s = 0.0
        variables = self._base_variables() | request.variables
        try:
            source = fds[2] if len(fds) > 2 else -1
            streams = Streams(fds[0], fds[1], source, request.has_terminal)
            self._place.run(request, streams, variables)
        except (PlaceBroken, OSError) as error:
            self._cause = ("runtime-missing", str(error))
            self._finish(Finished(None, 0, 0.0, 0))

    def _base_variables(self) -> dict[str, str]:
        if self._start.tier != "none":
            return bubblewrap.base_variables(self._start.environment)
        start = self._start
        path = [os.path.dirname(start.interpreter), "/usr/local/bin", "/usr/bin", "/bin"]
        path.insert(0, f"{start.assets}/run/p2prc/bin")
        found = {"HOME": f"{start.folder}/work", "TMPDIR": f"{start.folder}/tmp"}
        if start.environment:
            path.insert(0, f"{start.environment}/bin")
            found["PYTHONPATH"] = start.environment
        return {**found, "LANG": "C.UTF-8", "PATH": ":".join(path)}

    def _stop(self, code: str, reason: str) -> None:
        """Kill the command that runs, for a reason; the first reason counts."""
        if not self._cause[0]:
            self._cause = (code, reason)
        self._kill()
        self._look_at = time.monotonic() + _LOOK_S

    def _kill(self) -> None:
        # The kernel does not credit a killed tree's time to anyone, so it is read before.
        if self._running is not None:
            self._used_when_killed_s = max(self._used_when_killed_s, self._place.cpu_s())
        self._place.kill()

    def _hurry(self) -> None:
        """Let what was killed use every core and, where we are root, a normal priority to die."""
        cores = sorted(os.sched_getaffinity(0))
        with own_power(self._start):
            for pid in self._place.processes():
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(pid, cores)
                    os.setpriority(os.PRIO_PROCESS, pid, 0)

    def _settle(self) -> None:
        """Report the command once it and all it started are gone."""
        finished = self._place.poll()
        if finished is not None and self._running is not None:
            self._finish(finished)

    def _finish(self, finished: Finished) -> None:
        assert self._running is not None
        request, self._running = self._running, None
        now = time.monotonic()
        self._look_at = float("inf")
        self._look_when_idle_at = now + _LOOK_WHEN_IDLE_S
        used_s = max(finished.cpu_s, self._used_when_killed_s)
        self._used_before_s += used_s
        self._sample = (now, self._used_before_s)
        self._memory, self._percent = 0, 0.0
        peak = max(self._command_peak, finished.memory_peak_bytes)
        self._peak = max(self._peak, peak)
        status, (code, reason) = finished.status, self._verdict(finished, request)
        duration_s = max(now - self._started_at, 1e-3)
        report = Exited(
            request.number,
            None if code else status,
            code,
            reason,
            used_s,
            round(100 * used_s / duration_s, 1),
            peak,
            self._disk,
        )
        self._tell(report)

    def _verdict(self, finished: Finished, request: Execute) -> tuple[str, str]:
        """Say in our words why the command did not end by itself, or nothing."""
        excess = self._disk_excess()
        if self._cause[0]:
            return self._cause
        if excess:
            return "limit-exceeded", excess
        if finished.status is None:
            return _why_not_started(finished.errno, request.argv[0])
        if finished.status != 0 and self._is_disk_full():
            return "disk-full", "no space is left on the node's disk"
        return "", ""

    def _look(self, now: float) -> None:
        """Compare what is used with what is allowed."""
        if now >= self._ends_at and self._end is None:
            reason = f"the lease's lifetime of {self._start.lifetime_s:g} s is over"
            self._cause = self._cause if self._cause[0] else ("limit-exceeded", reason)
            self._end = ("limit-exceeded", reason)
        elif self._running is not None and now >= self._look_at:
            self._look_at_running(self._running, now)
        elif self._running is None and now >= self._look_when_idle_at:
            self._look_when_idle_at = now + _LOOK_WHEN_IDLE_S
            # Only an agent that the tenant has replaced can leave anything running.
            if len(self._place.processes()) > 1 or self._memory_now() > self._start.memory_bytes:
                self._place.kill()

    def _look_at_running(self, request: Execute, now: float) -> None:
        if self._cause[0]:
            self._stop(*self._cause)
            return
        watch.be_polite(self._place.processes())
        if request.timeout_s is not None and now >= self._started_at + request.timeout_s:
            self._stop("timed-out", f"the command ran longer than {request.timeout_s:g} s")
        elif (used := self._memory_now()) > self._start.memory_bytes:
            limit = self._start.memory_bytes
            self._stop("limit-exceeded", f"memory: {_mib(used)} used, {_mib(limit)} allowed")
        elif now >= self._look_at_disk_at:
            self._look_at_disk(now)
        took_s = time.monotonic() - now
        self._look_at = now + max(_LOOK_S, _SHARE_OF_LOOKING * took_s)
        if request.timeout_s is not None and not self._cause[0]:
            self._look_at = min(self._look_at, self._started_at + request.timeout_s)

    def _look_at_disk(self, now: float) -> None:
        if excess := self._disk_excess():
            self._stop("limit-exceeded", excess)
        took_s = time.monotonic() - now
        self._look_at_disk_at = now + max(_LOOK_AT_DISK_S, _SHARE_OF_LOOKING * took_s)

    def _memory_now(self) -> int:
        pids = self._place.processes()
        if isinstance(self._place, BarePlace) and len(pids) > self._start.processes:
            count = f"{len(pids)} run, {self._start.processes} allowed"
            self._stop("limit-exceeded", f"processes: {count}")
        used = watch.memory_bytes(pids, self._start.memory_bytes) + self._hidden_memory
        if init := self._place.init():
            used += watch.shared_memory_bytes(init)
        self._memory = used
        self._command_peak = max(self._command_peak, used)
        return used

    def _disk_excess(self) -> str:
        """Measure the disk; say what is wrong with it, or nothing."""
        try:
            with own_power(self._start):
                work = folders.used_bytes(f"{self._start.folder}/work")
                used = work + folders.used_bytes(f"{self._start.folder}/tmp")
        except folders.TooDeep as error:
            return f"disk: {error}"
        if self._running is not None:
            pids = self._place.processes()
            unnamed, self._hidden_memory = watch.unnamed_bytes(pids, self._device)
            used += unnamed
        self._disk = used
        limit = self._start.disk_bytes
        return f"disk: {_mib(used)} used, {_mib(limit)} allowed" if used > limit else ""

    def _is_disk_full(self) -> bool:
        facts = os.statvfs(self._start.folder)
        return facts.f_bavail * facts.f_frsize < _DISK_FULL_BYTES

    def _measured(self, number: int) -> Measured:
        now, processes, used_s = time.monotonic(), 0, self._used_before_s
        if self._running is not None:
            processes = len(self._place.processes()) - (1 if self._place.init() else 0)
            self._memory_now()
            used_s += self._place.cpu_s()
        then, before_s = self._sample
        if now - then >= _LOOK_S:
            self._percent = max(0.0, round(100 * (used_s - before_s) / (now - then), 1))
            self._sample = (now, used_s)
        peak = self._peak = max(self._peak, self._command_peak)
        return Measured(number, used_s, self._percent, self._memory, peak, self._disk, processes)

    def _dial(self, number: int, family: int) -> None:
        """Answer with a socket that was made in the sandbox's network."""
        init = self._place.init()
        if not init:
            self._tell(Dialed(number, "nothing runs in the sandbox"))
            return
        try:
            made = entering.socket_inside(init, family, is_root=self._start.uid != 0)
        except OSError as error:
            self._tell(Dialed(number, f"its network cannot be entered: {error.strerror}"))
            return
        with contextlib.suppress(OSError):
            send(self._channel, Dialed(number, ""), (made,))
        os.close(made)

    def _reset(self) -> str:
        if self._running is not None:
            return "a command is running"
        try:
            with own_power(self._start):
                folders.empty(f"{self._start.folder}/work")
                folders.empty(f"{self._start.folder}/tmp")
        except OSError as error:
            return str(error)
        self._disk = 0
        return ""

    def _leave_nothing(self) -> None:
        """Kill all, report a command that was running, delete the folder."""
        deadline = time.monotonic() + _LAST_KILL_S
        if self._end is not None and not self._cause[0]:
            self._cause = (self._end[0], self._end[1] or "the lease was ended")
        self._kill()
        self._hurry()
        pause_s = 0.001
        while self._place.processes() and time.monotonic() < deadline:
            self._settle()
            # The dying need the processor more than we do.
            select.select([], [], [], pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        self._settle()
        if self._running is not None:
            self._finish(Finished(None, 0, 0.0, 0))
        delete(self._start, self._parent)


def delete(start: Start, parent: int) -> None:
    with own_power(start):
        folders.remove_in(parent, os.path.basename(start.folder))


@contextlib.contextmanager
def own_power(start: Start) -> Iterator[None]:
    """Be root again, where we were, for work on files by descriptor."""
    if not start.uid:
        yield
        return
    os.seteuid(0)
    try:
        yield
    finally:
        os.seteuid(start.uid)


def _why_not_started(number: int, name: str) -> tuple[str, str]:
    shown = name[:200]
    if number in (errno.ENOENT, errno.ENOTDIR):
        return "command-not-found", f"`{shown}` does not exist there"
    if number:
        return "command-not-found", f"`{shown}` cannot be run: {os.strerror(number).lower()}"
    return "lease-ended", "the sandbox ended unexpectedly"


def _mib(count: int) -> str:
    return f"{count / _MEBIBYTE:.0f} MiB"
