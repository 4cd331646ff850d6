"""The end of what a process printed, on disk: it outlives the death of the node.

Two files take turns, so that only ever the end is kept: the newer one grows, and when it is full it
takes the place of the older one. A record is one chunk: a byte for the channel, four for the size.
What comes slowly is written at once; a flood is written a few times a second, and only its end.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from pathlib import Path

from p2prc.runtime.port import OutputChunk

TURN_BYTES = 512 * 1024
PAUSE_S = 0.25
_OLDER = ".older"
_HEAD = struct.Struct(">BI")

log = logging.getLogger(__name__)


class LogFile:
    """Appends chunks; a disk that takes no more loses them, and nobody waits for it."""

    def __init__(self, path: Path, *, turn_bytes: int = TURN_BYTES) -> None:
        self._path = path
        self._turn_bytes = turn_bytes
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._written_at = float("-inf")
        self._writing: asyncio.TimerHandle | None = None
        self._is_closed = False

    def load(self) -> list[OutputChunk]:
        """Return what the life before kept, oldest first; a record cut short by its end is left."""
        return [chunk for path in (_older(self._path), self._path) for chunk in _records_of(path)]

    def add(self, chunk: OutputChunk) -> None:
        """Keep it, now or soon."""
        content = chunk.content[-self._turn_bytes :]
        if self._is_closed or not content:
            return
        self._waiting.append(_HEAD.pack(chunk.channel, len(content)) + content)
        self._waiting_bytes += len(content)
        while self._waiting_bytes > self._turn_bytes:
            self._waiting_bytes -= len(self._waiting.popleft()) - _HEAD.size
        now = asyncio.get_running_loop().time()
        if now - self._written_at >= PAUSE_S:
            self.write()
        elif self._writing is None:
            left_s = self._written_at + PAUSE_S - now
            self._writing = asyncio.get_running_loop().call_later(left_s, self.write)

    def write(self) -> None:
        """Write what waits. The kernel keeps it from here on, whatever becomes of us."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        self._written_at = asyncio.get_running_loop().time()
        content = b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        if not content or self._is_closed:
            return
        try:
            self._append(content)
        except OSError as error:
            log.warning("a log is not kept any more", extra={"reason": str(error)})
            self._is_closed = True

    def remove(self) -> None:
        """Delete it: the lease is over."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        self._is_closed = True
        for path in (self._path, _older(self._path)):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("a log is left over", extra={"reason": str(error)})

    def _append(self, content: bytes) -> None:
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(content)
            is_full = file.tell() > self._turn_bytes
        if is_full:
            self._path.replace(_older(self._path))


def remove_all_but(folder: Path, paths: set[Path]) -> None:
    """Delete the logs of leases that are over."""
    try:
        found = list(folder.iterdir())
    except OSError:
        return
    kept = paths | {_older(path) for path in paths}
    for path in found:
        if path not in kept:
            path.unlink(missing_ok=True)


def _older(path: Path) -> Path:
    return path.with_name(path.name + _OLDER)


def _records_of(path: Path) -> list[OutputChunk]:
    try:
        content = path.read_bytes()
    except OSError:
        return []
    found, at = list[OutputChunk](), 0
    while at + _HEAD.size <= len(content):
        channel, size = _HEAD.unpack_from(content, at)
        at += _HEAD.size
        if channel not in (1, 2) or at + size > len(content):
            break
        found.append(OutputChunk(channel, content[at : at + size]))
        at += size
    return found
