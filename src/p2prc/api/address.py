"""Where a node's control socket is, and how to name it when its path is too long.

A Unix socket's address holds 108 bytes (104 on some systems), a home's path may hold 4096. The
way round is a short name for the folder: `/proc/self/fd/N` where that exists, else a link in the
temporary folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

SOCKET_NAME = "control.sock"
SSH_SOCKET_NAME = "ssh.sock"
_ADDRESS_LIMIT_BYTES = 100

# `os.path` and not `pathlib`, which costs three milliseconds of every `p2prc run`.


def socket_path(home: str | os.PathLike[str]) -> str:
    """Return where the node of this home listens."""
    return os.path.join(home, SOCKET_NAME)  # noqa: PTH118


def ssh_socket_path(home: str | os.PathLike[str]) -> str:
    """Return where the node of this home lets the system's ssh in."""
    return os.path.join(home, SSH_SOCKET_NAME)  # noqa: PTH118


@contextmanager
def short_address(path: str) -> Iterator[str]:
    """Give the socket a name that fits its address, valid inside the block.

    Raises OSError when the socket's folder cannot be opened.
    """
    absolute = os.path.abspath(path)  # noqa: PTH100
    if len(os.fsencode(absolute)) <= _ADDRESS_LIMIT_BYTES:
        yield absolute
        return
    parent, name = os.path.split(absolute)
    folder = os.open(parent, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        by_descriptor = f"/proc/self/fd/{folder}"
        if os.path.exists(by_descriptor):  # noqa: PTH110
            yield f"{by_descriptor}/{name}"
        else:
            with _linked(parent) as link:
                yield f"{link}/{name}"
    finally:
        os.close(folder)


@contextmanager
def _linked(folder: str) -> Iterator[str]:
    import tempfile  # noqa: PLC0415 - slow to load, and hardly ever needed

    with tempfile.TemporaryDirectory(prefix="p2prc-") as beside:
        link = f"{beside}/home"
        os.symlink(folder, link)  # noqa: PTH211
        yield link
