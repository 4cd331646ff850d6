"""Quantities as people write them: `512M`, `1.5` cores, `2h30m`, `none`.

One grammar for the command line, the settings file and the environment. Sizes are binary, as
Docker's are: `1K` is 1024 bytes.
"""

from __future__ import annotations

import re

from p2prc.errors import SettingInvalid

SIZE_LIMIT_BYTES = 1 << 60
DURATION_LIMIT_S = 366 * 86400.0
CPUS_LIMIT = 1000
_TEXT_LIMIT = 40

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgtp])(?:i?b)?|b)?", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+", re.ASCII | re.IGNORECASE)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)([dhms])", re.ASCII | re.IGNORECASE)
_SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_DURATION_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


def parse_size(text: str) -> int:
    """Return bytes: `512M`, `2G`, `1.5GiB`, `4096`; raise `SettingInvalid`."""
    found = _SIZE.fullmatch(text.strip()) if len(text) <= _TEXT_LIMIT else None
    if found is None:
        raise SettingInvalid(f"{_shown(text)} is not a size", hint="write it like `512M` or `2G`")
    size_bytes = int(float(found[1]) * _SIZE_UNITS[(found[2] or "").lower()])
    if size_bytes > SIZE_LIMIT_BYTES:
        raise SettingInvalid(f"{_shown(text)} is more than any machine has")
    return size_bytes


def parse_duration(text: str) -> float | None:
    """Return seconds: `2h`, `1h30m`, `90s`, `7d`; None for `none`; raise `SettingInvalid`."""
    asked = text.strip().lower()
    if asked == "none":
        return None
    if len(text) > _TEXT_LIMIT or _DURATION.fullmatch(asked) is None:
        raise SettingInvalid(
            f"{_shown(text)} is not a duration", hint="write it like `30m`, `2h` or `none`"
        )
    parts = _DURATION_PART.findall(asked)
    if len({unit for _, unit in parts}) != len(parts):
        raise SettingInvalid(f"{_shown(text)} names one unit twice")
    duration_s = sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts)
    if duration_s > DURATION_LIMIT_S:
        raise SettingInvalid(f"{_shown(text)} is more than a year", hint="`none` means no end")
    return duration_s


def parse_cpus(text: str) -> int:
    """Return thousandths of a core: `2`, `0.5`; raise `SettingInvalid`."""
    asked = text.strip()
    if len(text) > _TEXT_LIMIT or _NUMBER.fullmatch(asked) is None:
        raise SettingInvalid(
            f"{_shown(text)} is not a number of cores", hint="write it like `2` or `0.5`"
        )
    if float(asked) > CPUS_LIMIT:
        raise SettingInvalid(f"{_shown(text)} is more cores than any machine has")
    return round(float(asked) * 1000)


def format_size(size_bytes: int) -> str:
    """Return what a person reads, and `parse_size` takes back when it is a round number."""
    amount = float(size_bytes)
    for unit in ("", "K", "M", "G", "T"):
        if amount < 1024:
            return f"{amount:.4g}{unit}"
        amount /= 1024
    return f"{amount:.4g}P"


def format_duration(duration_s: float | None) -> str:
    """Return `1h30m`, `45s`, or `none`; fractions of a second are left out."""
    if duration_s is None:
        return "none"
    rest, shown = int(duration_s), ""
    for unit, unit_s in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if rest >= unit_s:
            shown += f"{rest // unit_s}{unit}"
            rest %= unit_s
    return shown or "0s"


def format_cpus(cpu_millis: int) -> str:
    """Return cores as `parse_cpus` takes them."""
    return f"{cpu_millis / 1000:g}"


def _shown(text: str) -> str:
    return f"`{text[:_TEXT_LIMIT]}`"
