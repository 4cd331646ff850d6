"""Move files between a tar stream and a folder that a stranger can change at any moment.

Every name is taken apart and every folder on the way is opened by itself, without following a
link, so no name and no swap of a folder for a link leads outside. Archives hold plain files and
folders; a link or device in one that comes in is refused, in what goes out it is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import IO

from p2prc.errors import DiskFull, FileUnknown, P2prcError, PathInvalid

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK_BYTES = 64 * 1024
_DEPTH_LIMIT = 128
_NAME_LIMIT_BYTES = 4096
_ENTRIES_LIMIT = 1_000_000
_ENTRY_BYTES = 512
"""What an entry counts as at least: a million empty files are not nothing."""
_MORE_ROOM = "remove files inside with `p2prc exec`, or ask for more: `p2prc create --disk SIZE`"
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def parts_of(name: str) -> list[str]:
    """Return the names on a path inside a folder. Raises PathInvalid."""
    if "\0" in name or name.startswith("/") or len(os.fsencode(name)) > _NAME_LIMIT_BYTES:
        raise PathInvalid(f"{shown(name)} is not a path inside the working folder")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or len(parts) > _DEPTH_LIMIT:
        raise PathInvalid(f"{shown(name)} is not a path inside the working folder")
    return parts


def shown(name: str) -> str:
    """Return a hostile name as a person may see it."""
    return ascii(name[:100])


async def unpack(
    archive: AsyncIterator[bytes], root: Path, folder: str, *, owner: int, limit_bytes: int
) -> int:
    """Put the files of a tar stream below `root/folder`; return their bytes.

    `owner` is who they then belong to, 0 for ourselves. Raises PathInvalid, DiskFull.
    """
    above = parts_of(folder)

    def work() -> int:
        with (
            _translated(),
            os.fdopen(reading, "rb") as source,
            tarfile.open(fileobj=source, mode="r|", bufsize=_CHUNK_BYTES) as tar,
        ):
            return _Unpacking(root, above, owner, limit_bytes).all_of(tar)

    reading, writing = os.pipe()
    done = asyncio.get_running_loop().run_in_executor(None, work)
    feeding = asyncio.get_running_loop().create_task(_feed(archive, writing))
    try:
        return await asyncio.shield(done)
    finally:
        feeding.cancel()
        await asyncio.wait([feeding])
        # With its input closed the thread comes to its end.
        await asyncio.wait([done])
        done.exception()
        if not feeding.cancelled() and (error := feeding.exception()) is not None:
            raise error


async def pack(root: Path, path: str) -> AsyncIterator[bytes]:
    """Yield `root/path` as a tar stream. Raises PathInvalid, FileUnknown before the first byte."""
    parts = parts_of(path)
    found = await asyncio.to_thread(_open_way, root, parts)

    def work() -> None:
        try:
            with (
                contextlib.suppress(BrokenPipeError),
                os.fdopen(writing, "wb") as sink,
                tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as tar,
            ):
                _pack(tar, found, parts[-1] if parts else "", 0)
        finally:
            os.close(found)

    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    done = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        while content := await _read_pipe(reading):
            yield content
    finally:
        os.close(reading)
        await asyncio.shield(done)


class _Unpacking:
    """One archive on its way into a folder."""

    def __init__(self, root: Path, above: list[str], owner: int, limit_bytes: int) -> None:
        self._root = root
        self._above = above
        self._owner = owner
        self._room = limit_bytes
        self._taken = 0

    def all_of(self, tar: tarfile.TarFile) -> int:
        for count, member in enumerate(tar):
            self._use(_ENTRY_BYTES)
            if count >= _ENTRIES_LIMIT:
                raise PathInvalid("an archive of too many files")
            if member.size < 0:
                raise PathInvalid("this is not a tar archive")
            parts = self._above + parts_of(member.name)
            if member.isdir():
                os.close(self._folder(parts))
            elif member.isreg() and parts:
                self._file(parts, tar, member)
            else:
                raise PathInvalid(f"{shown(member.name)} is neither a file nor a folder")
        return self._taken

    def _use(self, count: int) -> None:
        self._room -= count
        if self._room < 0:
            raise DiskFull(
                "the files are larger than what is left of the container's disk", hint=_MORE_ROOM
            )

    def _folder(self, parts: list[str]) -> int:
        """Open a folder, making what is missing on the way; no step follows a link."""
        here = os.open(self._root, _FOLDER)
        try:
            for part in parts:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=here)
                    self._give(part, here)
                inner = os.open(part, _FOLDER, dir_fd=here)
                os.close(here)
                here = inner
        except BaseException:
            os.close(here)
            raise
        return here

    def _give(self, name: str, folder: int) -> None:
        if self._owner:
            os.chown(name, self._owner, self._owner, dir_fd=folder, follow_symlinks=False)

    def _file(self, parts: list[str], tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        folder = self._folder(parts[:-1])
        try:
            # What it replaces makes room for it.
            self._room += _size_of(parts[-1], folder)
            self._use(member.size)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(parts[-1], dir_fd=folder)
            target = os.open(parts[-1], _NEW_FILE, 0o600, dir_fd=folder)
        finally:
            os.close(folder)
        with os.fdopen(target, "wb") as file:
            source = tar.extractfile(member)
            while source is not None and (content := source.read(_CHUNK_BYTES)):
                file.write(content)
            os.fchmod(target, (member.mode & 0o755) | 0o600)
            if self._owner:
                os.fchown(target, self._owner, self._owner)
        self._taken += member.size


def _size_of(name: str, folder: int) -> int:
    """Return what would be free without a file."""
    try:
        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return 0
    return facts.st_blocks * 512 if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 else 0


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except tarfile.TarError as error:
        raise PathInvalid("this is not a tar archive") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull("no room is left on the disk there", hint=_MORE_ROOM) from error
        if error.errno in (*_NOT_THERE, errno.EISDIR, errno.ENAMETOOLONG):
            raise PathInvalid("a link or another kind of file is in the way") from error
        raise


async def _feed(archive: AsyncIterator[bytes], pipe: int) -> None:
    """Write the archive into the pipe until it ends or nobody reads any more."""
    os.set_blocking(pipe, False)
    try:
        async for content in archive:
            rest = memoryview(content)
            while rest:
                try:
                    rest = rest[os.write(pipe, rest) :]
                except BlockingIOError:
                    await _until(asyncio.get_running_loop().add_writer, pipe)
                except BrokenPipeError:
                    return
    finally:
        asyncio.get_running_loop().remove_writer(pipe)
        os.close(pipe)


async def _read_pipe(pipe: int) -> bytes:
    while True:
        try:
            return os.read(pipe, _CHUNK_BYTES)
        except BlockingIOError:
            await _until(asyncio.get_running_loop().add_reader, pipe)


async def _until(add: Callable[..., object], descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    add(descriptor, _set, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
        loop.remove_writer(descriptor)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _open_way(root: Path, parts: list[str]) -> int:
    here = os.open(root, _FOLDER)
    try:
        for part in parts:
            inner = os.open(part, _FILE, dir_fd=here)
            os.close(here)
            here = inner
        mode = os.fstat(here).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise PathInvalid(f"{shown('/'.join(parts))} is neither a file nor a folder")
    except OSError as error:
        os.close(here)
        if error.errno not in _NOT_THERE:
            raise
        raise FileUnknown(f"there is no {shown('/'.join(parts))} in the working folder") from error
    except P2prcError:
        os.close(here)
        raise
    return here


def _pack(tar: tarfile.TarFile, found: int, name: str, depth: int) -> None:
    facts = os.fstat(found)
    entry = tarfile.TarInfo(name or ".")
    entry.mode, entry.mtime = stat.S_IMODE(facts.st_mode) & 0o777, int(facts.st_mtime)
    if stat.S_ISREG(facts.st_mode):
        entry.size = facts.st_size
        with os.fdopen(os.dup(found), "rb", buffering=0) as file:
            tar.addfile(entry, _Exactly(file))
        return
    entry.type = tarfile.DIRTYPE
    if name:
        tar.addfile(entry)
    if depth >= _DEPTH_LIMIT:
        return
    for inner in sorted(os.listdir(found)):
        try:
            child = os.open(inner, _FILE, dir_fd=found)
        except OSError:
            # A link, or gone meanwhile.
            continue
        try:
            mode = os.fstat(child).st_mode
            if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
                _pack(tar, child, f"{name}/{inner}" if name else inner, depth + 1)
        finally:
            os.close(child)


class _Exactly:
    """A file whose size was promised: what is cut off meanwhile reads as zeros."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, count: int = -1) -> bytes:
        content = self._file.read(count)
        return content + bytes(count - len(content))
