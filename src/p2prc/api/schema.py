"""The values that cross the control API: exactly the JSON keys that scripts rely on.

Requests are strict, so that a misspelled field is an error and not a silent default. Answers
ignore unknown fields: a command line may be older than the node it talks to. Where a contract
key is no good Python name, the field says what it means and `name=` says the key.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

ARGUMENTS_LIMIT = 4096
_Text = Annotated[str, Meta(max_length=1000)]
_Name = Annotated[str, Meta(min_length=1, max_length=200)]
_Path = Annotated[str, Meta(min_length=1, max_length=4096)]
_Bytes = Annotated[int, Meta(ge=1, le=1 << 60)]
_Seconds = Annotated[float, Meta(gt=0, le=366 * 86400)]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a caller sends."""


class Answer(msgspec.Struct, frozen=True):
    """What a node answers."""


# -- this node --------------------------------------------------------------------------------


class RuntimeTier(Answer, frozen=True):
    """A way to run work and what it promises."""

    name: str
    tier: str
    limits: str = "polled"


class Lending(Answer, frozen=True):
    """What this node lends, and to whom. `enabled` is false with `up --no-lend`.

    `needed_for` says why its owner needs the machine at present: nothing new is lent then.
    """

    enabled: bool
    paused: bool = False
    to: str = "members"
    cpus: float = 0.0
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpus: int = 0
    network: str = "none"
    runtimes: list[RuntimeTier] = []
    needed_for: str = ""


class RelayServing(Answer, frozen=True):
    """The relay that this node serves to its network.

    `port` is its TCP port, null where there is none for the `reason`. `refusals` counts what was
    refused to whom, by code.
    """

    port: int | None
    clients: int = 0
    forwarded_bytes: int = 0
    dropped: int = 0
    refusals: dict[str, int] = {}
    reason: str = ""


class Status(Answer, frozen=True):
    """This node. `state` is starting, running, paused or stopping.

    `refusals` counts what was refused to whom, by an error's code; `notices` is what a person
    should know about this start.
    """

    id: str
    name: str
    pid: int
    network: str | None
    state: str
    addresses: list[str]
    is_public: bool = field(name="public")
    relays: list[str] = []
    reachability: str = ""
    leases: int = 0
    uptime_s: float = 0.0
    version: str = ""
    home: str = ""
    members: int = 1
    alive: int = 1
    dead: int = 0
    lending: Lending | None = None
    relay: RelayServing | None = None
    refusals: dict[str, int] = {}
    notices: list[str] = []
    host_access: list[str] = []
    is_open: bool = field(name="open", default=False)
    requests: int = 0
    api: str = ""
    """The URL of this API on TCP, where the owner wants it there."""


class InviteRequest(Request, frozen=True):
    """A ticket: how long it can be used, and whether who joins by it may invite others."""

    expires_s: _Seconds = 86400.0
    is_admin: bool = field(name="admin", default=False)
    is_lan: bool = field(name="lan", default=False)


class Invitation(Answer, frozen=True):
    """A bearer ticket. `reach` says from where it can be used: internet, relay or lan."""

    ticket: str
    network: str
    expires_at: str
    reach: str


class JoinRequest(Request, frozen=True):
    """A ticket, or the address of a member that is asked to let us in."""

    ticket: Annotated[str, Meta(min_length=1, max_length=2000)]


class Joined(Answer, frozen=True):
    """The network that this node is now a member of."""

    network: str
    name: str
    members: int


class AskRequest(Request, frozen=True):
    """Ask whoever is at an address to let this node in; wait for so long."""

    address: Annotated[str, Meta(min_length=1, max_length=400)]
    timeout_s: _Seconds = 3600.0


class AskStarted(Answer, frozen=True, tag="asking", tag_field="type"):
    """Who will be asked. People compare the fingerprints on both machines."""

    node: str
    fingerprint: str
    own_fingerprint: str
    address: str


class AskWaiting(Answer, frozen=True, tag="waiting", tag_field="type"):
    """The request is listed there; somebody has to decide."""


