"""From what a person asked for to what the node carries out: limits, environments, inputs."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence
from pathlib import Path

from p2prc.api.container_schema import CreateRequest
from p2prc.api.schema import JobRequest, RunRequest, TemplateRequest
from p2prc.errors import JobInvalid, MachineCannot
from p2prc.files.collect import collect_inputs
from p2prc.files.patterns import Patterns
from p2prc.model.environment import EnvironmentLock
from p2prc.model.identity import BlobId
from p2prc.model.resources import Limits
from p2prc.model.workload import Command, Volume, Workload, parse_volume
from p2prc.node.machine import python_version
from p2prc.runtime.environments import parse_requirements, resolve
from p2prc.storage.blobs import BlobStore

_MILLIS = 1000


def limits_of(request: RunRequest | JobRequest | TemplateRequest | CreateRequest) -> Limits:
    """Return the limits asked for; what is not given has the default."""
    usual, asked_s = Limits(), request.lifetime_s
    return Limits(
        cpu_millis=_or(request.cpus and round(request.cpus * _MILLIS), usual.cpu_millis),
        memory_bytes=_or(request.memory_bytes, usual.memory_bytes),
        disk_bytes=_or(request.disk_bytes, usual.disk_bytes),
        processes=usual.processes,
        lifetime_s=None if asked_s == "none" else asked_s or usual.lifetime_s,
        gpus=request.gpus,
    )


def _or(given: int | float | None, usual: int) -> int:
    return usual if given is None else int(given)


async def environment_of(requirements: Sequence[str]) -> EnvironmentLock | None:
    """Pin the requirements to exact wheels. Raises RequirementInvalid, EnvironmentBroken."""
    if not requirements:
        return None
    return await resolve(parse_requirements(requirements), python=python_version())


def workload_of(
    request: RunRequest | JobRequest | TemplateRequest | CreateRequest,
    environment: EnvironmentLock | None,
) -> Workload:
    """Return the place that the work needs."""
    return Workload(
        limits=limits_of(request),
        environment=environment,
        runtime=request.runtime,
        tiers=tuple(request.tiers),
        image=request.image,
        name=request.name[:200],
        network=request.network,
        volumes=volumes_of(request.volumes) if isinstance(request, CreateRequest) else (),
    )


def volumes_of(typed: Sequence[str]) -> tuple[Volume, ...]:
    """Return the volumes of `NAME:/path` each. Raises JobInvalid."""
    found = tuple(map(parse_volume, typed))
    for what in ([each.name for each in found], [each.path for each in found]):
        if len(set(what)) < len(what):
            raise JobInvalid("two volumes have one name or one path")
    return found


async def command_of(request: RunRequest | JobRequest, blobs: BlobStore, *, owner: str) -> Command:
    """Return the command, its inputs in the store and pinned for the owner.

    Raises FileUnknown, PathInvalid, DiskFull, JobInvalid for an output pattern.
    """
    Patterns(request.outputs)
    inputs = await inputs_of(request.inputs, blobs, owner=owner)
    if any("\0" in text for text in (*request.argv, *request.variables.values())):
        raise JobInvalid("a command cannot contain NUL characters")
    return Command(
        argv=tuple(request.argv),
        variables=dict(request.variables),
        inputs=inputs,
        outputs=tuple(request.outputs),
        timeout_s=request.timeout_s,
    )


async def inputs_of(paths: Sequence[str], blobs: BlobStore, *, owner: str) -> BlobId | None:
    """Put what was named with --in into the store and return its tree's name."""
    if not paths:
        return None
    tree = await asyncio.to_thread(collect_inputs, paths, blobs, owner=owner)
    return tree.digest


def folder_of(request: RunRequest | JobRequest) -> Path:
    """Return the folder for results: the caller gives it as an absolute path.

    Raises JobInvalid; MachineCannot where nothing can be written: that is known before the work
    begins. Work without outputs needs no folder.
    """
    if request.to is None and not request.outputs:
        return Path("/")
    if request.to is None:
        raise JobInvalid("results need a folder to go to")
    folder = absolute_folder(request.to)
    if request.outputs:
        check_writable(folder)
    return folder


def check_writable(folder: Path) -> None:
    """Look at the nearest folder that is there; one named for a parameter is made later.

    Raises MachineCannot.
    """
    while not os.path.lexists(folder) or "{" in str(folder):
        folder = folder.parent
    if not folder.is_dir():
        reason = os.strerror(errno.ENOTDIR)
    elif not os.access(folder, os.W_OK | os.X_OK):
        reason = os.strerror(errno.EACCES)
    else:
        return
    raise MachineCannot(
        f"cannot write results to `{folder}`: {reason.lower()}",
        hint="choose another folder: `--to DIR`",
    )


def absolute_folder(text: str) -> Path:
    """Return the folder; raise JobInvalid where it depends on who asks, or cannot be one."""
    if not Path(text).is_absolute() or "\0" in text:
        raise JobInvalid("results need an absolute folder to go to")
    return Path(text)
