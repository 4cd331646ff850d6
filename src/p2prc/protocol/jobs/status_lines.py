"""Lines in a command's output that are meant for us, as Open Job Description writes them.

`openjd_progress: 50`, `openjd_status: text`, `openjd_fail: text`, `openjd_env: NAME=value` and
`openjd_unset_env: NAME`. Whatever is malformed or too long is plain output and nothing else.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

LINE_LIMIT_BYTES = 16 * 1024
TEXT_LIMIT = 1000
_PREFIX = b"openjd_"
_LINE = re.compile(r"openjd_(progress|status|fail|env|unset_env): (.*)", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the task is, in percent."""

    percent: float


@dataclass(frozen=True, slots=True)
class StatusText:
    """What the task is busy with."""

    text: str


@dataclass(frozen=True, slots=True)
class FailText:
    """Why the task fails."""

    text: str


@dataclass(frozen=True, slots=True)
class SetVariable:
    """A variable for everything that runs later in the same surroundings."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class UnsetVariable:
    """A variable that later commands must not find."""

    name: str


StatusLine = Progress | StatusText | FailText | SetVariable | UnsetVariable


class StatusReader:
    """Finds such lines in one stream of output, however it is cut into pieces."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._is_skipped = False

    def feed(self, content: bytes) -> list[StatusLine]:
        """Take what came next; return the lines that it completed."""
        *ended, rest = content.split(b"\n")
        found = [line for piece in ended if (line := self._end(piece)) is not None]
        self._take(rest)
        return found

    def finish(self) -> list[StatusLine]:
        """Take the end of the output for the end of the last line."""
        last = self._end(b"")
        return [] if last is None else [last]

    def _take(self, piece: bytes) -> None:
        if self._is_skipped:
            return
        self._line += piece
        begin = self._line[: len(_PREFIX)]
        # Most output is not ours: it is not even kept.
        if not _PREFIX.startswith(begin) or len(self._line) > LINE_LIMIT_BYTES:
            self._line.clear()
            self._is_skipped = True

    def _end(self, piece: bytes) -> StatusLine | None:
        self._take(piece)
        line, self._is_skipped = bytes(self._line), False
        self._line.clear()
        return read_status_line(line)


def read_status_line(line: bytes) -> StatusLine | None:
    """Return what one line says to us; None for all others."""
    if not line.startswith(_PREFIX):
        return None
    match = _LINE.fullmatch(line.decode("utf-8", "replace").rstrip("\r"))
    if match is None:
        return None
    kind, text = match.groups()
    if kind == "status":
        return StatusText(text.strip()[:TEXT_LIMIT])
    if kind == "fail":
        return FailText(text.strip()[:TEXT_LIMIT])
    if kind == "progress":
        return _progress(text)
    return _variable(kind, text)


def _progress(text: str) -> Progress | None:
    try:
        percent = float(text[:40])
    except ValueError:
        return None
    return Progress(percent) if math.isfinite(percent) and 0 <= percent <= 100 else None


def _variable(kind: str, text: str) -> SetVariable | UnsetVariable | None:
    name, equals, value = text.partition("=")
    if kind == "unset_env":
        return UnsetVariable(text.strip()) if _NAME.fullmatch(text.strip()) else None
    if not equals or "\0" in value or not _NAME.fullmatch(name.strip()):
        return None
    return SetVariable(name.strip(), value)
