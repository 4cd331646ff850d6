"""Where volumes may appear in a sandbox, and whose they are while one lease has them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import PurePosixPath

from p2prc.errors import JobInvalid, MachineCannot
from p2prc.runtime.port import VolumeMount

_GIVING_S = 60.0
_RESERVED = (
    *("bin", "boot", "dev", "environment", "etc", "inputs", "lib", "lib32", "lib64", "libx32"),
    *("proc", "run", "sbin", "sys", "tmp", "usr", "work", ".p2prc-first"),
)


def check(volumes: Sequence[VolumeMount], *, hidden: str) -> None:
    """Refuse what would hide something of ours or of the system. Raises JobInvalid.

    `hidden` is another folder of the host that the sandbox shows, where it is.
    """
    targets = [volume.target for volume in volumes]
    for target in targets:
        parts = target.split("/")
        if parts[1] in _RESERVED or ".." in parts or _overlap(target, hidden):
            raise JobInvalid(f"a volume cannot be at {target[:100]!a}", hint="for example `/data`")
    if any(
        _overlap(one, other)
        for number, one in enumerate(targets)
        for other in targets[number + 1 :]
    ):
        raise JobInvalid("a volume cannot be where or in what another one is")


async def give(volumes: Sequence[VolumeMount], uid: int) -> None:
    """Make the tenant of this lease the owner of what the last one's left. Raises MachineCannot."""
    if os.geteuid() != 0 or not volumes:
        return
    # Not in Python: a stranger's folders are as deep as they like, and hold any number of files.
    paths = [str(volume.source) for volume in volumes]
    chown = await asyncio.create_subprocess_exec(
        "chown", "-R", "-P", "-h", f"{uid}:{uid}", "--", *paths, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(_GIVING_S):
            status = await chown.wait()
    except BaseException:
        chown.kill()
        await chown.wait()
        raise
    if status != 0:
        raise MachineCannot("a volume cannot be given to the lease")


def _overlap(one: str, other: str) -> bool:
    if not one or not other:
        return False
    first, second = PurePosixPath(one), PurePosixPath(other)
    return first.is_relative_to(second) or second.is_relative_to(first)
