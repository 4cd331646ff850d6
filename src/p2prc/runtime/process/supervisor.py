"""The nursery: a small process that forks a supervisor for each lease.

Run as `python -I -S supervisor.py FD`, with nothing but the standard library, so that a lease
costs a fork and not the start of an interpreter. It also inherits what a killed supervisor of
the tier `none` leaves behind, and kills it.
"""

# ruff: noqa: PTH100, PTH120
# Works on descriptors and plain paths: pathlib would have to be loaded for every lease.
from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import select
import signal
import socket
import sys

# `-I` hides our own package: add the folder it lies in, last, without running anything from it.
sys.path.append(os.path.dirname(os.path.abspath(__file__)).removesuffix("/p2prc/runtime/process"))

from p2prc.runtime.process import bubblewrap, kernel, serving, watch
from p2prc.runtime.process.messages import receive_packet


def main() -> None:
    """Fork a supervisor for every socket that arrives, until the daemon and all leases are gone."""
    given = int(sys.argv[1])
    # Out of the way of the low descriptors, which children use for other things.
    control = socket.socket(fileno=fcntl.fcntl(given, fcntl.F_DUPFD_CLOEXEC, 64))
    os.close(given)
    _reserve_descriptors()
    os.chdir("/")
    os.umask(0o022)
    kernel.adopt_orphans()
    wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What is loaded now is shared by all supervisors; a collection would copy it.
    gc.freeze()
    born = _nurse(control, wake)
    if born is None:
        return
    control.close()
    signal.set_wakeup_fd(-1)
    os.close(wake)
    os.close(woken)
    serving.serve(born)
    # Nothing is left to tidy up, and taking the interpreter down costs more than the lease.
    os._exit(0)


def _nurse(control: socket.socket, wake: int) -> socket.socket | None:
    """Return the lease's socket in a new supervisor; in the nursery None, at the end."""
    supervisors: set[int] = set()
    poll = select.poll()
    poll.register(control.fileno(), select.POLLIN)
    poll.register(wake, select.POLLIN)
    is_closing = False
    while not (is_closing and not supervisors):
        for descriptor, _ in poll.poll():
            if descriptor == wake:
                os.read(wake, 4096)
                _reap(supervisors)
                continue
            _, fds = receive_packet(control)
            if not fds:
                is_closing = True
                poll.unregister(control.fileno())
                continue
            pid = os.fork()
            if pid == 0:
                return socket.socket(fileno=fds[0])
            os.close(fds[0])
            supervisors.add(pid)
    return None


def _reap(supervisors: set[int]) -> None:
    """Take leave of children; kill those that are not ours but were left to us."""
    with contextlib.suppress(ChildProcessError):
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            supervisors.discard(pid)
    for pid in watch.children(os.getpid()):
        if pid not in supervisors:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _reserve_descriptors() -> None:
    """Let no descriptor of ours ever have a low number."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    while null < bubblewrap.RESERVED_FDS:
        null = os.dup(null)


if __name__ == "__main__":
    main()
