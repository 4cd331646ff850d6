"""What may be typed as a size, a duration, a variable, a path."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import click

from p2prc.cli.invocation import absolute
from p2prc.errors import FileUnknown, SettingInvalid
from p2prc.model.quantities import DURATION_LIMIT_S, parse_duration, parse_size


class _Size(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    name = "SIZE"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        try:
            size_bytes = parse_size(str(value))
        except SettingInvalid as error:
            self.fail(f"{error.message}: {error.hint}", param, ctx)
        if not size_bytes:
            self.fail(f"`{value}` is too little", param, ctx)
        return size_bytes


class _Duration(click.ParamType):  # type: ignore[type-arg]
    name = "DURATION"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            duration_s = parse_duration(str(value))
        except SettingInvalid as error:
            self.fail(f"{error.message}: {error.hint}", param, ctx)
        # None is `none`: longer than any lease lives.
        duration_s = DURATION_LIMIT_S if duration_s is None else duration_s
        if not duration_s:
            self.fail(f"`{value}` is too little", param, ctx)
        return duration_s


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
