"""Filters of system calls: what a tenant has no business with, whatever else holds it.

Some calls are refused because they have been ways out of sandboxes (keys, io_uring, namespaces,
mounts, tracing of the kernel, rare kinds of sockets). Some answer "done" and do nothing: any
process may widen its own affinity and raise its disk priority again, and libraries that pin their
threads take a refusal badly. Programs of a machine's older architecture are refused: their calls
have other numbers.
"""

from __future__ import annotations

import errno
import os
import struct
from enum import IntEnum

from p2prc.runtime.process.calls import MACHINES

_LOAD = 0x20
_JUMP_IF_EQUAL = 0x15
_JUMP_IF_AT_LEAST = 0x35
_JUMP_IF_ANY_BIT = 0x45
_RETURN = 0x06
_ALLOW = 0x7FFF0000
_ANSWER = 0x00050000
_NUMBER_AT, _MACHINE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_X32 = 0x40000000
_NEW_NAMESPACES = 0x7E020000
_FAMILIES = (1, 2, 10, 16)
"""Unix, IPv4, IPv6, netlink: all of them end at the walls of a network of one's own."""

_QUIET = ("sched_setaffinity", "ioprio_set")
_UNKNOWN = ("io_uring_setup", "io_uring_enter", "io_uring_register", "clone3")
"""Refused as if the kernel were older: libraries then take the way they took before."""
_REFUSED = [
    "acct",
    "add_key",
    "bpf",
    "delete_module",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "init_module",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "mount",
    "mount_setattr",
    "move_mount",
    "name_to_handle_at",
    "open_by_handle_at",
    "open_tree",
    "open_tree_attr",
    "perf_event_open",
    "pivot_root",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "setns",
    "swapoff",
    "swapon",
    "syslog",
    "umount2",
    "unshare",
    "userfaultfd",
]
_SHARED_WITH_HOST = [
    "mq_open",
    "msgctl",
    "msgget",
    "msgrcv",
    "msgsnd",
    "semctl",
    "semget",
    "semop",
    "semtimedop",
    "shmat",
    "shmctl",
    "shmget",
]
_OTHERS_PROCESSES = [
    "setpriority",
    "sched_setparam",
    "sched_setscheduler",
    "sched_setattr",
    "migrate_pages",
    "move_pages",
]
_MARKS_ON_FILES = [
    "chmod",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "chown",
    "fchown",
    "lchown",
    "fchownat",
    "utime",
    "utimes",
    "futimesat",
    "utimensat",
    "setxattr",
    "lsetxattr",
    "fsetxattr",
    "setxattrat",
    "removexattr",
    "lremovexattr",
    "fremovexattr",
    "removexattrat",
]


class Around(IntEnum):
    """What else is around the tenant, which says how much the filter must do."""

    NAMESPACES = 0
    """A network, a process table and a user of its own."""
    ANOTHER_USER = 1
    """The host's network and processes, but a user of its own."""
    NOTHING = 2
    """The host's network and processes, and the owner's own user."""


def program(around: Around = Around.NAMESPACES, machine: str | None = None) -> bytes:
    """Return the filter as the kernel reads it; empty for a machine we do not know."""
    known = MACHINES.get(machine or os.uname().machine)
    if known is None:
        return b""
    architecture, numbers = known
    words = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_JUMP_IF_EQUAL, 1, 0, architecture),
        _answer(errno.ENOSYS),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_JUMP_IF_AT_LEAST, 0, 1, _X32),
        _answer(errno.ENOSYS),
    ]
    for name, number in _answers(around).items():
        if name in numbers:
            words += [(_JUMP_IF_EQUAL, 0, 1, numbers[name]), _answer(number)]
    words += _by_argument(
        numbers["clone"], [(_JUMP_IF_ANY_BIT, 0, 1, _NEW_NAMESPACES), _answer(errno.EPERM)]
    )
    if around is Around.NAMESPACES:
        families = [(_JUMP_IF_EQUAL, len(_FAMILIES) - at, 0, f) for at, f in enumerate(_FAMILIES)]
        words += _by_argument(numbers["socket"], [*families, _answer(errno.EAFNOSUPPORT)])
    if around is Around.NOTHING:
        only_own = [(_JUMP_IF_EQUAL, 1, 0, 0), _answer(errno.EPERM)]
        words += _by_argument(numbers["prlimit64"], only_own)
    words.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *word) for word in words)


def _answers(around: Around) -> dict[str, int]:
    """Return what calls answer instead of doing anything: an error's number, or 0 for "done"."""
    found = dict.fromkeys(_REFUSED, errno.EPERM)
    found |= dict.fromkeys(_UNKNOWN, errno.ENOSYS)
    found |= dict.fromkeys(_QUIET, 0)
    if around >= Around.ANOTHER_USER:
        # Without a network of its own the tenant has none at all; pairs of sockets are left.
        found |= dict.fromkeys(["socket", *_SHARED_WITH_HOST], errno.EPERM)
    if around is Around.NOTHING:
        found |= dict.fromkeys(_OTHERS_PROCESSES, errno.EPERM)
        # Landlock does not guard these. Copying programs take a refusal badly.
        found |= dict.fromkeys(_MARKS_ON_FILES, 0)
    return found


def _answer(number: int) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _ANSWER | number)


def _by_argument(
    number: int, check: list[tuple[int, int, int, int]]
) -> list[tuple[int, int, int, int]]:
    """Return what looks at the first argument of one call; past its end that call is allowed."""
    inside = [(_LOAD, 0, 0, _FIRST_ARGUMENT_AT), *check, (_RETURN, 0, 0, _ALLOW)]
    return [(_JUMP_IF_EQUAL, 0, len(inside), number), *inside]
