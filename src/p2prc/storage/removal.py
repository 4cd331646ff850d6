"""Delete what a stranger left behind: any permissions, any depth, links never followed.

A tenant may nest folders deeper than any path or stack allows and take away its own rights. So a
subfolder is first moved to the top, under a new name: nothing is ever deeper than two.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC if hasattr(os, "O_PATH") else os.O_RDONLY


def empty_folder(folder: Path, *, kept: Collection[str] = ()) -> list[str]:
    """Delete everything in the folder but the names to keep; return what could not be."""
    problems: list[str] = []
    with _opened(folder) as top:
        going = [name for name in _names(top) if name not in kept]
        waiting = [name for name in going if not _unlink(name, top, problems)]
        number = 0
        while waiting:
            name = waiting.pop()
            number = _lift_subfolders(name, top, number, waiting, problems)
            try:
                os.rmdir(name, dir_fd=top)
            except OSError as error:
                problems.append(f"cannot remove {name!r}: {error.strerror}")
    return problems


def remove_tree(folder: Path) -> list[str]:
    """Delete the folder and everything in it; one that is not there is no problem."""
    try:
        problems = empty_folder(folder)
        folder.rmdir()
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"cannot remove {str(folder)!r}: {error.strerror}"]
    return problems


def allow_owner(name: str, folder: int, mode: int) -> None:
    """Set the mode of an entry without following a link, also where reading is forbidden."""
    descriptor = os.open(name, _LOOK, dir_fd=folder)
    try:
        if not stat.S_ISLNK(os.fstat(descriptor).st_mode):
            # chmod has no way to refuse links; the descriptor already names the thing itself.
            Path(f"/proc/self/fd/{descriptor}").chmod(mode)
    finally:
        os.close(descriptor)


def _lift_subfolders(
    name: str, top: int, number: int, waiting: list[str], problems: list[str]
) -> int:
    """Delete the files of one folder at the top, and move its folders up beside it."""
    try:
        allow_owner(name, top, 0o700)
        descriptor = os.open(name, _FOLDER, dir_fd=top)
    except OSError as error:
        problems.append(f"cannot open {name!r}: {error.strerror}")
        return number
    try:
        for child in _names(descriptor):
            if _unlink(child, descriptor, problems):
                continue
            number, lifted = _free_name(top, number)
            try:
                # Moving a folder rewrites its `..`: that needs the right to write in it.
                allow_owner(child, descriptor, 0o700)
                os.rename(child, lifted, src_dir_fd=descriptor, dst_dir_fd=top)
            except OSError as error:
                problems.append(f"cannot move {child!r}: {error.strerror}")
            else:
                waiting.append(lifted)
    finally:
        os.close(descriptor)
    return number


def _unlink(name: str, folder: int, problems: list[str]) -> bool:
    """Delete what is not a folder; say whether the entry needs no more care."""
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            return False
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return True
    except OSError as error:
        problems.append(f"cannot remove {name!r}: {error.strerror}")
    return True


def _free_name(top: int, number: int) -> tuple[int, str]:
    """Return a name that no entry at the top has; a tenant may have guessed some."""
    while True:
        number += 1
        name = f".removing-{number}"
        try:
            os.stat(name, dir_fd=top, follow_symlinks=False)
        except FileNotFoundError:
            return number, name


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    try:
        descriptor = os.open(folder, _FOLDER)
    except PermissionError:
        with _named(folder.parent) as parent:
            allow_owner(folder.name, parent, 0o700)
        descriptor = os.open(folder, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _named(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _names(folder: int) -> list[str]:
    return os.listdir(folder)
