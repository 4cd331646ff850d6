"""What bubblewrap is told: the walls of the sandbox, as a list of options.

The tenant sees /usr and its links, the interpreter, a small made-up /etc, its own three folders
and nothing else of the host. Everything but the two folders on the disk is read-only, /dev/shm
has a size: no place without a limit can be written to.
"""

# ruff: noqa: PTH112, PTH114, PTH115, S108
# Works on descriptors and plain paths: pathlib would have to be loaded for every lease.
from __future__ import annotations

import os
from typing import NamedTuple

from p2prc.runtime.process import seccomp

INPUTS = "/inputs"
WORK = "/work"
ENVIRONMENT = "/environment"
AGENT = "/run/p2prc/agent.py"
_PROGRAMS = "/run/p2prc/bin"
LINKS = ("/bin", "/sbin", "/lib", "/lib64", "/lib32", "/libx32")
_TENANT = "1000"

STATUS_FD = 3
BLOCK_FD = 4
OPTIONS_FD = 5
AGENT_FD = 6
SECCOMP_FD = 7
RESERVED_FDS = 8
"""Descriptors below this one are never ours: in a child they are bubblewrap's and the agent's."""


class Walls(NamedTuple):
    """What differs from one sandbox to the next."""

    folder: str
    assets: str
    prefix: str
    environment: str
    shared_memory_bytes: int
    volumes: tuple[tuple[str, str], ...] = ()


def options(walls: Walls, *, is_agent: bool) -> bytes:
    """Return the options that every command of a sandbox shares, for `--args`."""
    words = ["--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent"]
    words += ["--new-session", "--clearenv", "--cap-drop", "ALL", "--hostname", "sandbox"]
    words += ["--uid", _TENANT, "--gid", _TENANT]
    words += ["--json-status-fd", str(STATUS_FD), "--block-fd", str(BLOCK_FD)]
    if seccomp.program():
        words += ["--seccomp", str(SECCOMP_FD)]
    if is_agent:
        words.append("--as-pid-1")
    words += _host_folders(walls)
    words += ["--proc", "/proc", "--dev", "/dev"]
    words += ["--size", str(walls.shared_memory_bytes), "--perms", "1777", "--tmpfs", "/dev/shm"]
    words += ["--bind", f"{walls.folder}/tmp", "/tmp"]
    words += ["--ro-bind", f"{walls.folder}/inputs", INPUTS]
    words += ["--bind", f"{walls.folder}/work", WORK]
    for source, target in walls.volumes:
        words += ["--bind", source, target]
    words += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", WORK]
    return _joined(words)


def variables(own: dict[str, str]) -> bytes:
    """Return the options that give a command its variables."""
    words: list[str] = []
    for name, value in own.items():
        words += ["--setenv", name, value]
    return _joined(words)


def base_variables(environment: str) -> dict[str, str]:
    """Return what every command finds in its variables."""
    path = [_PROGRAMS, "/usr/local/bin", "/usr/bin", "/bin"]
    found = {"HOME": WORK, "TMPDIR": "/tmp", "LANG": "C.UTF-8"}
    if environment:
        path.insert(0, f"{ENVIRONMENT}/bin")
        found["PYTHONPATH"] = ENVIRONMENT
    found["PATH"] = ":".join(path)
    return found


def _host_folders(walls: Walls) -> list[str]:
    words = ["--ro-bind", "/usr", "/usr"]
    for name in LINKS:
        if os.path.islink(name):
            words += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            words += ["--ro-bind", name, name]
    if walls.prefix and not walls.prefix.startswith("/usr/") and walls.prefix != "/usr":
        words += ["--ro-bind", walls.prefix, walls.prefix]
    words += ["--ro-bind", f"{walls.assets}/etc", "/etc"]
    words += ["--ro-bind", f"{walls.assets}/run", "/run", "--symlink", "/tmp", "/var/tmp"]
    if walls.environment:
        words += ["--ro-bind", walls.environment, ENVIRONMENT]
    return words


def _joined(words: list[str]) -> bytes:
    return b"".join(word.encode("utf-8", "surrogateescape") + b"\0" for word in words)
