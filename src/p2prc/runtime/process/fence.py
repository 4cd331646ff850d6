"""The walls of the tier `landlock`: which files a process may open, held by the kernel.

For machines that forbid user namespaces. The tenant stays in the host's network and among the
host's processes, so a filter of system calls takes sockets away altogether. What is left open is
said in `p2prc.model.tiers`. Numbers from the kernel's `uapi/linux/landlock.h`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from p2prc.runtime.process import bubblewrap, kernel, seccomp

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL_DEVICE = 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE
_MAKE_DEVICES = 1 << 6 | 1 << 11
"""Making character and block devices: nobody's business."""
_FIRST_13, _REFER = (1 << 13) - 1, 1 << 13
_FILE_RIGHTS = {
    1: _FIRST_13,
    2: _FIRST_13 | _REFER,
    3: _FIRST_13 | _REFER | _TRUNCATE,
    5: _FIRST_13 | _REFER | _TRUNCATE | _IOCTL_DEVICE,
}
_TCP = 3
_ABSTRACT_NAMES_AND_SIGNALS = 3
_SIGNALS_FROM, _TCP_FROM = 6, 4

_ETC = (
    "ld.so.cache ld.so.conf ld.so.conf.d localtime passwd group nsswitch.conf hosts alternatives "
    "mime.types ssl/certs"
)
_PROC = "cpuinfo meminfo stat uptime loadavg version filesystems"
_DEVICES = "null zero full random urandom tty"
_ELSEWHERE = ("/sys/devices/system/cpu", "/sys/devices/system/node", "/usr/share/zoneinfo")


class Fence:
    """A set of rules, made once for a lease; `close_in` holds the calling process to it.

    Without a user of its own the supervisor, which makes this, keeps its own signals in at once:
    so commands of one lease reach each other, and nobody else.
    """

    def __init__(self, walls: bubblewrap.Walls, *, has_own_uid: bool) -> None:
        self._around = seccomp.Around.ANOTHER_USER if has_own_uid else seccomp.Around.NOTHING
        self._rules = _made(walls)
        if not has_own_uid and keeps_signals_in():
            kernel.never_gain_power()
            scope = kernel.landlock_ruleset(0, network=0, scopes=_ABSTRACT_NAMES_AND_SIGNALS)
            kernel.landlock_enter(scope)
            os.close(scope)

    def close_in(self) -> None:
        """Enter for good, with whatever we start. Raises OSError."""
        kernel.never_gain_power()
        kernel.landlock_enter(self._rules.ruleset)
        kernel.filter_calls(seccomp.program(self._around))


class _Rules(NamedTuple):
    ruleset: int
    held: list[int]
    """Descriptors of the places that have a rule: some of the kernel's own files are forgotten,
    and with them their rules, when nobody holds them."""


def _made(walls: bubblewrap.Walls) -> _Rules:
    version = kernel.landlock_version()
    rights = _FILE_RIGHTS[max(known for known in _FILE_RIGHTS if known <= version)]
    network = _TCP if version >= _TCP_FROM else 0
    ruleset = kernel.landlock_ruleset(rights, network=network, scopes=0)
    held = []
    for path, wanted in _places(walls):
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        is_folder = stat.S_ISDIR(os.fstat(place).st_mode)
        kernel.landlock_allow(ruleset, place, wanted & rights & (-1 if is_folder else _OF_FILES))
        held.append(place)
    return _Rules(ruleset, held)


def _places(walls: bubblewrap.Walls) -> Iterator[tuple[str, int]]:
    for path in ("/usr", *bubblewrap.LINKS, walls.prefix, walls.environment, *_ELSEWHERE):
        if path:
            yield path, _READ
    yield f"{walls.assets}/run", _READ
    yield f"{walls.folder}/inputs", _READ
    for name in ("work", "tmp"):
        yield f"{walls.folder}/{name}", ~_MAKE_DEVICES
    for name in _ETC.split():
        yield f"/etc/{name}", _READ_FILE | _READ_DIR
    for name in _PROC.split():
        yield f"/proc/{name}", _READ_FILE
    for name in _DEVICES.split():
        yield f"/dev/{name}", _READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL_DEVICE


def keeps_signals_in() -> bool:
    """Say whether this kernel keeps a tenant's signals from others' processes of its user."""
    with contextlib.suppress(OSError):
        return kernel.landlock_version() >= _SIGNALS_FROM
    return False
