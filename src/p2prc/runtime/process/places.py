"""Where a command runs: in a sandbox with an agent, in a sandbox of its own, or bare.

A place starts a command and says when it and everything it started are gone. Limits that the
kernel keeps are set by the place; those that are looked at now and then are the supervisor's.
"""

from __future__ import annotations

import contextlib
import os
import resource
from typing import NamedTuple, Protocol

from p2prc.runtime.process.messages import Execute


class PlaceBroken(Exception):
    """A sandbox could not be made; the text says what bubblewrap said."""


class Finished(NamedTuple):
    """How a command ended, before any limit has its say: `errno` when it did not start."""

    number: int
    status: int | None
    errno: int
    cpu_s: float
    memory_peak_bytes: int


class Streams(NamedTuple):
    """A command's descriptors; `source` -1 is an input that is empty."""

    out: int
    err: int
    source: int
    is_terminal: bool


class Place(Protocol):
    """Where one command at a time runs, or many in sessions."""

    @property
    def channel(self) -> int:
        """A descriptor to watch besides the ends of children, or -1."""
        ...

    def open(self) -> None:
        """Make what can be made before the first command; raises PlaceBroken."""
        ...

    def run(self, request: Execute, streams: Streams, variables: dict[str, str]) -> None:
        """Start a command; raises PlaceBroken. The descriptors stay the caller's."""
        ...

    def poll(self) -> list[Finished]:
        """Reap what ended; return how commands ended.

        Without sessions nothing of a command is left by then.
        """
        ...

    def stop(self, number: int) -> None:
        """Kill one command; `poll` tells when it is gone."""
        ...

    def kill(self) -> None:
        """Kill whatever runs; `poll` tells when it is gone."""
        ...

    def processes(self) -> list[int]:
        """Return the pids of the tenant's processes."""
        ...

    def cpu_s(self, pids: list[int] | None = None) -> float:
        """Return the CPU time of what runs; in sessions all of it since the place was opened.

        `pids` are the processes where the caller knows them.
        """
        ...

    def init(self) -> int:
        """Return the pid of a sandbox's first process, 0 without one."""
        ...


def reaped() -> list[tuple[int, int, resource.struct_rusage]]:
    """Take leave of every child that has ended."""
    ended: list[tuple[int, int, resource.struct_rusage]] = []
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                break
            ended.append((pid, status, usage))
    return ended
