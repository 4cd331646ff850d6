"""The supervisor of one lease: the process that starts its commands and holds it to its limits.

Theory of operation. One thread, one `poll`: the daemon's messages, the ends of children, and a
clock that stands still while nothing runs (every few seconds it looks whether that is true).
When the daemon's end of the socket closes, for whatever reason, the lease ends at once, or, with
sessions, waits for the next daemon (`keeping`). When this process dies, the kernel kills the
sandbox and the daemon deletes the folder.
"""

# ruff: noqa: PTH119, PTH120, S108
# Works on descriptors and plain paths: pathlib would have to be loaded for every lease.
from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import time

from p2prc.runtime.process import bubblewrap, entering, folders, watch
from p2prc.runtime.process.bare import BarePlace
from p2prc.runtime.process.gauge import Gauge
from p2prc.runtime.process.keeping import Keeping
from p2prc.runtime.process.messages import (
    BARE_TIERS,
    Adopt,
    Cancel,
    Dial,
    Dialed,
    Done,
    Ended,
    Execute,
    Exited,
    Garbled,
    Listening,
    Measure,
    Message,
    Ready,
    Reset,
    Start,
    Suspend,
    UseCores,
    receive,
    send,
)
from p2prc.runtime.process.places import Finished, Place, PlaceBroken, Streams
from p2prc.runtime.process.powers import own_power

_LOOK_S = 0.1
_LOOK_AT_DISK_S = 0.5
_LOOK_WHEN_IDLE_S = 5.0
_SHARE_OF_LOOKING = 20
_LAST_KILL_S = 12.0
_LONGEST_PAUSE_S = 0.02
_LONGEST_WAIT_S = 86400.0
"""The kernel takes no more than 24 days, and a lease may have no end."""


class Running:
    """A command that runs, and why it is being ended, if it is."""

    def __init__(self, request: Execute, now: float) -> None:
        self.request = request
        self.started_at = now
        self.cause = ("", "")

    def because(self, code: str, reason: str) -> None:
        """Note why it is ended; the first reason counts."""
        if not self.cause[0]:
            self.cause = (code, reason)

    @property
    def times_out_at(self) -> float:
        timeout_s = self.request.timeout_s
        return float("inf") if timeout_s is None else self.started_at + timeout_s


