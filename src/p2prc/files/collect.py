"""Turn files on a disk into a tree of blobs: a user's inputs, a task's outputs.

Inputs are the user's own: what is strange is an error that says what to do. Outputs lie in a
folder that a stranger wrote: links are never followed, devices never opened, counts and sizes
bounded. All of it blocks: call it in a thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2prc.errors import FileUnknown, LimitExceeded, OutputMissing, PathInvalid
from p2prc.files.folders import FolderCursor, below
from p2prc.files.patterns import Patterns, Positions
from p2prc.model.quantities import format_size
from p2prc.model.tree import FILES_LIMIT, TREE_LIMIT_BYTES, FileEntry, Tree, check_path, check_tree
from p2prc.storage.blobs import BlobStore
from p2prc.storage.removal import allow_owner
from p2prc.wire.codec import encode

ENTRIES_LIMIT = 1_000_000
_NOTES_LIMIT = 20
_EXECUTABLE_BITS = 0o111


@dataclass(frozen=True, slots=True)
class CollectedOutputs:
    """A tree whose blobs and manifest are in the store, pinned, and what was left out of it."""

    tree: Tree
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OutputLimits:
    """How much a task may hand back."""

    size_bytes: int
    files: int = FILES_LIMIT


# -- inputs -----------------------------------------------------------------------------------


def collect_inputs(paths: Sequence[str], store: BlobStore, *, owner: str) -> Tree:
    """Put what the user names into the store, pinned for the owner, and return its tree.

    A file keeps its own name, a folder `scene` gives `scene/...`, and `scene/` or `.` gives what
    is in it. Raises `FileUnknown`, `PathInvalid` or `DiskFull`.
    """
    files: dict[str, FileEntry] = {}
    empty_folders: set[str] = set()
    named_by: dict[str, str] = {}
    for named in paths:
        for path, source, is_folder in _found_inputs(named):
            if path in named_by:
                raise PathInvalid(
                    f"`{named_by[path]}` and `{named}` both give `{path}`",
                    hint="rename one, or name the folder that contains both",
                )
            named_by[path] = named
            check_path(path)
            if is_folder:
                empty_folders.add(path)
            else:
                files[path] = _put_input(path, source, store, owner)
            if len(named_by) > FILES_LIMIT:
                raise PathInvalid(
                    f"more than {FILES_LIMIT} input files", hint="pack them into an archive"
                )
    tree = Tree(
        files=tuple(files[path] for path in sorted(files)),
        empty_folders=tuple(sorted(empty_folders)),
    )
    check_tree(tree)
    return keep_tree(tree, store, owner)


def _found_inputs(named: str) -> Iterator[tuple[str, Path, bool]]:
    """Yield the path in the tree and on disk of every file, and (True) of every empty folder."""
    try:
        # A link that the user names is meant; one inside a folder could lead anywhere.
        root = Path(named).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise FileUnknown(f"there is no input `{named}`") from error
    if not root.is_dir():
        yield Path(named).name, root, False
        return
    gives_contents = named.endswith("/") or named.rpartition("/")[2] in (".", "..")
    waiting = [("" if gives_contents else Path(named).name, root)]
    while waiting:
        prefix, folder = waiting.pop()
        entries = _listed(folder)
        if not entries and prefix:
            yield prefix, folder, True
        for entry in entries:
            path = f"{prefix}/{entry.name}" if prefix else entry.name
            if entry.is_dir(follow_symlinks=False):
                waiting.append((path, Path(entry.path)))
            else:
                yield path, Path(entry.path), False


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, error) from error


def _put_input(path: str, source: Path, store: BlobStore, owner: str) -> FileEntry:
    try:
        status = source.lstat()
        if stat.S_ISLNK(status.st_mode):
            raise PathInvalid(
                f"the input `{source}` is a link",
                hint="name what it points to with another --in, or copy it into the folder",
            )
        if not stat.S_ISREG(status.st_mode):
            raise PathInvalid(f"the input `{source}` is neither a file nor a folder")
        blob, size_bytes = store.put_file(source)
    except OSError as error:
        raise _unreadable(source, error) from error
    store.pin(owner, [blob])
    return FileEntry(path, blob, size_bytes, bool(status.st_mode & stat.S_IXUSR))


def _unreadable(path: Path, error: OSError) -> FileUnknown:
    return FileUnknown(f"cannot read `{path}`: {(error.strerror or str(error)).lower()}")


# -- outputs ----------------------------------------------------------------------------------


def collect_outputs(
    work: Path,
    patterns: Sequence[str],
    store: BlobStore,
    *,
    owner: str,
    limits: OutputLimits,
    may_lack: bool = False,
) -> CollectedOutputs:
    """Move what matches the patterns into the store and return its tree, pinned for the owner.

    Call it only when no process of the command is alive: a file that somebody has open for
    writing would change after it got its name. Raises `JobInvalid` for a pattern, `OutputMissing`
    when one matches no file and none `may_lack`, `LimitExceeded`, `PathInvalid` for a name,
    `DiskFull`.
    """
    collection = _Collection(Patterns(patterns), store, owner, limits)
    if patterns:
        try:
            with below(work) as cursor:
                collection.walk(cursor)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise PathInvalid(f"cannot collect `{error.filename}`: {reason}") from error
        if not may_lack:
            collection.see_that_all_matched()
    return CollectedOutputs(keep_tree(collection.tree(), store, owner), tuple(collection.notes))


class _Collection:
    """One walk over a working folder."""

    def __init__(
        self, patterns: Patterns, store: BlobStore, owner: str, limits: OutputLimits
    ) -> None:
        self._patterns = patterns
        self._store = store
        self._owner = owner
        self._limits = limits
        self._files: list[FileEntry] = []
        self._size_bytes = 0
        self._entries = 0
        self._matched: set[int] = set()
        self.notes: list[str] = []

    def walk(self, cursor: FolderCursor) -> None:
        """Visit the folders in which something may match."""
        waiting: list[tuple[tuple[str, ...], Positions]] = [((), self._patterns.start)]
        while waiting:
            parts, positions = waiting.pop()
            folder = cursor.enter(parts)
            os.fchmod(folder, 0o700)
            for entry in self._entries_of(folder):
                if entry.is_dir(follow_symlinks=False):
                    inside = self._patterns.descend(positions, entry.name)
                    if inside:
                        check_path("/".join((*parts, entry.name)))
                        waiting.append(((*parts, entry.name), inside))
                elif matching := self._patterns.matching(positions, entry.name):
                    self._take(folder, "/".join((*parts, entry.name)), matching)

    def see_that_all_matched(self) -> None:
        for number, text in enumerate(self._patterns.texts):
            if number not in self._matched:
                raise OutputMissing(
                    f"the output pattern `{text}` matches no file",
                    hint=self.notes[0] if self.notes else "is it relative to the working folder?",
                )

    def tree(self) -> Tree:
        return Tree(files=tuple(sorted(self._files, key=lambda entry: entry.path)))

    def _entries_of(self, folder: int) -> list[os.DirEntry[str]]:
        found = []
        with os.scandir(folder) as entries:
            for entry in entries:
                self._entries += 1
                if self._entries > ENTRIES_LIMIT:
                    raise LimitExceeded(f"more than {ENTRIES_LIMIT} files in the working folder")
                found.append(entry)
        return found

    def _take(self, folder: int, path: str, matching: list[int]) -> None:
        name = path.rpartition("/")[2]
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            kind = "a link" if stat.S_ISLNK(status.st_mode) else "not a regular file"
            if len(self.notes) < _NOTES_LIMIT:
                self.notes.append(f"left out {path[:200]!r}: it is {kind}")
            return
        check_path(path)
        self._count(status.st_size)
        if not status.st_mode & stat.S_IRUSR:
            allow_owner(name, folder, 0o600 | status.st_mode & _EXECUTABLE_BITS)
        blob, size_bytes = self._store.put_file(name, move=True, folder=folder)
        self._store.pin(self._owner, [blob])
        is_executable = bool(status.st_mode & stat.S_IXUSR)
        self._files.append(FileEntry(path, blob, size_bytes, is_executable))
        self._matched.update(matching)

    def _count(self, size_bytes: int) -> None:
        self._size_bytes += size_bytes
        if self._size_bytes > self._limits.size_bytes:
            raise LimitExceeded(
                f"the outputs are larger than {format_size(self._limits.size_bytes)}"
            )
        if len(self._files) >= self._limits.files:
            raise LimitExceeded(f"more than {self._limits.files} output files")


def keep_tree(tree: Tree, store: BlobStore, owner: str) -> Tree:
    """Put a tree's manifest into the store, and pin all of it; raise `LimitExceeded`."""
    # Nobody would read a larger manifest: better said here than at the other end.
    if len(encode(tree)) > TREE_LIMIT_BYTES:
        raise LimitExceeded(
            f"the names of {len(tree.files)} files take more than {format_size(TREE_LIMIT_BYTES)}",
            hint="pack them into an archive",
        )
    store.pin_tree(owner, tree)
    store.put_tree(tree)
    return tree
