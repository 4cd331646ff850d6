"""Containers that run before anybody wants them, for owners who lend often.

Making and starting one is nearly all that a lease in a container waits for. A warm container has
what a lease may not choose, and takes the rest on when it is handed over: its limits by an update,
its folder by a new name (what is mounted are the folders themselves). Each serves one lease and is
gone with it; nothing is ever used twice.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from p2prc.errors import P2prcError
from p2prc.model.identity import LeaseId
from p2prc.model.resources import GIBIBYTE, Limits
from p2prc.runtime.docker.config import Plan, since_start_s
from p2prc.runtime.docker.images import HOST_IMAGE
from p2prc.runtime.docker.sandbox import DockerSandbox
from p2prc.runtime.port import SandboxSpec
from p2prc.runtime.process import folders

LASTS_S = 3 * 3600.0
FRESH_S = 3600.0
"""Older ones are made anew: what they promise to end by themselves comes nearer."""
RETRY_S = 30.0
TIER = "container"
LIMITS = Limits(disk_bytes=GIBIBYTE, lifetime_s=LASTS_S)
"""What is not updated must be as most leases want it: the size of a file, here that of the disk."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Warm:
    """A container that waits for its lease, and what was planned for it."""

    sandbox: DockerSandbox
    plan: Plan
    made_at: float


Make = Callable[[SandboxSpec], Awaitable[Warm]]


class WarmPool:
    """Keeps so many containers warm, and gives them to leases that they fit."""

    def __init__(self, folder: Path, make: Make) -> None:
        self._folder = folder
        self._make = make
        self._count = 0
        self._made = 0
        self._waiting: list[Warm] = []
        self._filling: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._is_closed = False

    @property
    def size(self) -> int:
        """How many wait now."""
        return len(self._waiting)

    def keep(self, count: int) -> None:
        """Have so many wait from now on."""
        self._count = count
        self._fill()

    def take(self, spec: SandboxSpec) -> Warm | None:
        """Return one that fits, which is then nobody else's; None where none does."""
        if not _is_usual(spec):
            return None
        now = since_start_s()
        for warm in self._waiting:
            outlives = warm.plan.until >= now + spec.limits.lasts_s
            if outlives and warm.plan.limits.disk_bytes == spec.limits.disk_bytes:
                self._waiting.remove(warm)
                self._fill()
                return warm
        return None

    def drop(self, sandbox: DockerSandbox) -> None:
        """Forget one that ended by itself."""
        before = len(self._waiting)
        self._waiting = [warm for warm in self._waiting if warm.sandbox is not sandbox]
        if len(self._waiting) < before:
            self._fill()

    async def close(self) -> None:
        """End all that wait."""
        self._is_closed = True
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.gather(self._filling, return_exceptions=True)
        waiting, self._waiting = self._waiting, []
        await asyncio.gather(*(warm.sandbox.end() for warm in waiting))

    # -- the folder of one that was handed over

    def give_folder(self, warm: Warm, folder: Path) -> None:
        """Make its folder the lease's. Raises OSError; then it is of no use any more.

        The container's label still says the old name: there is a note of the new one.
        """
        old = Path(warm.plan.folder)
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        note = old.with_suffix(".new")
        note.write_text(os.path.realpath(folder))
        old.rename(folder)
        note.rename(old)

    def folder_of(self, label: str) -> str:
        """Return the folder that a container's label means."""
        path = Path(label)
        if path.parent == self._folder and path.is_file():
            return path.read_text().strip()
        return label

    def forget_folder(self, label: str) -> None:
        """Remove the note of one that is gone."""
        path = Path(label)
        if path.parent == self._folder:
            for note in (path, path.with_suffix(".new")):
                if not note.is_dir():
                    note.unlink(missing_ok=True)

    # -- filling

    def _fill(self) -> None:
        self._news.set()
        if self._is_closed or (self._filling is not None and not self._filling.done()):
            return
        self._filling = asyncio.get_running_loop().create_task(self._keep_full(), name="warm pool")

    async def _keep_full(self) -> None:
        while not self._is_closed and (self._count or self._waiting):
            old = [warm for warm in self._waiting if since_start_s() - warm.made_at > FRESH_S]
            for warm in [*old, *self._waiting[self._count :]]:
                if warm in self._waiting:
                    self._waiting.remove(warm)
                    await warm.sandbox.end()
            if len(self._waiting) >= self._count:
                self._news.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(FRESH_S / 10):
                        await self._news.wait()
                continue
            try:
                made = await self._make(self._next())
            except P2prcError as error:
                log.info("no container is kept warm", extra={"reason": error.message})
                await asyncio.sleep(RETRY_S)
            else:
                self._waiting.append(made)

    def _next(self) -> SandboxSpec:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._made += 1
        name = f"{os.getpid()}-{self._made}"
        folders.remove(str(self._folder / name))
        return SandboxSpec(LeaseId("warm"), self._folder / name, LIMITS, TIER, has_sessions=True)


def _is_usual(spec: SandboxSpec) -> bool:
    """Whether nothing is asked for that must be known when a container is made."""
    return (
        spec.image in ("", HOST_IMAGE)
        and spec.environment is None
        and not spec.volumes
        and not spec.limits.gpus
    )
