"""The owner's list of nodes that may use this machine as if it were theirs: `host-access`.

One node's id, which is its public key, on a line; `#` begins a comment. A file of its own, which no
setting, variable or command writes: nobody is let so far in by a slip. Like a key it must belong to
the node's user and be writable by nobody else.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from p2prc.errors import SettingInvalid
from p2prc.model.identity import NodeId

HOST_ACCESS_FILE = "host-access"
_SIZE_LIMIT_BYTES = 64 * 1024
_NODE = re.compile(r"[0-9a-f]{64}")


def read_host_access(home: Path) -> tuple[NodeId, ...]:
    """Return the nodes, none where there is no file. Raises SettingInvalid: nobody is let in."""
    path = home / HOST_ACCESS_FILE
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise SettingInvalid(f"cannot read `{path}`: {error.strerror}") from error
    with os.fdopen(file, "rb") as source:
        facts = os.fstat(source.fileno())
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
            raise SettingInvalid(f"`{path}` is not a file of this user")
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise SettingInvalid(f"others can write `{path}`", hint=f"`chmod 600 {path}`")
        content = source.read(_SIZE_LIMIT_BYTES + 1)
    if len(content) > _SIZE_LIMIT_BYTES:
        raise SettingInvalid(f"`{path}` is too long")
    found = []
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        node = line.partition("#")[0].strip()
        if node and _NODE.fullmatch(node) is None:
            raise SettingInvalid(
                f"`{path}`, line {number}: not a node's id",
                hint="the whole id: `p2prc nodes --json`",
            )
        found += [NodeId(node)] if node else []
    return tuple(dict.fromkeys(found))
