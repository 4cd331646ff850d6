"""What may be typed as a size, a duration, a variable, a path."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

import click

from p2prc.cli.invocation import absolute
from p2prc.errors import FileUnknown

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|min|m|h|d|)", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


class _Size(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    name = "SIZE"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        match = _SIZE.fullmatch(str(value).strip())
        if match is None or float(match[1]) == 0:
            self.fail(f"{value!r} is no size: write it like `512M` or `1.5G`", param, ctx)
        return int(float(match[1]) * 1024 ** _POWERS[match[2].lower()])


class _Duration(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    name = "DURATION"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        text = str(value).strip().lower()
        parts = list(_DURATION.finditer(text))
        seconds = sum(float(part[1]) * _SECONDS[part[2]] for part in parts)
        if "".join(part[0] for part in parts) != text or seconds <= 0:
            self.fail(f"{value!r} is no duration: write it like `90s`, `2h` or `1d`", param, ctx)
        return seconds


SIZE = _Size()
DURATION = _Duration()


def variables(typed: Iterable[str]) -> dict[str, str]:
    """Return variables from `K=V`; `K` alone takes its value from here, as Docker does."""
    found = {}
    for text in typed:
        name, equals, value = text.partition("=")
        if not name:
            raise click.BadParameter(f"{text!r} is no variable: write it like `NAME=VALUE`")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def existing_paths(typed: Sequence[str]) -> list[str]:
    """Return absolute paths; raise `FileUnknown` for what is not there."""
    paths = [absolute(path) for path in typed]
    for path, text in zip(paths, typed, strict=True):
        if not os.path.lexists(path):
            raise FileUnknown(f"there is no file or folder {text!r}")
    return paths
