"""Sizes, durations, tables: what a person reads.

Text from peers is never printed as it came: a name may carry an escape sequence.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
NOTHING = "-"


def plain(text: str) -> str:
    """Return one line without control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def plain_lines(text: str) -> list[str]:
    """Return lines without control characters; a tab becomes spaces."""
    return [plain(line) for line in text.expandtabs().splitlines()]


def shortened(text: str, width: int) -> str:
    """Return the text, its end cut when it is longer."""
    return text if len(text) <= width else text[: width - 1] + "…"


def size(amount: int) -> str:
    """Return bytes as `1.5 GiB`."""
    value = float(amount)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            break
        value /= 1024
    digits = 0 if unit == "B" or value >= 100 or value == int(value) else 1
    return f"{value:.{digits}f} {unit}"


def brief_size(amount: int) -> str:
    """Return bytes in at most four letters: `0`, `12K`, `1.5G`."""
    value = float(amount)
    for unit in ("", "K", "M", "G", "T"):
        if value < 999.5 or unit == "T":
            break
        value /= 1024
    is_fine = unit and value < 9.95 and value != int(value)
    return f"{value:.1f}{unit}" if is_fine else f"{value:.0f}{unit}"


def brief_until(instant: str | None) -> str:
    """Return how far an instant lies ahead in at most five letters: `45s`, `1h59m`, `6d23h`."""
    left = _seconds_from_now(instant)
    if left is None:
        return NOTHING
    whole = max(0, int(left))
    if whole < 600:
        return f"{whole // 60}m{whole % 60:02}s" if whole >= 60 else f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole < 36000:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    if whole < 86400:
        return f"{whole // 3600}h"
    return f"{whole // 86400}d" + (f"{whole % 86400 // 3600}h" if whole < 10 * 86400 else "")


def duration(seconds: float) -> str:
    """Return seconds as `1 h 5 min`: the two largest units that matter."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return _two(whole // 60, "min", whole % 60, "s")
    whole = round(seconds / 60) * 60
    if whole < 86400:
        return _two(whole // 3600, "h", whole % 3600 // 60, "min")
    return _two(whole // 86400, "d", whole % 86400 // 3600, "h")


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large} {large_unit}" + (f" {small} {small_unit}" if small else "")


def cores(count: float) -> str:
    """Return `1 core`, `3.5 cores`."""
    return f"{count:g} core{'' if count == 1 else 's'}"


def counted(count: int, noun: str) -> str:
    """Return `1 node`, `3 nodes`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def until(instant: str | None) -> str:
    """Return how far an RFC 3339 instant lies ahead, as a duration."""
    left = _seconds_from_now(instant)
    return NOTHING if left is None else duration(max(0.0, left))


def since(instant: str | None) -> str:
    """Return how long ago an RFC 3339 instant was, as a duration."""
    left = _seconds_from_now(instant)
    return NOTHING if left is None else duration(max(0.0, -left))


def _seconds_from_now(instant: str | None) -> float | None:
    if not instant:
        return None
    try:
        return (datetime.fromisoformat(instant) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return None


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, gap: int = 2) -> str:
    """Align columns with `gap` spaces between; on a terminal, cut what does not fit."""
    cells = [list(headings), *([plain(cell) or NOTHING for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    return "\n".join(_cut((" " * gap).join(_padded(row, widths)).rstrip()) for row in cells)


def pairs(entries: Iterable[tuple[str, str]]) -> str:
    """Align names and what they are."""
    listed = [(name, plain(text)) for name, text in entries]
    width = max((len(name) for name, _ in listed), default=0)
    return "\n".join(f"{name:<{width}}  {text}".rstrip() for name, text in listed)


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]


def _cut(line: str) -> str:
    if not sys.stdout.isatty():
        return line
    return shortened(line, shutil.get_terminal_size().columns)
