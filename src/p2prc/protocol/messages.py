"""Every message between two nodes, by the conversation it belongs to.

Each conversation decodes one tagged union, so that a message from another conversation is refused
by its tag. Lists and strings are bounded here; bytes are bounded by the frame.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from p2prc.model.identity import (
    AttemptIdField,
    BlobIdField,
    JobIdField,
    LeaseIdField,
    NodeIdField,
    ShortText,
)
from p2prc.model.image import ImageOffer
from p2prc.model.resources import LONGEST_S, Bytes, Gpu, RuntimeOffer
from p2prc.model.surroundings import Argument, VariableName
from p2prc.model.testimony import Life
from p2prc.model.workload import Command, MainProcess, Outcome, VolumeName, Workload
from p2prc.protocol.jobs.facts import Epoch
from p2prc.protocol.jobs.pages import LOGS_LIMIT, LogLength
from p2prc.wire.codec import Codec
from p2prc.wire.signed import Envelope

PROTOCOL_VERSION = 2
NOTICES_SINCE_VERSION = 2
BULK_DOOR_SINCE_VERSION = 2
PROBES_SINCE_VERSION = 2
CLOCK_SINCE_VERSION = 2
LEDGERS_SINCE_VERSION = 2
CARRIAGES_SINCE_VERSION = 2
"""Peers of older versions take an unknown message for misbehaviour: they are sent none."""
OLDEST_PROTOCOL_VERSION = 1
CONTROL_FRAME_LIMIT_BYTES = 1 << 20
HELLO_FRAME_LIMIT_BYTES = 16 << 10

Chain = Annotated[bytes, Meta(max_length=4096)]
Sentence = Annotated[str, Meta(max_length=2000)]
LEASES_LISTED_LIMIT = 10_000
ASKED_LEASES_LIMIT = 1000
PIECE_LIMIT_BYTES = 512 * 1024
Variables = Annotated[dict[VariableName, Argument], Meta(max_length=1000)]
LeaseSeconds = Annotated[float, Meta(ge=0, le=LONGEST_S)]
PortNumber = Annotated[int, Meta(ge=1, le=65535)]
PORTS_LIMIT = 64
"""How many ports a lease may have named."""
CarriageToken = Annotated[bytes, Meta(max_length=16)]
"""Names a conversation that may move to a faster stream (`CarryOn`); empty: plain bytes."""
PathInside = Annotated[str, Meta(max_length=4096)]
FILLER_LIMIT_BYTES = 64 << 20
FillerBytes = Annotated[int, Meta(ge=1, le=FILLER_LIMIT_BYTES)]
Piece = Annotated[bytes, Meta(max_length=PIECE_LIMIT_BYTES)]


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Strict: a field that this version does not know is a refusal."""


class TerminalSize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The size of a terminal in characters."""

    rows: Annotated[int, Meta(ge=1, le=10_000)] = 24
    columns: Annotated[int, Meta(ge=1, le=10_000)] = 80


# -- the handshake: nothing else is answered before it is complete ----------------------------


class Hello(_Message, frozen=True, tag="hello"):
    """A member shows its chain; the first message of each side on every connection."""

    network: NodeIdField
    membership: Chain
    version: int = PROTOCOL_VERSION
    observed_address: ShortText = ""


class Join(_Message, frozen=True, tag="join"):
    """A newcomer shows a ticket instead; the same stream then goes on as a member's."""

    network: NodeIdField
    ticket: Annotated[str, Meta(max_length=512)]
    version: int = PROTOCOL_VERSION
    name: ShortText = ""


class Ask(_Message, frozen=True, tag="ask"):
    """A newcomer without a ticket asks to be let in, and waits on the same stream."""

    version: int = PROTOCOL_VERSION
    name: ShortText = ""


class AskWaits(_Message, frozen=True, tag="ask-waits"):
    """The request is listed and nobody has decided yet: repeated while the asker waits."""


class Admitted(_Message, frozen=True, tag="admitted"):
    """The newcomer's own chain, made by the member that it reached."""

    membership: Chain
    network_name: ShortText = ""


class Refused(_Message, frozen=True, tag="refused"):
    """No, and why: an error's code, its sentence and its hint."""

    code: ShortText
    message: Sentence
    hint: Sentence = ""


# -- membership -------------------------------------------------------------------------------


class DigestEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Version 1: what the sender holds about one node: newest version and heartbeat counter.

    `is_suspect`: the sender has heard nothing newer, and doubts that the node is still there.
    Version -1 asks for a record that the sender lacks.
    """

    node: NodeIdField
    version: int
    heartbeat: int
    is_suspect: bool = False


class Digest(_Message, frozen=True, tag="digest"):
    """Version 1: the sender's whole summary; with `is_reply` only some, and nothing answers it."""

    entries: Annotated[tuple[DigestEntry, ...], Meta(max_length=10_000)]
    is_reply: bool = False


class Delta(_Message, frozen=True, tag="delta"):
    """Records that the receiver lacks or has only in an older version, as their authors signed."""

    records: Annotated[tuple[Envelope, ...], Meta(max_length=500)]


Lives = Annotated[tuple[Life, ...], Meta(max_length=2_000)]


class Rumour(_Message, frozen=True, tag="rumour"):
    """Testimonies (`model.testimony`): who says that it is here, who doubts whom."""

    testimonies: Annotated[tuple[Envelope, ...], Meta(max_length=500)]


class Announce(_Message, frozen=True, tag="announce"):
    """Lives that the sender has news of: whoever hears nothing of them soon asks."""

    lives: Lives


class Summary(_Message, frozen=True, tag="summary"):
    """The fingerprint of all present nodes that the sender knows, and how many it knows at all.

    Equal fingerprints end the exchange; else follow `Branches`, `Leaves` and `Entries`.
    """

    root: Annotated[bytes, Meta(min_length=8, max_length=8)]
    known: Annotated[int, Meta(ge=0, le=1 << 32)]


class Branches(_Message, frozen=True, tag="branches"):
    """The fingerprints of the 32 branches, eight bytes each."""

    marks: Annotated[bytes, Meta(min_length=256, max_length=256)]


class Leaves(_Message, frozen=True, tag="leaves"):
    """The fingerprints of the 32 leaves of each branch that differs."""

    branches: Annotated[tuple[Annotated[int, Meta(ge=0, le=31)], ...], Meta(max_length=32)]
    marks: Annotated[bytes, Meta(max_length=8 * 1024)]
    known: Annotated[int, Meta(ge=0, le=1 << 32)]


class Entries(_Message, frozen=True, tag="entries"):
    """The lives of all present nodes in these leaves; without leaves, of all.

    With `is_reply` only those that the receiver did not list.
    """

    leaves: Annotated[tuple[Annotated[int, Meta(ge=0, le=1023)], ...], Meta(max_length=1024)]
    lives: Lives
    is_reply: bool = False


class Want(_Message, frozen=True, tag="want"):
    """Tell me what is newer than these lives."""

    lives: Lives


class Call(_Message, frozen=True, tag="call"):
    """I did not get through to this node: do you? `tries` more may look before it is doubted."""

    life: Life
    tries: Annotated[int, Meta(ge=0, le=3)]


Gossip = Digest | Delta | Rumour | Announce | Summary | Branches | Leaves | Entries | Want | Call
"""Everything that the membership machine takes and sends."""


# -- notices: signed facts that are never taken back ------------------------------------------

NoticeIdField = Annotated[bytes, Meta(min_length=16, max_length=16)]


class NoticeSummary(_Message, frozen=True, tag="notice-summary"):
    """One hash over all the notices that the sender holds."""

    digest: Annotated[bytes, Meta(min_length=32, max_length=32)]


class NoticeList(_Message, frozen=True, tag="notice-list"):
    """Which notices the sender holds: send what is not among them; answer unless a reply."""

    notices: Annotated[tuple[NoticeIdField, ...], Meta(max_length=10_000)]
    is_reply: bool = False


class Notices(_Message, frozen=True, tag="notices"):
    """Notices that the receiver may lack, as their authors signed them."""

    notices: Annotated[tuple[Envelope, ...], Meta(max_length=100)]


# -- admission: a member hands on what was asked of it ----------------------------------------


class ForwardAsk(_Message, frozen=True, tag="forward-ask"):
    """Somebody asks me to be let in: will you? Answered once a person has decided."""

    joiner: NodeIdField
    name: ShortText = ""
    address: ShortText = ""


class AskAnswered(_Message, frozen=True, tag="ask-answered"):
    """The newcomer's chain; none is a denial."""

    membership: Chain | None = None


