"""What may happen to the membership machine, what it then wants done, and its settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from p2prc.model.identity import NodeId
from p2prc.model.record import SignedRecord
from p2prc.protocol.messages import Delta, Digest
from p2prc.protocol.peer_choice import ChoiceConfig


@dataclass(frozen=True, slots=True)
class MembershipConfig:
    """The machine's own settings. The defaults suit a few hundred nodes.

    A node whose last link broke is dead after `confirm_s` unless somebody speaks for it; one that
    we know by hearsay becomes suspect after `silence_s` without a newer heartbeat.
    """

    gossip_interval_s: float = 1.0
    confirm_s: float = 1.5
    silence_s: float = 20.0
    forget_s: float = 86_400.0
    table_limit: int = 9_999
    rumour_fanout: int = 3
    refute_interval_s: float = 0.3
    stall_s: float = 3.0
    answer_bytes_per_s: float = 128 * 1024
    answer_burst_bytes: float = 1024 * 1024
    records_per_s: float = 500.0
    records_burst: float = 2_000.0
    doubts_per_s: float = 2.0
    doubts_burst: float = 64.0
    choice: ChoiceConfig = field(default_factory=ChoiceConfig)


# -- what may happen, and what we then want done ----------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """A connection to a member exists, whoever dialled; telling twice does no harm."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The last connection to the peer is gone."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A peer told us something about the network."""

    peer: NodeId
    message: Digest | Delta


@dataclass(frozen=True, slots=True)
class OwnRecordChanged:
    """We have signed a newer record of our own."""

    signed: SignedRecord


@dataclass(frozen=True, slots=True)
class DialFailed:
    """A dial that we asked for did not get through."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class Tick:
    """The deadline has come."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send the message to a connected peer; losing it does little harm."""

    peer: NodeId
    message: Digest | Delta


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to the node; answer with PeerConnected or DialFailed."""

    node: NodeId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeChanged:
    """The node's record or state is another one than before, or the node was forgotten."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class OwnVersionBehind:
    """The network holds a record of ours that we do not know: sign one above this version."""

    version: int


Event = PeerConnected | PeerLost | MessageReceived | OwnRecordChanged | DialFailed | Tick
Effect = Send | Dial | NodeChanged | OwnVersionBehind
