"""Bytes by the hash of their content, within a quota: what was sent once is never sent again.

The files are read-only and named by their BLAKE3 hash; what is half written has another name in
another folder. A pinned blob is in use and stays; of the others the least recently used goes
first. Everything here blocks: big files belong into a thread, and every method may be called from
any. A power cut may lose a blob; whoever receives one checks it, so it cannot be wrong unnoticed.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import shutil
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

from p2prc.errors import (
    DiskFull,
    FileUnknown,
    InvalidInput,
    MachineCannot,
    P2prcError,
    PathInvalid,
)
from p2prc.model.identity import BlobId
from p2prc.model.quantities import format_size
from p2prc.model.tree import TREE_LIMIT_BYTES, FileEntry, Tree, decode_tree
from p2prc.storage.disk import (
    copy_and_hash,
    copy_contents,
    hash_contents,
    is_full,
    telling_when_full,
)
from p2prc.storage.incoming import Incoming
from p2prc.storage.pins import Pins
from p2prc.storage.removal import empty_folder
from p2prc.wire.codec import encode

log = logging.getLogger(__name__)

EMPTY_BLOB = BlobId(blake3(b"").hexdigest())
_BLOB = re.compile(r"[0-9a-f]{64}")
_EXECUTABLE = ".x"
_READ_ONLY = 0o444
_READ_ONLY_EXECUTABLE = 0o555
_CONTENT_TIME_NS = 315_619_200 * 10**9
"""Every blob is from 1980-01-02: the same inputs look the same in every lease."""


class BlobStore:
    """The blobs of one node. One store at a time may use a folder."""

    def __init__(self, folder: Path, *, quota_bytes: int) -> None:
        self.quota_bytes = quota_bytes
        self._folder = folder
        self._temporary = folder / "incoming"
        self._kept = folder / "kept"
        self._lock = threading.RLock()
        self._sizes: OrderedDict[BlobId, int] = OrderedDict()
        self._used_bytes = 0
        self._reserved_bytes = 0
        self._pins = Pins(self._kept)
        with telling_when_full("the blob store"):
            for inner in (folder, self._temporary, self._kept):
                inner.mkdir(mode=0o700, parents=True, exist_ok=True)
        empty_folder(self._temporary)
        self._find_blobs()
        self._find_kept()
        # The quota may have shrunk since; what is pinned stays all the same.
        for blob in self._evictable(self._used_bytes - quota_bytes)[0]:
            self._delete(blob)

    # -- reading --

    @property
    def folder(self) -> Path:
        """Where it is; names of two letters in it are ours."""
        return self._folder

    @property
    def used_bytes(self) -> int:
        """What all blobs take, second copies for executables included."""
        return self._used_bytes

    @property
    def free_disk_bytes(self) -> int:
        """What the disk has room for, whatever the quota."""
        return shutil.disk_usage(self._folder).free

    def has(self, blob: BlobId) -> bool:
        return blob in self._sizes

    def size(self, blob: BlobId) -> int:
        """Return the size of the content; raise `FileUnknown`."""
        self.path_of(blob)
        return self._path(blob).stat().st_size

    def path_of(self, blob: BlobId) -> Path:
        """Return the read-only file, and count it as used now; raise `FileUnknown`.

        Pin the blob first where it must still be there a moment later.
        """
        path = self._path(blob)
        with self._lock:
            if blob not in self._sizes:
                raise FileUnknown(f"the blob {blob[:10]} is not here")
            try:
                os.utime(path, ns=(time.time_ns(), _CONTENT_TIME_NS))
            except FileNotFoundError as error:
                self._forget(blob)
                raise FileUnknown(f"the blob {blob[:10]} was deleted by somebody") from error
            self._sizes.move_to_end(blob)
        return path

    def executable_path_of(self, blob: BlobId) -> Path:
        """Return a second file with the same content that may be executed."""
        path = self.path_of(blob)
        executable = path.with_name(path.name + _EXECUTABLE)
        if executable.exists():
            return executable
        size_bytes = path.stat().st_size
        with self._room(size_bytes), self._new_file() as (temporary, target):
            with path.open("rb") as source:
                copy_contents(source.fileno(), target)
            self._publish(temporary, target, blob, executable=executable)
        return executable

    def open(self, blob: BlobId) -> BinaryIO:
        """Open the content; it stays readable though the blob be evicted meanwhile."""
        try:
            return self.path_of(blob).open("rb")
        except FileNotFoundError as error:
            raise FileUnknown(f"the blob {blob[:10]} is not here") from error
        except OSError as error:
            raise MachineCannot(f"a blob cannot be opened: {error.strerror}") from error

    def read(self, blob: BlobId) -> bytes:
        """Return a small blob whole."""
        with self.open(blob) as source:
            return source.read()

    def tree(self, blob: BlobId) -> Tree:
        """Return the tree whose manifest this blob is; raise `FileUnknown` or `WireError`."""
        with self.open(blob) as source:
            return decode_tree(source.read(TREE_LIMIT_BYTES + 1))

    def missing(self, tree: Tree) -> list[FileEntry]:
        """Return one entry for each different blob of the tree that is not here."""
        with self._lock:
            found = {entry.blob: entry for entry in tree.files if entry.blob not in self._sizes}
        return list(found.values())

    # -- writing --

    def put_bytes(self, content: bytes) -> BlobId:
        """Keep some bytes; keeping them again costs nothing."""
        blob = BlobId(blake3(content).hexdigest())
        if not self.has(blob):
            with self.incoming(blob, len(content)) as incoming:
                incoming.write(content)
        return blob

    def put_tree(self, tree: Tree) -> BlobId:
        """Keep a tree's manifest; its name is `tree.digest`."""
        return self.put_bytes(encode(tree))

    def put_file(
        self, path: str | Path, *, move: bool = False, folder: int | None = None
    ) -> tuple[BlobId, int]:
        """Keep a regular file's content and return its name and size.

        `folder` is a descriptor that the path is relative to. With `move` the file itself becomes
        the blob where that is possible; nobody may have it open for writing then, and it is gone
        afterwards. A link, device or pipe is `PathInvalid`.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        source = os.open(path, flags, dir_fd=folder)
        try:
            status = os.fstat(source)
            if not stat.S_ISREG(status.st_mode):
                raise PathInvalid(f"`{path}` is not a regular file")
            with self._room(status.st_size):
                # With a second name somebody could still write to it.
                moved = self._take(path, folder) if move and status.st_nlink == 1 else None
                return self._adopt(source, path, moved) if moved else self._copy(source)
        finally:
            os.close(source)

    @contextmanager
    def incoming(self, blob: BlobId, size_bytes: int) -> Iterator[Incoming]:
        """Write a blob whose name and size are known; it is checked before it exists.

        Leaving the block by an error, or with other content than was named, leaves nothing.
        """
        with self._room(size_bytes), self._new_file() as (temporary, target):
            incoming = Incoming(blob, size_bytes, target)
            try:
                yield incoming
            finally:
                incoming.close()
            incoming.check()
            self._publish(temporary, target, blob)

    def discard(self, blob: BlobId) -> None:
        """Delete a blob, pinned or not: it turned out to be damaged."""
        with self._lock:
            if blob in self._sizes:
                self._delete(blob)

    # -- staying within the quota --

    def pin(self, owner: str, blobs: Iterable[BlobId]) -> None:
        """Keep these for the owner until it is unpinned or the process ends.

        A blob that is not here yet may be pinned: it then stays from the moment it comes.
        """
        with self._lock:
            self._pins.pin(owner, blobs)

    def pin_tree(self, owner: str, tree: Tree, *, survives: bool = False) -> None:
        """Pin a tree's manifest and its files; with `survives` also past a restart."""
        name = tree.digest
        with self._lock:
            if survives:
                self._pins.keep(owner, name)
            self._pins.pin(owner, [name, *(entry.blob for entry in tree.files)])

    def unpin(self, owner: str) -> None:
        """Let go of everything that the owner pinned, for good; twice is safe."""
        with self._lock:
            self._pins.unpin(owner)

    def keepers(self) -> list[str]:
        """Return who keeps trees past a restart."""
        with self._lock:
            return sorted({owner for owner, _ in self._pins.kept()})

    def make_room(self, size_bytes: int) -> None:
        """Evict until so many bytes fit under the quota; evict nothing if they cannot."""
        with self._lock:
            needed = self._used_bytes + self._reserved_bytes + size_bytes - self.quota_bytes
            victims, gained = self._evictable(needed)
            if gained < needed:
                raise DiskFull(
                    f"{format_size(size_bytes)} more do not fit into the cache of"
                    f" {format_size(self.quota_bytes)}: the rest of it is in use",
                    hint="make it larger: set `cache.bytes` in the home's `config.toml`",
                )
            for blob in victims:
                self._delete(blob)

    def _evictable(self, needed_bytes: int) -> tuple[list[BlobId], int]:
        """Return the least recently used that would have to go, and what that gives."""
        victims: list[BlobId] = []
        gained = 0
        for blob, taken in self._sizes.items():
            if gained >= needed_bytes:
                break
            if blob not in self._pins:
                victims.append(blob)
                gained += taken
        return victims, gained

    @contextmanager
    def _room(self, size_bytes: int) -> Iterator[None]:
        with self._lock:
            self.make_room(size_bytes)
            self._reserved_bytes += size_bytes
        try:
            yield
        finally:
            with self._lock:
                self._reserved_bytes -= size_bytes

    # -- files --

    @contextmanager
    def _new_file(self) -> Iterator[tuple[Path, int]]:
        temporary = self._temporary / secrets.token_hex(8)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with telling_when_full("a blob"):
            try:
                target = os.open(temporary, flags, 0o600)
            except OSError as error:
                if is_full(error):
                    raise
                raise MachineCannot(f"no blob can be written: {error.strerror}") from error
            try:
                yield temporary, target
            finally:
                os.close(target)
                temporary.unlink(missing_ok=True)

    def _copy(self, source: int) -> tuple[BlobId, int]:
        with self._new_file() as (temporary, target):
            blob, size_bytes = copy_and_hash(source, target)
            self._publish(temporary, target, blob)
        return blob, size_bytes

    def _take(self, path: str | Path, folder: int | None) -> Path | None:
        """Move a file among ours; None where it lies on another disk."""
        temporary = self._temporary / secrets.token_hex(8)
        try:
            os.rename(path, temporary, src_dir_fd=folder)
        except OSError as error:
            if error.errno == errno.EXDEV:
                return None
            raise
        return temporary

    def _adopt(self, source: int, path: str | Path, moved: Path) -> tuple[BlobId, int]:
        """Hash a file only now that its old name can no longer reach it."""
        try:
            if not os.path.samestat(os.fstat(source), moved.lstat()):
                raise PathInvalid(f"`{path}` changed while it was collected")
            os.fchown(source, os.geteuid(), os.getegid())
            blob, size_bytes = hash_contents(source)
            self._publish(moved, source, blob)
        finally:
            moved.unlink(missing_ok=True)
        return blob, size_bytes

    def _publish(
        self, temporary: Path, target: int, blob: BlobId, *, executable: Path | None = None
    ) -> None:
        size_bytes = os.fstat(target).st_size
        os.fchmod(target, _READ_ONLY_EXECUTABLE if executable else _READ_ONLY)
        os.utime(target, ns=(time.time_ns(), _CONTENT_TIME_NS))
        path = executable or self._path(blob)
        with self._lock:
            # Two may have written the same; the first one stays, others may hold links to it.
            if executable.exists() if executable else blob in self._sizes:
                return
            if executable and blob not in self._sizes:
                raise FileUnknown(f"the blob {blob[:10]} was evicted meanwhile")
            path.parent.mkdir(mode=0o700, exist_ok=True)
            temporary.rename(path)
            self._used_bytes += size_bytes
            self._sizes[blob] = self._sizes.get(blob, 0) + size_bytes

    def _delete(self, blob: BlobId) -> None:
        path = self._path(blob)
        path.unlink(missing_ok=True)
        path.with_name(path.name + _EXECUTABLE).unlink(missing_ok=True)
        self._forget(blob)

    def _forget(self, blob: BlobId) -> None:
        self._used_bytes -= self._sizes.pop(blob)

    def _path(self, blob: BlobId) -> Path:
        if _BLOB.fullmatch(blob) is None:
            raise InvalidInput(f"`{blob[:80]}` is not the name of a blob")
        return self._folder / blob[:2] / blob[2:]

    # -- starting --

    def _find_blobs(self) -> None:
        found: list[tuple[float, BlobId, int]] = []
        for shelf in self._folder.iterdir():
            if len(shelf.name) != 2 or not shelf.is_dir():
                continue
            for file in os.scandir(shelf):
                blob = BlobId(shelf.name + file.name)
                status = file.stat(follow_symlinks=False)
                is_blob = _BLOB.fullmatch(blob) and stat.S_ISREG(status.st_mode)
                # Empty is what a power cut leaves of a blob; executables are made again.
                if not is_blob or (status.st_size == 0 and blob != EMPTY_BLOB):
                    Path(file.path).unlink()
                    continue
                found.append((status.st_atime, blob, status.st_size))
        for _, blob, size_bytes in sorted(found):
            self._sizes[blob] = size_bytes
            self._used_bytes += size_bytes

    def _find_kept(self) -> None:
        for owner, name in self._pins.kept():
            try:
                tree = self.tree(BlobId(name))
            except P2prcError as error:
                log.warning("a tree to keep is gone", extra={"owner": owner, "reason": str(error)})
            else:
                self.pin_tree(owner, tree)
