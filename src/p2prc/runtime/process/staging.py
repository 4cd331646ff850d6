"""Let a supervisor that is root become an unprivileged user and still reach its files.

The interpreter and the lease may lie below a folder that only root may enter (/root). Then the
supervisor takes a mount table of its own, covers that folder with an empty one and binds just
what is needed back to where it was: every path keeps its name, and the rest of the folder is
gone from the supervisor's sight as well.
"""

# ruff: noqa: PTH102, PTH103, PTH116, PTH120
# Works on descriptors and plain paths: pathlib would have to be loaded for every lease.
from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from p2prc.runtime.process import kernel

_OTHERS_ENTER = 0o001


def make_reachable(paths: Iterable[str]) -> None:
    """Make these real paths reachable for every user; raises OSError when not allowed."""
    wanted: dict[str, list[str]] = {}
    for path in sorted(set(paths), key=len):
        if (barrier := _barrier(path)) is not None:
            wanted.setdefault(barrier, []).append(path)
    if not wanted:
        return
    kernel.leave_mount_namespace()
    for barrier, hidden in wanted.items():
        _open_up(barrier, hidden)


def become(uid: int) -> None:
    """Take an ordinary user's id; what we start can never get root's back.

    Only the saved id stays root, so that we can delete the lease's folder at the end: exec drops
    it, and a tenant may not trace a process that keeps it.
    """
    os.umask(0o022)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, 0)


def _barrier(path: str) -> str | None:
    """Return the outermost folder on the way to `path` that others may not enter."""
    barrier = None
    ancestor = os.path.dirname(path)
    while ancestor != "/":
        if not os.stat(ancestor).st_mode & _OTHERS_ENTER:
            barrier = ancestor
        ancestor = os.path.dirname(ancestor)
    return barrier


def _open_up(barrier: str, hidden: list[str]) -> None:
    sources = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in hidden}
    kernel.mount_empty(barrier)
    for path, source in sources.items():
        if not os.path.lexists(path):
            _make_target(path, is_folder=stat.S_ISDIR(os.fstat(source).st_mode))
            kernel.bind(source, path)
        os.close(source)


def _make_target(path: str, *, is_folder: bool) -> None:
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    if is_folder:
        os.mkdir(path, 0o755)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
