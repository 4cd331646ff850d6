"""What a requester wants to run: a place (the workload of a lease) and a command in it.

Shaped so that a translation to Open Job Description is one to one: a command is an argument list,
never a shell string; needs are host requirements.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from p2prc.errors import JobInvalid
from p2prc.model.environment import EnvironmentLock
from p2prc.model.identity import BlobIdField, ShortText
from p2prc.model.resources import Limits, Usage
from p2prc.model.surroundings import (
    FILES_LIMIT,
    SURROUNDINGS_LIMIT,
    Argument,
    Surroundings,
    VariableName,
    WorkFile,
)

Pattern = Annotated[str, Meta(min_length=1, max_length=400)]


VolumeName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$(?!\n)")]
VolumePath = Annotated[str, Meta(pattern=r"^(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}){1,8}$(?!\n)")]


class Volume(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A folder that stays on the node between leases, and where it appears inside."""

    name: VolumeName
    path: VolumePath


def parse_volume(text: str) -> Volume:
    """Return the volume of `NAME:/path`. Raises JobInvalid."""
    name, _, path = text.partition(":")
    try:
        return msgspec.convert({"name": name, "path": path}, Volume)
    except msgspec.ValidationError as error:
        raise JobInvalid(
            f"`{text[:200]}` is no volume", hint="like `--volume data:/data`"
        ) from error


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The place a lease offers: limits, software, and which runtime may be used.

    `runtime` is `auto`, `docker` or `process`. `tiers` names the tiers that the requester
    accepts; empty means any that the provider's owner allows for this requester. `network` is
    `none`, `proxy` (HTTP and HTTPS through the node) or `bridge`.
    """

    limits: Limits = Limits()
    environment: EnvironmentLock | None = None
    runtime: Annotated[str, Meta(max_length=20)] = "auto"
    tiers: Annotated[tuple[ShortText, ...], Meta(max_length=8)] = ()
    image: ShortText = ""
    name: ShortText = ""
    volumes: Annotated[tuple[Volume, ...], Meta(max_length=8)] = ()
    network: Annotated[str, Meta(max_length=20)] = "none"


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One command with its inputs and the outputs to bring back.

    `inputs` names a tree that the requester serves. `outputs` are glob patterns relative to the
    working folder (`**` crosses folders). `timeout_s` None means the lease's lifetime.

    `tells_status` says that lines like `openjd_progress: 50` in its output are for us, and that
    `{{Session.WorkingDirectory}}` in its texts stands for the working folder. `folders` are made
    and `files` written there first. `surroundings` are entered once in a lease. With
    `may_lack_outputs` a pattern may match nothing.
    """

    argv: Annotated[tuple[Argument, ...], Meta(min_length=1, max_length=4096)]
    variables: dict[VariableName, Argument] = {}
    inputs: BlobIdField | None = None
    outputs: Annotated[tuple[Pattern, ...], Meta(max_length=100)] = ()
    timeout_s: Annotated[float, Meta(gt=0, le=366 * 86400)] | None = None
    tells_status: bool = False
    may_lack_outputs: bool = False
    folders: Annotated[tuple[Pattern, ...], Meta(max_length=FILES_LIMIT)] = ()
    files: Annotated[tuple[WorkFile, ...], Meta(max_length=FILES_LIMIT)] = ()
    surroundings: Annotated[tuple[Surroundings, ...], Meta(max_length=SURROUNDINGS_LIMIT)] = ()


class MainProcess(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command that begins with its place; an empty `argv` is the image's own.

    `restart` says what happens after its end: `no`, `on-failure` or `always`.
    """

    argv: Annotated[tuple[Argument, ...], Meta(max_length=4096)] = ()
    restart: Literal["no", "on-failure", "always"] = "no"


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a command ended. `status` is its exit status, or None when it never ended by itself.

    `code` is "" for success, else an error's slug (`work-failed` for a non-zero status) and
    `reason` the sentence. `log_tail` is the end of what it printed, both streams together.
    """

    status: int | None
    code: ShortText = ""
    reason: Annotated[str, Meta(max_length=2000)] = ""
    outputs: BlobIdField | None = None
    output_bytes: int = 0
    log_tail: Annotated[bytes, Meta(max_length=16 * 1024)] = b""
    usage: Usage = Usage()
    duration_s: float = 0.0

    @property
    def is_success(self) -> bool:
        """Whether the command ended with status 0 and its outputs were found."""
        return self.code == ""
