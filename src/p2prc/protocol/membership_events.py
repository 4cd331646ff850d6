"""What may happen to the membership machine, what it then wants done, and its settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from p2prc.model.identity import NodeId
from p2prc.model.record import SignedRecord
from p2prc.protocol.messages import PROTOCOL_VERSION, Gossip
from p2prc.protocol.peer_choice import ChoiceConfig


@dataclass(frozen=True, slots=True)
class MembershipConfig:
    """The machine's own settings. The defaults suit ten thousand nodes.

    A node that is doubted is dead after `confirm_s` unless it answers. What was read from the disk
    is dead after `silence_s` unless somebody lists it, and so is everybody when we have had no
    link for that long. A record goes at once to `rumour_fanout` peers and is announced to the
    others, who ask for it when it has not come after `announce_patience_s`. What is to be passed
    on is gathered for `gather_s` after the last time; while newcomers come to us one after the
    other, until none has come for `crowd_gap_s`, but no longer than `crowd_s`. `sponsor_limit`
    bounds the members that owe their membership to one node other than the founder.
    """

    gossip_interval_s: float = 1.0
    gather_s: float = 0.1
    crowd_gap_s: float = 0.04
    crowd_s: float = 0.4
    confirm_s: float = 3.0
    restate_interval_s: float = 0.3
    silence_s: float = 20.0
    forget_s: float = 86_400.0
    table_limit: int = 20_000
    sponsor_limit: int = 1_000
    rumour_fanout: int = 3
    announce_patience_s: float = 0.15
    stall_s: float = 1.0
    answer_bytes_per_s: float = 512 * 1024
    answer_burst_bytes: float = 4 * 1024 * 1024
    checks_per_s: float = 500.0
    checks_burst: float = 4_000.0
    messages_per_s: float = 100.0
    messages_burst: float = 1_000.0
    doubts_per_s: float = 0.1
    doubts_burst: float = 32.0
    faults_per_s: float = 0.5
    faults_burst: float = 300.0
    shun_s: float = 600.0
    previous_interval_s: float = 5.0
    choice: ChoiceConfig = field(default_factory=ChoiceConfig)


# -- what may happen, and what we then want done ----------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """A connection to a member exists, whoever dialled; telling twice does no harm.

    `version` is the protocol version in which both understand each other.
    """

    peer: NodeId
    version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The last connection to the peer is gone; `on_purpose`: one of us hung up."""

    peer: NodeId
    on_purpose: bool = False


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A peer told us something about the network."""

    peer: NodeId
    message: Gossip


@dataclass(frozen=True, slots=True)
class OwnRecordChanged:
    """We have signed a newer record of our own."""

    signed: SignedRecord


@dataclass(frozen=True, slots=True)
class DialFailed:
    """A dial that we asked for did not get through."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class MembersBarred:
    """Somebody was put out: whom `is_member` knows no more is to be told to nobody."""


@dataclass(frozen=True, slots=True)
class Tick:
    """The deadline has come."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send the message to a connected peer; losing it does little harm."""

    peer: NodeId
    message: Gossip


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to the node; answer with PeerConnected or DialFailed."""

    node: NodeId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HangUp:
    """We need the connection no longer: close it when nobody else does; then PeerLost follows."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class Shun:
    """The peer misbehaves: close every connection to it, now and whenever it comes back soon."""

    peer: NodeId
    reason: str


@dataclass(frozen=True, slots=True)
class NodeChanged:
    """The node's record or state is another one than before, or the node was forgotten."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class OwnVersionBehind:
    """The network holds a record of ours that we do not know: sign one above this version."""

    version: int


Event = (
    PeerConnected
    | PeerLost
    | MessageReceived
    | OwnRecordChanged
    | DialFailed
    | MembersBarred
    | Tick
)
Effect = Send | Dial | HangUp | Shun | NodeChanged | OwnVersionBehind
