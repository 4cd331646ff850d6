"""Walk and make folders by descriptor, never through a link.

A path given to the kernel as text is followed through whatever links somebody put there. Here
each part is opened from the folder before it and refused if it is a link. At most two descriptors
are open, however deep a stranger's path is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from p2prc.errors import PathInvalid
from p2prc.storage.removal import allow_owner

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class FolderCursor:
    """The folder that was entered last, below one root."""

    def __init__(self, root: int, *, owner: tuple[int, int] | None = None) -> None:
        self._root = root
        self._owner = owner
        self._parts: tuple[str, ...] = ()
        self._current = os.dup(root)

    def enter(self, parts: Sequence[str], *, make_mode: int | None = None) -> int:
        """Return the folder's descriptor, valid until the next call; `PathInvalid` at a link.

        With `make_mode` missing folders are made.
        """
        wanted = tuple(parts)
        if wanted[: len(self._parts)] != self._parts:
            self._move(os.dup(self._root), ())
        for depth in range(len(self._parts), len(wanted)):
            self._move(self._open(wanted[depth], make_mode), wanted[: depth + 1])
        return self._current

    def close(self) -> None:
        """Close the descriptor that `enter` returned."""
        os.close(self._current)

    def _move(self, descriptor: int, parts: tuple[str, ...]) -> None:
        os.close(self._current)
        self._current, self._parts = descriptor, parts

    def _open(self, name: str, make_mode: int | None) -> int:
        try:
            return os.open(name, _FOLDER, dir_fd=self._current)
        except FileNotFoundError:
            if make_mode is None:
                raise
            return self._make(name, make_mode)
        except PermissionError:
            allow_owner(name, self._current, 0o700)
            return os.open(name, _FOLDER, dir_fd=self._current)
        except (NotADirectoryError, OSError) as error:
            shown = "/".join((*self._parts, name))[:200]
            raise PathInvalid(f"`{shown}` is a link or a file where a folder must be") from error

    def _make(self, name: str, mode: int) -> int:
        os.mkdir(name, mode, dir_fd=self._current)
        descriptor = os.open(name, _FOLDER, dir_fd=self._current)
        if self._owner is not None:
            os.fchmod(descriptor, mode)
            os.fchown(descriptor, *self._owner)
        return descriptor


@contextmanager
def below(root: Path, *, owner: tuple[int, int] | None = None) -> Iterator[FolderCursor]:
    """Open a cursor below a folder that we trust; with `owner` new folders belong to it."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        cursor = FolderCursor(descriptor, owner=owner)
        try:
            yield cursor
        finally:
            cursor.close()
    finally:
        os.close(descriptor)
