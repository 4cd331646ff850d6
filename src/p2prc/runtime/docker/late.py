"""Containers for a node that may never lend one: nothing is loaded before the first."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from p2prc.model.image import ImageOffer
from p2prc.model.resources import RuntimeOffer
from p2prc.model.tiers import Attack, unstopped
from p2prc.runtime.port import Feature, Sandbox, SandboxSpec

if TYPE_CHECKING:
    from p2prc.runtime.docker.adapter import DockerRuntime

NAME = "docker"
CONTAINER = "container"
SPARE = "--spare"
_TRIAL_S = 60.0

log = logging.getLogger(__name__)


class Trial(msgspec.Struct, frozen=True):
    """What a trial of the engine found: what works, or why nothing does."""

    offers: tuple[RuntimeOffer, ...]
    trouble: str = ""


class LateDocker:
    """The runtime of `adapter`, made when it is first needed.

    With `spares` the trial leaves the containers of the life before to `adopt`.
    """

    def __init__(
        self, home: Path, socket: Path, *, offered: Collection[str], spares: bool = False
    ) -> None:
        self._spares = spares
        self._home = home
        self._socket = socket
        self._offered = tuple(offered)
        self._offers: tuple[RuntimeOffer, ...] | None = None
        self._trying = asyncio.Lock()
        self._runtime: DockerRuntime | None = None
        self.trouble = ""
        """Why the engine is of no use, once `probe` has been asked; "" when it is."""

    @property
    def name(self) -> str:
        return NAME

    def features(self, tier: str) -> frozenset[Feature]:
        return frozenset(Feature) if tier == CONTAINER else frozenset()

    def offer_images(self, offered: Collection[str]) -> None:
        """Let requesters name these images from now on."""
        self._offered = tuple(offered)
        if self._runtime is not None:
            self._runtime.offer_images(self._offered)

    def keep_warm(self, count: int) -> None:
        """Have so many containers run before anybody wants them; once `probe` has been asked."""
        if self._runtime is not None or (count and self._offers):
            self._loaded().keep_warm(count)

    def unstopped(self, tier: str) -> frozenset[Attack]:
        return unstopped(tier) if self._runtime is None else self._runtime.unstopped(tier)

    # -- images: see `runtime.images.ImageShelf` --

    async def offered(self) -> tuple[ImageOffer, ...]:
        return await self._loaded().offered_images()

    async def look_up(self, name: str) -> ImageOffer:
        return await self._loaded().shelf.look_up(name)

    def build(self, folder: Path, name: str) -> AsyncIterator[str]:
        return self._loaded().shelf.build(folder, name)

    def pull(self, name: str) -> AsyncIterator[str]:
        return self._loaded().shelf.pull(name)

    async def take(self, archive: Path, *, limit_bytes: int) -> ImageOffer:
        return await self._loaded().shelf.take(archive, limit_bytes=limit_bytes)

    async def probe(self) -> tuple[RuntimeOffer, ...]:
        async with self._trying:
            if self._offers is None:
                self._offers = await self._try_out()
            return self._offers

    async def create(self, spec: SandboxSpec) -> Sandbox:
        return await self._loaded().create(spec)

    async def adopt(self, kept: Sequence[SandboxSpec]) -> list[Sandbox]:
        if self._runtime is None and not self._spares:
            # The trial has ended them all.
            return []
        return await self._loaded().adopt(kept)

    async def let_go(self) -> None:
        if self._runtime is not None:
            await self._runtime.let_go()

    async def close(self) -> None:
        if self._runtime is not None:
            await self._runtime.close()

    def _loaded(self) -> DockerRuntime:
        if self._runtime is None:
            from p2prc.runtime.docker.adapter import DockerRuntime  # noqa: PLC0415

            self._runtime = DockerRuntime(self._home, self._socket, offered=self._offered)
        return self._runtime

    async def _try_out(self) -> tuple[RuntimeOffer, ...]:
        words = ["-P", "-m", "p2prc.runtime.docker.trial", str(self._home), str(self._socket)]
        words += [SPARE] if self._spares else []
        trial = await asyncio.create_subprocess_exec(
            sys.executable,
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_TRIAL_S):
                said, _ = await trial.communicate()
            found = msgspec.json.decode(said, type=Trial)
        except TimeoutError:
            found = Trial((), f"a container does not start within {_TRIAL_S:g} s")
        except msgspec.MsgspecError:
            found = Trial((), "the trial of a container failed")
        finally:
            if trial.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    trial.kill()
                await trial.wait()
        if not found.offers:
            self.trouble = found.trouble or "no container can be started"
            log.info("the container engine is of no use", extra={"reason": self.trouble})
        return found.offers
