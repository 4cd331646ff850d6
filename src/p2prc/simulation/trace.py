"""What happened, line by line: a hash that two processes can compare, and the lines on request."""

from __future__ import annotations

from collections.abc import Callable

from blake3 import blake3


class Trace:
    """Takes notes in the order of virtual time."""

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self._hash = blake3()
        self._write = write
        self._waiting: list[str] = []

    def note(self, now: float, *facts: str) -> None:
        """Add a line: the time in seconds, then the facts."""
        self._waiting.append(f"{now:.6f} {' '.join(facts)}\n")
        if len(self._waiting) > 10_000:
            self._flush()

    def digest(self) -> str:
        """Return the hash of all lines until now, as hexadecimal digits."""
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        text = "".join(self._waiting)
        self._waiting.clear()
        self._hash.update(text.encode())
        if self._write is not None:
            self._write(text)