class AskEnded(Answer, frozen=True, tag="ended", tag_field="type"):
    """The last event: this node is in."""

    joined: Joined


AskEvent = AskStarted | AskWaiting | AskEnded


class RequestRow(Answer, frozen=True):
    """Somebody who asks to be let in. `via` is the member that was asked, when it was another."""

    id: str
    name: str
    fingerprint: str
    asked_at: str
    address: str = ""
    via: str | None = None


class Decision(Request, frozen=True):
    """Whether to let in who asks; `is_admin` gives it the right to let in others."""

    node: _Name
    is_approved: bool = field(name="approved")
    is_admin: bool = field(name="admin", default=False)


class RevokeRequest(Request, frozen=True):
    """Put a member out, and tell everybody why."""

    node: _Name
    reason: Annotated[str, Meta(max_length=200)] = ""


class RevokedNode(Answer, frozen=True):
    """Who was put out."""

    id: str
    name: str


class MetadataRequest(Request, frozen=True):
    """What this node tells in its owner's words: an empty value removes its key."""

    changes: Annotated[dict[str, Annotated[str, Meta(max_length=10_000)]], Meta(max_length=100)]


class PolicyRequest(Request, frozen=True):
    """One rule of lending and its new value."""

    key: _Name
    value: Annotated[str, Meta(max_length=10_000)]


class PeerRequest(Request, frozen=True):
    """A node, as typed."""

    node: _Name


class Setting(Answer, frozen=True):
    """One setting; `origin` says where its value came from, `used` how much of it is in use."""

    key: str
    value: bool | int | float | str | list[str] | None
    origin: str
    used: str = ""


class PolicyChanged(Answer, frozen=True):
    """Every rule of lending after a change, and what a person should know about it."""

    rules: list[Setting]
    notes: list[str] = []


# -- the network ------------------------------------------------------------------------------


class GpuFacts(Answer, frozen=True):
    """A graphics card; readings are null where the driver does not tell."""

    name: str
    memory_bytes: int
    driver: str = ""
    utilization_percent: float | None = None
    temperature_c: float | None = None


class FreeCapacity(Answer, frozen=True):
    """What a node could lend at this moment."""

    cpus: float = 0.0
    memory_bytes: int = 0


class Bandwidth(Answer, frozen=True):
    """Bytes a second from a peer and to it, and when that was measured."""

    down_bytes_s: float
    up_bytes_s: float
    measured_at: str


class NodeRow(Answer, frozen=True):
    """A node as seen from here. `state`: alive, suspect, left, dead; `path`: direct, relayed, self.

    `is_lending` is false when its owner lends nothing at present.
    """

    id: str
    name: str
    state: str
    is_self: bool = field(name="self")
    path: str | None = None
    latency_ms: float | None = None
    addresses: list[str] = []
    is_public: bool = field(name="public", default=False)
    version: str = ""
    cpus: int = 0
    memory_bytes: int = 0
    gpus: list[GpuFacts] = []
    runtimes: list[RuntimeTier] = []
    free: FreeCapacity = FreeCapacity()
    metadata: dict[str, str] = {}
    is_lending: bool = field(name="lending", default=True)
    bandwidth: Bandwidth | None = None


class SpecsOfNode(Answer, frozen=True):
    """A machine's facts, read when asked."""

    hostname: str
    platform: str
    cpu: str
    cpus: int
    memory_bytes: int
    disk_bytes: int
    gpus: list[GpuFacts] = []
    runtimes: list[RuntimeTier] = []


class ImageRow(Answer, frozen=True):
    """An image that containers may be made of. `origin` tells where it came from."""

    name: str
    digest: str
    origin: str
    size_bytes: int = 0
    description: str = ""
    ports: dict[str, int] = {}


