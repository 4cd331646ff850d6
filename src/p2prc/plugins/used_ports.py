"""Which port of which container a plugin has taken: one small file beside the plugins."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from p2prc.errors import HomeUnusable

Used = dict[str, dict[int, str]]
"""By lease: the ports that are taken, and by which plugin."""


def choose(
    offered: Sequence[int], taken: Mapping[int, str], plugin: str, count: int
) -> tuple[int, ...] | None:
    """Return the ports for a plugin: those that it has already, then free ones; None if too few."""
    own = [port for port in offered if taken.get(port) == plugin]
    free = [port for port in offered if port not in taken]
    found = (*own, *free)[:count]
    return found if len(found) == count else None


@contextmanager
def held(folder: Path, leases: Collection[str] | None = None) -> Iterator[Used]:
    """Yield what is taken, alone among processes, and write it back after the block.

    Containers that are not among `leases` are forgotten. After an error nothing is written.
    """
    path = folder / ".used.json"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / ".used.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise HomeUnusable(f"cannot use `{folder}`: {error.strerror}") from error
    try:
        _lock(lock)
        used = read(folder)
        if leases is not None:
            used = {lease: ports for lease, ports in used.items() if lease in leases}
        yield used
        temporary = path.with_suffix(".new")
        temporary.write_bytes(msgspec.json.encode(used))
        temporary.replace(path)
    finally:
        os.close(lock)


def _lock(descriptor: int) -> None:
    if sys.platform != "win32":
        import fcntl  # noqa: PLC0415 - not everywhere, and the command line is

        fcntl.flock(descriptor, fcntl.LOCK_EX)


def read(folder: Path) -> Used:
    """Return what is taken, as last written; a broken file is as good as none."""
    try:
        return msgspec.json.decode((folder / ".used.json").read_bytes(), type=Used)
    except (OSError, msgspec.DecodeError):
        return {}
