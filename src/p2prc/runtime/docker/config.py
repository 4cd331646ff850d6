"""What the engine is told about a container: its walls and limits, as the API's own JSON. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p2prc.model.resources import MEBIBYTE, Limits

INPUTS = "/inputs"
WORK = "/work"
TEMPORARY = "/tmp"  # noqa: S108 - in there
ENVIRONMENT = "/environment"
FIRST = "/.p2prc-first"
_NANOS_PER_MILLI = 1_000_000
_LEAST_MEMORY_BYTES = 6 * MEBIBYTE
_OWN_PROCESSES = 2
"""The first process, and the one that is about to become a command."""

LABEL_HOME = "p2prc.home"
LABEL_LEASE = "p2prc.lease"
LABEL_FOLDER = "p2prc.folder"
LABEL_UNTIL = "p2prc.until"
LABEL_CARDS = "p2prc.cards"


def since_start_s() -> float:
    """Return the seconds since the machine's start, its sleep counted: nobody sets that clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Plan:
    """What differs from one container to the next. Paths are the host's; `until` is in seconds
    since the machine's start.

    `shared` are folders of the host, shown read-only under their own names. `declared` are the
    volumes that the image wants: memory of the lease, not a place on the host's disk without limit.
    `calls` is the filter of system calls; empty for the engine's own.
    `people` is the file that is shown as /etc/passwd, where the image's own is not to be.
    `ceilings` are further limits of every process, as (name, most).
    """

    image: str
    home: str
    lease: str
    folder: str
    first: str
    uid: int
    until: int
    limits: Limits
    variables: Mapping[str, str]
    environment: str = ""
    shared: tuple[str, ...] = ()
    declared: tuple[str, ...] = ()
    cards: tuple[int, ...] = ()
    volumes: tuple[tuple[str, str], ...] = ()
    resolvers: tuple[str, ...] = ()
    calls: str = ""
    ceilings: tuple[tuple[str, int], ...] = ()
    people: str = ""


def container_config(plan: Plan) -> dict[str, Any]:
    """Return the body of the request that creates the container."""
    limits = plan.limits
    memory = _memory(limits)
    return {
        "Image": plan.image,
        "Entrypoint": [FIRST, str(plan.until)],
        "Cmd": [],
        "User": f"{plan.uid}:{plan.uid}",
        "WorkingDir": WORK,
        "Hostname": "sandbox",
        "Env": [f"{name}={value}" for name, value in plan.variables.items()],
        "Labels": {
            LABEL_HOME: plan.home,
            LABEL_LEASE: plan.lease,
            LABEL_FOLDER: plan.folder,
            LABEL_UNTIL: str(plan.until),
            LABEL_CARDS: ",".join(map(str, plan.cards)),
        },
        # An image's own check of its health would run as a command that nobody asked for.
        "Healthcheck": {"Test": ["NONE"]},
        # Whoever holds this end may go and come again: `StdinOnce` would end it with us.
        "OpenStdin": True,
        "StdinOnce": False,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": {
            "Mounts": _mounts(plan),
            "NetworkMode": "none",
            # Named always: the engine would show the addresses of the owner's own.
            "Dns": list(plan.resolvers),
            "CapDrop": ["ALL"],
            "SecurityOpt": _security(plan.calls),
            "Privileged": False,
            "ReadonlyRootfs": True,
            "IpcMode": "private",
            **changeable_limits(limits),
            "ShmSize": max(MEBIBYTE, memory // 2),
            "OomScoreAdj": 500,
            "Ulimits": [
                {"Name": "core", "Soft": 0, "Hard": 0},
                *({"Name": name, "Soft": most, "Hard": most} for name, most in plan.ceilings),
                {"Name": "fsize", "Soft": limits.disk_bytes, "Hard": limits.disk_bytes},
            ],
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "none", "Config": {}},
            "DeviceRequests": _devices(plan.cards),
        },
    }


def changeable_limits(limits: Limits) -> dict[str, int]:
    """Return what of a container's limits may be changed while it runs."""
    return {
        "PidsLimit": limits.processes + _OWN_PROCESSES,
        "Memory": _memory(limits),
        "MemorySwap": _memory(limits),
        "NanoCpus": limits.cpu_millis * _NANOS_PER_MILLI,
    }


def _memory(limits: Limits) -> int:
    return max(limits.memory_bytes, _LEAST_MEMORY_BYTES)


def _security(calls: str) -> list[str]:
    return ["no-new-privileges:true", *([f"seccomp={calls}"] if calls else [])]


def _mounts(plan: Plan) -> list[dict[str, Any]]:
    mounts = [
        _bind(plan.first, FIRST, is_read_only=True),
        _bind(f"{plan.folder}/inputs", INPUTS, is_read_only=True),
        _bind(f"{plan.folder}/work", WORK, is_read_only=False),
        _bind(f"{plan.folder}/tmp", TEMPORARY, is_read_only=False),  # noqa: S108
    ]
    mounts += [_bind(folder, folder, is_read_only=True) for folder in plan.shared]
    if plan.people:
        mounts.append(_bind(plan.people, "/etc/passwd", is_read_only=True))
    if plan.environment:
        mounts.append(_bind(plan.environment, ENVIRONMENT, is_read_only=True))
    mounts += [_bind(source, path, is_read_only=False) for source, path in plan.volumes]
    taken = {str(mount["Target"]) for mount in mounts}
    for folder in plan.declared:
        if folder.startswith("/") and folder != "/" and folder.rstrip("/") not in taken:
            size = max(MEBIBYTE, plan.limits.memory_bytes // 2)
            options = {"SizeBytes": size, "Mode": 0o1777}
            mounts.append({"Type": "tmpfs", "Target": folder, "TmpfsOptions": options})
    return mounts


def _bind(source: str, target: str, *, is_read_only: bool) -> dict[str, Any]:
    # Not the short form: it has a meaning for colons, and makes folders that are missing.
    options = {"Propagation": "rprivate", "NonRecursive": is_read_only}
    return {
        "Type": "bind",
        "Source": source,
        "Target": target,
        "ReadOnly": is_read_only,
        "BindOptions": options,
    }


def _devices(cards: tuple[int, ...]) -> list[dict[str, Any]]:
    if not cards:
        return []
    # By number: a mere count would give every lease the first card.
    numbers = [str(card) for card in cards]
    return [{"Driver": "nvidia", "DeviceIDs": numbers, "Capabilities": [["gpu"]]}]