class ImageRequest(Request, frozen=True):
    """An image to bring: `build` a folder under `name` here, `pull` a `name` here, or `send` the
    archive at `path` to `node`. `path` is absolute, as the node's owner sees it.
    """

    action: Literal["build", "pull", "send"]
    name: Annotated[str, Meta(max_length=200)] = ""
    path: Annotated[str, Meta(max_length=4096)] = ""
    node: Annotated[str, Meta(max_length=200)] = ""


class ImageProgress(Answer, frozen=True, tag="progress", tag_field="type"):
    """How far it is, in words."""

    text: str


class ImageBrought(Answer, frozen=True, tag="ended", tag_field="type"):
    """The last event: the image is there, under this name."""

    image: ImageRow


ImageEvent = ImageProgress | ImageBrought


class VolumeRow(Answer, frozen=True):
    """A folder that stays on a node between leases. `peer` is whose it is."""

    name: str
    peer: str
    size_bytes: int
    is_used: bool = field(name="used", default=False)
    peer_name: str = ""


class EraseRequest(Request, frozen=True):
    """A volume to delete: at `node`, mine; here (no `node`), that of `peer`."""

    name: Annotated[str, Meta(max_length=100)]
    node: Annotated[str, Meta(max_length=200)] = ""
    peer: Annotated[str, Meta(max_length=200)] = ""


class RoundTrips(Answer, frozen=True):
    """Milliseconds."""

    min: float
    median: float
    max: float


class PingResult(Answer, frozen=True):
    """Round trips to a node; `rtt_ms` is null when every one was lost.

    `bandwidth` is what was measured last, null when nobody asked since the node started.
    """

    node: str
    path: str | None
    rtt_ms: RoundTrips | None
    lost: int
    sent: int = 0
    bandwidth: Bandwidth | None = None


class InterfaceRow(Answer, frozen=True):
    """A network interface of this machine; `gateways` are its default routers."""

    name: str
    up: bool
    addresses: list[str]
    gateways: list[str]


class Check(Answer, frozen=True):
    """One thing that `doctor` looked at; what is not `ok` has an advice."""

    check: str
    ok: bool
    finding: str
    advice: str = ""


# -- work -------------------------------------------------------------------------------------


class _Work(Request, frozen=True):
    """What `run`, `map` and `submit` have in common; nothing given means the node's own default.

    `inputs` and `to` are absolute paths on this machine. `requirements` and `variables` are as
    typed; the node checks them.
    """

    requirements: Annotated[list[_Text], Meta(max_length=100)] = []
    inputs: Annotated[list[_Path], Meta(max_length=1000)] = []
    outputs: Annotated[list[_Path], Meta(max_length=100)] = []
    to: _Path | None = None
    variables: Annotated[
        dict[_Name, Annotated[str, Meta(max_length=128 * 1024)]], Meta(max_length=1000)
    ] = {}
    runtime: _Name = "auto"
    tiers: Annotated[list[_Name], Meta(max_length=8)] = []
    image: Annotated[str, Meta(max_length=200)] = ""
    network: Literal["none", "proxy", "bridge"] = "none"
    cpus: Annotated[float, Meta(gt=0, le=1000)] | None = None
    memory_bytes: _Bytes | None = None
    disk_bytes: _Bytes | None = None
    gpus: Annotated[int, Meta(ge=0, le=64)] = 0
    lifetime_s: _Seconds | None = None
    timeout_s: _Seconds | None = None
    name: Annotated[str, Meta(max_length=200)] = ""
    has_reader: bool = False
    """A person reads what is said beside the work: what is said once is said now."""


_Argv = Annotated[
    list[Annotated[str, Meta(max_length=128 * 1024)]],
    Meta(min_length=1, max_length=ARGUMENTS_LIMIT),
]


class RunRequest(_Work, frozen=True, kw_only=True):
    """One command, now, on `target`: a node's name, id or prefix, or `any`."""

    argv: _Argv
    target: _Name = "any"


