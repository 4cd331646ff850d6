"""Putting a task's values into its command: `{i}`, `{i:04d}`, and nothing else.

A step that comes from a template has `{{Task.Param.i}}` instead. Only names that are parameters of
the step are replaced, so that `awk '{print}'` and JSON pass untouched. Formats are a width of at
most two digits: a text cannot be blown up by one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from p2prc.errors import JobInvalid
from p2prc.model.workload import Command
from p2prc.protocol.jobs.parameters import Chunk, Value

_PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,63})(?::([^{}]*))?\}", re.ASCII)
_TEMPLATE_PLACE = re.compile(r"\{\{Task\.Param\.([A-Za-z_][A-Za-z0-9_]{0,63})\}\}", re.ASCII)
_FORMAT = re.compile(r"[0-9]{0,2}d?", re.ASCII)


def expand(command: Command, values: Mapping[str, Value], *, is_template: bool = False) -> Command:
    """Return the command of the task that has these values; raise `JobInvalid`."""
    if not values:
        return command
    if is_template:
        return _expand_template(command, values)
    return msgspec.structs.replace(
        command,
        argv=tuple([expand_text(text, values) for text in command.argv]),
        variables={name: expand_text(text, values) for name, text in command.variables.items()},
        outputs=tuple([expand_text(text, values) for text in command.outputs]),
    )


def _expand_template(command: Command, values: Mapping[str, Value]) -> Command:
    return msgspec.structs.replace(
        command,
        argv=tuple([expand_template_text(text, values) for text in command.argv]),
        files=tuple(
            [
                msgspec.structs.replace(file, content=expand_template_text(file.content, values))
                for file in command.files
            ]
        ),
    )


def expand_template_text(text: str, values: Mapping[str, Value]) -> str:
    """Return the text with the values where `{{Task.Param.NAME}}` stands."""
    if "{{" not in text:
        return text

    def replace(place: re.Match[str]) -> str:
        value = values.get(place[1])
        return place[0] if value is None else str(value)

    return _TEMPLATE_PLACE.sub(replace, text)


def expand_text(text: str, values: Mapping[str, Value]) -> str:
    """Return the text with the values in their places; raise `JobInvalid` for a bad format."""
    if "{" not in text:
        return text

    def replace(place: re.Match[str]) -> str:
        name, spec = place.groups()
        if name not in values:
            return place[0]
        return _formatted(values[name], spec or "", place[0])

    return _PLACE.sub(replace, text)


def names_in(text: str, *, is_template: bool = False) -> list[str]:
    """Return every name that stands in braces, in order."""
    places = _TEMPLATE_PLACE if is_template else _PLACE
    return [place[1] for place in places.finditer(text)]


def _formatted(value: Value, spec: str, place: str) -> str:
    if not _FORMAT.fullmatch(spec):
        raise JobInvalid(f"not a format: {place[:80]}", hint="write it like `{i}` or `{i:04d}`")
    if isinstance(value, int):
        return format(value, spec)
    if isinstance(value, Chunk):
        return value.text(spec)
    if spec:
        raise JobInvalid(f"a format for a value that is text: {place[:80]}")
    return value
