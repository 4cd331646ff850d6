"""Where a node's control socket is, and how to name it when its path is too long.

A Unix socket's address holds 108 bytes (104 on some systems), a home's path may hold 4096. The
way round is a short name for the folder: `/proc/self/fd/N` where that exists, else a link in the
temporary folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOCKET_NAME = "control.sock"
_ADDRESS_LIMIT_BYTES = 100


def socket_path(home: str | Path) -> Path:
    """Return where the node of this home listens."""
    return Path(home) / SOCKET_NAME


@contextmanager
def short_address(path: Path) -> Iterator[str]:
    """Give the socket a name that fits its address, valid inside the block.

    Raises OSError when the socket's folder cannot be opened.
    """
    absolute = Path.cwd() / path
    if len(os.fsencode(absolute)) <= _ADDRESS_LIMIT_BYTES:
        yield str(absolute)
        return
    folder = os.open(absolute.parent, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        by_descriptor = f"/proc/self/fd/{folder}"
        if Path(by_descriptor).exists():
            yield f"{by_descriptor}/{absolute.name}"
        else:
            import tempfile  # noqa: PLC0415 - slow to load, and hardly ever needed

            with tempfile.TemporaryDirectory(prefix="p2prc-") as beside:
                link = Path(beside) / "home"
                link.symlink_to(absolute.parent)
                yield str(link / absolute.name)
    finally:
        os.close(folder)