class WithdrawAsk(_Message, frozen=True, tag="withdraw-ask"):
    """The newcomer does not wait any longer."""

    joiner: NodeIdField


# -- liveness ---------------------------------------------------------------------------------


class Ping(_Message, frozen=True, tag="ping"):
    """Answer with a Pong: a heartbeat, and a round trip measured by the sender."""


class Pong(_Message, frozen=True, tag="pong"):
    """I am here."""


class Goodbye(_Message, frozen=True, tag="goodbye"):
    """The sender stops now, on purpose."""


class SeenAt(_Message, frozen=True, tag="seen-at"):
    """The sender sees the receiver at this address; "" when through a relay."""

    address: ShortText


class ProbeMe(_Message, frozen=True, tag="probe-me"):
    """Dial me afresh at the host where you see me, at this port: by TCP, and by UDP."""

    port: Annotated[int, Meta(ge=1, lt=1 << 16)]


class Probed(_Message, frozen=True, tag="probed"):
    """What came of it."""

    by_tcp: bool
    by_udp: bool


class LookAtMe(_Message, frozen=True, tag="look-at-me"):
    """Open a second UDP port for a moment: I send something there."""


class Looking(_Message, frozen=True, tag="looking"):
    """This one is open."""

    port: Annotated[int, Meta(ge=1, lt=1 << 16)]


class SeenBeside(_Message, frozen=True, tag="seen-beside"):
    """At its second port the sender saw the receiver come from this address."""

    address: ShortText


class AskClock(_Message, frozen=True, tag="ask-clock"):
    """Tell what your wall clock shows."""


class Clock(_Message, frozen=True, tag="clock"):
    """Milliseconds since 1970 in UTC by the sender's clock, right or wrong."""

    unix_ms: Annotated[int, Meta(ge=0, lt=1 << 53)]


class AskSpecs(_Message, frozen=True, tag="ask-specs"):
    """Tell what machine you are."""


