"""One sandbox in the making: held back until its limits are set, killed by its first process."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
from collections.abc import Callable

from p2prc.runtime.process import bubblewrap, kernel, seccomp
from p2prc.runtime.process.caps import Caps, lower_limit
from p2prc.runtime.process.places import PlaceBroken

START_LIMIT_MS = 10_000
_RESET_SIGNALS = (signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)

Spawn = Callable[[int, int], int]
"""Starts a sandbox; returns the pid of a process that ends with it, and with its exit status.

It gets the end of a pipe to write JSON lines to, the first with `child-pid`, and one to read from:
nothing of the tenant's runs before that is closed. Raises OSError.
"""


class Bubble:
    """One sandbox, held back until its limits are set."""

    def __init__(self, spawn: Spawn) -> None:
        status, status_inside = os.pipe2(os.O_CLOEXEC)
        blocked, block = os.pipe2(os.O_CLOEXEC)
        try:
            self.monitor = spawn(status_inside, blocked)
        except OSError as error:
            os.close(status)
            os.close(block)
            raise PlaceBroken(str(error)) from error
        finally:
            os.close(status_inside)
            os.close(blocked)
        self._status = status
        self._block = block
        self.init = 0
        self._init_handle = -1

    def confine(self, caps: Caps, cores: list[int]) -> bool:
        """Set the limits on the first process inside; False when there is none."""
        line = b""
        while not line.endswith(b"\n"):
            part = read_within(self._status, START_LIMIT_MS)
            if not part:
                return False
            line += part
        self.init = int(json.loads(line)["child-pid"])
        self._init_handle = os.pidfd_open(self.init)
        for kind, value in caps.limits():
            lower_limit(self.init, kind, value)
        if cores:
            os.sched_setaffinity(self.init, cores)
        return True

    def be_last_in_line(self) -> None:
        """Take the lowest priority, which everything inside inherits."""
        kernel.be_last_in_line(self.init)

    def let_go(self) -> None:
        os.close(self._block)
        self._block = -1

    def kill(self) -> None:
        """Kill the first process inside, and with it all others."""
        if self._init_handle >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init_handle, signal.SIGKILL)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.monitor, signal.SIGKILL)

    @property
    def is_init_gone(self) -> bool:
        if self._init_handle < 0:
            return True
        poll = select.poll()
        poll.register(self._init_handle, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> bool:
        """Forget it, once it is gone; say whether its command had started."""
        os.set_blocking(self._status, False)
        try:
            has_started = b"exit-code" in os.read(self._status, 4096)
        except BlockingIOError:
            has_started = False
        for descriptor in (self._status, self._block, self._init_handle):
            if descriptor >= 0:
                os.close(descriptor)
        return has_started


def bubblewrapped(bwrap: str, options: bytes, command: list[str], fds: dict[int, int]) -> Spawn:
    """Return what starts bubblewrap with these options and descriptors."""

    def spawn(status: int, blocked: int) -> int:
        plan = memory_file(options)
        calls = memory_file(seccomp.program())
        inside = {
            **fds,
            bubblewrap.STATUS_FD: status,
            bubblewrap.BLOCK_FD: blocked,
            bubblewrap.OPTIONS_FD: plan,
            bubblewrap.SECCOMP_FD: calls,
        }
        argv = [bwrap, "--args", str(bubblewrap.OPTIONS_FD), "--", *command]
        actions = [(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in inside.items()]
        try:
            return os.posix_spawn(
                bwrap, argv, {}, file_actions=actions, setsid=True, setsigdef=_RESET_SIGNALS
            )
        finally:
            os.close(plan)
            os.close(calls)

    return spawn


def memory_file(content: bytes) -> int:
    memory = os.memfd_create("p2prc", os.MFD_CLOEXEC)
    os.write(memory, content)
    os.lseek(memory, 0, os.SEEK_SET)
    return memory


def read_within(pipe: int, limit_ms: int, *, is_kept: bool = True) -> bytes:
    """Return what comes first from the pipe; nothing at its end or when time is up."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    try:
        return os.read(pipe, 4096) if poll.poll(limit_ms) else b""
    finally:
        if not is_kept:
            os.close(pipe)
