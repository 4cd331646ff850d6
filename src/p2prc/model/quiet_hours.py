"""Hours in which an owner needs the machine: `mon-fri 09:00-18:00`, `sat 10:00-12:00`.

Times are the machine's local ones. A span that ends before it begins goes over midnight and
belongs to the day on which it begins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from p2prc.errors import SettingInvalid

DAY_NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_A_DAY = 24 * 60
SPANS_LIMIT = 50
_SPAN = re.compile(
    r"(?:(?P<days>[a-z]{3}(?:-[a-z]{3})?) )?"
    r"(?P<begin>\d\d?:\d\d)-(?P<end>\d\d?:\d\d)",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class QuietSpan:
    """Minutes of some days (0 is Monday): from `begin` up to, and without, `end`."""

    days: frozenset[int]
    begin: int
    end: int

    def covers(self, weekday: int, minute: int) -> bool:
        """Say whether that minute of that day is in it."""
        if self.begin < self.end:
            return weekday in self.days and self.begin <= minute < self.end
        yesterday = (weekday - 1) % len(DAY_NAMES)
        return (weekday in self.days and minute >= self.begin) or (
            yesterday in self.days and minute < self.end
        )


def parse_quiet_hours(text: str) -> tuple[QuietSpan, ...]:
    """Return the spans, with commas between them, for `none` no span; raise SettingInvalid."""
    if text.strip().lower() == "none":
        return ()
    parts = [" ".join(part.lower().split()) for part in text.split(",")]
    spans = tuple(_span(part) for part in parts if part)
    if len(spans) > SPANS_LIMIT:
        raise SettingInvalid(f"more than {SPANS_LIMIT} spans of quiet hours")
    return spans


def _span(text: str) -> QuietSpan:
    found = _SPAN.fullmatch(text)
    if found is None:
        raise SettingInvalid(
            f"`{text[:80]}` are no quiet hours",
            hint="write them like `mon-fri 09:00-18:00`, several with commas between",
        )
    begin, end = _minute(found["begin"]), _minute(found["end"])
    if begin in {end, MINUTES_A_DAY}:
        raise SettingInvalid(f"`{text[:80]}` ends where it begins", hint="all day is 00:00-24:00")
    return QuietSpan(_days(found["days"] or "mon-sun"), begin, end)


def _minute(text: str) -> int:
    hour, minute = (int(part) for part in text.split(":"))
    if minute > 59 or 60 * hour + minute > MINUTES_A_DAY:
        raise SettingInvalid(f"`{text}` is no time of day", hint="from 00:00 to 24:00")
    return 60 * hour + minute


def _days(text: str) -> frozenset[int]:
    first, _, last = text.partition("-")
    for name in (first, last or first):
        if name not in DAY_NAMES:
            raise SettingInvalid(f"`{name}` is no day", hint=f"days are {', '.join(DAY_NAMES)}")
    number = DAY_NAMES.index(first)
    found = [number]
    while DAY_NAMES[number] != (last or first):
        number = (number + 1) % len(DAY_NAMES)
        found.append(number)
    return frozenset(found)
