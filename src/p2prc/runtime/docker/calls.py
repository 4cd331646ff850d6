"""Which system calls a container's tenant may make, as the engine's API wants it told.

Engines have a filter of their own, but what it holds back differs from one version to the next:
that of Docker 20.10 lets io_uring and sockets to a hypervisor through. This one is ours: what is
not listed is refused. `inside/calls.txt` lists the calls that programs need, of both processors'
tables in the kernel (`syscall_64.tbl`, `asm-generic/unistd.h`); engines skip the names that they
do not know. Programs of older architectures do not run: their calls have other numbers.
"""

from __future__ import annotations

import errno
import json
import platform
from functools import cache
from pathlib import Path
from typing import Any

_MACHINES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_NEW_NAMESPACES = 0x7E020000
_FAMILIES = (1, 2, 10, 16)
"""Unix, IPv4, IPv6, netlink: all of them end at the walls of a network of one's own."""
_PERSONALITIES = (0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)
"""Those of Linux itself; the last one asks which it is."""
_OLDER_KERNEL = ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register")
"""Refused as if the kernel were older: libraries then take the way they took before."""


@cache
def profile() -> str:
    """Return the filter as JSON; empty for a processor that no container runs on."""
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return ""
    rules = [
        _rule(allowed()),
        *(_rule(("socket",), _argument("SCMP_CMP_EQ", family)) for family in _FAMILIES),
        *(_rule(("personality",), _argument("SCMP_CMP_EQ", kind)) for kind in _PERSONALITIES),
        _rule(("clone",), _argument("SCMP_CMP_MASKED_EQ", _NEW_NAMESPACES)),
        {"names": list(_OLDER_KERNEL), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
    ]
    return json.dumps(
        {"defaultAction": "SCMP_ACT_ERRNO", "architectures": [machine], "syscalls": rules}
    )


@cache
def allowed() -> tuple[str, ...]:
    """Return the names of the calls that anybody may make, whatever their arguments."""
    return tuple((Path(__file__).parent / "inside" / "calls.txt").read_text().split())


def _rule(names: tuple[str, ...], *arguments: dict[str, Any]) -> dict[str, Any]:
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", "args": list(arguments)}


def _argument(comparison: str, value: int) -> dict[str, Any]:
    # Of the first argument; `valueTwo` is what must be left of it under the mask.
    return {"index": 0, "value": value, "valueTwo": 0, "op": comparison}
