"""What functions print at providers, made harmless for the terminal here."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

_LINE_LIMIT = 10_000


def printable(text: str) -> str:
    """Return the text without control characters, except for line ends and tabs."""
    return "".join(
        one if one.isprintable() or one in "\n\t" else "\N{REPLACEMENT CHARACTER}" for one in text
    )


class Printed:
    """Hands whole lines on, from several workers."""

    def __init__(self, on_line: Callable[[str], None] | None) -> None:
        self._on_line = on_line or _to_standard_error
        self._lock = threading.Lock()
        self._held = b""

    def add(self, content: bytes) -> None:
        """Take what one worker printed."""
        with self._lock:
            *lines, self._held = (self._held + content).split(b"\n")
            if len(self._held) > _LINE_LIMIT:
                lines, self._held = [*lines, self._held], b""
            for line in lines:
                self._on_line(printable(line.decode("utf-8", "replace")))

    def flush(self) -> None:
        """Hand on what did not end with its line."""
        if self._held:
            self.add(b"\n")


def _to_standard_error(line: str) -> None:
    print(line, file=sys.stderr)
