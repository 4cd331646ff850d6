"""What disks do, in our words: they fill up, copy cheaply, and forget what is not synced.

Every function here takes descriptors, not names: a name can be swapped, a descriptor cannot.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blake3 import blake3

from p2prc.errors import DiskFull
from p2prc.model.identity import BlobId

if sys.platform != "win32":
    import fcntl

BLOCK_BYTES = 1 << 20
_LARGE_BYTES = 8 << 20
_COPY_RANGE_BYTES = 256 << 20
_FICLONE = 0x40049409
_FULL = {errno.ENOSPC, errno.EDQUOT}
_CANNOT_HERE = {
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.ENOTTY,
    errno.EBADF,
    errno.EPERM,
    errno.ETXTBSY,
    errno.EISDIR,
}


def is_full(error: OSError) -> bool:
    """Say whether there was no room, or no quota, left."""
    return error.errno in _FULL


@contextmanager
def telling_when_full(what: str) -> Iterator[None]:
    """Turn the kernel's "no space left" into `DiskFull`; other errors pass."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise DiskFull(f"the disk is full: cannot write {what}") from error
        raise


def share_blocks(source: int, target: int) -> bool:
    """Make the target a copy that shares the source's blocks, where the file system can."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _CANNOT_HERE:
            return False
        raise
    return True


def copy_contents(source: int, target: int) -> None:
    """Copy everything from the source's offset on, in the kernel where it can."""
    if share_blocks(source, target):
        return
    try:
        while os.copy_file_range(source, target, _COPY_RANGE_BYTES):
            pass
    except OSError as error:
        if error.errno not in _CANNOT_HERE:
            raise
    # Some file systems copy nothing and say so with 0: reading on from here settles it.
    while block := os.read(source, BLOCK_BYTES):
        write_all(target, block)


def write_all(target: int, content: bytes | bytearray | memoryview) -> None:
    """Write every byte; a signal or a filling disk may make one `write` short."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(target, rest) :]


def hash_contents(source: int) -> tuple[BlobId, int]:
    """Return the hash of what follows the offset, and its size; large files use every core.

    Read, not mapped: a mapped file that shrinks meanwhile would kill the process.
    """
    hasher = _hasher_for(source)
    size_bytes = 0
    for block in _blocks(source):
        hasher.update(block)
        size_bytes += len(block)
    return BlobId(hasher.hexdigest()), size_bytes


def copy_and_hash(source: int, target: int) -> tuple[BlobId, int]:
    """Copy and return the hash of exactly what was written, though the source may be changing."""
    if share_blocks(source, target):
        os.lseek(target, 0, os.SEEK_SET)
        return hash_contents(target)
    hasher = _hasher_for(source)
    size_bytes = 0
    for block in _blocks(source):
        hasher.update(block)
        write_all(target, block)
        size_bytes += len(block)
    return BlobId(hasher.hexdigest()), size_bytes


def _hasher_for(source: int) -> blake3:
    is_large = os.fstat(source).st_size > _LARGE_BYTES
    return blake3(max_threads=blake3.AUTO if is_large else 1)


def _blocks(source: int) -> Iterator[memoryview]:
    """Yield what follows the offset, in one buffer: each block is valid until the next."""
    size_bytes = os.fstat(source).st_size
    buffer = memoryview(bytearray(min(BLOCK_BYTES, max(size_bytes, 4096))))
    while count := os.readv(source, [buffer]):
        yield buffer[:count]


def sync_folder(folder: Path | int) -> None:
    """Make new names in the folder outlive a power cut."""
    if isinstance(folder, int):
        os.fsync(folder)
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_private(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Replace a file of mode 0600 as a whole: after a crash it is the old one or the new one.

    Without `sync` that is true after a kill, not after a power cut.
    """
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    with telling_when_full(path.name):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(temporary, flags, 0o600)
        try:
            write_all(descriptor, content)
            if sync:
                os.fsync(descriptor)
        except OSError:
            temporary.unlink()
            raise
        finally:
            os.close(descriptor)
        temporary.rename(path)
        if sync:
            sync_folder(path.parent)
