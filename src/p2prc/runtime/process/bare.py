"""Processes of the host with limits: without walls (`none`), or behind a fence (`landlock`)."""

# Works on descriptors and plain paths: pathlib would have to be loaded for every lease.
from __future__ import annotations

import contextlib
import errno
import os
import signal

from p2prc.runtime.process import kernel, watch
from p2prc.runtime.process.bubble import START_LIMIT_MS, read_within
from p2prc.runtime.process.caps import Caps, lower_limit
from p2prc.runtime.process.fence import Fence
from p2prc.runtime.process.messages import Execute
from p2prc.runtime.process.places import Finished, Streams, reaped
from p2prc.runtime.process.powers import out_of_reach

_STOPPING_ROUNDS = 50


class BarePlace:
    """No sandbox: processes with limits, and a fence around them or none.

    Without one it is for requesters that the owner trusts.
    """

    channel = -1

    def __init__(
        self,
        folder: str,
        caps: Caps,
        *,
        uid: int,
        has_sessions: bool = False,
        fence: Fence | None = None,
    ) -> None:
        self._fence = fence
        self._work = f"{folder}/work"
        self._caps = caps
        self._uid = uid
        self._has_sessions = has_sessions
        self._running: dict[int, int] = {}
        self._ended: list[Finished] = []
        self._used = 0.0
        self._peak = 0

    def open(self) -> None:
        """Do nothing: there is nothing to make."""

    def run(self, request: Execute, streams: Streams, variables: dict[str, str]) -> None:
        caps = self._caps
        if not self._uid:
            # The kernel counts all processes of the user, so the rest of them need room too.
            caps = caps._replace(processes=caps.processes + len(watch.owned_by(os.getuid())))
        failed, failing = os.pipe2(os.O_CLOEXEC)
        if not self._has_sessions:
            self._used, self._peak = 0.0, 0
        pid = os.fork()
        if pid == 0:
            try:
                _become_ready(request, streams, caps, self._work)
                if self._fence is not None:
                    self._fence.close_in()
                # exec drops the saved id; until then nothing of the tenant's has run.
                os.execvpe(request.argv[0], request.argv, variables)  # noqa: S606
            except OSError as error:
                os.write(failing, b"%d" % (error.errno or errno.ENOENT))
            finally:
                os._exit(127)
        os.close(failing)
        number = int(read_within(failed, START_LIMIT_MS, is_kept=False) or b"0")
        if number:
            self._ended.append(Finished(request.number, None, number, 0.0, 0))
        else:
            self._running[pid] = request.number

    def poll(self) -> list[Finished]:
        for pid, code, usage in reaped():
            used_s, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
            self._used += used_s
            self._peak = max(self._peak, peak)
            if pid in self._running:
                exit_code = os.waitstatus_to_exitcode(code)
                status = 128 - exit_code if exit_code < 0 else exit_code
                self._ended.append(Finished(self._running.pop(pid), status, 0, used_s, peak))
        if not self._has_sessions and self._ended and not self._running:
            if watch.children(os.getpid()):
                self.kill()
                return []
            self._ended = [
                end._replace(cpu_s=self._used, memory_peak_bytes=self._peak) for end in self._ended
            ]
        ended, self._ended = self._ended, []
        return ended

    def stop(self, number: int) -> None:
        if not self._has_sessions:
            self.kill()
            return
        for pid, running in self._running.items():
            if running == number:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)

    def kill(self) -> None:
        if self._uid:
            self._kill_user()
            return
        # Who is stopped does not fork: else the killing could go on for ever.
        known: set[int] = set()
        for _ in range(_STOPPING_ROUNDS):
            found = set(self.processes()) - known
            if not found:
                break
            known |= found
            _signal_all(found, signal.SIGSTOP)
        _signal_all(known, signal.SIGKILL)

    def _kill_user(self) -> None:
        """Kill all processes of the lease's user with one call, which no bomb outruns."""
        with out_of_reach(self._uid):
            child = os.fork()
            if child == 0:
                try:
                    os.setresuid(self._uid, self._uid, self._uid)
                    os.kill(-1, signal.SIGKILL)
                finally:
                    os._exit(0)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)

    def processes(self) -> list[int]:
        return watch.descendants(os.getpid())

    def cpu_s(self, pids: list[int] | None = None) -> float:
        return self._used + watch.cpu_s(self.processes() if pids is None else pids)

    def init(self) -> int:
        return 0


def _become_ready(request: Execute, streams: Streams, caps: Caps, work: str) -> None:
    """Be all that a command is before its program, in a child forked for it; raises OSError."""
    kernel.die_with_parent()
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.chdir(work)
    for kind, value in caps.limits():
        lower_limit(0, kind, value)
    kernel.be_last_in_line(0)
    if request.cores:
        os.sched_setaffinity(0, request.cores)
    source = streams.source if streams.source >= 0 else os.open("/dev/null", os.O_RDONLY)
    if streams.is_terminal:
        # A session without a terminal gets the first that it opens.
        source = os.open(f"/proc/self/fd/{streams.out}", os.O_RDWR)
    for ours, theirs in ((source, 0), (streams.out, 1), (streams.err, 2)):
        os.dup2(ours, theirs)


def _signal_all(pids: set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
