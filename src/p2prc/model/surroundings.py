"""What tasks find around them in a lease: files of their own, and what was entered before them.

The shape is Open Job Description's environments: entered once when a lease gets its first task,
kept for all that follow, left at its end. `{{Session.WorkingDirectory}}` in any text here, and in
a command that says so, stands for the working folder as the command sees it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from p2prc.model.identity import ShortText

WORKING_FOLDER_PLACE = "{{Session.WorkingDirectory}}"
FILES_LIMIT = 100
SURROUNDINGS_LIMIT = 32

Argument = Annotated[str, Meta(max_length=128 * 1024)]
VariableName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$(?!\n)")]
FilePath = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9_.][A-Za-z0-9_. -]*(/[A-Za-z0-9_.][A-Za-z0-9_. -]*){0,7}$(?!\n)")
]
"""Relative to the working folder; `..` is refused where it is used as a path."""


class WorkFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A small text file that is written into the working folder before a command."""

    path: Annotated[FilePath, Meta(max_length=300)]
    content: Argument
    is_executable: bool = False


class Action(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A command that enters or leaves."""

    argv: Annotated[tuple[Argument, ...], Meta(min_length=1, max_length=4096)]
    timeout_s: Annotated[float, Meta(gt=0, le=366 * 86400)] | None = None


class Surroundings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is entered once in a lease and left at its end; `variables` are for all within."""

    name: ShortText
    variables: dict[VariableName, Argument] = {}
    files: Annotated[tuple[WorkFile, ...], Meta(max_length=FILES_LIMIT)] = ()
    enter: Action | None = None
    leave: Action | None = None
