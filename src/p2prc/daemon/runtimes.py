"""Which runtimes a node has: what its owner set, and what this machine can do."""

from __future__ import annotations

import os
from pathlib import Path

from p2prc.runtime.docker.late import LateDocker
from p2prc.runtime.docker.presence import candidates, find_engine
from p2prc.runtime.images import ImageShelf
from p2prc.runtime.port import Runtime
from p2prc.runtime.process.adapter import ProcessRuntime
from p2prc.runtime.several import SeveralRuntimes
from p2prc.settings import Settings

_MILLIS = 1000


class NodeRuntimes:
    """The runtimes of one node."""

    def __init__(
        self, process: ProcessRuntime | None, docker: LateDocker | None, *, notice: str = ""
    ) -> None:
        self._process = process
        self._docker = docker
        self._notice = notice
        self.images: ImageShelf | None = docker
        found: list[Runtime] = [each for each in (process, docker) if each is not None]
        self.all = SeveralRuntimes(found)

    @property
    def engine_trouble(self) -> str:
        """Why the container engine of this machine is of no use; "" when it is, or none is."""
        return "" if self._docker is None else self._docker.trouble

    @property
    def notice(self) -> str:
        """What the owner should know about them, once they have been tried; or nothing."""
        if self.engine_trouble:
            return f"the container engine of this machine is of no use: {self.engine_trouble}"
        return self._notice

    def follow(self, settings: Settings) -> None:
        """Put the rules of lending into force, once the node is there or they have changed."""
        if self._process is not None:
            self._process.use_cores(cores_lent(settings))
        if self._docker is not None:
            self._docker.offer_images(settings.lend.images)
            self._docker.keep_warm(settings.lend.warm)


async def find_runtimes(
    home: Path, settings: Settings, *, spares_containers: bool = False
) -> NodeRuntimes:
    """Look for what the owner's setting allows.

    With `spares_containers` those of the life before wait for `adopt` to choose among them.
    """
    docker = process = None
    if settings.runtime in ("auto", "docker"):
        socket = await find_engine(candidates(os.environ, Path.home()))
        if socket is not None:
            docker = LateDocker(
                home,
                socket,
                offered=settings.lend.images,
                spares=spares_containers,
            )
    if settings.runtime != "docker":
        process = ProcessRuntime(home, core_count=cores_lent(settings))
    notice = ""
    if settings.runtime == "docker" and docker is None:
        notice = "lends nothing: no container engine answers on this machine"
    return NodeRuntimes(process, docker, notice=notice)


def cores_lent(settings: Settings) -> int:
    """Return the whole cores that all leases together may use."""
    return -(-settings.lend.cpu_millis // _MILLIS)
