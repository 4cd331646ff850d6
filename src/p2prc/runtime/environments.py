"""Virtual environments: asked for by name and version, locked once, built on every node, cached.

A wheel is a stranger's code, and one with a `.pth` file runs whenever an interpreter starts on
it. So nothing here starts one on a finished environment: uv unpacks wheels into a folder, which
only ever gets mounted, read-only, in a sandbox. What uv is told is written by us, line by line,
from the typed lock; no text of a peer reaches it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import secrets
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from p2prc.errors import DiskFull, EnvironmentBroken, MachineCannot
from p2prc.model.environment import EnvironmentLock
from p2prc.runtime.installer import Progress, Registry, run_uv, silent
from p2prc.runtime.process import folders
from p2prc.runtime.process.assets import base_interpreter

log = logging.getLogger(__name__)

_RESOLVE_LIMIT_S = 180.0
_BUILD_LIMIT_S = 900.0


def parse_requirements(texts: Sequence[str]) -> tuple[str, ...]:
    """Return requirements in their normal form, sorted; raises RequirementInvalid with a reason."""
    # Half a megabyte and a tenth of a node's start, for what most nodes never need.
    from p2prc.runtime import package_lists  # noqa: PLC0415

    return package_lists.parse(texts)


async def resolve(
    requirements: Sequence[str], *, python: str, registry: Registry | None = None
) -> EnvironmentLock:
    """Pin requirements to exact wheels for Python `python`, on every platform they exist for.

    Raises EnvironmentBroken when there is no such set of wheels.
    """
    words = ["compile", "-", "--universal", "--generate-hashes", "--only-binary", ":all:"]
    words += ["--no-sources", "--no-header", "--no-annotate", "--python-version", python]
    words += ["--python", base_interpreter().executable]
    checked = "".join(f"{line}\n" for line in parse_requirements(requirements))
    printed = await run_uv(
        words,
        registry=registry or Registry(),
        limit_s=_RESOLVE_LIMIT_S,
        stdin=checked.encode(),
    )
    from p2prc.runtime import package_lists  # noqa: PLC0415

    return package_lists.read_lock(printed.decode(), python)


class EnvironmentStore:
    """Finished environments by the hash of their lock, within a quota.

    An environment in use, by whatever name its user goes, is never evicted.
    """

    def __init__(
        self,
        folder: Path,
        *,
        quota_bytes: int,
        registry: Registry | None = None,
        build_limit_s: float = _BUILD_LIMIT_S,
    ) -> None:
        self._folder = folder
        self._quota_bytes = quota_bytes
        self._registry = registry or Registry()
        self._build_limit_s = build_limit_s
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: dict[str, set[str]] = {}
        self._is_clean = False

    async def ensure(
        self, lock: EnvironmentLock, *, user: str, progress: Progress = silent
    ) -> Path:
        """Return the environment's folder, built when it is not there; `user` holds it.

        Raises EnvironmentBroken, DiskFull, RequirementInvalid. When cancelled nothing is left.
        """
        digest = str(lock.digest)
        self._users.setdefault(digest, set()).add(user)
        try:
            async with self._locks.setdefault(digest, asyncio.Lock()):
                return await self._find_or_build(digest, lock, progress)
        except BaseException:
            self._let_go(digest, user)
            raise

    def release(self, lock: EnvironmentLock, *, user: str) -> None:
        """Let go of an environment; it stays until its room is needed."""
        self._let_go(str(lock.digest), user)

    def _let_go(self, digest: str, user: str) -> None:
        users = self._users.get(digest, set())
        users.discard(user)
        if not users:
            self._users.pop(digest, None)

    async def _find_or_build(self, digest: str, lock: EnvironmentLock, progress: Progress) -> Path:
        target = self._folder / digest
        with _disk_errors(self._folder):
            if not self._is_clean:
                self._folder.mkdir(parents=True, exist_ok=True)
                await asyncio.to_thread(self._delete_unfinished)
                self._is_clean = True
            if not target.is_dir():
                await self._build(target, lock, progress)
            # The time of the last use, for eviction.
            os.utime(target)
        return target

    async def _build(self, target: Path, lock: EnvironmentLock, progress: Progress) -> None:
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        if lock.python != python:
            raise EnvironmentBroken(
                f"the environment is for Python {lock.python}, this node has {python}"
            )
        unfinished = self._folder / f".building-{secrets.token_hex(8)}"
        listing = unfinished.with_suffix(".txt")
        from p2prc.runtime import package_lists  # noqa: PLC0415

        try:
            listing.write_text(package_lists.listing(lock), encoding="utf-8")
            unfinished.mkdir(mode=0o755)
            if lock.packages:
                await self._install(listing, unfinished, progress)
            size_bytes = await asyncio.to_thread(_open_to_readers, unfinished)
            await self._make_room(size_bytes)
            _size_file(target).write_text(str(size_bytes), encoding="ascii")
            unfinished.rename(target)
        finally:
            listing.unlink(missing_ok=True)
            folders.remove(str(unfinished))
        log.info("environment built", extra={"environment": target.name, "bytes": size_bytes})

    async def _install(self, listing: Path, target: Path, progress: Progress) -> None:
        words = ["install", "--target", str(target), "--require-hashes", "--no-deps"]
        words += ["--only-binary", ":all:", "--no-sources"]
        words += ["--python", base_interpreter().executable, "--requirements", str(listing)]
        await run_uv(words, registry=self._registry, limit_s=self._build_limit_s, progress=progress)

    async def _make_room(self, needed_bytes: int) -> None:
        """Evict what was not used for longest until the new one fits; raises DiskFull."""
        sizes = {path: _size_of(path) for path in self._folder.iterdir() if _is_finished(path)}
        idle = [path for path in sizes if path.name not in self._users]
        idle.sort(key=lambda path: path.stat().st_mtime)
        used_bytes = sum(sizes.values())
        evicted: list[Path] = []
        while used_bytes + needed_bytes > self._quota_bytes and idle:
            evicted.append(idle.pop(0))
            used_bytes -= sizes[evicted[-1]]
        if used_bytes + needed_bytes > self._quota_bytes:
            raise DiskFull(
                f"the environment takes {needed_bytes >> 20} MiB, "
                f"more than the quota of {self._quota_bytes >> 20} MiB has left"
            )
        for path in evicted:
            _size_file(path).unlink(missing_ok=True)
            await asyncio.to_thread(folders.remove, str(path))

    def _delete_unfinished(self) -> None:
        """Delete what a build left that was cut off."""
        for path in self._folder.iterdir():
            if path.name.startswith(".building-"):
                if path.is_dir():
                    folders.remove(str(path))
                else:
                    path.unlink()


def _open_to_readers(folder: Path) -> int:
    """Make all of it readable for a tenant who is another user; return its size."""
    total = 0
    for place, _, names in os.walk(folder):
        _allow(Path(place), 0o555)
        for name in names:
            total += _allow(Path(place, name), 0o444)
    return total


def _allow(path: Path, mode: int) -> int:
    facts = path.lstat()
    if not stat.S_ISLNK(facts.st_mode) and facts.st_mode & mode != mode:
        path.chmod(stat.S_IMODE(facts.st_mode) | mode)
    return facts.st_blocks * 512


def _is_finished(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _size_file(environment: Path) -> Path:
    return environment.with_name(f".{environment.name}.size")


def _size_of(environment: Path) -> int:
    try:
        return int(_size_file(environment).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return folders.used_bytes(str(environment))


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = DiskFull if error.errno == errno.ENOSPC else MachineCannot
        raise kind(f"the environments' folder {folder.name}: {error.strerror}") from error
