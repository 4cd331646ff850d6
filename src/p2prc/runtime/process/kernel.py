"""The few kernel calls that Python 3.11 has no function for."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)

_NEW_MOUNTS = 0x00020000
_NEW_USERS = 0x10000000
_NEW_NETWORK = 0x40000000
_OWNER_OF_NAMESPACE = 0xB701
_NEW_REST = 0x08000000 | 0x04000000 | 0x20000000 | 0x02000000
"""Shared memory, host name, processes, control groups."""
_BIND = 4096
_RECURSIVE = 16384
_SLAVE = 1 << 19
_NO_SETUID = 2
_NO_DEVICES_NO_SETUID = 4 | 2
_NO_PROGRAMS = 8
_ATTRIBUTE_NO_SETUID, _ATTRIBUTE_NO_DEVICES = 2, 4
_AT_HERE, _AT_RECURSIVE = -100, 0x8000
_DETACH = 2
_MOUNT_SETATTR = 442
_PIVOT_ROOT = {"x86_64": 155}.get(os.uname().machine, 41)
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_ENTER = 444, 445, 446
_SET_DUMPABLE = 4
_SET_FILTER = 22
_DROP_FROM_BOUND = 24
_NO_NEW_POWER = 38
_AMBIENT, _AMBIENT_CLEAR = 47, 4
_CAPABILITIES_VERSION = 0x20080522
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


def bind_path(source: str, target: str) -> None:
    """Show a file or folder, with what is mounted below it, at `target` too."""
    _mount(source, target, "", _BIND | _RECURSIVE)


def be_private() -> None:
    """Let no mount of ours be seen by the host; the host's own still come through."""
    _mount("none", "/", "", _RECURSIVE | _SLAVE)


def mount_memory(target: str, options: str) -> None:
    """Put an empty folder in memory over `target`."""
    _mount("tmpfs", target, "tmpfs", _NO_DEVICES_NO_SETUID, options)


def mount_processes(target: str) -> None:
    """Show the processes of our own process namespace."""
    _mount("proc", target, "proc", _NO_DEVICES_NO_SETUID | _NO_PROGRAMS)


def mount_terminals(target: str) -> None:
    """Have pseudo terminals of our own."""
    options = "newinstance,ptmxmode=0666,mode=620"
    _mount("devpts", target, "devpts", _NO_SETUID | _NO_PROGRAMS, options)


def lock(target: str, *, is_writable: bool = False, is_deep: bool = True) -> None:
    """Take rights from a mount, with all below it: devices, set-user-id, writing."""
    flags = _ATTRIBUTE_NO_SETUID | _ATTRIBUTE_NO_DEVICES
    attributes = struct.pack("=QQQQ", flags | (0 if is_writable else 1), 0, 0, 0)
    depth = _AT_RECURSIVE if is_deep else 0
    answer = _libc.syscall(
        _MOUNT_SETATTR, _AT_HERE, target.encode(), depth, attributes, len(attributes)
    )
    _check(answer, f"mount_setattr {target}")


def pivot(new: str, old: str) -> None:
    """Make `new` the root folder, and what was it before the folder `old`."""
    _check(_libc.syscall(_PIVOT_ROOT, new.encode(), old.encode()), "pivot_root")


def move_into(new: str, old: str) -> None:
    """Make `new` the root folder and let go of everything else; `old` is the host's."""
    _check(_libc.umount2(old.encode(), _DETACH), "umount")
    os.chdir(new)
    pivot(".", ".")
    # The root before lies over the new one, where we stand.
    _check(_libc.umount2(b".", _DETACH), "umount")
    os.chdir("/")


def leave_all_namespaces(inside: int) -> None:
    """Go into namespaces of our own; our user and group are the one `inside` in them.

    The process table is for children only. Raises OSError where that is forbidden.
    """
    uid, gid = os.getuid(), os.getgid()
    _check(_libc.unshare(_NEW_USERS), "unshare")
    for name, line in (
        ("setgroups", b"deny"),
        ("uid_map", b"%d %d 1" % (inside, uid)),
        ("gid_map", b"%d %d 1" % (inside, gid)),
    ):
        _write(f"/proc/self/{name}", line)
    _check(_libc.unshare(_NEW_MOUNTS | _NEW_NETWORK | _NEW_REST), "unshare")


def forbid_user_namespaces(path: str) -> None:
    """Let nobody below us make user namespaces; `path` is the kernel's count of them."""
    _write(path, b"0")


def be_ordinary() -> None:
    """Have our own entry in /proc again after we changed users, and no right to more."""
    _check(_libc.prctl(_SET_DUMPABLE, 1, 0, 0, 0), "prctl")


def give_up_all_power() -> None:
    """Drop every capability for good, ours and those of whatever we start."""
    for capability in range(64):
        if _libc.prctl(_DROP_FROM_BOUND, capability, 0, 0, 0) != 0:
            break
    _check(_libc.prctl(_AMBIENT, _AMBIENT_CLEAR, 0, 0, 0), "prctl")
    header = struct.pack("=Ii", _CAPABILITIES_VERSION, 0)
    _check(_libc.capset(header, bytes(24)), "capset")
    never_gain_power()


def never_gain_power() -> None:
    """Let no program that we start have more rights than we."""
    _check(_libc.prctl(_NO_NEW_POWER, 1, 0, 0, 0), "prctl")


def filter_calls(program: bytes) -> None:
    """Hold us and whatever we start to a filter of system calls; an empty one does nothing."""
    if not program:
        return
    kept = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", len(program) // 8, ctypes.addressof(kept))
    _check(_libc.prctl(_SET_FILTER, 2, described, 0, 0), "seccomp")


def landlock_version() -> int:
    """Return what version of Landlock the kernel has. Raises OSError without any."""
    return _checked(_libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1), "landlock")


def landlock_ruleset(files: int, *, network: int, scopes: int) -> int:
    """Return an empty set of rules: what it handles is forbidden where no rule allows it."""
    # Older kernels know a shorter description, and take a longer one whose rest is zero.
    handled = struct.pack("=QQQ", files, network, scopes)
    size = ctypes.c_size_t(len(handled))
    return _checked(_libc.syscall(_LANDLOCK_CREATE, handled, size, 0), "landlock")


def landlock_allow(ruleset: int, place: int, rights: int) -> None:
    """Allow something at a file, or in a folder and below it."""
    rule = struct.pack("=Qi", rights, place)
    _check(_libc.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0), "landlock")


def landlock_enter(ruleset: int) -> None:
    """Hold us and whatever we start to the rules."""
    _check(_libc.syscall(_LANDLOCK_ENTER, ruleset, 0), "landlock")


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


def _write(path: str, content: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, content)
    finally:
        os.close(file)


def _checked(answer: int, what: str) -> int:
    if answer < 0:
        _check(answer, what)
    return answer


def _check(answer: int, what: str) -> None:
    if answer != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
