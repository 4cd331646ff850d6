"""What a relay hears, does and keeps to: the vocabulary of `relay_session`.

A `Line` is one connection to the relay, numbered by whoever accepts connections; numbers are never
reused. A client may have several lines, of which the newest counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from p2prc.model.identity import NodeId

Line = int


@dataclass(frozen=True, slots=True)
class RelayTerms:
    """On which conditions a client is served; None is no bound.

    `only_to` makes it a guest: it reaches that node alone, and only that node reaches it.
    """

    expires_in_s: float | None = None
    only_to: NodeId | None = None
    bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """Bounds. Times are in seconds."""

    handshake_s: float = 10.0
    ping_every_s: float = 15.0
    ping_jitter_s: float = 5.0
    silence_s: float = 10.0
    """How long after a ping a client may stay silent."""
    stall_s: float = 10.0
    """How long a client may leave what it is sent unread."""
    queue_packets: int = 512
    queue_bytes: int = 2 << 20
    queues_bytes: int = 32 << 20
    """Of all clients together."""
    lines_per_client: int = 4
    destinations_remembered: int = 1024
    burst_s: float = 0.5
    """How much of its rate a client may use at once, in seconds of it."""
    frame_cost_bytes: int = 64
    """What a frame costs beyond its length, so that many small ones are not free."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A line is open; `challenge` is 16 random bytes, `bearer` what its request showed."""

    line: Line
    version: str
    bearer: str
    challenge: bytes


@dataclass(frozen=True, slots=True)
class Received:
    """Frames arrived, in this order."""

    line: Line
    frames: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Admitted:
    """The answer to `Ask`: yes."""

    line: Line
    terms: RelayTerms


@dataclass(frozen=True, slots=True)
class NotAdmitted:
    """The answer to `Ask`: no. `code` is counted, `reason` is told."""

    line: Line
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Blocked:
    """A line takes no more until `Writable`."""

    line: Line


@dataclass(frozen=True, slots=True)
class Writable:
    """A line takes frames again."""

    line: Line


@dataclass(frozen=True, slots=True)
class Closed:
    """A line is gone; `code` says what its client did wrong, "" for nothing."""

    line: Line
    code: str = ""


@dataclass(frozen=True, slots=True)
class NodeBarred:
    """Serve this node no longer: it is not a member any more."""

    node: NodeId
    reason: str


@dataclass(frozen=True, slots=True)
class Restarting:
    """The relay is about to go; clients should come back after a while."""

    reconnect_in_s: float
    try_for_s: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


RelayEvent = (
    Connected
    | Received
    | Admitted
    | NotAdmitted
    | Blocked
    | Writable
    | Closed
    | NodeBarred
    | Restarting
    | Tick
)


@dataclass(frozen=True, slots=True)
class Send:
    """Write these frames, in this order."""

    line: Line
    frames: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Ask:
    """A client has proved its key: may it be served? Answer with Admitted or NotAdmitted."""

    line: Line
    node: NodeId
    bearer: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Read nothing from this line for a while: it used up its rate."""

    line: Line
    for_s: float


@dataclass(frozen=True, slots=True)
class Close:
    """End this line once what was sent before is written; its `Closed` need not follow."""

    line: Line


RelayEffect = Send | Ask | Hold | Close


@dataclass(frozen=True, slots=True)
class RelayStats:
    """What a relay has done since it was opened."""

    clients: int
    forwarded_packets: int
    forwarded_bytes: int
    dropped_packets: int
    queued_bytes: int
    refusals: dict[str, int]
