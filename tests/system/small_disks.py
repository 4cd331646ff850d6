"""A disk of a few megabytes to fill up, in a mount namespace of its own: root is not needed.

A process holds the namespace; when it ends the disk is gone, whatever became of the test. Commands
enter by `nsenter`; from outside the disk is seen through `/proc`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_HOLD = 'mount -t tmpfs -o "$2" none "$1" && echo held && exec cat'
"""Ends when its standard input does, and that is when the test's process ends."""


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A mounted disk. `folder` is its path inside, `outside` the same place from here."""

    folder: Path
    outside: Path
    within: tuple[str, ...]

    @property
    def free_bytes(self) -> int:
        status = os.statvfs(self.outside)
        return status.f_bavail * status.f_frsize

    def fill(self, *, leaving_bytes: int = 0) -> Path:
        """Take all room but so much; deleting the returned file gives it back."""
        filler = self.outside / "filler"
        with filler.open("wb") as target:
            for size_bytes in (1 << 20, 4096):
                while self.free_bytes - size_bytes >= leaving_bytes:
                    os.write(target.fileno(), b"x" * size_bytes)
        return filler


@contextmanager
def small_disk(at: Path, *, size_bytes: int = 0, options: str = "mode=755") -> Iterator[SmallDisk]:
    """Mount a disk over a folder, for the processes that enter by `within`."""
    at.mkdir(parents=True, exist_ok=True)
    sized = f"size={size_bytes},{options}" if size_bytes else options
    holder, flags = _hold(at, sized)
    try:
        within = ("nsenter", "--target", str(holder.pid), *flags, "--")
        yield SmallDisk(at, Path(f"/proc/{holder.pid}/root{at}"), within)
    finally:
        holder.communicate(timeout=10)


def _hold(at: Path, options: str) -> tuple[subprocess.Popen[str], tuple[str, ...]]:
    said: list[str] = []
    attempts: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    # As root a mount namespace is enough, unless this root may not mount.
    if os.geteuid() == 0:
        attempts.append((("--mount",), ("--mount",)))
    attempts.append(
        (
            ("--user", "--map-current-user", "--keep-caps", "--mount"),
            ("--user", "--preserve-credentials", "--mount"),
        )
    )
    for unshare, enter in attempts:
        holder = subprocess.Popen(
            ["unshare", *unshare, "sh", "-c", _HOLD, "hold", str(at), options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert holder.stdout is not None
        if holder.stdout.readline() == "held\n":
            return holder, enter
        said.append(holder.communicate(timeout=10)[1])
    raise AssertionError(f"no small disk can be mounted here: {said}")
