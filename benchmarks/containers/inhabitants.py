"""The processes of one sandbox, seen from outside: found, counted, and watched until none is left.

Reads /proc alone and asks nothing of what is measured. A sandbox is a process namespace: its first
process ends only when the kernel has taken leave of every other one in it (`pid_namespaces(7)`), so
a handle on that process tells when the sandbox is empty.
"""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path

_POLL_S = 0.002
_PROC = Path("/proc")


class Inhabitants:
    """All processes of the sandbox in which a process has the word `mark` on its command line."""

    def __init__(self, mark: str, *, within_s: float = 10.0) -> None:
        """Wait for that process. Raises TimeoutError."""
        ends_at = time.monotonic() + within_s
        while (pid := _with_word(mark.encode())) is None:
            if time.monotonic() > ends_at:
                raise TimeoutError(f"no process has the word {mark}")
            time.sleep(_POLL_S)
        self._namespace = _namespace_of(pid)
        if self._namespace in {0, _namespace_of(os.getpid())}:
            raise ValueError("this process is in no sandbox")
        self._first_pid = next(pid for pid in self._pids() if _is_first(pid))
        self._first = os.pidfd_open(self._first_pid)

    def count(self) -> int:
        """Return how many there are."""
        return len(self._pids())

    def wait_for(self, count: int, *, within_s: float = 5.0) -> int:
        """Wait until there are so many, or time is up; return how many there are."""
        ends_at = time.monotonic() + within_s
        while (found := self.count()) < count and time.monotonic() < ends_at:
            time.sleep(_POLL_S)
        return found

    def kill(self) -> None:
        """Kill the first, and with it all."""
        signal.pidfd_send_signal(self._first, signal.SIGKILL)

    def gone_at(self, *, within_s: float = 30.0) -> float:
        """Wait until none is left; return when that was (`perf_counter`). Raises TimeoutError."""
        poll = select.poll()
        poll.register(self._first, select.POLLIN)
        if not poll.poll(int(1000 * within_s)):
            raise TimeoutError(f"{self.count()} processes do not go")
        at = time.perf_counter()
        os.close(self._first)
        # The first may wait to be seen off by its parent: it is dead, and alone.
        if left := set(self._pids()) - {self._first_pid}:
            raise RuntimeError(f"processes are left after the first has gone: {left}")
        return at

    def _pids(self) -> list[int]:
        return [pid for pid in _all_pids() if _namespace_of(pid) == self._namespace]


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def _namespace_of(pid: int) -> int:
    try:
        return (_PROC / str(pid) / "ns" / "pid").stat().st_ino
    except OSError:
        return 0


def _with_word(word: bytes) -> int | None:
    """Return the process deepest in namespaces with this word: a starter outside has it too."""
    found: dict[int, int] = {}
    for pid in _all_pids():
        try:
            words = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
            if word in words:
                found[pid] = len(_pids_inside(pid))
        except OSError:
            continue
    deepest = max(found.values(), default=1)
    return next((pid for pid, depth in found.items() if depth == deepest > 1), None)


def _is_first(pid: int) -> bool:
    return _pids_inside(pid)[-1:] == ["1"]


def _pids_inside(pid: int) -> list[str]:
    """Return a process's number in each of its namespaces, ours first."""
    try:
        status = (_PROC / str(pid) / "status").read_text(encoding="utf-8")
    except OSError:
        return []
    return next((line.split()[1:] for line in status.splitlines() if line[:6] == "NSpid:"), [])
