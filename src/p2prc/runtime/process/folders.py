"""Measure and delete folders that a stranger filled.

Never follows a link; copes with folders that forbid everything and with any depth: folders are
moved up next to the first one before they are deleted, so that two descriptors are enough.
"""

# ruff: noqa: PTH101, PTH119, PTH120, PTH208
# Works on descriptors and plain paths: pathlib would have to be loaded for every lease.
from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Iterator

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
DEPTH_LIMIT = 256
_ENTRY_BYTES = 512
"""What a file counts as at least: a million empty ones are not nothing."""
_CHANGED_MEANWHILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class TooDeep(Exception):
    """Folders are nested deeper than anything but an attack needs."""


def empty(path: str) -> None:
    """Delete everything in the folder, but not the folder."""
    _unlock(path, None)
    folder = os.open(path, _FOLDER)
    try:
        _empty(folder)
    finally:
        os.close(folder)


def remove(path: str) -> None:
    """Delete the folder with everything in it; fine when it is gone."""
    name = os.path.basename(path)
    try:
        parent = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        remove_in(parent, name)
    finally:
        os.close(parent)


def remove_in(parent: int, name: str) -> None:
    """Delete the folder `name` of the folder `parent`; fine when it is gone."""
    try:
        _unlock(name, parent)
        folder = os.open(name, _FOLDER, dir_fd=parent)
    except FileNotFoundError:
        return
    try:
        _empty(folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=parent)


def used_bytes(path: str) -> int:
    """Return what the folder's files take on the disk; raises TooDeep.

    Folders that cannot be listed are opened up first: hiding files does not make room.
    """
    try:
        folder = _open_even_locked(path, None)
    except FileNotFoundError:
        return 0
    try:
        return _used(folder, 0, set())
    finally:
        os.close(folder)


def _empty(folder: int) -> None:
    token = os.urandom(6).hex()
    fresh = (f".{token}-{number}" for number in itertools.count())
    while names := os.listdir(folder):
        for name in names:
            if not _unlink(folder, name):
                _remove_one_level(folder, name, fresh)


def _remove_one_level(folder: int, name: str, fresh: Iterator[str]) -> None:
    child = os.open(name, _FOLDER, dir_fd=folder)
    try:
        for inner in os.listdir(child):
            if not _unlink(child, inner):
                os.rename(inner, next(fresh), src_dir_fd=child, dst_dir_fd=folder)
    finally:
        os.close(child)
    os.rmdir(name, dir_fd=folder)


def _unlink(folder: int, name: str) -> bool:
    """Delete what is not a folder; make a folder ours to delete and say False."""
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        _unlock(name, folder)
        return False
    except FileNotFoundError:
        pass
    return True


def _unlock(name: str, folder: int | None) -> None:
    """Give ourselves every right on a folder.

    By descriptor: while the tenant lives, a name may turn into a link at any moment.
    """
    found = os.open(name, os.O_PATH | _FOLDER, dir_fd=folder)
    try:
        if stat.S_IMODE(os.fstat(found).st_mode) & 0o700 != 0o700 and os.geteuid() != 0:
            os.chmod(f"/proc/self/fd/{found}", 0o700)
    finally:
        os.close(found)


def _open_even_locked(name: str, folder: int | None) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=folder)
    except PermissionError:
        _unlock(name, folder)
        return os.open(name, _FOLDER, dir_fd=folder)


def _used(folder: int, depth: int, linked: set[tuple[int, int]]) -> int:
    if depth > DEPTH_LIMIT:
        raise TooDeep(f"folders nested deeper than {DEPTH_LIMIT}")
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                total += _used_by(entry, folder, depth, linked)
            except OSError as error:
                if error.errno not in _CHANGED_MEANWHILE:
                    raise
    return total


def _used_by(entry: os.DirEntry[str], folder: int, depth: int, linked: set[tuple[int, int]]) -> int:
    facts = entry.stat(follow_symlinks=False)
    used = max(facts.st_blocks * 512, _ENTRY_BYTES)
    if stat.S_ISDIR(facts.st_mode):
        child = _open_even_locked(entry.name, folder)
        try:
            return used + _used(child, depth + 1, linked)
        finally:
            os.close(child)
    if facts.st_nlink > 1:
        if (facts.st_dev, facts.st_ino) in linked:
            return 0
        linked.add((facts.st_dev, facts.st_ino))
    return used