class Supervisor:
    """One lease, from its readiness to its end; one command at a time."""

    def __init__(
        self, channel: socket.socket, start: Start, place: Place, parent: int, keeping: Keeping
    ) -> None:
        self._channel: socket.socket | None = channel
        self._start = start
        self._place = place
        self._parent = parent
        self._keeping = keeping
        self._gauge = Gauge(start, place)
        self._ends_at = time.monotonic() + start.lifetime_s
        self._running: dict[int, Running] = {}
        self._end: tuple[str, str] | None = None
        self._look_at = self._look_at_disk_at = float("inf")
        self._look_when_idle_at = time.monotonic() + _LOOK_WHEN_IDLE_S
        self._used_before_s = self._used_when_killed_s = 0.0
        self._is_suspended = False
        self._listens_in, self._listener = 0, -1

    def run(self) -> None:
        """Serve until the lease ends; then leave nothing."""
        wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            self._listen_inside()
            while self._end is None:
                self._wait(wake)
                self._settle()
                self._look(time.monotonic())
        finally:
            self._leave_nothing(wake)
        self._tell(Ended(*(self._end or ("lease-ended", ""))))

    # -- the daemon ---------------------------------------------------------------------------

    def _tell(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        # A daemon that does not listen any more is noticed when we next hear.
        if self._channel is not None:
            with contextlib.suppress(OSError):
                send(self._channel, message, fds)

    def _wait(self, wake: int) -> None:
        poll = select.poll()
        channel = -1 if self._channel is None else self._channel.fileno()
        for descriptor in (channel, wake, self._place.channel, self._keeping.descriptor):
            if descriptor >= 0:
                poll.register(descriptor, select.POLLIN)
        look_at = self._look_at if self._is_busy else self._look_when_idle_at
        deadline = min(self._ends_at, look_at, self._keeping.gives_up_at)
        pause_s = min(max(0.0, deadline - time.monotonic()), _LONGEST_WAIT_S)
        ready = poll.poll(int(pause_s * 1000) + 1)
        for descriptor, _ in ready:
            if descriptor == wake:
                os.read(wake, 4096)
            elif descriptor == channel:
                self._hear()
            elif descriptor == self._keeping.descriptor:
                self._be_taken_up()

    def _hear(self) -> None:
        """Take one message from the daemon; its silence for ever ends the lease, or its keeping."""
        assert self._channel is not None
        try:
            received = receive(self._channel)
        except (OSError, Garbled):
            received = None
        if received is None:
            self._be_left()
            return
        message, fds = received
        try:
            self._handle(message, fds)
        finally:
            for descriptor in fds:
                os.close(descriptor)

    def _be_left(self) -> None:
        """The node is gone: end, or wait for its next life without the commands it read."""
        if not self._keeping.begin(time.monotonic()):
            self._end = ("lease-ended", "the node stopped")
            return
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        for number, running in self._running.items():
            running.because("lease-ended", "the node stopped")
            self._place.stop(number)

    def _be_taken_up(self) -> None:
        """Serve the daemon that calls, in place of the one before."""
        taken = self._keeping.accept()
        if taken is None:
            return
        if self._channel is not None:
            self._be_left()
        self._keeping.stop()
        self._channel = taken
        # The first word says what it wants; `Adopt` is answered like a start.
        self._hear()

    def _handle(self, message: object, fds: list[int]) -> None:
        match message:
            case Execute():
                self._execute(message, fds)
            case Cancel(number):
                if number in self._running:
                    self._stop(number, "lease-ended", "cancelled")
            case Reset(number):
                self._tell(Done(number, self._reset()))
            case Measure(number):
                self._tell(self._measured(number))
            case Dial(number, family):
                self._dial(number, family)
            case UseCores(cores):
                watch.use_cores(self._place.processes(), cores)
            case Suspend(is_suspended):
                self._suspend(is_suspended=is_suspended)
            case Adopt():
                # The node before may have gone while its owner needed the machine.
                self._suspend(is_suspended=False)
                self.greet()
                if self._listener >= 0:
                    self._tell(Listening(), (self._listener,))
            case _:
                self._end = ("lease-ended", "")

    def _suspend(self, *, is_suspended: bool) -> None:
        """Stop what the tenant runs, or let it go on; who forked meanwhile is met soon after."""
        if not is_suspended and not self._is_suspended:
            return
        self._is_suspended = is_suspended
        # A sandbox's first process is ours: it tells us of ends, and must hear of new commands.
        processes = self._place.processes()
        tenants = [pid for pid in processes if pid != self._place.init()]
        watch.stop_or_continue(tenants, is_stopped=is_suspended)

    def greet(self) -> None:
        """Say that the lease takes commands."""
        handle = os.pidfd_open(os.getpid())
        self._tell(_ready(self._start), (handle,))
        os.close(handle)

    # -- commands -----------------------------------------------------------------------------

    def _execute(self, request: Execute, fds: list[int]) -> None:
        now = time.monotonic()
        self._before(now)
        self._running[request.number] = Running(request, now)
        variables = self._base_variables() | request.variables
        source = fds[2] if len(fds) > 2 else -1
        streams = Streams(fds[0], fds[1], source, request.has_terminal)
        try:
            self._place.run(request, streams, variables)
            self._listen_inside()
        except (PlaceBroken, OSError) as error:
            self._running[request.number].because("runtime-missing", str(error))
            self._finish(Finished(request.number, None, 0, 0.0, 0))

    def _before(self, now: float) -> None:
        """Look at the command that starts soon and often."""
        self._look_at, self._look_at_disk_at = now + _LOOK_S, now + _LOOK_AT_DISK_S
        self._look_when_idle_at = float("inf")
        self._used_when_killed_s = 0.0
        self._gauge.begin()

    def _base_variables(self) -> dict[str, str]:
        if self._start.tier not in BARE_TIERS:
            return bubblewrap.base_variables(self._start.environment)
        start = self._start
        path = [os.path.dirname(start.interpreter), "/usr/local/bin", "/usr/bin", "/bin"]
        path.insert(0, f"{start.assets}/run/p2prc/bin")
        found = {"HOME": f"{start.folder}/work", "TMPDIR": f"{start.folder}/tmp"}
        if start.environment:
            path.insert(0, f"{start.environment}/bin")
            found["PYTHONPATH"] = start.environment
        return {**found, "LANG": "C.UTF-8", "PATH": ":".join(path)}

    def _stop(self, number: int, code: str, reason: str) -> None:
        """Kill a command that runs, for a reason; the first reason counts."""
        is_again = bool(self._running[number].cause[0])
        self._running[number].because(code, reason)
        self._kill_in_haste(is_again=is_again)
        self._look_at = time.monotonic() + _LOOK_S

    def _kill_in_haste(self, *, is_again: bool = False) -> None:
        """Kill all, and let the dying have their turn: on a busy machine they would starve.

        Whose death takes long gets a normal priority for its sessions, too.
        """
        if init := self._place.init():
            with own_power(self._start.uid):
                watch.hasten(init)
        self._kill()
        self._hurry(is_late=is_again)

    def _kill(self) -> None:
        # The kernel does not credit a killed tree's time to anyone, so it is read before.
        if self._running:
            self._used_when_killed_s = max(self._used_when_killed_s, self._place.cpu_s())
        self._place.kill()

    def _settle(self) -> None:
        """Report commands that ended; without sessions, once all that they started is gone."""
        for finished in self._place.poll():
            if finished.number in self._running:
                self._finish(finished)

    def _finish(self, finished: Finished) -> None:
        running = self._running.pop(finished.number)
        now = time.monotonic()
        used_s, peak = self._account(finished, now)
        # It is measured as it was at the end, also where a reason is known already.
        excess = self._excess_at_end()
        code, reason = running.cause
        if not code:
            code, reason = self._verdict(finished, running.request, excess)
        duration_s = max(now - running.started_at, 1e-3)
        report = Exited(
            running.request.number,
            None if code else finished.status,
            code,
            reason,
            used_s,
            round(100 * used_s / duration_s, 1),
            peak,
            self._gauge.disk,
        )
        self._tell(report)

    def _account(self, finished: Finished, now: float) -> tuple[float, int]:
        """Return the CPU time and the memory peak of a command that ended."""
        self._look_at = float("inf")
        self._look_when_idle_at = now + _LOOK_WHEN_IDLE_S
        used_s = max(finished.cpu_s, self._used_when_killed_s)
        self._used_before_s += used_s
        self._gauge.has_calmed_down(self._used_before_s)
        peak = max(self._gauge.command_peak, finished.memory_peak_bytes)
        self._gauge.memory_peak = max(self._gauge.memory_peak, peak)
        return used_s, peak

    def _excess_at_end(self) -> str:
        return self._gauge.disk_excess()

    def _verdict(self, finished: Finished, request: Execute, excess: str) -> tuple[str, str]:
        """Say in our words why the command did not end by itself, or nothing."""
        if excess:
            return "limit-exceeded", excess
        if finished.status is None:
            return _why_not_started(finished.errno, request.argv[0])
        if finished.status != 0 and self._gauge.is_disk_full():
            return "disk-full", "no space is left on the node's disk"
        return "", ""

    # -- looking ------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Compare what is used with what is allowed."""
        if now >= self._ends_at and self._end is None:
            reason = f"the lease's lifetime of {self._start.lifetime_s:g} s is over"
            self._end = ("limit-exceeded", reason)
        elif now >= self._keeping.gives_up_at:
            self._end = ("lease-ended", "the node did not come back")
        elif self._is_busy and now >= self._look_at:
            self._look_at_busy(now, self._place.processes())
        elif not self._is_busy and now >= self._look_when_idle_at:
            self._look_when_idle_at = now + _LOOK_WHEN_IDLE_S
            # Only an agent that the tenant has replaced can leave anything running.
            pids = self._place.processes()
            if len(pids) > 1 or self._gauge.memory_excess(pids):
                self._place.kill()

    @property
    def _is_busy(self) -> bool:
        return bool(self._running)

    def _look_at_busy(self, now: float, pids: list[int]) -> None:
        if not any(running.cause[0] for running in self._running.values()):
            watch.be_polite(pids)
        if self._is_suspended:
            self._suspend(is_suspended=True)
        for number, running in list(self._running.items()):
            if running.cause[0]:
                # Until it is gone: who was just forked may have been missed.
                self._stop(number, *running.cause)
            elif now >= running.times_out_at:
                limit_s = running.request.timeout_s
                self._stop(number, "timed-out", f"the command ran longer than {limit_s:g} s")
        if excess := self._too_many(pids) or self._gauge.memory_excess(pids):
            self._hold_back(excess)
        else:
            self._recover()
            if now >= self._look_at_disk_at:
                self._look_at_disk(now, pids)
        took_s = time.monotonic() - now
        self._look_at = now + max(_LOOK_S, _SHARE_OF_LOOKING * took_s)
        for running in self._running.values():
            if not running.cause[0]:
                self._look_at = min(self._look_at, running.times_out_at)

    def _too_many(self, pids: list[int]) -> str:
        """Say what the kernel cannot be asked to count without walls, or nothing."""
        count, limit = len(pids), self._start.processes
        if isinstance(self._place, BarePlace) and count > limit:
            return f"processes: {count} run, {limit} allowed"
        return ""

    def _look_at_disk(self, now: float, pids: list[int]) -> None:
        if excess := self._gauge.disk_excess(pids):
            self._give_up(excess)
        took_s = time.monotonic() - now
        self._look_at_disk_at = now + max(_LOOK_AT_DISK_S, _SHARE_OF_LOOKING * took_s)

    def _hold_back(self, excess: str) -> None:
        """Take from the tenant what it has too much of and loses by being killed."""
        self._give_up(excess)

    def _recover(self) -> None:
        """Note that nothing is too much."""

    def _give_up(self, excess: str) -> None:
        """End what has more than it may have and does not give it back."""
        for number in list(self._running):
            self._stop(number, "limit-exceeded", excess)

    def _measured(self, number: int) -> Message:
        processes, used_s = 0, self._used_before_s
        if self._is_busy:
            pids = self._place.processes()
            processes = len(pids) - (1 if self._place.init() else 0)
            self._gauge.look_at_memory(pids)
            used_s += self._place.cpu_s(pids)
        return self._gauge.measured(number, used_s, processes)

    # -- its network --------------------------------------------------------------------------

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
        self._tell(Dialed(number, ""), (made,))
        os.close(made)

    def _listen_inside(self) -> None:
        """Have a socket listen in each sandbox's network, once, and hand it to the daemon."""
        init, port = self._place.init(), self._start.listens_at
        if not port or not init or init == self._listens_in:
            return
        if self._listener >= 0:
            os.close(self._listener)
            self._listener = -1
        # Ours as well, so that the port is taken while there is no node.
        self._listener = entering.socket_inside(
            init, socket.AF_INET, is_root=self._start.uid != 0, listens_at=port
        )
        self._listens_in = init
        self._tell(Listening(), (self._listener,))

    # -- the end ------------------------------------------------------------------------------

    def _reset(self) -> str:
        if self._running:
            return "a command is running"
        try:
            with own_power(self._start.uid):
                folders.empty(f"{self._start.folder}/work")
                folders.empty(f"{self._start.folder}/tmp")
        except OSError as error:
            return str(error)
        self._gauge.disk = 0
        return ""

    def _leave_nothing(self, wake: int) -> None:
        """Kill all, report what was running, delete the folder."""
        deadline = time.monotonic() + _LAST_KILL_S
        code, reason = self._end or ("lease-ended", "")
        for running in self._running.values():
            running.because(code, reason or "the lease was ended")
        self._kill_in_haste()
        kill_again_at = time.monotonic() + _LOOK_S
        # Orphans are ours, so nothing of the tenant's lives without a child of ours.
        while watch.children(os.getpid()) and (now := time.monotonic()) < deadline:
            # The dying need the processor more than we do: we sleep until one of ours has ended.
            select.select([wake], [], [], _LONGEST_PAUSE_S)
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
            self._settle()
            if now >= kill_again_at:
                self._place.kill()
                self._hurry(is_late=True)
                kill_again_at = now + _LOOK_S
        self._settle()
        for number in list(self._running):
            self._finish(Finished(number, None, 0, 0.0, 0))
        delete(self._start, self._parent)
        self._keeping.forget()

    def _hurry(self, *, is_late: bool = False) -> None:
        """Let what was killed use every core to die, and a normal priority where it has a user."""
        uid = self._start.uid
        with own_power(uid):
            if uid:
                with contextlib.suppress(OSError):
                    os.setpriority(os.PRIO_USER, uid, 0)
            # Their user tells them apart faster than who started whom.
            dying = watch.owned_by(uid) if uid else self._place.processes()
            watch.spread(dying, sorted(os.sched_getaffinity(0)))
            if is_late:
                watch.be_impolite(dying)


def delete(start: Start, parent: int) -> None:
    """Delete the lease's folder, which lies in the folder `parent`."""
    with own_power(start.uid):
        folders.remove_in(parent, os.path.basename(start.folder))


def _ready(start: Start) -> Ready:
    if start.tier in BARE_TIERS:
        return Ready(f"{start.folder}/inputs", f"{start.folder}/work")
    return Ready(bubblewrap.INPUTS, bubblewrap.WORK)


def _why_not_started(number: int, name: str) -> tuple[str, str]:
    shown = name[:200]
    if number in (errno.ENOENT, errno.ENOTDIR):
        return "command-not-found", f"`{shown}` does not exist there"
    if number:
        return "command-not-found", f"`{shown}` cannot be run: {os.strerror(number).lower()}"
    return "lease-ended", "the sandbox ended unexpectedly"