class _JobWork(_Work, frozen=True):
    """What jobs have in common. `on` names allowed nodes.

    With `again` it is a new job though the very same is running already; else that one is taken up.
    That share of the tasks that `verify` says is done again on another node and compared.
    Jobs of higher `priority` come first among those of this node.
    """

    retries: Annotated[int, Meta(ge=0, le=100)] | None = None
    on: Annotated[list[_Name], Meta(max_length=1000)] = []
    is_isolated: bool = field(name="isolate", default=False)
    verify: Annotated[float, Meta(ge=0, le=1)] = 0.0
    again: bool = False
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0


class JobRequest(_JobWork, frozen=True, kw_only=True):
    """One command over a range. `over` holds `NAME=RANGE` as typed."""

    argv: _Argv
    over: Annotated[list[_Text], Meta(max_length=16)] = []
    chunk: Annotated[int, Meta(ge=1)] = 1


class TemplateRequest(_JobWork, frozen=True, kw_only=True):
    """An Open Job Description template, YAML or JSON, and the values of its parameters.

    `template_name` is for messages. Relative paths in the template are relative to `folder`, those
    among the values to `current`. `values_text` is a document of values; `values` override it.
    Without `to`, results go where the template's own paths say. `pictures_within` has what is
    verified compared as pictures: so many levels of 255 apart are the same.
    """

    template: Annotated[str, Meta(min_length=1, max_length=1 << 20)]
    template_name: Annotated[str, Meta(min_length=1, max_length=200)] = "template"
    folder: _Path
    current: _Path
    values: Annotated[
        dict[_Name, Annotated[str, Meta(max_length=64 * 1024)]], Meta(max_length=1000)
    ] = {}
    values_text: Annotated[str, Meta(max_length=1 << 20)] = ""
    pictures_within: Annotated[float, Meta(ge=0, le=255)] = 0.0


class RunNote(Answer, frozen=True, tag="note", tag_field="type"):
    """What is done before the command starts, for a person who waits."""

    message: str


class RunStarted(Answer, frozen=True, tag="started", tag_field="type"):
    """The command is being run."""

    node: str
    lease: str
    node_name: str = ""


class RunOutput(Answer, frozen=True, tag="output", tag_field="type"):
    """Some bytes that the command printed (base64): `channel` 1 is its output, 2 its errors."""

    channel: Literal[1, 2]
    content: bytes


class RunEnded(Answer, frozen=True, tag="ended", tag_field="type"):
    """The last event. `exit` is null when the command could not be run or was ended from outside.

    `code` is then an error's slug. Outputs are the files brought back, as paths on this machine.
    With a status and a code the command ended, but its outputs did not come back.
    """

    exit: int | None
    node: str | None = None
    lease: str | None = None
    outputs: list[str] = []
    code: str = ""
    message: str = ""
    hint: str = ""


RunEvent = RunNote | RunStarted | RunOutput | RunEnded


class JobCreated(Answer, frozen=True):
    """The job is stored: whoever has the key may follow it and collect its results."""

    id: str
    key: str
    tasks: int = 0
    notices: list[str] = []


class TaskCounts(Answer, frozen=True):
    """How many tasks are in which state."""

    total: int = 0
    queued: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0


class JobRow(Answer, frozen=True):
    """A job. `state`: queued, running, succeeded, failed or cancelled."""

    id: str
    name: str
    state: str
    tasks: TaskCounts
    is_safe: bool = field(name="safe", default=False)
    created_at: str = ""
    finished_at: str | None = None
    eta_s: float | None = None


class NodeShare(Answer, frozen=True):
    """What one node did of a job. `says` is what a task that runs there last said of itself.

    `left_out` says why the job gives it nothing more; else it is empty.
    `rate_per_s` is its part of the job's present rate, 0 when nobody can tell.
    """

    succeeded: int = 0
    failed: int = 0
    running: int = 0
    name: str = ""
    says: str = ""
    left_out: str = ""
    rate_per_s: float = 0.0


class TaskFailure(Answer, frozen=True):
    """An attempt that failed. `log` is the end of what it printed, `values` the task's own."""

    task: str
    attempt: int
    node: str
    reason: str
    node_name: str = ""
    log: str = ""
    values: dict[str, str] = {}


