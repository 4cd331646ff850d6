"""The few kernel calls that Python 3.11 has no function for."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os

_libc = ctypes.CDLL(None, use_errno=True)

_NEW_MOUNTS = 0x00020000
_NEW_USERS = 0x10000000
_NEW_NETWORK = 0x40000000
_OWNER_OF_NAMESPACE = 0xB701
_BIND = 4096
_RECURSIVE = 16384
_SLAVE = 1 << 19
_NO_DEVICES_NO_SETUID = 4 | 2
_SET_DEATH_SIGNAL = 1
_SET_CHILD_SUBREAPER = 36
_KILL = 9
_SET_IO_PRIORITY = {"x86_64": 251, "aarch64": 30, "riscv64": 30}.get(os.uname().machine)
_IO_IDLE = 3 << 13
_OF_PROCESS = 1


def leave_mount_namespace() -> None:
    """Get a mount table of our own: what we mount, nobody else sees."""
    _check(_libc.unshare(_NEW_MOUNTS), "unshare")
    try:
        _mount("none", "/", "", _RECURSIVE | _SLAVE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _cut_off_from_outside_a_chroot()


def _cut_off_from_outside_a_chroot() -> None:
    """Do the same where "/" is a folder of a mount and not its root, as in a chroot."""
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        # To enter a mount table, even one's own, is to stand at its real root.
        _check(_libc.setns(mounts, _NEW_MOUNTS), "setns")
        _mount("none", "/", "", _RECURSIVE | _SLAVE)
        os.fchdir(root)
        os.chroot(".")
    finally:
        os.close(mounts)
        os.close(root)


def enter(pid: int, *, with_users: bool) -> None:
    """Go into the network of a process; by way of its user namespace where we are not root.

    Raises OSError, also when its network is the one we are in: that is no sandbox.
    """
    network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if os.fstat(network).st_ino == os.stat("/proc/self/ns/net").st_ino:  # noqa: PTH116
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
    if with_users:
        # Not that of the process: bubblewrap puts it into one more, which has no power here.
        owner = fcntl.ioctl(network, _OWNER_OF_NAMESPACE)
        _check(_libc.setns(owner, _NEW_USERS), "setns")
    _check(_libc.setns(network, _NEW_NETWORK), "setns")


def mount_empty(target: str) -> None:
    """Put a small empty folder over `target`."""
    _mount("tmpfs", target, "tmpfs", _NO_DEVICES_NO_SETUID, "mode=755,size=1m")


def bind(source: int, target: str) -> None:
    """Show what the descriptor `source` names at `target` too."""
    _mount(f"/proc/self/fd/{source}", target, "", _BIND | _RECURSIVE)


def adopt_orphans() -> None:
    """Become the parent of every orphan below us, so that none gets away."""
    _check(_libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent's thread ends."""
    _check(_libc.prctl(_SET_DEATH_SIGNAL, _KILL, 0, 0, 0), "prctl")


def be_last_in_line(pid: int) -> None:
    """Give a process the lowest CPU and disk priority."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, 19)
    if _SET_IO_PRIORITY is not None:
        # Best effort: some kernels are built without I/O priorities.
        _libc.syscall(_SET_IO_PRIORITY, _OF_PROCESS, pid, _IO_IDLE)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    answer = _libc.mount(
        source.encode(), target.encode(), kind.encode() or None, flags, options.encode() or None
    )
    _check(answer, f"mount {target}")


def _check(answer: int, what: str) -> None:
    if answer != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