class GpuReading(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A graphics card and what it does at this moment."""

    card: Gpu
    utilization_percent: float = 0.0
    temperature_c: float = 0.0


class Specs(_Message, frozen=True, tag="specs"):
    """A machine's facts, read when asked."""

    hostname: ShortText
    platform: ShortText
    cpu: ShortText
    cpus: int
    memory_bytes: Bytes
    disk_bytes: Bytes
    gpus: Annotated[tuple[GpuReading, ...], Meta(max_length=16)] = ()
    runtimes: Annotated[tuple[RuntimeOffer, ...], Meta(max_length=8)] = ()


class AskImages(_Message, frozen=True, tag="ask-images"):
    """Tell which images you offer."""


class Images(_Message, frozen=True, tag="images"):
    """What containers here may be made of."""

    offered: Annotated[tuple[ImageOffer, ...], Meta(max_length=256)] = ()


class TakeImage(_Message, frozen=True, tag="take-image"):
    """Take an image from me: the only file of this tree, as `docker save` makes it."""

    tree: BlobIdField


class ImageTaken(_Message, frozen=True, tag="image-taken"):
    """The image is here, under this name."""

    offer: ImageOffer


class AskVolumes(_Message, frozen=True, tag="ask-volumes"):
    """Tell which volumes you keep for me."""


class VolumeKept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A folder of the asker's that stays between its leases."""

    name: VolumeName
    size_bytes: Bytes
    is_used: bool = False


class Volumes(_Message, frozen=True, tag="volumes"):
    """What is kept for the asker."""

    kept: Annotated[tuple[VolumeKept, ...], Meta(max_length=64)] = ()


class EraseVolume(_Message, frozen=True, tag="erase-volume"):
    """Delete a volume of mine; answered when it is gone."""

    name: VolumeName


# -- public ports ------------------------------------------------------------------------------


MappingId = Annotated[str, Meta(pattern=r"^[0-9a-f]{10}$(?!\n)")]


class OpenMapping(_Message, frozen=True, tag="open-mapping", omit_defaults=True):
    """Listen at a public port for me; said again now and then it goes on, else it ends.

    `port` 0 is any. What connects there comes to me as `TakeConnection`. It ends after
    `lifetime_s` from now. With `domain` what is asked of that name comes to me, at ports that are
    yours: requests of HTTP, or with `is_tls` connections of TLS as they are.
    """

    mapping: MappingId
    protocol: Literal["tcp", "udp"] = "tcp"
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    lifetime_s: Annotated[float, Meta(gt=0, le=1e10)] | None = None
    domain: Annotated[str, Meta(max_length=253)] = ""
    is_tls: bool = False


class MappingOpened(_Message, frozen=True, tag="mapping-opened", omit_defaults=True):
    """The port, and the hosts by which this node believes to be reached from outside.

    Of a domain: whether TLS is spoken at that port, until when its certificate is good (seconds
    since 1970), and what is wrong with it.
    """

    port: Annotated[int, Meta(ge=1, le=65535)]
    hosts: Annotated[tuple[ShortText, ...], Meta(max_length=8)] = ()
    is_tls: bool = False
    certificate_ends_at: Annotated[float, Meta(ge=0, le=1e12)] | None = None
    trouble: ShortText = ""


class EndMapping(_Message, frozen=True, tag="end-mapping"):
    """Stop listening for me, and hang up what goes through it."""

    mapping: MappingId


# -- leases and attempts ----------------------------------------------------------------------


class RequestLease(_Message, frozen=True, tag="request-lease"):
    """Lend me a place; asking again with the same id is asking once.

    `job` ties the lease to a job: it then ends with the job's last attempt being acknowledged or
    by `EndLease`. `is_isolated` gives every command a sandbox of its own. With `has_sessions` many
    commands run in it at once and its requester's absence does not end it; `variables` are for all
    of them, `main` begins with it. `ports` is how many ports it wants named: the provider chooses
    free ones, and the commands find them as the variables `P2PRC_PORT1`, ...
    """

    lease: LeaseIdField
    workload: Workload
    job: JobIdField | None = None
    is_isolated: bool = False
    has_sessions: bool = False
    variables: Variables = {}
    main: MainProcess | None = None
    ports: Annotated[int, Meta(ge=0, le=PORTS_LIMIT)] = 0


class LeaseGranted(_Message, frozen=True, tag="lease-granted"):
    """The place exists; `expires_in_s` from now it ends, None is never."""

    lease: LeaseIdField
    expires_in_s: LeaseSeconds | None
    tier: ShortText
    ports: Annotated[tuple[PortNumber, ...], Meta(max_length=PORTS_LIMIT)] = ()


class LeaseProgress(_Message, frozen=True, tag="lease-progress"):
    """What a lease that was asked for waits for, in words: told while it is made."""

    lease: LeaseIdField
    text: ShortText


class EndLease(_Message, frozen=True, tag="end-lease"):
    """Take the place back; ending twice is ending once."""

    lease: LeaseIdField


class LeaseEnded(_Message, frozen=True, tag="lease-ended"):
    """Told by the provider: `ended_by` is owner, requester, time, limit, share or lost."""

    lease: LeaseIdField
    ended_by: ShortText
    reason: Sentence = ""


class AskLeases(_Message, frozen=True, tag="ask-leases"):
    """Tell what became of these leases of mine."""

    leases: Annotated[tuple[LeaseIdField, ...], Meta(max_length=ASKED_LEASES_LIMIT)]


class LeaseStanding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One lease: `state` is waiting, creating, active, suspended, ending, ended or unknown.

    `expires_in_s` counts from now, None is never. `ended_by` and `reason` tell of an end.
    `main` is the main process: "" without one, running, waiting (for its next start) or ended.
    """

    lease: LeaseIdField
    state: ShortText
    expires_in_s: LeaseSeconds | None = 0.0
    tier: ShortText = ""
    ended_by: ShortText = ""
    reason: Sentence = ""
    main: ShortText = ""
    main_status: int | None = None
    main_starts: int = 0


class LeaseStandings(_Message, frozen=True, tag="lease-standings"):
    """What became of the leases that were asked for."""

    standings: Annotated[tuple[LeaseStanding, ...], Meta(max_length=ASKED_LEASES_LIMIT)]


class StartAttempt(_Message, frozen=True, tag="start-attempt"):
    """Run one task's command in the lease; the provider keeps the outcome until acknowledged."""

    lease: LeaseIdField
    attempt: AttemptIdField
    command: Command


class AttemptEnded(_Message, frozen=True, tag="attempt-ended"):
    """Told by the provider, and repeated on request until acknowledged."""

    attempt: AttemptIdField
    outcome: Outcome


class AcknowledgeAttempt(_Message, frozen=True, tag="acknowledge-attempt"):
    """The outcome is safe with the submitter: the provider may forget it and its outputs."""

    attempt: AttemptIdField


class CancelAttempt(_Message, frozen=True, tag="cancel-attempt"):
    """Stop the attempt and forget its outcome."""

    attempt: AttemptIdField


class AskAttempts(_Message, frozen=True, tag="ask-attempts"):
    """What do you hold of my job? Asked after either side came back."""

    job: JobIdField


class Attempts(_Message, frozen=True, tag="attempts"):
    """Leases and running attempts of the job; finished ones follow as `AttemptEnded`."""

    leases: Annotated[tuple[LeaseIdField, ...], Meta(max_length=LEASES_LISTED_LIMIT)] = ()
    running: Annotated[tuple[AttemptIdField, ...], Meta(max_length=LEASES_LISTED_LIMIT)] = ()
    finished: Annotated[tuple[AttemptIdField, ...], Meta(max_length=100_000)] = ()


# -- ledgers of jobs, among those who hold one -------------------------------------------------

SYNC_PAGES_LIMIT = 200
SYNC_BYTES_LIMIT = 300 * 1024
"""How much of a ledger one message carries; the lengths of all logs come beside it."""
JobPages = Annotated[tuple[Envelope, ...], Meta(max_length=SYNC_PAGES_LIMIT)]
LogLengths = Annotated[tuple[LogLength, ...], Meta(max_length=LOGS_LIMIT)]
Proof = Annotated[bytes, Meta(min_length=32, max_length=32)]


class KeepJob(_Message, frozen=True, tag="keep-job"):
    """Keep this job: its description is the only file of the tree. Done once all is on disk."""

    job: JobIdField
    tree: BlobIdField


class SyncLedger(_Message, frozen=True, tag="sync-ledger"):
    """What I have of a job's ledger, with some pages that you lack. Answered by `LedgerSynced`.

    `epoch`: the one in which I carry the job on, None when I do not.
    """

    job: JobIdField
    epoch: Epoch | None
    is_safe: bool
    logs: LogLengths
    pages: JobPages = ()


class LedgerSynced(_Message, frozen=True, tag="ledger-synced"):
    """What was sent is on disk; what I have now, with some pages that the asker lacks."""

    epoch: Epoch | None
    is_safe: bool
    logs: LogLengths
    pages: JobPages = ()


class SucceedCoordinator(_Message, frozen=True, tag="succeed-coordinator"):
    """I carry the job on after `last`, who let me by this page: end what it holds of it."""

    job: JobIdField
    last: NodeIdField
    proof: Envelope


class AskJob(_Message, frozen=True, tag="ask-job"):
    """I know the job's key (see `protocol.jobs.keys`): show me its description."""

    job: JobIdField
    proof: Proof


class JobShown(_Message, frozen=True, tag="job-shown"):
    """The description is the only file of this tree, which the asker may fetch."""

    tree: BlobIdField


class ReadLedger(_Message, frozen=True, tag="read-ledger"):
    """As `AskJob`: send what I lack of the ledger, and let me fetch its results."""

    job: JobIdField
    proof: Proof
    logs: LogLengths = ()


class Done(_Message, frozen=True, tag="done"):
    """The request was carried out."""


# -- a command with its output streamed: a stream of its own ----------------------------------


class RunCommand(_Message, frozen=True, tag="run-command"):
    """Run in the lease and stream what it prints; the stream's end from us cancels it."""

    lease: LeaseIdField
    command: Command


class Output(_Message, frozen=True, tag="output"):
    """Some bytes of what the command printed: `channel` 1 is its output, 2 its errors."""

    channel: Annotated[int, Meta(ge=1, le=2)]
    content: Annotated[bytes, Meta(max_length=512 * 1024)]


class CommandEnded(_Message, frozen=True, tag="command-ended"):
    """The last message of the stream."""

    outcome: Outcome


# -- inside a lease with sessions: streams of their own, each opened by one message -------------


class Exec(_Message, frozen=True, tag="exec"):
    """Run beside whatever runs there; `Output` follows, `CommandEnded` is last.

    The stream's end from us kills it. `terminal` is its rows and columns.
    """

    lease: LeaseIdField
    argv: Annotated[tuple[Argument, ...], Meta(min_length=1, max_length=4096)]
    variables: Variables = {}
    takes_input: bool = False
    terminal: TerminalSize | None = None


class Input(_Message, frozen=True, tag="input"):
    """Some bytes for the command, or of the archive that is sent."""

    content: Piece


class EndInput(_Message, frozen=True, tag="end-input"):
    """Nothing more comes."""


class Resize(_Message, frozen=True, tag="resize"):
    """The terminal has another size now."""

    terminal: TerminalSize


class FollowLog(_Message, frozen=True, tag="follow-log"):
    """What the main process printed, as `Output`, as far as it is kept; then `Done`.

    With `follows` also what it will print, until the lease ends.
    """

    lease: LeaseIdField
    follows: bool = False


class DialPort(_Message, frozen=True, tag="dial-port", omit_defaults=True):
    """Reach a port inside; after `Done` the stream carries its bytes both ways."""

    lease: LeaseIdField
    port: PortNumber
    carriage: CarriageToken = b""


class TakeConnection(_Message, frozen=True, tag="take-connection"):
    """Somebody connected to the public port that I lend you; after `Done` the stream carries it.

    Datagrams have two bytes of length before them.
    """

    mapping: MappingId
    client: ShortText = ""
    carriage: CarriageToken = b""


class PutFiles(_Message, frozen=True, tag="put-files"):
    """A tar archive follows as `Input` up to `EndInput`, for a folder below the working folder.

    Answered by `Done`.
    """

    lease: LeaseIdField
    folder: PathInside = ""


class GetFiles(_Message, frozen=True, tag="get-files"):
    """Send a file or folder of the working folder as a tar archive in `Output`, then `Done`."""

    lease: LeaseIdField
    path: PathInside = ""


class DialService(_Message, frozen=True, tag="dial-service", omit_defaults=True):
    """After `Done` the stream carries the bytes of a port of your machine or its neighbourhood.

    `service` is a port, or a name that the owner gave. Datagrams have two bytes of length before
    them.
    """

    service: Annotated[str, Meta(min_length=1, max_length=63)]
    protocol: Literal["tcp", "udp"] = "tcp"
    carriage: CarriageToken = b""


class OpenSsh(_Message, frozen=True, tag="open-ssh", omit_defaults=True):
    """After `Done` the stream carries SSH, which ends in the provider."""

    lease: LeaseIdField
    carriage: CarriageToken = b""


# -- bulk: a connection of its own, one stream a request --------------------------------------


class AskBulkDoor(_Message, frozen=True, tag="ask-bulk-door"):
    """Tell where I can fetch from you over TCP, and let me in there."""


class BulkDoor(_Message, frozen=True, tag="bulk-door"):
    """At this TCP port, for some seconds, whoever shows the token inside TLS with this key."""

    port: Annotated[int, Meta(ge=1, le=65535)]
    certificate: Annotated[bytes, Meta(max_length=2048)]
    token: Annotated[bytes, Meta(min_length=32, max_length=32)]


class CarryOn(_Message, frozen=True, tag="carry-on"):
    """From here on this stream carries frames of the conversation that has this token."""

    token: Annotated[bytes, Meta(min_length=16, max_length=16)]


class FetchTree(_Message, frozen=True, tag="fetch-tree"):
    """Send the manifest of a tree that I may read."""

    tree: BlobIdField


class FetchBlobs(_Message, frozen=True, tag="fetch-blobs"):
    """Send these blobs of a tree that I may read, one after another."""

    tree: BlobIdField
    blobs: Annotated[tuple[BlobIdField, ...], Meta(min_length=1, max_length=1000)]


class FetchRecipe(_Message, frozen=True, tag="fetch-recipe"):
    """Send how this large blob of a tree that I may read is cut into pieces."""

    tree: BlobIdField
    blob: BlobIdField


class AskSources(_Message, frozen=True, tag="ask-sources"):
    """Who else may have some of this tree of yours? Give me a pass for them."""

    tree: BlobIdField


class Sources(_Message, frozen=True, tag="sources"):
    """They may; show them this pass. They may have nothing yet.

    You are reader number `place` of `readers`: begin with that part, as others do with theirs.
    """

    reading_pass: Annotated[bytes, Meta(max_length=1024)]
    nodes: Annotated[tuple[NodeIdField, ...], Meta(max_length=64)]
    place: Annotated[int, Meta(ge=0, le=100_000)] = 0
    readers: Annotated[int, Meta(ge=1, le=100_000)] = 1


class AskHave(_Message, frozen=True, tag="ask-have"):
    """Which pieces of this tree have you? The pass lets me fetch them."""

    tree: BlobIdField
    reading_pass: Annotated[bytes, Meta(max_length=1024)]


class Have(_Message, frozen=True, tag="have"):
    """A bit for each piece, the first one highest; `plan` names the list of pieces.

    `coming` are those that I am fetching now: not from the origin once more, please.
    """

    plan: BlobIdField
    bits: Annotated[bytes, Meta(max_length=32 << 10)]
    coming: Annotated[bytes, Meta(max_length=32 << 10)] = b""


class SendFiller(_Message, frozen=True, tag="send-filler"):
    """Send so many bytes that mean nothing, after `Filler`: I measure the way from you."""

    size_bytes: FillerBytes


class TakeFiller(_Message, frozen=True, tag="take-filler"):
    """So many bytes that mean nothing follow; say `Filler` when all came."""

    size_bytes: FillerBytes


class Filler(_Message, frozen=True, tag="filler"):
    """So many bytes follow, or came."""

    size_bytes: FillerBytes


class BlobHeader(_Message, frozen=True, tag="blob-header"):
    """So many raw bytes follow on the stream."""

    blob: BlobIdField
    size_bytes: Bytes


Opening = Hello | Join | Ask | AskWaits | Admitted | Refused
Control = (
    Digest
    | Delta
    | NoticeSummary
    | NoticeList
    | Notices
    | ForwardAsk
    | AskAnswered
    | WithdrawAsk
    | Rumour
    | Announce
    | Summary
    | Branches
    | Leaves
    | Entries
    | Want
    | Call
    | Ping
    | Pong
    | Goodbye
    | SeenAt
    | ProbeMe
    | Probed
    | LookAtMe
    | Looking
    | SeenBeside
    | AskClock
    | Clock
    | AskSpecs
    | Specs
    | AskImages
    | Images
    | TakeImage
    | ImageTaken
    | AskVolumes
    | Volumes
    | EraseVolume
    | RequestLease
    | LeaseGranted
    | LeaseProgress
    | EndLease
    | LeaseEnded
    | AskLeases
    | LeaseStandings
    | StartAttempt
    | AttemptEnded
    | AcknowledgeAttempt
    | CancelAttempt
    | AskAttempts
    | Attempts
    | KeepJob
    | SyncLedger
    | LedgerSynced
    | SucceedCoordinator
    | AskJob
    | JobShown
    | ReadLedger
    | AskBulkDoor
    | BulkDoor
    | OpenMapping
    | MappingOpened
    | EndMapping
    | Done
    | Refused
)
Session = (
    RunCommand
    | Exec
    | Input
    | EndInput
    | Resize
    | FollowLog
    | DialPort
    | DialService
    | TakeConnection
    | PutFiles
    | GetFiles
    | OpenSsh
    | Output
    | CommandEnded
    | Done
    | Refused
)
Bulk = (
    CarryOn
    | FetchTree
    | FetchBlobs
    | FetchRecipe
    | AskSources
    | Sources
    | AskHave
    | Have
    | SendFiller
    | TakeFiller
    | Filler
    | BlobHeader
    | Refused
)


class Letter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A frame on the control stream: requests carry a number, replies the number they answer.

    Number 0 is a notice that nobody answers.
    """

    number: Annotated[int, Meta(ge=0, le=1 << 62)]
    is_reply: bool
    body: Control


opening_codec: Codec[Opening] = Codec(Opening, limit_bytes=HELLO_FRAME_LIMIT_BYTES)
letter_codec: Codec[Letter] = Codec(Letter, limit_bytes=CONTROL_FRAME_LIMIT_BYTES)
session_codec: Codec[Session] = Codec(Session, limit_bytes=CONTROL_FRAME_LIMIT_BYTES)
bulk_codec: Codec[Bulk] = Codec(Bulk, limit_bytes=CONTROL_FRAME_LIMIT_BYTES)
