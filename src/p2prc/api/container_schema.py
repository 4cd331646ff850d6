"""The values of the control API that are about containers on other nodes."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from p2prc.api.schema import ARGUMENTS_LIMIT, Answer, ErrorFields, Request
from p2prc.model.resources import LONGEST_S

COUNT_LIMIT = 256
IS_A_GROUP = "is a group, not one container"
"""How the refusal ends of what is for one container and was asked of a group."""
_Word = Annotated[str, Meta(max_length=128 * 1024)]
_Name = Annotated[str, Meta(min_length=1, max_length=200)]
_Bytes = Annotated[int, Meta(ge=1, le=1 << 60)]
_Variables = Annotated[dict[_Name, _Word], Meta(max_length=1000)]


class CreateRequest(Request, frozen=True):
    """A container to work in, on `target`: a node's name, id or prefix, or `any`.

    `argv` is its main process, if it has one. `ports` is how many named ports it wants to be
    reached at. `volumes` are `NAME:/path` as typed. `lifetime_s` is `none` for one without an end.
    `count` is how many of them; their names are then numbered.
    """

    target: _Name = "any"
    argv: Annotated[list[_Word], Meta(max_length=ARGUMENTS_LIMIT)] = []
    restart: Literal["no", "on-failure", "always"] = "no"
    requirements: Annotated[list[Annotated[str, Meta(max_length=1000)]], Meta(max_length=100)] = []
    variables: _Variables = {}
    runtime: _Name = "auto"
    image: Annotated[str, Meta(max_length=200)] = ""
    cpus: Annotated[float, Meta(gt=0, le=1000)] | None = None
    memory_bytes: _Bytes | None = None
    disk_bytes: _Bytes | None = None
    gpus: Annotated[int, Meta(ge=0, le=64)] = 0
    ports: Annotated[int, Meta(ge=0, le=64)] = 0
    lifetime_s: Annotated[float, Meta(gt=0, le=LONGEST_S)] | Literal["none"] | None = None
    name: Annotated[str, Meta(max_length=200)] = ""
    group: Annotated[str, Meta(max_length=200)] = ""
    count: Annotated[int, Meta(ge=1, le=COUNT_LIMIT)] = 1
    network: Literal["none", "proxy", "bridge"] = "none"
    volumes: Annotated[list[Annotated[str, Meta(max_length=1000)]], Meta(max_length=8)] = []
    tiers: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(max_length=8)
    ] = []


class PortRow(Answer, frozen=True):
    """A named port inside; `local` is where it was brought to on this machine, if it was."""

    name: str
    internal: int
    local: int | None = None


class LimitsRow(Answer, frozen=True):
    """What a container may use at most."""

    cpus: float
    memory_bytes: int
    disk_bytes: int
    processes: int
    gpus: int = 0


class ContainerRow(Answer, frozen=True):
    """A container that this node holds. `state`: active, suspended, unreachable, ending, ended.

    `ended_by` is owner, requester, time, limit or lost; `main` is its main process: "" without
    one, running, waiting or ended.
    """

    id: str
    node: str
    image: str
    state: str
    created_at: str
    expires_at: str | None
    limits: LimitsRow
    ports: list[PortRow] = []
    ssh: str = ""
    groups: list[str] = []
    reason: str = ""
    ended_by: str | None = None
    name: str = ""
    node_name: str = ""
    command: str = ""
    main: str = ""
    main_exit: int | None = None


class CreateNote(Answer, frozen=True, tag="note", tag_field="type"):
    """What is done before the container is there, for a person who waits."""

    message: str


class CreateEnded(Answer, frozen=True, tag="ended", tag_field="type"):
    """The last event where one was asked for: it is there."""

    container: ContainerRow


class CreateMade(Answer, frozen=True, tag="made", tag_field="type"):
    """One of several is there."""

    container: ContainerRow


class CreateFailed(Answer, frozen=True, tag="failed", tag_field="type"):
    """One of several is not there, and nothing of it is left."""

    name: str
    error: ErrorFields


class CreateAllEnded(Answer, frozen=True, tag="all-ended", tag_field="type"):
    """The last event where several were asked for: each was told before."""

    made: int


CreateEvent = CreateNote | CreateMade | CreateFailed | CreateEnded | CreateAllEnded


class TerminalRequest(Request, frozen=True):
    """The size of a terminal in characters."""

    rows: Annotated[int, Meta(ge=1, le=10_000)] = 24
    columns: Annotated[int, Meta(ge=1, le=10_000)] = 80


class ExecStart(Request, frozen=True, tag="exec", tag_field="type"):
    """The first line of an exec: the command."""

    argv: Annotated[list[_Word], Meta(min_length=1, max_length=ARGUMENTS_LIMIT)]
    variables: _Variables = {}
    takes_input: bool = field(name="input", default=False)
    terminal: TerminalRequest | None = None


class ExecInput(Request, frozen=True, tag="input", tag_field="type"):
    """Some bytes (base64) for the command's input."""

    content: bytes


class ExecEndInput(Request, frozen=True, tag="end-input", tag_field="type"):
    """Nothing more comes."""


class ExecResize(Request, frozen=True, tag="resize", tag_field="type"):
    """The terminal has another size now."""

    terminal: TerminalRequest


ExecLine = ExecStart | ExecInput | ExecEndInput | ExecResize


class RemoveRequest(Request, frozen=True):
    """Which containers to end and forget."""

    leases: Annotated[list[_Name], Meta(min_length=1, max_length=10_000)]


class GroupRequest(Request, frozen=True):
    """Make a group (`create`), put containers in (`add`) or out (`remove`), or drop it (`rm`)."""

    action: Literal["create", "add", "remove", "rm"]
    name: _Name
    leases: Annotated[list[_Name], Meta(max_length=10_000)] = []


class GroupRow(Answer, frozen=True):
    """Containers that are handled together, and what they are called."""

    name: str
    containers: list[str]
    names: list[str] = []


class SshFacts(Answer, frozen=True):
    """Who is at both ends of an SSH connection into a container; a node's id is its key."""

    host: str
    own: str
