"""The walls of the tier `unshare`: what bubblewrap does, done by ourselves where it is missing.

A child of the supervisor goes into namespaces of its own and forks the first process there. That
one builds a root folder from the lease's folders and the host's programs, moves into it, gives up
all power and becomes the agent. The tenant finds what it finds in bubblewrap's sandbox.
"""

# ruff: noqa: PTH102, PTH103, PTH112, PTH114, PTH115, PTH211, S108
# Works on descriptors and plain paths: pathlib would have to be loaded for every lease.
from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
from typing import NamedTuple

from p2prc.runtime.process import bubblewrap, kernel, seccomp
from p2prc.runtime.process.bubble import Spawn

_TENANT = 1000
_BASE = "/tmp"
_OLD, _NEW = "/oldroot", "/newroot"
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "core": "/proc/kcore",
    "ptmx": "pts/ptmx",
}
_SET_FLAGS, _IS_UP = 0x8914, 1 | 64
_FAILED = 127
_MANY = 1 << 16


class _Order(NamedTuple):
    """What becomes the first process; `fds` are its descriptors, inside to outside."""

    walls: bubblewrap.Walls
    command: list[str]
    fds: dict[int, int]
    status: int
    blocked: int


def namespaced(walls: bubblewrap.Walls, command: list[str], fds: dict[int, int], uid: int) -> Spawn:
    """Return what starts the command as the first process of new namespaces."""

    def spawn(status: int, blocked: int) -> int:
        outer = os.fork()
        if outer == 0:
            _be_the_outer(_Order(walls, command, fds, status, blocked), uid)
        return outer

    return spawn


def _be_the_outer(order: _Order, uid: int) -> None:
    """Leave the host's namespaces and wait for the first process of the new ones."""
    code = _FAILED
    try:
        _forget_the_supervisor(order)
        # Nothing of root's may be left in what follows, and a process that changed users is not
        # trusted with its own entry in /proc until it says so.
        if uid:
            os.setresuid(uid, uid, uid)
        kernel.be_ordinary()
        kernel.die_with_parent()
        os.setsid()
        kernel.leave_all_namespaces(_TENANT)
        inner = os.fork()
        if inner == 0:
            _be_the_first(order)
        os.write(order.status, b'{"child-pid": %d}\n' % inner)
        os.closerange(0, _MANY)
        code = os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1])
    except OSError as error:
        _complain(order, error)
    finally:
        os._exit(code if code >= 0 else 128 - code)


def _forget_the_supervisor(order: _Order) -> None:
    """Close what is not ours, and take signals as a new program does."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    low = 0
    for kept in sorted({order.status, order.blocked, *order.fds.values()}):
        os.closerange(low, kept)
        low = kept + 1
    os.closerange(low, _MANY)


def _be_the_first(order: _Order) -> None:
    """Build the walls from inside and become the agent; does not return."""
    try:
        kernel.die_with_parent()
        _build(order.walls)
        socket.sethostname("sandbox")
        _raise_loopback()
        kernel.forbid_user_namespaces(f"{_NEW}/proc/sys/user/max_user_namespaces")
        kernel.move_into(_NEW, _OLD)
        os.chdir(bubblewrap.WORK)
        os.umask(0o022)
        os.read(order.blocked, 1)
        for theirs, ours in order.fds.items():
            os.dup2(ours, theirs)
        for number in (0, 1):
            null = os.open("/dev/null", os.O_RDWR)
            os.set_inheritable(null, True)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        kernel.give_up_all_power()
        kernel.filter_calls(seccomp.program())
        os.execve(order.command[0], order.command, {})  # noqa: S606
    except OSError as error:
        _complain(order, error)
    finally:
        os._exit(_FAILED)


def _complain(order: _Order, error: OSError) -> None:
    if 2 in order.fds:
        os.write(order.fds[2], f"{error.filename or 'unshare'}: {error.strerror}\n".encode())


def _build(walls: bubblewrap.Walls) -> None:
    """Make the new root, with the old one still beside it."""
    kernel.be_private()
    kernel.mount_memory(_BASE, "mode=755")
    os.mkdir(_BASE + _OLD)
    os.mkdir(_BASE + _NEW)
    kernel.pivot(_BASE, _BASE + _OLD)
    os.chdir("/")
    kernel.mount_memory(_NEW, "mode=755")
    for source, target in _host_folders(walls):
        _show(source, target)
        kernel.lock(_NEW + target)
    _links()
    _show(f"{walls.folder}/tmp", "/tmp")
    _show(f"{walls.folder}/work", bubblewrap.WORK)
    for source, target in walls.volumes:
        _show(source, target)
    for name in ("/tmp", bubblewrap.WORK, *(target for _, target in walls.volumes)):
        kernel.lock(_NEW + name, is_writable=True)
    os.mkdir(f"{_NEW}/proc")
    kernel.mount_processes(f"{_NEW}/proc")
    _devices(walls.shared_memory_bytes)
    kernel.lock(_NEW, is_deep=False)


def _host_folders(walls: bubblewrap.Walls) -> list[tuple[str, str]]:
    shown = [("/usr", "/usr")]
    shown += [(name, name) for name in bubblewrap.LINKS if not os.path.islink(_OLD + name)]
    if walls.prefix and not walls.prefix.startswith("/usr/") and walls.prefix != "/usr":
        shown.append((walls.prefix, walls.prefix))
    shown += [(f"{walls.assets}/etc", "/etc"), (f"{walls.assets}/run", "/run")]
    shown.append((f"{walls.folder}/inputs", bubblewrap.INPUTS))
    if walls.environment:
        shown.append((walls.environment, bubblewrap.ENVIRONMENT))
    return [(source, target) for source, target in shown if os.path.isdir(_OLD + source)]


def _show(source: str, target: str) -> None:
    os.makedirs(_NEW + target, mode=0o755, exist_ok=True)
    kernel.bind_path(_OLD + source, _NEW + target)


def _links() -> None:
    for name in bubblewrap.LINKS:
        if os.path.islink(_OLD + name):
            os.symlink(os.readlink(_OLD + name), _NEW + name)
    os.mkdir(f"{_NEW}/var")
    os.symlink("/tmp", f"{_NEW}/var/tmp")


def _devices(shared_memory_bytes: int) -> None:
    folder = f"{_NEW}/dev"
    os.mkdir(folder)
    kernel.mount_memory(folder, "mode=755")
    for name in _DEVICES:
        os.close(os.open(f"{folder}/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        kernel.bind_path(f"{_OLD}/dev/{name}", f"{folder}/{name}")
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, f"{folder}/{name}")
    os.mkdir(f"{folder}/pts")
    kernel.mount_terminals(f"{folder}/pts")
    os.mkdir(f"{folder}/shm")
    kernel.mount_memory(f"{folder}/shm", f"mode=1777,size={shared_memory_bytes}")
    kernel.lock(folder, is_deep=False)


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14x", b"lo", _IS_UP))