class StepRow(Answer, frozen=True):
    """One step of a job."""

    name: str
    tasks: TaskCounts


class Verification(Answer, frozen=True):
    """Results that were compared with another node's: `share` of them should be.

    `reason` says why `unverified` ones could not be.
    """

    share: float
    compared: int = 0
    unverified: int = 0
    reason: str = ""


class JobDetail(JobRow, frozen=True):
    """A job in full. `nodes` is by node id; `blocked` says why nothing runs, else it is empty.

    `safety` says why the job would not survive its submitter; it is empty where it would.
    `verification` is null where nothing is verified.
    """

    steps: list[StepRow] = []
    nodes: dict[str, NodeShare] = {}
    failures: list[TaskFailure] = []
    outputs_bytes: int = 0
    to: str | None = None
    blocked: str = ""
    safety: str = ""
    verification: Verification | None = None
    priority: int = 0


class JobProgress(Answer, frozen=True, tag="progress", tag_field="type"):
    """How far a job is; at most five a second. `blocked` says why nothing runs.

    `frames_per_task` is how many frames a task of a rendering has on average, else 0.
    """

    id: str
    state: str
    tasks: TaskCounts
    nodes: dict[str, NodeShare] = {}
    rate_per_s: float = 0.0
    eta_s: float | None = None
    blocked: str = ""
    frames_per_task: float = 0.0


class JobEnded(Answer, frozen=True, tag="ended", tag_field="type"):
    """The last event of a job."""

    job: JobDetail


JobEvent = JobProgress | JobEnded


class ResultsRequest(Request, frozen=True):
    """Bring a job's outputs to an absolute folder."""

    to: _Path


class Collected(Answer, frozen=True):
    """What was brought. `missing` counts finished tasks whose outputs could not be had."""

    id: str
    to: str
    files: int
    bytes: int
    missing: int = 0


class TaskLog(Answer, frozen=True):
    """The end of what a task printed in its newest attempt."""

    task: str
    attempt: int
    node: str
    state: str
    log: str
    node_name: str = ""
    reason: str = ""


# -- the owner --------------------------------------------------------------------------------


class LeaseRow(Answer, frozen=True):
    """Who runs what here, what it uses, and how much of each it may.

    `cpu_limit` is in cores; `net_limit_bytes` bounds both ways together, null without bound.
    """

    id: str
    peer: str
    peer_name: str
    image: str
    state: str
    cpu_percent: float = 0.0
    cpu_s: float = 0.0
    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    disk_bytes: int = 0
    processes: int = 0
    net_rx_bytes: int = 0
    net_tx_bytes: int = 0
    created_at: str = ""
    expires_at: str | None = None
    command: str = ""
    network: str = "none"
    cpu_limit: float = 0.0
    memory_limit_bytes: int = 0
    disk_limit_bytes: int = 0
    processes_limit: int = 0
    net_limit_bytes: int | None = None


class UsageRow(Answer, frozen=True):
    """What one peer used here since a day (`since`), while it had leases."""

    peer: str
    peer_name: str
    since: str
    cpu_s: float = 0.0
    memory_byte_s: int = 0
    disk_peak_bytes: int = 0
    net_rx_bytes: int = 0
    net_tx_bytes: int = 0
    leases: int = 0
    tasks: int = 0


class KillRequest(Request, frozen=True):
    """Which leases to end: these, those of one peer, or all."""

    leases: Annotated[list[_Name], Meta(max_length=10_000)] = []
    peer: Annotated[str, Meta(max_length=200)] = ""
    is_all: bool = field(name="all", default=False)


class Killed(Answer, frozen=True):
    """The leases that were ended."""

    ended: list[str]


class ErrorFields(Answer, frozen=True):
    """An error as it crosses the API."""

    code: str
    message: str
    hint: str = ""
    retryable: bool = False


class ErrorBody(Answer, frozen=True):
    """The body of every answer that is not a success."""

    error: ErrorFields
