"""Output patterns: `frames/*.png`, `**/*.log`, `result`; relative, and matched part by part.

A wildcard does not match a leading dot, as in a shell. A pattern that names a folder without
wildcards in its last part means everything in it. Matching is a walk through positions, so the
cost of a hostile pattern is its length times the names', never more.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

from p2prc.errors import JobInvalid

Positions = frozenset[tuple[int, int]]
"""Where each alternative stands: its number and how many of its parts have matched."""

_ANY_FOLDERS = "**"
_EVERYTHING = "everything below"
_WILDCARDS = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class _Part:
    """One part of a pattern between slashes."""

    text: str
    expression: re.Pattern[str]

    def matches(self, name: str) -> bool:
        if name.startswith(".") and not self.text.startswith("."):
            return False
        return self.expression.match(name) is not None


@dataclass(frozen=True, slots=True)
class _Alternative:
    """One way in which a pattern may match; `pattern` is its number in the user's list."""

    pattern: int
    parts: tuple[_Part, ...]


class Patterns:
    """Compiled patterns; raises `JobInvalid` for what is not a relative pattern."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.texts = tuple(patterns)
        self._alternatives = tuple(
            _Alternative(number, tuple(map(_compile, parts)))
            for number, pattern in enumerate(patterns)
            for parts in _alternatives(pattern)
        )

    @property
    def start(self) -> Positions:
        """The positions at the working folder itself."""
        return self._settled({(number, 0) for number in range(len(self._alternatives))})

    def descend(self, positions: Positions, folder: str) -> Positions:
        """Return the positions inside a folder; empty when nothing below can match."""
        inside = set()
        for number, depth in positions:
            parts = self._alternatives[number].parts
            if depth == len(parts):
                continue
            part = parts[depth]
            if part.text == _EVERYTHING or (
                part.text == _ANY_FOLDERS and not folder.startswith(".")
            ):
                inside.add((number, depth))
            elif depth + 1 < len(parts) and part.matches(folder):
                inside.add((number, depth + 1))
        return self._settled(inside)

    def matching(self, positions: Positions, file: str) -> list[int]:
        """Return the numbers of the patterns that a file here matches."""
        found = set()
        for number, depth in positions:
            alternative = self._alternatives[number]
            if depth + 1 != len(alternative.parts):
                continue
            part = alternative.parts[depth]
            if part.text == _EVERYTHING or part.matches(file):
                found.add(alternative.pattern)
        return sorted(found)

    def _settled(self, positions: set[tuple[int, int]]) -> Positions:
        """Add the positions reached by letting `**` stand for no folder at all."""
        waiting = list(positions)
        while waiting:
            number, depth = waiting.pop()
            parts = self._alternatives[number].parts
            if depth < len(parts) and parts[depth].text == _ANY_FOLDERS:
                step = (number, depth + 1)
                if step not in positions:
                    positions.add(step)
                    waiting.append(step)
        return frozenset(positions)


def _alternatives(pattern: str) -> list[list[str]]:
    """Cut a pattern into parts: one list, or two where it may name a file or a folder."""
    shown = f"the output pattern `{pattern[:80]}`"
    if not pattern or "\0" in pattern or "\\" in pattern:
        raise JobInvalid(f"{shown} is empty or has a forbidden character")
    if pattern.startswith("/"):
        raise JobInvalid(
            f"{shown} is absolute", hint="write it relative to the working folder: `out/*.png`"
        )
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise JobInvalid(f"{shown} leaves the working folder")
    if not parts:
        return [[_EVERYTHING]]
    if parts[-1] == _ANY_FOLDERS:
        return [[*parts, "*"]]
    if pattern.endswith("/"):
        return [[*parts, _EVERYTHING]]
    if _WILDCARDS & set(parts[-1]):
        return [parts]
    return [parts, [*parts, _EVERYTHING]]


def _compile(part: str) -> _Part:
    return _Part(part, re.compile(fnmatch.translate(part)))
